"""Filling of holes in pictures with what is around them."""

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from scipy import ndimage
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


def mirror_filled(image: Float[Tensor, "n c h w"], hole: Mask, cells: int = 8) -> Float[Tensor, "n c h w"]:
    """Return pictures whose holes show what lies as far beyond their nearest edge, mirrored there.

    Only what differs from the smooth colours of `cells` is copied, and added to those within the hole, so that no seam
    divides what comes from two sides. A picture that is a hole altogether takes these colours alone: zeros.
    """
    smooth = F.interpolate(
        smoothly_filled(image, 1 - hole, cells), size=image.shape[2:], mode="bilinear", align_corners=False
    )
    index = torch.from_numpy(np.stack([_mirrored(one) for one in (hole[:, 0] > 0).cpu().numpy()])).to(image.device)
    detail = (image - smooth).flatten(2)
    copied = detail.gather(2, index.flatten(1)[:, None].expand_as(detail)).view_as(image)
    return torch.where(hole > 0, smooth + copied * (hole < 1).flatten(1).any(1)[:, None, None, None], image)


def _mirrored(hole: Bool[np.ndarray, "h w"]) -> Int[np.ndarray, "h w"]:
    """Return for each pixel the flat index of the one that it shows: itself outside the hole."""
    height, width = hole.shape
    here = np.indices((height, width))
    if hole.all():
        return here[0] * width + here[1]
    edge = np.empty((2, height, width), np.int32)
    ndimage.distance_transform_edt(hole, return_distances=False, return_indices=True, indices=edge)
    beyond = np.clip(2 * edge - here, 0, np.array([height - 1, width - 1])[:, None, None])
    shown = edge[:, beyond[0], beyond[1]]  # itself where that is outside, else the nearest pixel outside
    return shown[0].astype(np.int64) * width + shown[1]
