"""Train configs of the published sets: GIRAFFE HD's at 64 to 1024 px, and those that GIRAFFE alone has."""

from dataclasses import replace

from giraffe_hd.paper.config import GeneratorConfig, PriorConfig, TrainConfig
from training.config import DataConfig, LoopConfig

SIZES = (64, 128, 256, 512, 1024)

FACES = PriorConfig(
    scale_min=(0.21, 0.21, 0.21),
    scale_max=(0.21, 0.21, 0.21),
    rotation=(0.40278, 0.59722),
    v=(0.4167, 0.5),
    fov=10.0,
    background_translation_min=(-0.2, -0.2, 0.0),
    background_translation_max=(0.2, 0.2, 0.0),
)
"""A head in the middle of the picture, facing the camera within 35 degrees."""

CARS = replace(
    FACES,
    scale_min=(0.2, 0.16, 0.16),
    scale_max=(0.25, 0.2, 0.2),
    translation_min=(-0.22, -0.12, -0.06),
    translation_max=(0.22, 0.12, 0.08),
    rotation=(0.0, 1.0),
    v=(0.41667, 0.5),
)
"""A car anywhere on the ground, from all sides."""

HD = TrainConfig(
    loop=LoopConfig(
        images=19_200_000,  # the authors' default of 1.2 M steps of 16; they found FFHQ stable after 0.3 M of 32
        batch=16,
        ema_half_life=5_000,  # authors: 0.5^(32 / 10000) a step whatever the batch, which at 16 is this
        ema_warm_up=1_000.0,  # authors: none
        bf16=False,
    ),
    generator=GeneratorConfig(prior=FACES),
    data=DataConfig(size=256, flip=True),
)
"""What the sets have in common."""

SETS: dict[str, TrainConfig] = {
    "compcar": replace(HD, generator=replace(HD.generator, prior=CARS, pos_share=True, fg_gen_mask=True, mix_prob=0.5)),
    "ffhq": replace(HD, generator=replace(HD.generator, mix_prob=0.8)),
    "afhq": replace(HD, generator=replace(HD.generator, mix_prob=0.2), bbox=12.0),
    "cats": replace(HD, generator=replace(HD.generator, mix_prob=0.2)),
    "celeba": replace(HD, generator=replace(HD.generator, prior=replace(FACES, rotation=(0.375, 0.625)), mix_prob=0.8)),
}
"""GIRAFFE HD's sets at 256 px: CompCars, FFHQ, AFHQ cat, cats, CelebA-HQ."""


def train_config(name: str, size: int) -> TrainConfig:
    """Return the config of a set of GIRAFFE HD at `size` px.

    Raises: ValueError for a set or a size that the paper's networks do not have.
    """
    if name not in SETS:
        raise ValueError(f"unknown set {name!r}; known: {', '.join(SETS)}")
    if size not in SIZES:
        raise ValueError(f"no GIRAFFE HD of {size} px; known: {', '.join(map(str, SIZES))}")
    config = SETS[name]
    return replace(
        config,
        generator=replace(config.generator, resolution=size),
        data=replace(config.data, size=size),
        recompute=size >= 512,
    )


COMPCAR_64, COMPCAR_128, COMPCAR_256, COMPCAR_512, COMPCAR_1024 = (train_config("compcar", size) for size in SIZES)
FFHQ_64, FFHQ_128, FFHQ_256, FFHQ_512, FFHQ_1024 = (train_config("ffhq", size) for size in SIZES)
AFHQ_64, AFHQ_128, AFHQ_256, AFHQ_512, AFHQ_1024 = (train_config("afhq", size) for size in SIZES)
CATS_64, CATS_128, CATS_256, CATS_512, CATS_1024 = (train_config("cats", size) for size in SIZES)
CELEBA_64, CELEBA_128, CELEBA_256, CELEBA_512, CELEBA_1024 = (train_config("celeba", size) for size in SIZES)
