"""The blocks that FineGAN's stages are made of (FineGAN Sec. 3; StackGAN++).

Sizes and names of weights are those of the authors' checkpoints. Convolutions have no bias unless one is asked for.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn


def conv3(in_dim: int, out_dim: int) -> nn.Conv2d:
    """Return a 3 x 3 convolution that keeps the size."""
    return nn.Conv2d(in_dim, out_dim, 3, padding=1, bias=False)


def gated(layer: nn.Module, out_dim: int) -> list[nn.Module]:
    """Return `layer`, which yields 2 * out_dim channels, normalised and gated: a * sigmoid(b) of its halves a, b."""
    return [layer, nn.BatchNorm2d(2 * out_dim), nn.GLU(dim=1)]


def same_block(in_dim: int, out_dim: int) -> nn.Sequential:
    """Return a gated convolution that keeps the size."""
    return nn.Sequential(*gated(conv3(in_dim, 2 * out_dim), out_dim))


def up_block(in_dim: int, out_dim: int) -> nn.Sequential:
    """Return a gated convolution of the map at twice its size."""
    return nn.Sequential(nn.Upsample(scale_factor=2, mode="nearest"), *gated(conv3(in_dim, 2 * out_dim), out_dim))


def leaky_block(layer: nn.Module, out_dim: int) -> nn.Sequential:
    """Return `layer`, normalised, then leaky ReLU."""
    return nn.Sequential(layer, nn.BatchNorm2d(out_dim), nn.LeakyReLU(0.2))


class Halve(nn.Conv2d):
    """4 x 4 convolution that halves the size."""

    def __init__(self, in_dim: int, out_dim: int, *, bias: bool = False) -> None:
        super().__init__(in_dim, out_dim, 4, stride=2, padding=1, bias=bias)

    def forward(self, input: Float[Tensor, "n in h w"]) -> Float[Tensor, "n out h2 w2"]:
        """Return the convolved map."""
        n, _, h, w = input.shape
        if input.device.type != "cpu" or h > 8:
            return super().forward(input)
        # The same sums as one product of matrices: on a CPU four times faster than the convolution of so small a map.
        patches = F.unfold(input, 4, padding=1, stride=2).transpose(0, 1).flatten(1)
        y = (self.weight.flatten(1) @ patches).view(-1, n, h // 2, w // 2).transpose(0, 1)
        return y if self.bias is None else y + self.bias[:, None, None]


def trunk(width: int, *multiples: int) -> nn.Sequential:
    """Return convolutions of a picture that each halve its size, to `width * multiple` channels; batch norm after all
    but the first."""
    layers: list[nn.Module] = [Halve(3, width * multiples[0]), nn.LeakyReLU(0.2)]
    for before, after in pairwise(multiples):
        layers += leaky_block(Halve(width * before, width * after), width * after)
    return nn.Sequential(*layers)


class ResBlock(nn.Module):
    """x + h(x), h a gated convolution and a plain one; no activation after the sum."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.block = nn.Sequential(*gated(conv3(dim, 2 * dim), dim), conv3(dim, dim), nn.BatchNorm2d(dim))

    def forward(self, x: Float[Tensor, "n dim h w"]) -> Float[Tensor, "n dim h w"]:
        """Return a map of the same size."""
        return x + self.block(x)


class JointBlock(nn.ModuleList):
    """Gated convolution of a map concatenated with a code repeated at every pixel, without building that tensor.

    Convolving channels that are constant over the picture gives a bias per pixel: the sum of the taps that fall inside.
    So only the map is convolved and `code_bias` is added, which gives the same result for less work (a third of G's
    multiplications were on the 200 constant channels of the texture code).
    """

    def __init__(self, map_dim: int, code_dim: int, out_dim: int, *, code_first: bool) -> None:
        super().__init__(gated(conv3(map_dim + code_dim, 2 * out_dim), out_dim))
        self.split = [code_dim, map_dim] if code_first else [map_dim, code_dim]
        self.code_first = code_first

    def forward(self, x: Float[Tensor, "n map h w"], code: Float[Tensor, "n code"]) -> Float[Tensor, "n out h w"]:
        """Return the gated map; `code_first` says in which order the authors' weights take the two."""
        conv, norm, gate = self
        assert isinstance(conv, nn.Conv2d)
        first, second = conv.weight.split(self.split, 1)
        of_code, of_map = (first, second) if self.code_first else (second, first)
        y = F.conv2d(x, of_map, padding=1) + code_bias(code, of_code, *x.shape[2:])
        return gate(norm(y))


def code_bias(
    code: Float[Tensor, "n code"], weight: Float[Tensor, "out code 3 3"], h: int, w: int
) -> Float[Tensor, "n out h w"]:
    """Return the 3 x 3 convolution, padded with zeros, of `code` repeated over h x w pixels.

    bias[y, x] = sum over taps (i, j) of [row y + i - 1 inside] [column x + j - 1 inside] (weight[:, :, i, j] code).
    """
    taps = torch.einsum("nc,ocij->noij", code, weight)
    return _inside(h, taps) @ taps @ _inside(w, taps).T


def _inside(length: int, like: Tensor) -> Float[Tensor, "length 3"]:
    """Return 1 where tap i of pixel y, at y + i - 1, lies in [0, length), else 0."""
    place = torch.arange(length, device=like.device)[:, None] + torch.arange(-1, 2, device=like.device)
    return ((place >= 0) & (place < length)).to(like.dtype)


def initialise(network: nn.Module) -> nn.Module:
    """Draw first weights as the published program does: orthogonal, norms N(1, 0.02), their biases 0; return it.

    Uses PyTorch's own random source, as constructors do.
    """
    for module in network.modules():
        if isinstance(module, nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
            nn.init.orthogonal_(module.weight)
            if isinstance(module, nn.Linear) and module.bias is not None:
                nn.init.zeros_(module.bias)
        elif isinstance(module, nn.BatchNorm1d | nn.BatchNorm2d):
            nn.init.normal_(module.weight, 1.0, 0.02)
            nn.init.zeros_(module.bias)
    return network
