"""Layers of the style-based GAN family (StyleGAN2, Karras et al., CVPR 2020) shared by all generators.

Weights are stored as in the public checkpoints of that family: N(0, 1), scaled at run time ("equalised learning rate").
"""

import math
from collections.abc import Callable

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from training.runtime.distributed import batch_mean


class PixelNorm(nn.Module):
    """Scale each vector to unit mean square: x / sqrt(mean(x^2))."""

    def forward(self, x: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """Return the normalised vectors."""
        return x * torch.rsqrt(x.square().mean(1, keepdim=True) + 1e-8)


def leaky(x: Tensor) -> Tensor:
    """Return leaky ReLU of slope 0.2 with gain sqrt(2), which keeps the variance (StyleGAN2 Appendix B)."""
    return F.leaky_relu(x, 0.2) * math.sqrt(2)


def double(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Return twice the size, bilinear: a sub-pixel convolution left checkerboards in the object."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


class FusedLeakyReLU(nn.Module):
    """Add a bias per channel, then `leaky`."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(channels))

    def forward(self, x: Tensor) -> Tensor:
        """Return leaky(x + bias) for (n, channels, ...)."""
        return leaky(x + self.bias.to(x.dtype).view(1, -1, *[1] * (x.ndim - 2)))


class EqualLinear(nn.Module):
    """Linear layer at equalised learning rate; `lr_mul` multiplies that rate (mapping networks)."""

    def __init__(
        self, in_dim: int, out_dim: int, *, bias: float = 0.0, lr_mul: float = 1.0, activate: bool = False
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_dim, in_dim) / lr_mul)
        self.bias = nn.Parameter(torch.full((out_dim,), float(bias)))
        self.scale = lr_mul / math.sqrt(in_dim)
        self.lr_mul, self.activate = lr_mul, activate

    def forward(self, x: Float[Tensor, "*n in_dim"]) -> Float[Tensor, "*n out_dim"]:
        """Return W x + b, then `leaky` where asked for."""
        y = F.linear(x, self.weight * self.scale, self.bias * self.lr_mul)
        return leaky(y) if self.activate else y


class FittedCodes(nn.Module):
    """A normal distribution fitted to codes read from photos, from which such codes are drawn."""

    mean: Tensor
    covariance: Tensor
    factor: Tensor
    """Of the covariance, L of L L^T (Cholesky)."""
    updates: Tensor
    """How often the distribution was moved."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(dim))
        self.register_buffer("covariance", torch.eye(dim))
        self.register_buffer("factor", torch.eye(dim))
        self.register_buffer("updates", torch.zeros(()))

    def forward(self, z: Float[Tensor, "n dim"]) -> Float[Tensor, "n dim"]:
        """Return codes, mean + L z, from standard normal z."""
        return self.mean + z.float() @ self.factor.T

    @torch.no_grad()
    def update(self, mean: Float[Tensor, "n dim"], variance: Float[Tensor, "n dim"], share: float) -> None:
        """Move the fit by `share`, at first by more, towards codes of these means and variances."""
        self.updates += 1
        share = max(share, 1 / float(self.updates))
        self.mean.lerp_(batch_mean(mean.mean(0)), share)
        off = mean - self.mean
        found = off.T @ off / len(off) + torch.diag(variance.mean(0))
        self.covariance.lerp_(batch_mean(found), share)
        self.factor.copy_(torch.linalg.cholesky(self.covariance + 1e-5 * torch.eye(len(self.mean)).to(self.mean)))


class Mapping(nn.Sequential):
    """z -> w: normalisation, then linear layers, meant for a tenth of the learning rate (StyleGAN Sec. 2)."""

    def __init__(self, z_dim: int, w_dim: int, layers: int) -> None:
        dims = [z_dim] + [w_dim] * layers
        linear = [EqualLinear(dims[i], dims[i + 1], lr_mul=0.1, activate=True) for i in range(layers)]
        super().__init__(PixelNorm(), *linear)


class EqualConv2d(nn.Module):
    """Convolution at equalised learning rate, padded to keep the size at stride 1 unless told otherwise."""

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        *,
        stride: int = 1,
        padding: int | None = None,
        bias: bool = True,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(out_channels, in_channels, kernel, kernel))
        self.bias = nn.Parameter(torch.zeros(out_channels)) if bias else None
        self.scale = 1 / math.sqrt(in_channels * kernel**2)
        self.stride, self.padding = stride, kernel // 2 if padding is None else padding

    def forward(self, x: Float[Tensor, "n c h w"], *, dilation: int = 1) -> Float[Tensor, "n d h2 w2"]:
        """Return the convolved map; `dilation` keeps the receptive field on a map of finer resolution."""
        return F.conv2d(x, self.weight * self.scale, self.bias, self.stride, self.padding * dilation, dilation)


class ActivatedConv2d(EqualConv2d):
    """`EqualConv2d`, then `leaky`.

    leaky(y) = leaky_relu(sqrt(2) y): the gain goes into the weights, which saves a pass over the map.
    """

    def forward(
        self, x: Float[Tensor, "n c h w"], add: Float[Tensor, "..."] | None = None, *, dilation: int = 1
    ) -> Float[Tensor, "n d h2 w2"]:
        """Return leaky(W x + b + add)."""
        gain = math.sqrt(2)
        bias = None if self.bias is None else self.bias * gain
        y = F.conv2d(x, self.weight * (self.scale * gain), bias, self.stride, self.padding * dilation, dilation)
        if add is not None:
            y = y + (add * gain).to(y.dtype)
        return F.leaky_relu(y, 0.2, inplace=True)


def recomputed(function: Callable[..., Tensor], again: bool, *inputs: Tensor) -> Tensor:
    """Return function(*inputs); with `again`, activations are recomputed in the backward pass instead of stored.

    Activation checkpointing (Chen et al. 2016): less memory for more time. `function` must not draw random numbers.
    """
    if not again or not torch.is_grad_enabled():
        return function(*inputs)
    return checkpoint(function, *inputs, use_reentrant=False, preserve_rng_state=False)


def blur_kernel(factor: float = 1.0) -> Float[Tensor, "4 4"]:
    """Return the (1, 3, 3, 1) x (1, 3, 3, 1) low-pass of StyleGAN2, of sum `factor`."""
    line = torch.tensor([1.0, 3.0, 3.0, 1.0])
    return torch.outer(line, line) * (factor / line.sum() ** 2)


def upfirdn2d(
    x: Float[Tensor, "n c h w"],
    kernel: Float[Tensor, "kh kw"],
    *,
    up: int = 1,
    down: int = 1,
    pad: tuple[int, int] = (0, 0),
) -> Float[Tensor, "n c h2 w2"]:
    """Return upfirdn2d: `x` up-sampled with zeros, padded by `pad` (before, after), filtered, down-sampled by `down`.

    It uses plain convolutions, so it is twice differentiable on any device.
    """
    channels = x.shape[1]
    if up > 1:  # a transposed convolution is the same without storing the zeros
        kh, kw = kernel.shape
        weight = kernel.to(x.dtype).expand(channels, 1, kh, kw)
        full = F.conv_transpose2d(x, weight, stride=up, groups=channels)
        # `full` has side (h - 1) up + k; the wanted one is h up + pad0 + pad1 - k + 1, starting at k - 1 - pad0
        h = x.shape[2] * up + sum(pad) - kh + 1
        w = x.shape[3] * up + sum(pad) - kw + 1
        top, left = kh - 1 - pad[0], kw - 1 - pad[0]
        full = F.pad(full, (-left, left + w - full.shape[3], -top, top + h - full.shape[2]))
        return full[:, :, ::down, ::down] if down > 1 else full
    weight = kernel.flip(0, 1).to(x.dtype).expand(channels, 1, *kernel.shape)
    if pad[0] == pad[1] >= 0:  # without a padded copy
        return F.conv2d(x, weight, stride=down, padding=pad[0], groups=channels)
    return F.conv2d(F.pad(x, (pad[0], pad[1], pad[0], pad[1])), weight, stride=down, groups=channels)


class Blur(nn.Module):
    """Low-pass filter; `up` scales it to keep brightness after zeros were put between pixels."""

    kernel: Tensor

    def __init__(self, pad: tuple[int, int], *, up: int = 1) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(up**2))
        self.pad = pad

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Return the filtered map."""
        return upfirdn2d(x, self.kernel, pad=self.pad)


class Upsample(nn.Module):
    """Double the size with the (1, 3, 3, 1) filter."""

    kernel: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("kernel", blur_kernel(4))

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
        """Return a map of twice the side."""
        return upfirdn2d(x, self.kernel, up=2, pad=(2, 1))


class ModulatedConv2d(nn.Module):
    """Convolution whose input channels are scaled by each picture's style (StyleGAN2 Eq. 1-3).

    Scaling the inputs, one shared convolution, then scaling the outputs equals the per-picture weights of the paper and
    needs no grouped convolution. `up` doubles the size and low-passes.
    """

    def __init__(
        self,
        in_channels: int,
        out_channels: int,
        kernel: int,
        style_dim: int,
        *,
        demodulate: bool = True,
        up: bool = False,
    ) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(1, out_channels, in_channels, kernel, kernel))
        self.modulation = EqualLinear(style_dim, in_channels, bias=1.0)
        self.blur = Blur((1, 1), up=2) if up else None
        self.scale = 1 / math.sqrt(in_channels * kernel**2)
        self.padding, self.demodulate = kernel // 2, demodulate

    def forward(
        self,
        x: Float[Tensor, "n c h w"],
        style: Float[Tensor, "n dim"],
        dilation: int = 1,
        *,
        bias: Float[Tensor, "1 d 1 1"] | None = None,
        gain: float = 1.0,
    ) -> Float[Tensor, "n d h2 w2"]:
        """Return gain (conv(x * s) * demod + bias), s = A(style), demod_o = 1 / sqrt(sum_ik (w_oik s_i)^2).

        `dilation` spreads the kernel of a convolution that keeps the size, for maps drawn that many times finer.
        """
        s = self.modulation(style)
        weight = self.weight[0] * (self.scale if self.demodulate else gain * self.scale)
        shift = None if bias is None else (gain * bias).to(x.dtype)
        if x.shape[0] == 1 and not torch.is_grad_enabled():  # one picture's weights are smaller than its map
            weight = weight * s[0, :, None, None]
            if self.demodulate:
                weight = weight * (gain * torch.rsqrt(weight.square().sum((1, 2, 3), keepdim=True) + 1e-8))
            weight = weight.to(x.dtype)
            if self.blur is None:
                shift = None if shift is None else shift.flatten()
                return F.conv2d(x, weight, shift, padding=self.padding * dilation, dilation=dilation)
            y = self.blur(F.conv_transpose2d(x, weight.transpose(0, 1), stride=2))
            return y if shift is None else y + shift
        scaled = x * s.to(x.dtype)[:, :, None, None]
        if self.blur is None:
            y = F.conv2d(scaled, weight.to(x.dtype), padding=self.padding * dilation, dilation=dilation)
        else:
            y = self.blur(F.conv_transpose2d(scaled, weight.transpose(0, 1).to(x.dtype), stride=2))
        if not self.demodulate:
            return y if shift is None else y + shift
        demod = gain * torch.rsqrt(s.square() @ weight.square().sum((2, 3)).T + 1e-8)
        demod = demod.to(y.dtype)[:, :, None, None]
        return y * demod if shift is None else torch.addcmul(shift, y, demod)

    def activated(
        self,
        x: Float[Tensor, "n c h w"],
        style: Float[Tensor, "n dim"],
        bias: Float[Tensor, "1 d 1 1"],
        dilation: int = 1,
    ) -> Float[Tensor, "n d h2 w2"]:
        """Return leaky(conv(x, style) + bias): the gain is in the demodulation, with the bias in the same pass."""
        return F.leaky_relu(self(x, style, dilation, bias=bias, gain=math.sqrt(2)), 0.2, inplace=True)


class MinibatchStddev(nn.Module):
    """Append the mean standard deviation over groups of pictures as one more channel (ProGAN Sec. 3)."""

    def __init__(self, group: int = 4) -> None:
        super().__init__()
        self.group = group

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c2 h w"]:
        """Return (n, c + 1, h, w); groups are pictures n / group apart, smaller ones where `n` does not divide."""
        n, _, h, w = x.shape
        group = next(size for size in range(min(n, self.group), 0, -1) if n % size == 0)
        y = x.float().reshape(group, -1, *x.shape[1:])
        y = (y.var(0, unbiased=False) + 1e-8).sqrt().mean((1, 2, 3))
        return torch.cat([x, y.to(x.dtype).repeat(group).view(n, 1, 1, 1).expand(n, 1, h, w)], 1)
