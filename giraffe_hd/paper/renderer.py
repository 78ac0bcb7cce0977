"""Style-based renderers of GIRAFFE HD (Xue et al., CVPR 2022, Sec. 3.2): feature maps to pictures.

They are StyleGAN2's synthesis network with a rendered feature map in place of its learned constant.
"""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from giraffe_hd.paper.config import GeneratorConfig
from training.nn.layers import EqualLinear, FusedLeakyReLU, ModulatedConv2d, PixelNorm, Upsample, recomputed
from training.runtime.sharded_random import randn


def mapping_network(z_dim: int, n_mlp: int, lr_mlp: float) -> nn.Sequential:
    """Return z -> w: normalisation, then equalised layers that learn slowly (StyleGAN Sec. 2)."""
    layers = (EqualLinear(z_dim, z_dim, lr_mul=lr_mlp, activate=True) for _ in range(n_mlp))
    return nn.Sequential(PixelNorm(), *layers)


class NoiseInjection(nn.Module):
    """Add per-pixel noise, scaled by one learned weight: fresh noise in training, a fixed map otherwise."""

    fixed: Tensor

    def __init__(self, resolution: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.zeros(1))
        self.register_buffer("fixed", torch.randn(1, 1, resolution, resolution))

    def drawn(self, n: int, rng: torch.Generator | None) -> Float[Tensor, "_ 1 r r"]:
        """Return the noise of `n` pictures: fresh from `rng`, or the fixed map."""
        return self.fixed if rng is None else randn(n, 1, *self.fixed.shape[2:], rng=rng)

    def forward(self, x: Float[Tensor, "n c h w"], noise: Float[Tensor, "_ 1 h w"]) -> Float[Tensor, "n c h w"]:
        """Return x + weight * noise."""
        return x + (self.weight * noise).to(x.dtype)


class StyledConv(nn.Module):
    """Modulated convolution, noise, bias and leaky ReLU; `resolution` is that of the output."""

    recompute = False
    """Whether to keep only the input for the backward pass (`training.nn.layers.recomputed`)."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        style_dim: int,
        resolution: int,
        *,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.conv = ModulatedConv2d(in_channels, out_channels, kernel, style_dim, up=up)
        self.noise = NoiseInjection(resolution)
        self.activate = FusedLeakyReLU(out_channels)

    def forward(
        self, x: Float[Tensor, "n c h w"], style: Float[Tensor, "n dim"], rng: torch.Generator | None = None
    ) -> Float[Tensor, "n d h2 w2"]:
        """Return the styled map."""
        noise = self.noise.drawn(x.shape[0], rng)  # outside of what may be computed twice
        return recomputed(self.styled, self.recompute, x, style, noise)

    def styled(self, x: Tensor, style: Tensor, noise: Tensor) -> Tensor:
        """Return the styled map with the noise given."""
        y = self.conv(x, style)
        if torch.is_grad_enabled():
            return self.activate(self.noise(y, noise))
        # the same in place: on a CPU, new memory for a map of 256 pixels takes longer than the arithmetic
        y += (self.noise.weight * noise).to(y.dtype)
        y += self.activate.bias.to(y.dtype)[:, None, None]
        return F.leaky_relu_(y, 0.2).mul_(math.sqrt(2))


class ToRGB(nn.Module):
    """Modulated 1 x 1 convolution to colours (and a mask's logit), on top of the octave below's."""

    def __init__(self, in_channels: int, out_channels: int, style_dim: int, *, up: bool) -> None:
        super().__init__()
        self.upsample = Upsample() if up else None
        self.conv = ModulatedConv2d(in_channels, out_channels, 1, style_dim, demodulate=False)
        self.bias = nn.Parameter(torch.zeros(1, out_channels, 1, 1))

    def forward(
        self, x: Float[Tensor, "n c h w"], style: Float[Tensor, "n dim"], skip: Float[Tensor, "n d h2 w2"] | None = None
    ) -> Float[Tensor, "n d h w"]:
        """Return unbounded colours, in float32 whatever the precision of `x`."""
        rgb = self.conv(x, style).float() + self.bias
        return rgb if skip is None or self.upsample is None else rgb + self.upsample(skip)


class StyleRenderer(nn.Module):
    """Feature map -> colours and last features; shape styles the first layers, appearance the rest."""

    def __init__(self, config: GeneratorConfig, style_dim: int, out_channels: int) -> None:
        super().__init__()
        side = config.volume.resolution
        channels = config.channels(side)
        self.n_latent = config.n_latent
        self.conv1 = StyledConv(config.feat_dim, channels, 3, style_dim, side)
        self.to_rgb1 = ToRGB(channels, out_channels, style_dim, up=False)
        self.convs, self.to_rgbs = nn.ModuleList(), nn.ModuleList()
        while side < config.resolution:
            side, below, channels = 2 * side, channels, config.channels(2 * side)
            self.convs.append(StyledConv(below, channels, 3, style_dim, side, up=True))
            self.convs.append(StyledConv(channels, channels, 3, style_dim, side))
            self.to_rgbs.append(ToRGB(channels, out_channels, style_dim, up=True))

    def forward(
        self,
        features: Float[Tensor, "n feat_dim r r"],
        w_s: Float[Tensor, "n dim"],
        w_a: Float[Tensor, "n dim"],
        inject_index: int,
        rng: torch.Generator | None = None,
    ) -> tuple[Float[Tensor, "n d h w"], Float[Tensor, "n c h w"]]:
        """Return unbounded colours and the features they were read from.

        Layers before `inject_index` are styled by `w_s`, the rest by `w_a`; a ToRGB counts with the layer after it.
        """

        def style(layer: int) -> Tensor:
            return w_s if layer < inject_index else w_a

        x = self.conv1(features, style(0), rng)
        rgb = self.to_rgb1(x, style(1))
        for i, to_rgb in enumerate(self.to_rgbs):
            x = self.convs[2 * i](x, style(2 * i + 1), rng)
            x = self.convs[2 * i + 1](x, style(2 * i + 2), rng)
            rgb = to_rgb(x, style(2 * i + 3), rgb)
        return rgb, x


class RefinementRenderer(nn.Module):
    """Adapt the foreground's light and rim to the background: full-resolution layers styled by its appearance."""

    def __init__(self, config: GeneratorConfig, out_channels: int) -> None:
        super().__init__()
        channels, kernel, style_dim = config.channels(config.resolution), config.refine_kernel_size, config.z_dim_bg
        self.convs = nn.ModuleList(
            StyledConv(channels, channels, kernel, style_dim, config.resolution)
            for _ in range(config.refine_n_styledconv)
        )
        self.to_rgb = ToRGB(channels, out_channels, style_dim, up=False)

    def forward(
        self, x: Float[Tensor, "n c h w"], w_a_bg: Float[Tensor, "n dim"], rng: torch.Generator | None = None
    ) -> Float[Tensor, "n d h w"]:
        """Return the residual of the foreground's colours (and a mask's logit)."""
        for conv in self.convs:
            x = conv(x, w_a_bg, rng)
        return self.to_rgb(x, w_a_bg)
