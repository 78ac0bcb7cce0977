"""Presets of the MixNMatch with continuous codes."""

from dataclasses import replace

from mixnmatch.continuous.config import GeneratorConfig, LossConfig, TrainConfig
from training.config import DataConfig, LoopConfig

CLOTHING_64 = TrainConfig(
    loop=LoopConfig(images=76_000, batch=8, ema_half_life=5_000),
    data=DataConfig(size=64, object_margin=1.5, flip=True),
    generator=GeneratorConfig(
        shape_dim=128,
        shape_map_channels=6,
        clean_outlines=True,
        texture_colours=True,
        background_cells=16,
        background_channels=16,
        background_widths=(96, 64, 32, 24),
    ),
    losses=LossConfig(binary=4.0),
    background_first=0.03,
    decay_since=0.5,
)
"""Garments lying or hanging, cut to 1.5 times their boxes; the set needs masks. About 95 minutes of one CPU core with
bfloat16."""

CLOTHING_128 = replace(
    CLOTHING_64,
    loop=replace(CLOTHING_64.loop, images=36_000),
    data=replace(CLOTHING_64.data, size=128),
    generator=replace(CLOTHING_64.generator, resolution=128, shape_channels=(128, 96, 64, 48, 32), detail_channels=4),
    losses=replace(CLOTHING_64.losses, pixels=2.0, feature=2.0),
    discriminator_channels=(32, 48, 72, 112, 160),
    background_first=0.0,
)
"""The same at 128 px, to be started from the 64 px model with `--start-from`. Folds and prints are codes as well: at 64
px, where their cells are as wide as a collar, they did not pay."""

PETS_64 = replace(
    CLOTHING_64,
    generator=replace(CLOTHING_64.generator, texture_cells=2, frame="box", detail_channels=4),
    losses=replace(CLOTHING_64.losses, feature=2.0),
)
"""Heads of animals, cut to 1.5 times the head's box; masks that hold more than the head are used whole. The place of
eyes and nose is part of the shape, whose code is longer than that of a garment, and alike in all frames; the texture
says only which colours the quarters of a head have, or its own eyes would appear beside the shape's."""

PETS_128 = replace(
    CLOTHING_128, generator=replace(CLOTHING_128.generator, texture_cells=2, frame=PETS_64.generator.frame)
)
"""The same at 128 px, to be started from the 64 px model with `--start-from`."""
