"""Interpolation between codes: slerp for Gaussian codes, linear for categorical ones."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], at: float) -> dict[str, Tensor]:
    """Return the fields on the way from `start` (at 0) to `end` (at 1).

    Shares that sum to 1 go straight; the middle of two normal codes would be too short that way, so they go along an
    arc. Raises: ValueError if `at` is no finite number.
    """
    if not math.isfinite(at):
        raise ValueError(f"{at} is no place between two codes; expected a number from 0 to 1")
    return {name: (torch.lerp if are_shares(a) else slerp)(a, end[name], at) for name, a in start.items()}


def slerp(a: Float[Tensor, "*n k"], b: Float[Tensor, "*n k"], at: float) -> Float[Tensor, "*n k"]:
    """Return the point on the great circle from a to b, its length between theirs (Shoemake 1985)."""
    here, there = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    angle = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1).acos()[..., None]
    # rows of one direction, of opposite ones, or of no length have no arc of their own
    straight = (angle.sin() < 1e-3) | (here * there == 0)
    sine = torch.where(straight, 1.0, angle.sin())
    length = torch.lerp(here, there, at)
    here, there = (torch.where(straight, 1.0, norm) for norm in (here, there))
    curved = ((1 - at) * angle).sin() / sine * (length / here) * a + (at * angle).sin() / sine * (length / there) * b
    return torch.where(straight, torch.lerp(a, b, at), curved)


def are_shares(code: Tensor) -> bool:
    """Whether each row is not negative and sums to 1."""
    return bool((code >= 0).all()) and bool(((code.sum(-1) - 1).abs() < 1e-3).all())
