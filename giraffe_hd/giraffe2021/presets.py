"""Train configs of the published sets of GIRAFFE."""

from dataclasses import replace

from giraffe_hd.giraffe2021.config import GeneratorConfig, TrainConfig
from giraffe_hd.paper.config import PriorConfig
from training.config import DataConfig, LoopConfig

GIRAFFE = TrainConfig(
    loop=LoopConfig(
        images=16_000_000,  # authors: until stopped by hand
        batch=32,
        ema_half_life=22_170,  # authors: 0.999 a step
        ema_warm_up=1_000.0,
        bf16=False,
    ),
    data=DataConfig(size=64, flip=True),
)


def at_256(config: TrainConfig, *, feat_dim: int = 256, learning_rate: float = 2.5e-4) -> TrainConfig:
    """Return a config of GIRAFFE at 256 px; most sets double the features and halve the generator's rate there."""
    generator = replace(config.generator, resolution=256, feat_dim=feat_dim)
    return replace(config, generator=generator, data=replace(config.data, size=256), learning_rate=learning_rate)


CHAIRS_64 = replace(GIRAFFE, generator=GeneratorConfig(prior=PriorConfig(v=(0.05, 0.5))))

CHURCH_64 = replace(
    GIRAFFE,
    generator=GeneratorConfig(
        prior=PriorConfig(
            scale_min=(0.45, 0.45, 0.45),
            scale_max=(0.55, 0.55, 0.55),
            translation_min=(-0.15, -0.15, 0.0),
            translation_max=(0.15, 0.15, 0.0),
            v=(0.5, 0.5),
            fov=30.0,
            background_rotation=(0.0, 0.25),
        )
    ),
)
CHURCH_256 = at_256(CHURCH_64)

TABLE = PriorConfig(
    scale_min=(0.17, 0.17, 0.17),
    scale_max=(0.17, 0.17, 0.17),
    translation_min=(-0.713, -0.713, 0.1665),
    translation_max=(0.713, 0.713, 0.1665),
    rotation=(0.0, 0.0),
    v=(0.33333, 0.33333),
    n_objects=2,
    gap=0.1,
)
"""CLEVR: balls, cubes and cylinders on a table."""

CLEVR2_256 = at_256(replace(GIRAFFE, generator=GeneratorConfig(prior=TABLE), data=DataConfig(size=64, flip=True)))

CLEVR2345_256 = at_256(
    replace(
        GIRAFFE,
        generator=GeneratorConfig(
            z_dim=64,
            z_dim_bg=32,
            width=64,
            width_bg=32,
            prior=replace(
                TABLE,
                translation_min=(-0.71, -0.71, 0.1665),
                translation_max=(0.71, 0.71, 0.1665),
                n_objects=5,
                n_present=(0.0, 0.1945679, 0.2435500, 0.2526955, 0.3091866),  # of 2, 3, 4 and 5, as in the data
            ),
        ),
    ),
    feat_dim=128,
    learning_rate=5e-4,
)
