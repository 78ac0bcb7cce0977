"""Does the place stay when the camera is raised? The background at equal points of the ground, before and after.

A camera that is raised sees the same ground from higher up. Points of a level ground are projected into the pictures of
several elevations (`training.nn.camera`), the background layer is read there, and the change is compared with that
which another background makes: 0 is the same place, 1 another one.
"""

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.batched import rows, stack
from training.nn.camera import project
from training.types import Generator, Image, Knob

STEP = 2.5
"""Degrees from one elevation to the next."""
HOLDS = 0.35
"""The most that the place may change while a knob still holds, of what another background changes."""
POINTS, EXTENT = 13, 0.45
"""Points a side of the ground's grid, and how far it reaches from the middle, in world units."""
INSIDE = 0.92
"""Points nearer to the picture's edge are left out."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Ground:
    """What raising the camera does to the place."""

    knob: str
    elevations: tuple[float, ...]
    """Degrees."""
    colour: tuple[float, ...]
    """For each: mean colour change at equal points, as a share of what another background changes."""
    texture: tuple[float, ...]
    """For each: change of the contrast between neighbouring points, as such a share."""
    changed: float
    """The largest change of colour within the trained range."""
    textured: float
    """The largest change of texture there."""
    holds: tuple[float, float]
    """Degrees around the middle of the trained range within which the change of colour stays below HOLDS."""


@torch.inference_mode()
def measure_ground(generator: Generator, *, n: int = 24, seed: int = 0) -> Ground | None:
    """Return what the knob `elevation` does to the ground of `n` backgrounds.

    None for a generator that has no such knob, no background or no knob that redraws it.
    """
    names = {knob.name for knob in generator.knobs}
    pose = getattr(getattr(generator, "config", None), "pose", None)
    if pose is None or not {"elevation", "background"} <= names:
        return None
    knob = generator.knob("elevation")
    rng = torch.Generator().manual_seed(seed)
    drawn = generator.sample(n, rng)
    seeds = torch.randint(10_000, (n,), generator=rng).tolist()
    codes = stack([generator.set(rows(drawn, slice(i, i + 1)), "background", seed) for i, seed in enumerate(seeds)])
    middle = (knob.low + knob.high) / 2
    views = {elevation: _ground(generator, codes, elevation, pose) for elevation in elevations(knob)}
    base = _ground(generator, codes, middle, pose)
    changes = {elevation: _change(view, base) for elevation, view in views.items()}
    trained = [change for elevation, change in changes.items() if knob.low <= elevation <= knob.high]
    return Ground(
        knob=knob.name,
        elevations=tuple(changes),
        colour=tuple(colour for colour, _ in changes.values()),
        texture=tuple(texture for _, texture in changes.values()),
        changed=max(colour for colour, _ in trained),
        textured=max(texture for _, texture in trained),
        holds=holds_around(middle, {elevation: colour for elevation, (colour, _) in changes.items()}),
    )


def elevations(knob: Knob) -> list[float]:
    """Return the elevations to look at: the trained range and a quarter of it beyond both ends, in degrees."""
    beyond = (knob.high - knob.low) / 4
    low, high = max(STEP, knob.low - beyond), min(80.0, knob.high + beyond)
    return torch.linspace(low, high, 1 + round((high - low) / STEP)).tolist()


def holds_around(middle: float, changes: dict[float, float]) -> tuple[float, float]:
    """Return the lowest and the highest elevation that are reached from the middle before the change exceeds HOLDS.

    Between two elevations the change is taken to grow evenly.
    """
    above = sorted((e, change) for e, change in changes.items() if e > middle)
    below = sorted(((e, change) for e, change in changes.items() if e < middle), reverse=True)
    return _until(middle, below), _until(middle, above)


def _until(middle: float, steps: list[tuple[float, float]]) -> float:
    """Return how far the change stays below HOLDS on the way from the middle, where it is 0."""
    last, least = middle, 0.0
    for elevation, change in steps:
        if change > HOLDS:
            return last + (elevation - last) * (HOLDS - least) / (change - least)
        last, least = elevation, change
    return last


View = tuple[Float[Tensor, "n points 3"], Float[Tensor, " points"]]
"""Colours at the points of the ground, and 1 for those that are in the picture."""


def _ground(generator: Generator, codes: Any, elevation: float, pose: Any) -> View:
    """Return the background's colours at the ground's points, seen from an elevation in degrees."""
    turned = generator.set(codes, "elevation", elevation)
    background: Image = generator(turned).background
    line = torch.linspace(-EXTENT, EXTENT, POINTS, device=background.device)
    x, y = torch.meshgrid(line, line, indexing="ij")
    height = -sum(pose.scale) / 2 * pose.proportions[2]  # where objects stand
    world = torch.stack([x, y, torch.full_like(x, height)], -1).reshape(1, -1, 3)
    camera = turned.azimuth[:1], turned.elevation[:1], turned.radius[:1]
    where, _ = project(world, *camera, pose.fov)
    soft = nn.functional.avg_pool2d(background, 3, stride=1, padding=1, count_include_pad=False)
    grid = (where * torch.tensor([1.0, -1.0], device=where.device)).expand(len(background), -1, -1)[:, None]
    seen = nn.functional.grid_sample(soft, grid.to(soft.dtype), align_corners=False)[:, :, 0].transpose(1, 2)
    return seen, (where[0].abs().amax(1) < INSIDE).to(seen.dtype)


def _change(view: View, base: View) -> tuple[float, float]:
    """Return how much colour and texture differ between two views, as shares of what another background changes."""
    both = (view[1] * base[1]).bool()
    now, then = view[0][:, both], base[0][:, both]
    other = then.roll(1, 0)  # each background beside the next
    spread = [points.std(1).mean(1) for points in (now, then, other)]
    colour = (now - then).abs().mean() / (other - then).abs().mean().clamp(min=1e-6)
    texture = (spread[0] - spread[1]).abs().mean() / (spread[2] - spread[1]).abs().mean().clamp(min=1e-6)
    return float(colour), float(texture)
