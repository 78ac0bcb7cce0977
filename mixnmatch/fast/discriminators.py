"""Discriminators of background patches (D_b), image-code pairs (D_k) and features (D_f); code classifiers (D_p, D_c).

D_c's real/fake head is a network of its own here, `training.nn.discriminator.Discriminator`. No discriminator has batch
norm: R1 penalises the gradient of single pictures (Mescheder et al. 2018).
"""

from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.fast.config import GeneratorConfig
from mixnmatch.fast.encoders import Trunk
from mixnmatch.fast.losses import cell_weights
from training.nn.layers import ActivatedConv2d, EqualConv2d, EqualLinear, leaky
from training.runtime.sharded_random import randn
from training.types import Boxes, Image, Mask


class PatchDiscriminator(nn.Module):
    """D_b: classifies patches of a 64 px picture as real or generated, and as background or object (FineGAN Sec. 3).

    No padding: cell (i, j) of the map sees the pixels 2i to 2i + field - 1 and 2j to 2j + field - 1, and nothing else.
    A field of 18 is the papers' 27 % of the side; one of 10 still finds background beside objects that fill the
    picture. Pictures of other sizes are resized to 64 px first.
    """

    side, stride = 64, 2
    KERNELS: ClassVar[dict[int, tuple[int, ...]]] = {18: (4, 4, 3, 3), 10: (4, 4, 1, 1)}
    """Field -> kernels; the first has stride 2."""

    def __init__(self, dim: int, field: int = 18) -> None:
        super().__init__()
        if field not in self.KERNELS:
            raise ValueError(f"got patches of {field} pixels, expected one of {sorted(self.KERNELS)}")
        first, second, third, last = self.KERNELS[field]
        self.field = field
        self.cells = (self.side - field) // self.stride + 1
        self.convs = nn.ModuleList(
            [
                ActivatedConv2d(3, dim, first, stride=self.stride, padding=0),
                ActivatedConv2d(dim, 2 * dim, second, padding=0),
                ActivatedConv2d(2 * dim, 2 * dim, third, padding=0),
            ]
        )
        self.head = EqualConv2d(2 * dim, 2, last, padding=0)

    def clear_of(self, boxes: Boxes) -> Float[Tensor, "n cells cells"]:
        """Return 1 for the cells whose patch misses the object's box, 0 for the others."""
        return cell_weights(boxes, side=self.side, cells=self.cells, field=self.field, stride=self.stride)

    def forward(self, image: Image) -> tuple[Float[Tensor, "n cells cells"], Float[Tensor, "n cells cells"]]:
        """Return two maps of logits: high for real patches, high for background patches."""
        if image.shape[-1] != self.side:
            image = F.interpolate(image, size=(self.side, self.side), mode="area")
        x = image.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = conv(x)
        real, background = self.head(x).float().unbind(1)
        return real, background


class PairDiscriminator(nn.Module):
    """The D_k of L_bi: classify a picture with one of its codes as (G(y), y_k) or as (x, E_k(x)) (Sec. 3.2).

    Paper: four separate critics, scores high for (x, E_k(x)); here one trunk for the picture and, for each code, a
    projection <phi(x), psi(code)> plus a term of x and one of the code, logits high for (G(y), y_k). Noise on the codes
    hides that drawn ones are exactly one-hot.
    """

    NOISE = (0.5, 0.3)

    def __init__(self, config: GeneratorConfig, dim: int = 32) -> None:
        super().__init__()
        self.trunk = Trunk(config.resolution // 2, dim, 128)
        sizes = config.code_sizes
        self.first = nn.ModuleDict({name: nn.Linear(size, 128) for name, size in sizes.items()})
        self.second = nn.ModuleDict({name: EqualLinear(128, 129) for name in sizes})
        self.image = nn.ModuleDict({name: EqualLinear(128, 129) for name in sizes})

    def forward(
        self, image: Image, codes: dict[str, Float[Tensor, "n _"]], rng: torch.Generator
    ) -> Float[Tensor, "n codes"]:
        """Return D_k's logit for each picture and code, high where the pair looks generated; `rng` draws the noise."""
        features = self.trunk(F.avg_pool2d(image, 2))
        scores = []
        for name, code in codes.items():
            x = leaky(self.first[name](noisy(code, self.NOISE[0], rng)))
            x = self.second[name](noisy(x, self.NOISE[1], rng)).float()
            y = self.image[name](features).float()
            scores.append((x[:, 1:] * y[:, 1:]).mean(1) * 128**0.5 + x[:, 0] + y[:, 0])
        return torch.stack(scores, 1)


class CodeClassifiers(nn.Module):
    """D_p and D_c's code head: classify p, c and, unlike the paper, b from the layers (FineGAN Sec. 3).

    p is classified from the grey object and its mask, so that colour cannot encode it; all inputs are halved, so that
    patterns of single pixels cannot encode a class.
    """

    def __init__(self, config: GeneratorConfig, dim: int = 32) -> None:
        super().__init__()
        self.shape = Trunk(config.resolution // 2, dim, 128, channels=2)
        self.texture = Trunk(config.resolution // 2, dim, 128)
        self.background = Trunk(config.resolution // 2, dim, 128)
        self.p = EqualLinear(128, config.n_shapes)
        self.c = EqualLinear(128, config.n_textures)
        self.b = EqualLinear(128, config.n_backgrounds)

    def forward(
        self, relief: Float[Tensor, "n 1 h w"], mask: Mask, child: Image, background: Image
    ) -> tuple[Float[Tensor, "n n_shapes"], Float[Tensor, "n n_textures"], Float[Tensor, "n n_backgrounds"]]:
        """Return logits of p, c and b.

        `relief` is the grey object (`losses.relief`), `child` the masked foreground C_f C_m, `background` the layer B.
        """
        seen = torch.cat([relief, 2 * mask - 1], 1)
        p = self.p(self.shape(F.avg_pool2d(seen, 2))).float()
        c = self.c(self.texture(F.avg_pool2d(child, 2))).float()
        return p, c, self.b(self.background(F.avg_pool2d(background, 2))).float()


class FeatureDiscriminator(nn.Module):
    """D_f: classifies patches of a parent feature as generated (f) or extracted from a photo (S(x)) (Sec. 3.4)."""

    def __init__(self, feature_dim: int, dim: int = 32) -> None:
        super().__init__()
        self.convs = nn.ModuleList([ActivatedConv2d(feature_dim, dim, 3, stride=2), ActivatedConv2d(dim, 2 * dim, 3)])
        self.head = EqualConv2d(2 * dim, 1, 3)

    def forward(self, feature: Float[Tensor, "n feature s s"]) -> Float[Tensor, "n t t"]:
        """Return a map of logits, high where the feature looks generated."""
        x = feature.contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = conv(x)
        return self.head(x).squeeze(1).float()


def noisy(x: Tensor, deviation: float, rng: torch.Generator) -> Tensor:
    """Return `x` with normal noise added, drawn on the CPU."""
    return x + deviation * randn(*x.shape, rng=rng).to(x.device)
