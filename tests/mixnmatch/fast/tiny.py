"""The fast MixNMatch with a few channels, batches and steps for it."""

from dataclasses import replace

import torch

from mixnmatch.codes import Codes
from mixnmatch.fast.config import GeneratorConfig, PoseConfig, TrainConfig
from mixnmatch.fast.presets import CARS_64
from training.types import Batch, Step

TURN = GeneratorConfig(
    resolution=32,
    n_backgrounds=4,
    n_shapes=3,
    n_textures=6,
    field_dim=16,
    samples=4,
    volume=(1, 8, 8),
    volume_dim=7,
    shape_dim=16,
    feature_dim=8,
    texture_dim=16,
    background_dim=16,
    style_dim=16,
    encoder_dim=16,
)
PLANE = replace(TURN, pose=PoseConfig(kind="plane"), mirror=False)


def other(generator) -> Codes:
    return generator.sample(4, torch.Generator().manual_seed(2))


def tiny(pose: GeneratorConfig) -> TrainConfig:
    loop = replace(CARS_64.loop, batch=4, images=64, bf16=False)
    losses = replace(CARS_64.losses, pair_ramp=(0, 1), condition_ramp=(0, 1), r1_every=2, augment=0.5)
    return replace(
        CARS_64,
        loop=loop,
        data=replace(CARS_64.data, size=pose.resolution),
        generator=pose,
        losses=losses,
        discriminator_channels=(16, 16, 16),
        patch_dim=8,
        feature_since=0,
    )


def batch(side: int = 32) -> Batch:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, side, side, generator=rng) * 2 - 1
    return Batch(image=image, box=torch.tensor([[0.3, 0.3, 0.7, 0.7]]).expand(4, 4), index=(0, 1, 2, 3))


def at(index: int) -> Step:
    return Step(index=index, images=4 * index, rng=torch.Generator().manual_seed(index))
