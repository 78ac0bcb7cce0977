"""Films and sheets of any generator: knob values and codes of each frame, and writing of the pictures."""

import math
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.batched import fields_of
from training.interpolation import interpolate
from training.pictures import side_by_side, write_animation, write_sheet
from training.types import Image, Knob

C = TypeVar("C")
T = TypeVar("T")


def goes_round(knob: Knob) -> bool:
    """Whether a knob's range, the extended one included, is a full circle."""
    low, high = knob.extended_range or (knob.low, knob.high)
    return knob.kind == "angle" and high - low >= 360


def knob_values(knob: Knob, frames: int, *, low: float | None = None, high: float | None = None) -> list[float]:
    """Return the values of a knob in `frames` pictures, from `low` to `high` (by default its trained range).

    On a full circle the end is left out, so that the film loops.
    """
    low, high = knob.low if low is None else low, knob.high if high is None else high
    steps = frames if knob.kind == "angle" and high - low == 360 else max(1, frames - 1)
    return [low + (high - low) * i / steps for i in range(frames)]


def turn_offsets(frames: int, degrees: float = 360.0) -> list[float]:
    """Return the rotation of each frame in degrees: once around, or back and forth within `degrees`."""
    turns = [i / frames for i in range(frames)]
    if degrees >= 360:
        return [degrees * turn for turn in turns]
    return [degrees / 2 * math.sin(2 * math.pi * turn) for turn in turns]


def there_and_back(frames: Sequence[T]) -> list[T]:
    """Return the frames forward and then backward, without repeating either end: a film that loops."""
    return [*frames, *frames[-2:0:-1]]


def fields_of_both(start: C, end: C) -> tuple[dict[str, Any], dict[str, Any]]:
    """Return the fields of two codes; styles that one of them lacks are zeros there."""
    first, last = fields_of(start), fields_of(end)
    for one, other in ((first, last), (last, first)):
        if one.get("styles") is None and other.get("styles") is not None:
            one["styles"] = torch.zeros_like(other["styles"])
    return first, last


def codes_between(start: C, end: C, at: float) -> C:
    """Return codes interpolated from `start` (at 0) to `end` (at 1); equal fields, and fields that are None, are kept.

    Styles that one of them lacks are zeros there.
    """
    first, last = fields_of_both(start, end)
    moved = [k for k, v in first.items() if isinstance(v, Tensor) and not torch.equal(v, last[k])]
    rows = interpolate({k: first[k] for k in moved}, {k: last[k] for k in moved}, at)
    return replace(start, **rows)  # type: ignore[type-var]


def write_frames(out: Path, pictures: Image, frames: int, *, fps: int, film: bool) -> None:
    """Write pictures, frame by frame and each with all scenes, as a film or as a sheet of a row a scene."""
    grid = pictures.unflatten(0, (frames, len(pictures) // frames))
    if film:
        write_animation(out, side_by_side(grid, math.ceil(math.sqrt(grid.shape[1]))), fps=fps)
    else:
        write_sheet(out, grid.transpose(0, 1).flatten(0, 1), frames)
