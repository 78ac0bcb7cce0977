"""Presets of the fast GIRAFFE HD."""

from dataclasses import replace

from giraffe_hd.fast.config import (
    VIEWS,
    DiscriminatorConfig,
    GeneratorConfig,
    PoseConfig,
    ReconstructionConfig,
    TrainConfig,
)
from training.config import DataConfig, LoopConfig
from training.nn.projected_discriminator import ProjectedConfig

CARS_64 = TrainConfig(
    data=DataConfig(size=64, flip=True),
    loop=LoopConfig(images=400_000, batch=16, ema_half_life=5_000),
    learning_rate=2e-3,
    r1=0.1,
)
"""Rendered cars at 64 px: knobs that turn within an hour on two CPU cores."""

CARS_128 = replace(
    CARS_64,
    data=DataConfig(size=128, flip=True),
    generator=GeneratorConfig(resolution=128, rays=64, background_channels=(64, 64, 48, 32, 16, 12)),
    discriminator=DiscriminatorConfig(channels=(32, 64, 96, 160, 224)),
    r1=0.2,
)
"""The same at 128 px: twice the rays, so that the object's weights are those of 64 px and views stay of one body; the
background and the discriminator have one level more."""

PHOTOS_64 = replace(
    CARS_64,
    data=DataConfig(size=64, object_margin=1.5, flip=True),
    generator=replace(CARS_64.generator, pose=VIEWS["all-sides"], detailed_background=True),
    augment_target=0.6,
    projected=ProjectedConfig(weight=1.0),
)
"""Photos of one's own at 64 px, cut to the objects' boxes; the prior is that of the prepared set."""

CATS_64 = replace(
    PHOTOS_64,
    loop=replace(PHOTOS_64.loop, batch=8),
    data=DataConfig(size=64, object_margin=1.75, jitter=0.25, jitter_size=True),
    reconstruction=ReconstructionConfig(share=0.5, mask=6.0, divergence=2e-3),
    mapping_rate=0.5,
    augment_target=None,
    generator=replace(
        PHOTOS_64.generator,
        fitted_codes=True,
        rays=64,
        density=12.0,
        octaves=5,
        plane_channels=(128, 128, 96, 64),
        features=64,
        object_channels=(64, 32),
        pose=PoseConfig(
            elevation=(-10.0, 15.0), rotation=(-40.0, 40.0), scale=(0.35, 0.48), proportions=(0.85, 0.95, 1.1),
            y=(-0.12, 0.12), z=(-0.17, 0.05),
        ),
    ),
    coverage=(0.5, 0.9),
    cutouts=1.0,
    object_pose_share=(0.5, 0.5),
    pose_ramp=(20_000, 40_000),
    binarisation_weight=4.0,
    binarisation_ramp=(10_000, 30_000),
    surface_weight=15.0,
    sigma_noise_until=30_000,
)  # fmt: skip
"""Heads of cats seen from the front, cut to 1.4 to 1.75 times the head's box, at random places: cut by the box alone,
they would hardly differ in place and size. The object is head and chest, so its box reaches from the ears downwards.
Masks cover two thirds of that box on average. Half of each batch are photos, reconstructed: without that, faces did not
appear in 48,000 pictures. A fifth octave draws eyes round; planes draw what the small network of points cannot. Without
ADA: of 1,915 photos, held-out ones look as real to the discriminators as those of training do."""

FRUIT_64 = replace(
    PHOTOS_64,
    generator=replace(
        PHOTOS_64.generator,
        pose=PoseConfig(
            elevation=(0.0, 10.0), scale=(0.29, 0.34), proportions=(1.0, 1.0, 0.92), y=(-0.02, 0.02), z=(-0.02, 0.02)
        ),
        mirror=False,
        samples=16,
        plane_channels=(128, 128, 96, 64),
    ),
    coverage=(0.5, 0.9),
    cutouts=1.0,
    surface_weight=15.0,
    object_pose_share=(0.5, 0.5),
    pose_weights=(1.0, 1.0, 1.0, 1.0, 1.0, 1.0),
    binarisation_ramp=(10_000, 30_000),
    sigma_noise_until=30_000,
)
"""Single fruit on a motor's shaft, from all sides at the height of the eye, pasted onto environments. One side differs
from the other, and no side is the front, so that the pose head reads the rotation with half the weight. Surfaces are
hard, or the skin would turn less than the knob says."""
