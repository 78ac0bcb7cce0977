"""Fits of readings to knobs: on a line, on a circle, and the variance that a knob explains."""

from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, kw_only=True, slots=True)
class Fit:
    """The fit of a reading to its knob."""

    slope: float
    """Slope of the reading against the knob; 1 is ideal. On a circle |E exp(i (reading - knob))|, negative if
    reversed."""
    r2: float
    """Share of the reading's variance that the knob explains."""
    error: float
    """Median distance of the reading from the knob after one offset for all, in the knob's unit."""
    offset: float
    """That offset: the median of reading minus knob."""
    flips: float | None = None
    """On a circle: share of readings more than 90 degrees off; 0.5 is chance."""
    within_15: float | None = None
    """On a circle: share of readings at most 15 degrees off; 1 / 12 is chance."""
    error_unflipped: float | None = None
    """On a circle: median error where a half turn does not count; 45 is chance."""


def wrap(degrees: Float[Tensor, "*n"]) -> Float[Tensor, "*n"]:
    """Return angles in [-180, 180)."""
    return (degrees + 180) % 360 - 180


def line_fit(knob: Float[Tensor, " n"], reading: Float[Tensor, " n"]) -> Fit:
    """Return the least-squares slope, R2 and the errors in the knob's unit.

    Raises: ValueError if all knob values are equal.
    """
    knob, reading = knob.double(), reading.double()
    spread = knob.var(correction=0)
    if spread == 0:
        raise ValueError("a fit needs a knob at more than one value; all values are the same")
    covariance = ((knob - knob.mean()) * (reading - reading.mean())).mean()
    own = reading.var(correction=0)
    offset = (reading - knob).median()
    return Fit(
        slope=float(covariance / spread),
        r2=float(covariance**2 / (spread * own)) if own > 0 else 0.0,
        error=float((reading - knob - offset).abs().median()),
        offset=float(offset),
    )


def circle_fit(knob: Float[Tensor, " n"], reading: Float[Tensor, " n"]) -> Fit:
    """Return the fit of a direction to a circular knob, both in degrees.

    Training without labels fixes neither sign nor zero, so one sign and one offset for all readings are fitted, by the
    least mean distance, which is robust against flips of fewer than half.
    """
    knob, reading = knob.double(), reading.double()
    offsets = torch.arange(-180.0, 180.0, dtype=torch.float64, device=knob.device)
    best: tuple[float, float, Tensor] | None = None
    for sign in (1.0, -1.0):
        difference = wrap(reading - sign * knob)
        loss = wrap(difference[None] - offsets[:, None]).abs().mean(1)
        if best is None or loss.min() < best[0]:
            start = offsets[loss.argmin()]
            near = wrap(difference - start)
            shift = start + near[near.abs() < 90].median()
            best = (float(loss.min()), sign, shift)
    assert best is not None
    _, sign, offset = best
    difference = wrap(reading - sign * knob)
    off = wrap(difference - offset).abs()
    angle = difference.deg2rad()
    along = float(torch.hypot(angle.cos().mean(), angle.sin().mean()))
    return Fit(
        slope=sign * along,
        r2=along**2,
        error=float(off.median()),
        offset=float(wrap(offset)),
        flips=float((off > 90).double().mean()),
        within_15=float((off <= 15).double().mean()),
        error_unflipped=float(torch.minimum(off, 180 - off).median()),
    )


def explained_spread(knob: Float[Tensor, " steps"], reading: Float[Tensor, "n steps"], *, turn: bool) -> float:
    """Return the spread of a reading that a knob causes: the deviation of a fit to each of `n` sweeps of the knob.

    The fit is a line, or for a full `turn` (degrees) the first two harmonics. The variance that noise adds to a fit of
    p terms, p sigma^2 / steps, is subtracted; otherwise an inaccurate reader would appear as leakage.
    """
    x, y = knob.double(), reading.double()
    y = y - y.mean(1, keepdim=True)
    if turn:
        angle = x.deg2rad()
        terms = [angle.cos(), angle.sin(), (2 * angle).cos(), (2 * angle).sin()]
    else:
        terms = [x]
    basis, _ = torch.linalg.qr(torch.stack(terms, 1) - torch.stack(terms, 1).mean(0))
    fitted = y @ basis
    steps, p = len(x), len(terms)
    variance = fitted.square().sum(1).mean() / steps
    left = (y - fitted @ basis.T).square().sum(1).mean() / (steps - p - 1)
    return float((variance - left * p / steps).clamp_min(0).sqrt())


@dataclass(frozen=True, kw_only=True, slots=True)
class Turns:
    """Readings over full turns of objects."""

    n: int
    steps_right: float
    """Share of steps whose reading changes in the right direction, by 1/5 to 7/3 of the step."""
    closed: float
    """Share of turns of which every step is right."""
    once_round: float
    """Share of turns whose steps add up to one turn the right way, whatever happens between."""


def turns(reading: Float[Tensor, "n steps"], sign: float) -> Turns:
    """Return how full turns, evenly stepped and read in degrees, go round and close.

    With 24 steps of 15 degrees, a step counts as right between 3 and 35 degrees.
    """
    size = 360 / reading.shape[1]
    step = wrap(reading.roll(-1, 1) - reading) * (1 if sign >= 0 else -1)
    right = (step > size / 5) & (step < size * 7 / 3)
    return Turns(
        n=len(reading),
        steps_right=float(right.double().mean()),
        closed=float(right.all(1).double().mean()),
        once_round=float(((step.sum(1) - 360).abs() < 1).double().mean()),
    )


def rotation_fit(wanted: Float[Tensor, " n"], read: Float[Tensor, " n"]) -> Fit:
    """Return how far mixes are turned from their givers, in degrees: a mix has to face as its photo does, so that
    neither an offset nor a direction common to all is taken away, as it is for knobs without labels."""
    off = wrap(read - wanted).abs()
    return replace(
        circle_fit(wanted, read),
        error=float(off.median()),
        offset=0.0,
        flips=float((off > 90).float().mean()),
        within_15=float((off <= 15).float().mean()),
        error_unflipped=float(torch.minimum(off, 180 - off).median()),
    )
