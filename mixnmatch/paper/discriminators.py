"""Discriminators of the published MixNMatch: D_b, D_p and D_c (FineGAN Sec. 3), and the critics D_k of image-code
pairs.

All return logits; the published program's sigmoids are part of `mixnmatch.paper.losses`.
"""

from collections.abc import Mapping
from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.encoders import CODES
from mixnmatch.paper.layers import conv3, leaky_block, trunk
from training.runtime.sharded_random import randn
from training.types import Image

VIEW = 126
"""Input side of the patch discriminators in pixels: the cells below cover it exactly."""
PATCH, STRIDE, CELLS = 34, 4, 24
"""A patch discriminator's cell k sees pixels [4k, 4k + 34] of its view; 24 cells a side."""


def view(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c 126 126"]:
    """Return maps or pictures resized to the input size of the patch discriminators (bilinear, corners aligned)."""
    return F.interpolate(x, (VIEW, VIEW), mode="bilinear", align_corners=True)


class PatchTrunk(nn.Sequential):
    """Three convolutions without padding or norm, so that each cell depends only on its own patch."""

    def __init__(self, in_dim: int, width: int) -> None:
        super().__init__(
            nn.Conv2d(in_dim, width, 4, stride=2, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(width, 2 * width, 4, stride=2, bias=False),
            nn.LeakyReLU(0.2),
            nn.Conv2d(2 * width, 4 * width, 4, bias=False),
            nn.LeakyReLU(0.2),
        )


class BackgroundDiscriminator(nn.Module):
    """D_b: classifies patches as real or generated, and as background or object (FineGAN Sec. 3)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.trunk = PatchTrunk(3, width)
        self.real = nn.Conv2d(4 * width, 1, 4)
        self.background = nn.Conv2d(4 * width, 1, 4)

    def forward(self, image: Image) -> tuple[Float[Tensor, "n 1 24 24"], Float[Tensor, "n 1 24 24"]]:
        """Return logits a patch: real rather than fake, background rather than object."""
        x = self.trunk(view(image))
        return self.real(x), self.background(x)


class ParentDiscriminator(nn.Module):
    """D_p: classifies the shape code p of the parent's masked foreground (InfoGAN's Q).

    The published D_p also has a real/fake head, which no loss uses; it is omitted here.
    """

    def __init__(self, width: int, n_codes: int) -> None:
        super().__init__()
        dim = 8 * width
        self.trunk = nn.Sequential(*trunk(width, 1, 2, 4, 8, 8), *leaky_block(conv3(dim, dim), dim))  # dim 4 4
        self.code = nn.Sequential(*leaky_block(conv3(dim, dim), dim), nn.Conv2d(dim, n_codes, 4))

    def forward(self, foreground: Image) -> Float[Tensor, "n codes"]:
        """Return logits of the code."""
        return self.code(self.trunk(foreground)).flatten(1)


class ChildDiscriminator(ParentDiscriminator):
    """D_c: classifies the texture code c of the child's masked foreground and, on the same trunk, real or generated
    pictures."""

    def __init__(self, width: int, n_codes: int) -> None:
        super().__init__(width, n_codes)
        self.real = nn.Conv2d(8 * width, 1, 4)

    def realness(self, image: Image) -> Float[Tensor, " n"]:
        """Return a logit: real rather than fake."""
        return self.real(self.trunk(image)).flatten()


class PairCritic(nn.Module):
    """D_k: scores a picture with one of its codes, high for (x, E_k(x)), low for (G(y), y_k) (Sec. 3.2).

    A Wasserstein critic without batch norm: the gradient penalty is computed for each row on its own.
    """

    NOISE = (0.5, 0.3, 0.3)
    """Standard deviation of the noise after each layer of the code, also in evaluation: without it a critic separates
    drawn codes from read ones by their being exactly one-hot."""

    def __init__(self, code_dim: int, width: int) -> None:
        super().__init__()
        dim = 32 * width  # 512, of the picture and of the code alike
        widths = [3, width, 2 * width, 4 * width, 8 * width, 16 * width]
        layers: list[nn.Module] = []
        for before, after in pairwise(widths):
            layers += [nn.Conv2d(before, after, 4, stride=2, padding=1), nn.LeakyReLU(0.2)]
        self.image = nn.Sequential(*layers, nn.Conv2d(16 * width, dim, 4), nn.LeakyReLU(0.2), nn.Flatten())
        self.code = nn.ModuleList([nn.Linear(code_dim, dim), nn.Linear(dim, dim), nn.Linear(dim, dim)])
        self.joint = nn.Sequential(nn.Linear(2 * dim, 2 * dim), nn.LeakyReLU(0.2), nn.Linear(2 * dim, 1))

    def forward(self, image: Image, code: Float[Tensor, "n dim"], rng: torch.Generator) -> Float[Tensor, " n"]:
        """Return D_k of each pair; `rng`, on the CPU, draws the noise on the code."""
        for layer, std in zip(self.code, self.NOISE, strict=True):
            code = F.leaky_relu(layer(code), 0.2)
            code = code + std * randn(*code.shape, rng=rng).to(code)
        return self.joint(torch.cat([self.image(image), code], 1)).flatten()


class PairCritics(nn.ModuleDict):
    """The D_k of L_bi, k in z, b, p, c: one critic for each code (Sec. 3.3)."""

    def __init__(self, config: GeneratorConfig, width: int) -> None:
        dims = (config.z_dim, config.n_backgrounds, config.n_shapes, config.n_textures)
        super().__init__({k: PairCritic(dim, width) for k, dim in zip(CODES, dims, strict=True)})

    def forward(self, image: Image, codes: Mapping[str, Tensor], rng: torch.Generator) -> Float[Tensor, ""]:
        """Return sum_k mean D_k(image, codes_k)."""
        return torch.stack([self[k](image, codes[k], rng).mean() for k in CODES]).sum()
