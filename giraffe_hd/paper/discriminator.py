"""Discriminators: StyleGAN2's residual one for GIRAFFE HD, DCGAN's for GIRAFFE. Tensors are named as the authors'."""

import math
from itertools import pairwise

from jaxtyping import Float
from torch import Tensor, nn

from training.nn.layers import Blur, EqualConv2d, EqualLinear, FusedLeakyReLU, MinibatchStddev, recomputed
from training.types import Image


def conv_layer(in_channels: int, out_channels: int, kernel: int, *, down: bool = False, linear: bool = False):
    """Return [low-pass,] convolution[, bias and leaky ReLU]; `down` halves the size."""
    layers: list[nn.Module] = []
    if down:
        spread = kernel + 1  # of the filter's 4 pixels and the kernel's, the output keeps every second
        layers.append(Blur(((spread + 1) // 2, spread // 2)))
    layers.append(
        EqualConv2d(
            in_channels,
            out_channels,
            kernel,
            stride=2 if down else 1,
            padding=0 if down else kernel // 2,
            bias=False,
        )
    )
    if not linear:
        layers.append(FusedLeakyReLU(out_channels))
    return nn.Sequential(*layers)


class ResidualBlock(nn.Module):
    """Two convolutions that halve the size, beside a straight path (StyleGAN2 Fig. 7c)."""

    recompute = False
    """Whether to keep only the input for the backward pass (`training.nn.layers.recomputed`)."""

    def __init__(self, in_channels: int, out_channels: int) -> None:
        super().__init__()
        self.conv1 = conv_layer(in_channels, in_channels, 3)
        self.conv2 = conv_layer(in_channels, out_channels, 3, down=True)
        self.skip = conv_layer(in_channels, out_channels, 1, down=True, linear=True)

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n d h2 w2"]:
        """Return the sum of both paths, its variance kept."""
        return recomputed(self.paths, self.recompute, x)

    def paths(self, x: Tensor) -> Tensor:
        """Return the sum of both paths, its variance kept."""
        return (self.conv2(self.conv1(x)) + self.skip(x)) / math.sqrt(2)


class Discriminator(nn.Module):
    """D of GIRAFFE HD: it sees the finished picture alone (Sec. 3.3)."""

    def __init__(self, size: int, channel_multiplier: int = 2, *, widest: int = 512) -> None:
        super().__init__()
        sizes = [2**k for k in range(int(math.log2(size)), 1, -1)]
        channels = [widest if side <= 32 else min(widest, 16384 // side * channel_multiplier) for side in sizes]
        self.convs = nn.Sequential(
            conv_layer(3, channels[0], 1), *(ResidualBlock(before, after) for before, after in pairwise(channels))
        )
        self.stddev = MinibatchStddev()
        self.final_conv = conv_layer(channels[-1] + 1, widest, 3)
        self.final_linear = nn.Sequential(EqualLinear(widest * 4 * 4, widest, activate=True), EqualLinear(widest, 1))

    def forward(self, image: Image) -> Float[Tensor, " n"]:
        """Return logits, high for real; the batch must divide into groups of 4, or be smaller."""
        x = self.final_conv(self.stddev(self.convs(image)))
        return self.final_linear(x.flatten(1).float())[:, 0].float()
