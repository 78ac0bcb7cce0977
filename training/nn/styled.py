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
    """Modulated 3 x 3 convolution, bias, leaky ReLU (StyleGAN2 Fig. 2d), without its noise; see `Detail`."""

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

    A `detailed` one has at every level noise (StyleGAN Sec. 3.2), drawn once, so that the same style is the same map,
    and a second convolution, x + gain conv(x) (SkipInit, De and Smith 2020). Strengths of the noise and gains are 0 at
    first: weights of a plain pyramid go on as they were. Without noise, a network invents a pattern of its own where
    photos show gravel, leaves or fur.
    """

    def __init__(self, channels: tuple[int, ...], style_dim: int, *, detailed: bool = False) -> None:
        super().__init__()
        self.constant = nn.Parameter(torch.randn(1, channels[0], 4, 4))
        self.convs = nn.ModuleList(StyledConv(i, o, style_dim) for i, o in pairwise((channels[0], *channels)))
        self.details = nn.ModuleList(Detail(c, 4 * 2**level, style_dim) for level, c in enumerate(channels) if detailed)

    def grown(self, style: Callable[[int], Float[Tensor, "n dim"]]) -> Float[Tensor, "n c s s"]:
        """Return the map of the last level; `style` gives the style of each level."""
        x = self.constant.expand(len(style(0)), -1, -1, -1)
        for i, conv in enumerate(self.convs):
            x = conv(x if i == 0 else double(x), style(i))
            if self.details:
                x = self.details[i](x, style(i))
        return x


class Detail(nn.Module):
    """Noise drawn once and a second convolution, added to a map; nothing at first."""

    noise: Float[Tensor, "1 1 s s"]

    def __init__(self, channels: int, side: int, style_dim: int) -> None:
        super().__init__()
        self.register_buffer("noise", torch.randn(1, 1, side, side))
        self.strength = nn.Parameter(torch.zeros(1, channels, 1, 1))
        self.conv = StyledConv(channels, channels, style_dim)
        self.gain = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "n c s s"], style: Float[Tensor, "n dim"]) -> Float[Tensor, "n c s s"]:
        """Return y + gain conv(y), y = x + strength * noise."""
        x = x + (self.strength * self.noise).to(x.dtype)
        return x + self.gain.to(x.dtype) * self.conv(x, style)


class TriPlanes(StyledPyramid):
    """Three planes of features that points of a box are projected onto (EG3D, Chan et al. 2022, Sec. 4.1).

    A network of points alone draws what its few waves can; planes give each place of the object features of its own.
    """

    def __init__(self, channels: tuple[int, ...], features: int, style_dim: int) -> None:
        super().__init__(channels, style_dim, detailed=True)
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
