"""Maps grown from a constant under a style (StyleGAN2 Fig. 2): backgrounds, and the planes of a 3D field."""

from collections.abc import Callable
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.nn.layers import FusedLeakyReLU, ModulatedConv2d, double


def style_of(w: Float[Tensor, "n *layers style"], layer: int) -> Float[Tensor, "n style"]:
    """Return the style of a layer: all of `w` where every layer has the same, its own where `w` has a row for each."""
    return w if w.ndim == 2 else w[:, layer]


class StyledConv(nn.Module):
    """Modulated 3 x 3 convolution, bias, leaky ReLU (StyleGAN2 Fig. 2d); no noise, it would be a second look."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, 3, style_dim)
        self.activate = FusedLeakyReLU(out_channels)

    def forward(
        self, x: Float[Tensor, "n c h w"], style: Float[Tensor, "n dim"], dilation: int = 1
    ) -> Float[Tensor, "n d h w"]:
        """Return the styled map, same size."""
        return self.conv.activated(x, style, self.activate.bias.view(1, -1, 1, 1), dilation)


class StyledPyramid(nn.Module):
    """A learned 4 x 4 constant, doubled and styled level by level.

    With `residuals` every level has a second convolution, x + gain conv(x), whose gain is 0 at first (SkipInit, De and
    Smith 2020): weights of a pyramid without them go on as they were.
    """

    def __init__(self, channels: tuple[int, ...], style_dim: int, *, residuals: bool = False) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.convs = nn.ModuleList(StyledConv(i, o, style_dim) for i, o in pairwise((channels[0], *channels)))
        self.residuals = nn.ModuleList(StyledConv(c, c, style_dim) for c in channels if residuals)
        self.gains = nn.Parameter(torch.zeros(len(channels))) if residuals else None

    def grown(self, style: Callable[[int], Float[Tensor, "n dim"]]) -> Float[Tensor, "n c s s"]:
        """Return the map of the last level; `style` gives the style of each level."""
        x = self.constant.expand(len(style(0)), -1, -1, -1)
        for i, conv in enumerate(self.convs):
            x = conv(x if i == 0 else double(x), style(i))
            if self.gains is not None:
                x = x + self.gains[i].to(x.dtype) * self.residuals[i](x, style(i))
        return x


class TriPlanes(StyledPyramid):
    """Three planes of features that points of a box are projected onto (EG3D, Chan et al. 2022, Sec. 4.1).

    A network of points alone draws what its few waves can; planes give each place of the object features of its own.
    """

    def __init__(self, channels: tuple[int, ...], features: int, style_dim: int) -> None:
        super().__init__(channels, style_dim, residuals=True)
        self.write = ModulatedConv2d(channels[-1], 3 * features, 1, style_dim)
        self.features = 3 * features
        """Of a point, of all planes."""
        self.n_styles = len(channels) + 1

    def forward(self, w: Float[Tensor, "n *layers dim"], since: int = 0) -> Float[Tensor, "n three_c s s"]:
        """Return the planes (y, z), (x, z), (x, y) of a style; where layers differ, theirs begin at row `since`."""
        x = self.grown(lambda level: style_of(w, since + level))
        return self.write(x, style_of(w, since + self.n_styles - 1))


def on_planes(planes: Float[Tensor, "n three_c s s"], p: Float[Tensor, "n points 3"]) -> Float[Tensor, "n points c3"]:
    """Return the features of points in [-1, 1]^3, interpolated linearly in each plane, all planes' side by side."""
    n, points, _ = p.shape
    with torch.autocast(p.device.type, enabled=False):
        places = torch.stack([p[..., [1, 2]], p[..., [0, 2]], p[..., [0, 1]]], 1).view(3 * n, 1, points, 2)
        maps = planes.float().reshape(3 * n, -1, *planes.shape[2:])
        found = F.grid_sample(maps, places, mode="bilinear", padding_mode="border", align_corners=False)
    return found.view(n, -1, points).transpose(1, 2)
