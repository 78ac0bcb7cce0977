"""A flat shape seen from the front: a learned map of features and occupancy, warped into the picture by the pose."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.fast.config import GeneratorConfig
from mixnmatch.fast.pose import uniform
from training.nn.layers import EqualLinear


def smooth_noise(n: int, config: GeneratorConfig) -> Float[Tensor, "n c depth height width"]:
    """Return normal noise of 4 cells along each axis, interpolated to the volume.

    Noise of single cells would remain visible in the shapes for the first 10,000 pictures. Channel 0, the occupancy, is
    multiplied by `config.occupancy_noise`.
    """
    coarse = [min(4, cells) for cells in config.volume]
    noise = torch.randn(n, config.volume_dim + 1, *coarse)
    noise[:, 0] *= config.occupancy_noise
    return F.interpolate(noise, size=config.volume, mode="trilinear", align_corners=False)


class Flat(nn.Module):
    """(z, p) -> the shape in the picture: its coverage of each cell, and its features.

    Each shape is a learned map of features and occupancy, which the pose bends, rolls, scales and moves.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config, self.pose = config, config.pose
        self.common = nn.Parameter(0.5 * smooth_noise(1, config))
        self.own = nn.Parameter(config.shape_noise * smooth_noise(config.n_shapes, config))
        axes = [(torch.arange(n) + 0.5) / n * 2 - 1 if n > 1 else torch.zeros(1) for n in config.volume]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        self.register_buffer("start", 6 * (0.8 - radius))  # occupancy starts as an ellipsoid
        self.bend = EqualLinear(config.z_dim, 2 * 4 * 4)

    start: Tensor

    @property
    def side(self) -> int:
        """Side of the returned map in cells: half the picture's side."""
        return self.config.resolution // 2

    def volume(self, p: Float[Tensor, "n n_shapes"]) -> Float[Tensor, "n c depth height width"]:
        """Return each picture's shape before the pose is applied: occupancy in [0, 1], then features."""
        own = (p.float() @ self.own.flatten(1)).view(-1, *self.own.shape[1:])
        volume = self.common + own
        if self.config.mirror:
            volume = (volume + volume.flip(4)) * math.sqrt(0.5)
        occupancy = torch.sigmoid(4 * volume[:, :1] + self.start)
        return torch.cat([occupancy, volume[:, 1:]], 1)

    def forward(self, z: Float[Tensor, "n z_dim"], p: Float[Tensor, "n n_shapes"]) -> Float[Tensor, "n c s s"]:
        """Return the coverage in [0, 1] as the first channel, then the features, zero outside the shape."""
        with torch.autocast(z.device.type, enabled=False):  # positions need float32
            return self._placed(z.float(), self.volume(p))

    def _placed(self, z: Tensor, volume: Tensor) -> Tensor:
        """Warp shapes into the picture: bend, roll, scale and move."""
        size = uniform(z[:, 1], self.pose.scale)
        stretch = (self.pose.aspect * z[:, 2] / 2).exp()
        grid = self._place(z, (size * stretch)[:, None, None], (size / stretch)[:, None, None])
        angle = (self.pose.roll * z[:, 0]).deg2rad()[:, None, None]
        x, y = grid.unbind(-1)
        grid = torch.stack([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()], -1)
        bend = self.pose.bend * torch.tanh(self.bend(z).view(-1, 2, 4, 4))
        bend = F.grid_sample(bend, grid / 1.5, padding_mode="border", align_corners=True)
        x = volume[:, :, 0]
        x = torch.cat([x[:, :1], x[:, :1] * x[:, 1:]], 1)
        return F.grid_sample(x, grid + bend.permute(0, 2, 3, 1), align_corners=False)

    def _place(self, z: Tensor, width: Tensor, height: Tensor) -> Tensor:
        """Return the coordinates of each cell of the picture in the object's frame, [-1, 1] in its box."""
        line = ((torch.arange(self.side, device=z.device) + 0.5) / self.side) * 2 - 1
        x = line.view(1, 1, -1) - uniform(z[:, 3], self.pose.shift_x)[:, None, None]
        y = line.view(1, -1, 1) - uniform(z[:, 4], self.pose.shift_y)[:, None, None]
        return torch.stack(torch.broadcast_tensors(x / width, y / height), -1)
