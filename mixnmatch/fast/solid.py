"""A solid shape: a feature field in a box, rendered from the pose's camera (GIRAFFE Sec. 3.1, 3.2)."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.fast.config import GeneratorConfig
from mixnmatch.fast.pose import FOV, object_pose
from training.nn.fields import ObjectField
from training.nn.layers import EqualLinear
from training.nn.volume import box_rays, render_object
from training.runtime.sharded_random import rand


class Solid(nn.Module):
    """(z, style) -> the shape in the picture: its coverage of each cell, and its features."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = c = config
        self.field = ObjectField(c.field_dim, c.field_depth, c.octaves, c.style_dim, mirror=c.mirror, density=c.density)
        self.head = EqualLinear(c.field_dim, c.feature_dim - 1)  # applied once a ray

    def forward(
        self, z: Float[Tensor, "n z_dim"], style: Float[Tensor, "n style"], rng: torch.Generator | None = None
    ) -> Float[Tensor, "n feature s s"]:
        """Return the coverage in [0, 1] as the first channel, then the features; 0 where the ray misses the box.

        With `rng` the samples along the rays are jittered, as in training.
        """
        c, side = self.config, self.config.resolution // 2
        placed = object_pose(z.float(), c.pose)
        jitter = None if rng is None else rand(len(z), side**2, c.samples, rng=rng).to(z.device)
        rays = box_rays(placed, side, FOV)
        maps = render_object(self.field, self.head, rays, placed.scale[:, :1], style, c.samples, jitter=jitter)
        return torch.cat([maps.alpha.to(maps.features.dtype), maps.features], 1)
