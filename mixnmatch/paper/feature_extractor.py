"""Feature mode of the published MixNMatch (Sec. 3.4): S reads pose and shape together from a photo, as a feature
map."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.discriminators import PatchTrunk, view
from mixnmatch.paper.layers import Halve, ResBlock, gated, same_block
from training.types import Image


class FeatureExtractor(nn.Module):
    """S: a U-Net from a photo x to f, the parent feature that G would generate x from."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        w = config.extractor_width
        self.first = nn.Sequential(same_block(3, w), same_block(w, w))  # 32 128 128
        self.down1 = _down(w, w)  # 32 64 64
        self.down2 = _down(w, 2 * w)  # 64 32 32
        self.down3 = _down(2 * w, 4 * w)  # 128 16 16
        self.down4 = _down(4 * w, 8 * w)  # 256 8 8
        self.down5 = _down(8 * w, 16 * w)  # 512 4 4
        self.down6 = _down(16 * w, 16 * w)  # 512 2 2
        self.up1 = _up(16 * w, 8 * w)  # 256 4 4
        self.up2 = _up(8 * w + 16 * w, 16 * w)  # 512 8 8
        self.up3 = _up(16 * w + 8 * w, 8 * w)  # 256 16 16
        self.up4 = _up(8 * w + 4 * w, 4 * w)  # 128 32 32
        self.up5 = _up(4 * w + 2 * w, 2 * w)  # 64 64 64
        self.up6 = _up(2 * w + w, config.feature_dim)  # 16 128 128
        self.last = nn.Sequential(ResBlock(config.feature_dim), ResBlock(config.feature_dim))

    def forward(self, image: Image) -> Float[Tensor, "n feature h w"]:
        """Return S(x) for 128 px pictures."""
        x = self.first(image)
        skips: list[Tensor] = []
        for down in (self.down1, self.down2, self.down3, self.down4, self.down5):
            x = down(x)
            skips.append(x)
        x = self.up1(self.down6(x))
        for up in (self.up2, self.up3, self.up4, self.up5, self.up6):
            x = up(torch.cat([x, skips.pop()], 1))
        return self.last(x)


class FeatureDiscriminator(nn.Module):
    """D_f: classifies patches of a parent feature as generated (f) or read from a photo (S(x))."""

    def __init__(self, config: GeneratorConfig, width: int) -> None:
        super().__init__()
        self.trunk = PatchTrunk(config.feature_dim, width)
        self.real = nn.Conv2d(4 * width, 1, 4)

    def forward(self, feature: Float[Tensor, "n feature h w"]) -> Float[Tensor, "n 1 cells cells"]:
        """Return a logit for each patch, high for generated features."""
        return self.real(self.trunk(view(feature)))


def _down(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(*gated(Halve(in_dim, 2 * out_dim, bias=True), out_dim))


def _up(in_dim: int, out_dim: int) -> nn.Sequential:
    return nn.Sequential(*gated(nn.ConvTranspose2d(in_dim, 2 * out_dim, 4, stride=2, padding=1), out_dim))
