"""A solid shape: a feature field in a box, looked at from where the pose says (GIRAFFE Sec. 3.1 and 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.fast.config import GeneratorConfig, PoseConfig
from training.nn.camera import half_width
from training.nn.fields import ObjectField
from training.nn.layers import EqualLinear
from training.nn.volume import ObjectPose, box_rays, render_object
from training.runtime.sharded_random import rand

RADIUS, FOV = 2.732, 20.0
"""The camera: its distance in world units and its field of view in degrees, those of the rendered cars."""


def uniform(z: Float[Tensor, "*n"], ends: tuple[float, float]) -> Float[Tensor, "*n"]:
    """Return standard normal numbers as uniform ones between `ends`, through their distribution function."""
    low, high = ends
    return low + (high - low) * torch.special.ndtr(z)


def object_pose(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> ObjectPose:
    """Return camera and box of z = (direction x, direction y, elevation, scale, shift x, shift y, ...).

    Ranges of size and place are shares of half the picture's width, measured in the plane through the origin.
    """
    half, still = half_width(RADIUS, FOV), torch.zeros_like(z[:, 0])
    across, down = uniform(z[:, 4], pose.shift_x), uniform(z[:, 5], pose.shift_y)
    return ObjectPose(
        azimuth=still,
        elevation=uniform(z[:, 2], pose.elevation).deg2rad(),
        radius=still + RADIUS,
        scale=half * uniform(z[:, 3], pose.scale)[:, None] * z.new_tensor(pose.proportions),
        translation=half * torch.stack([still, across, -down], 1),
        rotation=torch.atan2(z[:, 1], z[:, 0]),
    )


class Solid(nn.Module):
    """(z, style) -> how much the shape covers of each cell of the picture, and its features there."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = c = config
        self.field = ObjectField(c.field_dim, c.field_depth, c.octaves, c.style_dim, mirror=c.mirror, density=c.density)
        self.head = EqualLinear(c.field_dim, c.feature_dim - 1)  # applied once a ray

    def forward(
        self, z: Float[Tensor, "n z_dim"], style: Float[Tensor, "n style"], rng: torch.Generator | None = None
    ) -> Float[Tensor, "n feature s s"]:
        """Return the covered share in [0, 1] as the first channel, then the features; 0 where no ray meets the box.

        With `rng` the samples along the rays are jittered, as in training.
        """
        c, side = self.config, self.config.resolution // 2
        placed = object_pose(z.float(), c.pose)
        jitter = None if rng is None else rand(len(z), side**2, c.samples, rng=rng).to(z.device)
        rays = box_rays(placed, side, FOV)
        maps = render_object(self.field, self.head, rays, placed.scale[:, :1], style, c.samples, jitter=jitter)
        return torch.cat([maps.alpha.to(maps.features.dtype), maps.features], 1)
