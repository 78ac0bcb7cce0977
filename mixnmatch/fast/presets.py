"""Presets of the fast MixNMatch, one for each bundled model."""

from dataclasses import replace

from mixnmatch.fast.config import GeneratorConfig, LossConfig, PoseConfig, TrainConfig
from training.config import DataConfig, LoopConfig

CARS_64 = TrainConfig(
    loop=LoopConfig(images=150_000, batch=16, ema_half_life=5_000),
    data=DataConfig(size=64, object_margin=None, scene=False, flip=True),
    generator=GeneratorConfig(
        pose=PoseConfig(shift_x=(-0.208, 0.208), shift_y=(-0.125, 0.125)),
        feature_dim=49,
        texture_dim=48,
        texture_doubled=2,
        style_dim=96,
        encoder_channels=(64, 96, 160, 224),
        one_shape=True,
        texture_power=6.0,
    ),
    losses=LossConfig(
        r1_image=0.1,
        pose=(3.0, 3.0),
        shape_classification=(0.25, 0.25),
        code_z=25.0,
        reconstruction_to_pose=0.0,
        shape_assignment=3.0,
        pose_distillation=25.0,
        feature_matching=2.0,
    ),
    learning_rate=2e-3,
    discriminator_learning_rate=2e-3,
    feature_since=30_000,
)
"""Rendered cars at 64 px: solids, to be initialised from a GIRAFFE HD of the same cars
(`mixnmatch.fast.init_from_giraffe`)."""

CLOTHING_64 = replace(
    CARS_64,
    loop=replace(CARS_64.loop, images=23_000),
    data=DataConfig(size=64, object_margin=1.5, scene=True, flip=True),
    generator=GeneratorConfig(
        z_dim=16,
        n_backgrounds=40,
        n_shapes=20,
        n_textures=60,
        pose=PoseConfig(
            kind="plane", scale=(0.8, 0.92), shift_x=(-0.06, 0.06), shift_y=(-0.06, 0.06), aspect=0.2, bend=0.2
        ),
        shape_noise=0.2,
        occupancy_noise=0.3,  # at 1 flat shapes start full of holes, which then distinguish the shapes
    ),
    losses=LossConfig(
        r1_image=0.1,
        area_range=(0.2, 0.65),
        shape_classification=(0.05, 0.05),
        perimeter=0.1,
        augment=0.4,
        pair_ramp=(3_000, 8_000),
        binary_ramp=(3_000, 9_000),
        free_ramp=(1_000, 6_000),
        reconstruction_since=500,
    ),
    feature_since=5_000,
    patch_field=10,  # garments fill their photos: in 90 % of them every patch of 18 pixels meets the box
    patch_shrink=0.1,
)

CLOTHING_128 = replace(
    CLOTHING_64,
    data=replace(CLOTHING_64.data, size=128),
    generator=replace(CLOTHING_64.generator, resolution=128),
    discriminator_channels=(32, 48, 64, 96, 128),
)
"""The same at 128 px."""
