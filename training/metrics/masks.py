"""Measurements by masks: position and size, IoU, and changes of pictures inside and outside."""

from dataclasses import dataclass

import torch
from jaxtyping import Float
from torch import Tensor

from training.types import Image, Mask

Readings = dict[str, Tensor]
"""A reader's values for each picture, `(n,)` each, by the name of the knob that should determine it."""
CLEAR, FULL = 0.02, 0.98
"""A pixel is background below the first value of the mask, object above the second."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Masks:
    """Areas of masks, as shares of the picture."""

    mean: float
    sd: float
    smallest: float
    largest: float
    soft: float
    """Pixels between 0.1 and 0.9, as a share of the area."""


def read_masks(image: Image, mask: Mask) -> Readings:
    """Return `x` (right), `y` (up): the mask's centroid in percent of half the width; `scale`: root of its area."""
    height, width = mask.shape[2:]
    share = mask[:, 0].double()
    area = share.sum((1, 2))
    across = (torch.arange(width, device=mask.device, dtype=torch.float64) + 0.5) * 2 / width - 1
    up = height / width - (torch.arange(height, device=mask.device, dtype=torch.float64) + 0.5) * 2 / width
    held = area.clamp_min(1e-9)
    return {
        "x": 100 * (share.sum(1) * across).sum(1) / held,
        "y": 100 * (share.sum(2) * up).sum(1) / held,
        "scale": (area / (height * width)).sqrt().clamp_min(1e-6),
    }


def changed_share(before: Image, after: Image, where: Tensor, levels: float) -> float | None:
    """Return the share of the pixels `where` (n 1 h w) that changed by `levels` / 255 or more in any channel.

    Mean over pictures with any such pixel, as the authors' mutual-background score; None if no picture has one.
    """
    # in [-1, 1] one level is 2 / 255; the small allowance is for float32 on either side of a whole level
    changed = (after - before).abs().amax(1, keepdim=True) >= levels * 2 / 255 - 1e-6
    count = where.sum((1, 2, 3))
    if not bool((count > 0).any()):
        return None
    share = (changed & where).sum((1, 2, 3)) / count.clamp_min(1)
    return float(share[count > 0].mean())


def iou(a: Mask, b: Mask) -> Float[Tensor, " n"]:
    """Return the IoU of masks thresholded at 0.5; 1 for two empty ones."""
    a, b = a > 0.5, b > 0.5
    union = (a | b).sum((1, 2, 3))
    return torch.where(
        union > 0, (a & b).sum((1, 2, 3)) / union.clamp_min(1), torch.ones_like(union, dtype=torch.float32)
    )


def core(mask: Mask) -> Float[Tensor, "n pixels"]:
    """Return pixel weights that sum to 1: uniform over pixels above `FULL`, or the mask if there are none."""
    inner = (mask > 0.9).float().flatten(1)
    weight = torch.where(inner.sum(1, keepdim=True) > 0, inner, mask.flatten(1))
    return weight / weight.sum(1, keepdim=True).clamp_min(1e-9)


def look_histogram(image: Image, mask: Mask, bins: int = 4) -> Float[Tensor, "n colours"]:
    """Return shares of `bins`^3 colours inside the mask, summing to 1 where there is a mask; bins are soft-edged.

    Each channel's value is shared between its two nearest bins, so that a small change of colour is a small change.
    """
    n = len(image)
    place = ((image.clamp(-1, 1) + 1) / 2 * (bins - 1)).flatten(2)
    low = place.floor().clamp(max=bins - 2)
    high_share = place - low
    weight = core(mask)
    result = image.new_zeros(n, bins**3)
    for corner in range(8):
        step = torch.tensor([corner >> 2 & 1, corner >> 1 & 1, corner & 1], device=image.device).view(1, 3, 1)
        share = torch.where(step.bool(), high_share, 1 - high_share).prod(1)
        r, g, b = (low + step).long().unbind(1)
        result.scatter_add_(1, (r * bins + g) * bins + b, share * weight)
    return result
