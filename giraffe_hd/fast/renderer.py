"""Style-based renderers of the fast configs: the object's feature map and the background's constant to pictures."""

from itertools import pairwise

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.nn.layers import EqualConv2d, ModulatedConv2d, double, leaky
from training.nn.styled import StyledConv, StyledPyramid, style_of


def window(shown: Float[Tensor, "n 1 h w"], margin: int) -> tuple[slice, slice]:
    """Return the rows and columns in which any map is above 0, and `margin` more on each side; at least one each."""
    spans = []
    for across in (3, 2):
        places = shown.amax((0, 1, across)).nonzero()
        low, high = (int(places[0]), int(places[-1]) + 1) if len(places) else (0, 1)
        spans.append(slice(max(0, low - margin), min(shown.shape[5 - across], high + margin)))
    return spans[0], spans[1]


class ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to three channels, before tanh."""

    def __init__(self, in_channels: int, style_dim: int) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, 3, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, 3, 1, 1))

    def forward(self, x: Float[Tensor, "n c h w"], style: Float[Tensor, "n dim"]) -> Float[Tensor, "n 3 h w"]:
        """Return unbounded RGB."""
        return self.conv(x, style) + self.bias


class ObjectRenderer(nn.Module):
    """Feature map to RGB: a few convolutions only, so that what a view shows comes from 3D and not from this net.

    The last `doublings` of its blocks double the size.
    """

    def __init__(self, in_channels: int, channels: tuple[int, ...], style_dim: int, doublings: int) -> None:
        super().__init__()
        self.first = StyledConv(in_channels, channels[0], style_dim)
        self.blocks = nn.ModuleList(
            nn.ModuleList([StyledConv(i, o, style_dim), StyledConv(o, o, style_dim)]) for i, o in pairwise(channels)
        )
        self.to_rgb = ToRGB(channels[-1], style_dim)
        self.n_layers = 1 + 2 * len(self.blocks)
        self.doublings = doublings
        self.reach = self.n_layers + 2 * doublings
        """Places of the feature map that a pixel depends on, to each side."""

    def forward(
        self,
        features: Float[Tensor, "n c r s"],
        w_shape: Float[Tensor, "n *layers dim"],
        w_look: Float[Tensor, "n *layers dim"],
        inject_index: int,
        finer: int = 1,
    ) -> Float[Tensor, "n 3 h w"]:
        """Return RGB in [-1, 1]; convolutions before `inject_index` are styled by the shape, the rest by the look.

        A style is one for all layers, or one for each, the last of them the colours'.

        Of features drawn `finer` times as fine, every convolution sees the same patch of the object.
        """

        def style(layer: int) -> Tensor:
            return style_of(w_shape if layer < inject_index else w_look, layer)

        x = self.first(features, style(0), finer)
        for i, (before, after) in enumerate(self.blocks):  # type: ignore[misc]
            x = before(x, style(2 * i + 1), finer)
            x = after(double(x) if i >= len(self.blocks) - self.doublings else x, style(2 * i + 2), finer)
        return torch.tanh(self.to_rgb(x, style(self.n_layers)).float())


class MaskHead(nn.Module):
    """Opacity of the rays, sharpened at picture size; it sees the shape's features only, never a look or background."""

    def __init__(self, in_channels: int, channels: int, doublings: int) -> None:
        super().__init__()
        self.read = EqualConv2d(in_channels, channels, 3)
        self.write = EqualConv2d(channels, 1, 3)
        self.doublings = doublings

    def forward(
        self,
        features: Float[Tensor, "n c r s"],
        alpha: Float[Tensor, "n 1 r s"],
        hit: Float[Tensor, "n 1 r s"],
        finer: int = 1,
    ) -> Float[Tensor, "n 1 h w"]:
        """Return the mask: sigmoid(12 (alpha - 1/2) + 4 tanh(correction)), 0 wherever no ray hits the box.

        Of rays `finer` times as fine, the sigmoid is as much steeper: an outline as wide as a pixel stays so.
        """
        x = leaky(self.read(features, dilation=finer))
        for _ in range(self.doublings):
            x, alpha, hit = double(x), double(alpha), double(hit)
        correction = torch.tanh(self.write(x, dilation=finer).float())
        return torch.sigmoid(finer * (12 * (alpha - 0.5) + 4 * correction)) * hit


class BackgroundRenderer(StyledPyramid):
    """A learned 4 x 4 constant, styled up to the picture: coarse layers by the shape code, fine ones by the look."""

    def __init__(self, channels: tuple[int, ...], style_dim: int, n_shape: int, *, detailed: bool = False) -> None:
        super().__init__(channels, style_dim, detailed=detailed)
        self.to_rgb = ToRGB(channels[-1], style_dim)
        self.n_shape = n_shape

    def forward(
        self, w_shape: Float[Tensor, "n *layers dim"], w_look: Float[Tensor, "n *layers dim"]
    ) -> Float[Tensor, "n 3 h w"]:
        """Return RGB in [-1, 1], 4 * 2^(layers - 1) pixels wide; a style is one for all layers or one for each."""
        x = self.grown(lambda level: style_of(w_shape if level < self.n_shape else w_look, level))
        return torch.tanh(self.to_rgb(x, style_of(w_look, len(self.convs))).float())
