"""Interpolation between codes: slerp for Gaussian codes, linear for categorical ones."""

import math
from collections.abc import Mapping

import torch
from jaxtyping import Float
from torch import Tensor


def interpolate(start: Mapping[str, Tensor], end: Mapping[str, Tensor], at: float) -> dict[str, Tensor]:
    """Return the fields interpolated from `start` (at 0) to `end` (at 1).

    Probabilities are interpolated linearly, normal codes by slerp, because their linear mean would be too short.
    Raises: ValueError if `at` is not a finite number.
    """
    if not math.isfinite(at):
        raise ValueError(f"{at} is no place between two codes; expected a number from 0 to 1")
    return {name: (torch.lerp if are_shares(a) else slerp)(a, end[name], at) for name, a in start.items()}


def slerp(a: Float[Tensor, "*n k"], b: Float[Tensor, "*n k"], at: float) -> Float[Tensor, "*n k"]:
    """Return the spherical interpolation of directions, with the norm interpolated linearly (Shoemake 1985)."""
    here, there = a.norm(dim=-1, keepdim=True), b.norm(dim=-1, keepdim=True)
    angle = torch.nn.functional.cosine_similarity(a, b, dim=-1).clamp(-1, 1).acos()[..., None]
    # rows of equal or opposite directions, or of length 0, have no unique arc
    straight = (angle.sin() < 1e-3) | (here * there == 0)
    sine = torch.where(straight, 1.0, angle.sin())
    length = torch.lerp(here, there, at)
    here, there = (torch.where(straight, 1.0, norm) for norm in (here, there))
    curved = ((1 - at) * angle).sin() / sine * (length / here) * a + (at * angle).sin() / sine * (length / there) * b
    return torch.where(straight, torch.lerp(a, b, at), curved)


def are_shares(code: Tensor) -> bool:
    """Whether each row is non-negative and sums to 1."""
    return bool((code >= 0).all()) and bool(((code.sum(-1) - 1).abs() < 1e-3).all())
