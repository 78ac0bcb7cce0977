"""Knobs on the page: how far they go, what pulling the object turns, and under which heading they stand."""

from typing import Any

import torch
from torch import Tensor

from training.knob_values import MAX_SEED, changed
from training.nn.camera import project
from training.types import Generator, Knob


def drag_axes(
    generator: Generator, codes: Any, at: tuple[float, float] = (0.0, 0.0), reach: float = 0.2
) -> dict[str, tuple[float, float]]:
    """Return, for each knob that moves the object at `at` across the picture, what to add to it for a move there.

    `at` is right and up of the picture's middle, and the two numbers are for a move to the right and for a move up, all
    by half of the picture's width; the knobs' effects are measured through the camera (`training.nn.camera.project`).
    Of several objects the nearest one is meant. Knobs that move it across the picture by less than `reach` of what the
    strongest one does, such as towards the camera, stay where they are. Empty for a generator without a camera.
    """
    config = generator.config
    cameras = (getattr(config, "pose", config), getattr(config, "prior", config))  # by family
    fov = next((camera.fov for camera in cameras if hasattr(camera, "fov")), None)
    if fov is None or not hasattr(codes, "translation"):
        return {}
    away = (_centre(codes, float(fov)) - torch.tensor(at, device=codes.translation.device)).norm(dim=1)
    if getattr(codes, "presence", None) is not None:
        away = away.masked_fill(codes.presence[0] == 0, torch.inf)
    held = int(away.argmin())
    moves: dict[str, Tensor] = {}
    for knob in generator.knobs:
        if knob.kind != "range":
            continue
        step = (knob.high - knob.low) / 100 or 1.0
        ends = [generator.set(codes, knob.name, knob.default + way * step) for way in (-1, 1)]
        if "translation" in changed(codes, ends[0]):
            low, high = (_centre(end, float(fov)) for end in ends)
            moves[knob.name] = (high - low)[held] / (2 * step)
    strongest = max((float(move.norm()) for move in moves.values()), default=0.0)
    moves = {name: move for name, move in moves.items() if strongest > 0 and float(move.norm()) >= reach * strongest}
    if not moves:
        return {}
    back = torch.linalg.pinv(torch.stack(list(moves.values()), 1).double())  # knobs x (right, up)
    return {name: (float(row[0]), float(row[1])) for name, row in zip(moves, back, strict=True)}


def _centre(codes: Any, fov: float) -> Tensor:
    """Return where the centres of the objects fall on the pixel plane, (objects, 2)."""
    world = codes.translation.reshape(1, -1, 3)
    return project(world, codes.azimuth, codes.elevation, codes.radius, fov)[0][0]


def reach_of(knob: Knob, holds: tuple[float, float] | None = None) -> tuple[float, float]:
    """Return how far the page lets a knob go: its reach, or a quarter beyond the trained range; a full circle ends.

    Where it `holds` was measured, it ends there.
    """
    if knob.kind == "seed":
        return 0.0, float(MAX_SEED)
    low, high = _reach(knob)
    return (low, high) if holds is None else (max(low, holds[0]), min(high, holds[1]))


def _reach(knob: Knob) -> tuple[float, float]:
    if knob.extended_range is not None:
        return knob.extended_range
    span = knob.high - knob.low
    if knob.kind == "angle" and span >= 360:
        return knob.low, knob.high
    low, high = knob.low - span / 4, knob.high + span / 4
    return (max(low, knob.low / 4) if knob.low > 0 else low), high


def group_of(knob: Knob) -> str:
    """Return under which heading the page shows a knob."""
    if knob.kind == "seed":
        return "Seeds"
    return "Camera" if knob.name in ("azimuth", "elevation", "radius") else "Object"
