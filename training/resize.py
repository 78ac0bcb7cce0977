"""Lanczos resampling of maps and pictures."""

from functools import lru_cache

import torch
from jaxtyping import Float
from torch import Tensor

LOBES = 3


@lru_cache(maxsize=32)
def _weights(before: int, after: int) -> Float[Tensor, "after before"]:
    """Return the weights of the old rows in each new one: sinc(d) sinc(d / 3) of their distance d, widened for
    reduction."""
    scale = before / after
    centre = (torch.arange(after) + 0.5) * scale - 0.5
    distance = (torch.arange(before)[None] - centre[:, None]) / max(scale, 1.0)
    weights = torch.sinc(distance) * torch.sinc(distance / LOBES) * (distance.abs() < LOBES)
    return weights / weights.sum(1, keepdim=True)


def resized(x: Float[Tensor, "n c h w"], side: int) -> Float[Tensor, "n c side side"]:
    """Return maps resized to `side` by a three-lobed Lanczos filter, clamped to each row's range of values."""
    if x.shape[2:] == (side, side):
        return x
    rows, columns = (_weights(length, side).to(x.device) for length in x.shape[2:])
    y = rows @ x.float() @ columns.T
    return torch.minimum(torch.maximum(y, x.amin((1, 2, 3), keepdim=True)), x.amax((1, 2, 3), keepdim=True)).to(x.dtype)
