"""Presets of the published MixNMatch for CUB-200-2011, Stanford Dogs and Stanford Cars (Sec. 4)."""

from dataclasses import replace

from mixnmatch.paper.config import GeneratorConfig, TrainConfig
from training.config import DataConfig, LoopConfig


def published(n_pictures: int, generator: GeneratorConfig) -> TrainConfig:
    """Return the published schedule for a set of `n_pictures`: 600 and 400 epochs of whole batches of 12."""
    batch = 12
    epoch = n_pictures // batch * batch
    return TrainConfig(
        generator=generator,
        loop=LoopConfig(
            images=1000 * epoch,
            batch=batch,
            ema_half_life=8_313,  # decay 0.999 a step: 12 * log(1/2) / log(0.999) pictures
            ema_warm_up=1e6,  # the paper has none
            bf16=False,
            grid_every=epoch,
            save_every=epoch,
        ),
        data=DataConfig(
            size=128,
            object_margin=1.5,  # authors: clipped at the picture's border, then not square; here moved inside
            scene=True,
            scene_size=126,
            jitter=0.1875,  # 76 / 64: objects of 152 px cut to 128, scenes of 149 (shorter side) cut to 126
        ),
        first_stage=600 * epoch,
    )


CUB = published(11_788, GeneratorConfig())
"""CUB-200-2011: the numbers of the published program."""
DOGS = published(20_580, replace(CUB.generator, n_shapes=12, n_textures=120, n_backgrounds=120))
"""Stanford Dogs; epochs as for CUB."""
CARS = published(16_185, replace(CUB.generator, n_textures=196, n_backgrounds=196))
"""Stanford Cars, a texture for each of its 196 classes; epochs as for CUB."""
