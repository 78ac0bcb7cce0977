"""Filling of holes in pictures with the colours around them."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.types import Mask


def smoothly_filled(image: Float[Tensor, "n c h w"], mask: Mask, cells: int) -> Float[Tensor, "n c cells cells"]:
    """Return the mean colours of cells, a power of two of them a side, from the pixels inside the mask; cells without
    enough of these take what coarser cells have, interpolated."""
    share = F.adaptive_avg_pool2d(mask, cells)
    mean = F.adaptive_avg_pool2d(image * mask, cells) / share.clamp(min=1e-4)
    if cells == 1:
        return mean
    coarse = smoothly_filled(image, mask, cells // 2)
    coarse = F.interpolate(coarse, size=(cells, cells), mode="bilinear", align_corners=False)
    return torch.lerp(coarse, mean, (4 * share).clamp(max=1))
