"""Knob values to codes: what a recipe, the page and its films say of a picture, becomes the codes that draw it."""

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from training.batched import fields_of
from training.interpolation import interpolate
from training.types import Generator, Knob

MAX_SEED = 2**31 - 1
"""Seeds are whole numbers from 0 to this."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Between:
    """A code between those of two seeds."""

    start: int
    end: int
    at: float
    """0 is the code of `start`, 1 that of `end`."""


Value = float | Between
Values = Mapping[str, Value]


def codes_for(generator: Generator, seed: int, values: Values) -> Any:
    """Return codes of one row: drawn with `seed`, then each knob turned to its value or, without one, its default.

    Where seed knobs draw every code, as MixNMatch's do, `seed` leaves no trace.
    Raises: ValueError for an unknown knob or a value that the knob cannot take.
    """
    for name in values:
        if generator.knob(name).kind == "picture":
            raise ValueError(f"{name} takes a photo, not a number; put the photo in its slot, or turn {name}_seed")
    codes = generator.sample(1, torch.Generator().manual_seed(seed))
    for knob in turnable(generator):
        if knob in generator.knobs or knob.name in values:
            codes = turned(generator, codes, knob, values.get(knob.name, knob.default))
    return codes


def turnable(generator: Generator) -> list[Knob]:
    """Return the knobs of a page: all but those that take a photo, then those that training held still."""
    return [*(knob for knob in generator.knobs if knob.kind != "picture"), *generator.fixed_knobs]


def turned(generator: Generator, codes: Any, knob: Knob, value: Value) -> Any:
    """Return `codes` with one knob at `value`.

    Raises: ValueError for a number that is not finite or a seed that is not a whole number from 0 to MAX_SEED.
    """
    if isinstance(value, Between):
        if knob.kind != "seed":
            raise ValueError(f"{knob.label} takes a number, not a way between two seeds; give one number")
        start, end = (turned(generator, codes, knob, seed) for seed in (value.start, value.end))
        return replace(start, **interpolate(changed(codes, start), changed(codes, end), value.at))
    if not math.isfinite(value):
        raise ValueError(f"{knob.label} is {value}; expected a number")
    if knob.kind != "seed":
        return generator.set(codes, knob.name, float(value))
    if value != int(value) or not 0 <= value <= MAX_SEED:
        raise ValueError(f"{knob.label} is {value}; expected a whole number from 0 to {MAX_SEED}")
    return generator.set(codes, knob.name, int(value))


def changed(before: Any, after: Any) -> dict[str, Tensor]:
    """Return the fields of `after` that are not those of `before`: what one knob sets."""
    old = fields_of(before)
    return {name: value for name, value in fields_of(after).items() if value is not None and value is not old[name]}
