"""Feature mode (MixNMatch Sec. 3.4): S reads pose and shape together from a photo, as a feature map."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.fast.config import GeneratorConfig
from training.nn.layers import ActivatedConv2d, EqualConv2d
from training.types import Image


class FeatureExtractor(nn.Module):
    """S: a small U-Net from a photo x to f, the parent feature, at half the picture's side."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        dim, out = config.encoder_dim, config.feature_dim
        self.fold = ActivatedConv2d(12, dim, 3)
        widths = (dim, dim * 3 // 2, dim * 2, dim * 2)
        self.down = nn.ModuleList([ActivatedConv2d(i, o, 3, stride=2) for i, o in pairwise(widths)])
        self.up = nn.ModuleList([ActivatedConv2d(widths[i + 1] + widths[i], widths[i], 3) for i in (2, 1, 0)])
        self.last = EqualConv2d(widths[0], out, 3)

    def forward(self, image: Image) -> Float[Tensor, "n feature s s"]:
        """Return S(x); its first channel, the coarse mask, is in [0, 1]."""
        x = self.fold(F.pixel_unshuffle(image, 2).contiguous(memory_format=torch.channels_last))
        skips = []
        for conv in self.down:
            skips.append(x)
            x = conv(x)
        for conv, skip in zip(self.up, reversed(skips), strict=True):
            x = F.interpolate(x, scale_factor=2, mode="nearest")
            x = conv(torch.cat([x, skip], 1))
        x = self.last(x)
        return torch.cat([torch.sigmoid(x[:, :1].float()).to(x.dtype), x[:, 1:]], 1)
