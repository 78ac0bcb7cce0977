"""The factors of a rendered car and their prior.

Picture `index` depends only on `index`, `stream` and `seed`.
"""

import math
from dataclasses import dataclass, fields
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Float, Int
from torch import Tensor

RADIUS = 2.732
"""Distance of the camera from the origin."""
FOV = 20.0
"""Angle of view in degrees."""
PROPORTIONS = (1.0, 0.5, 0.5)
"""Half-extents of the box (length, width, height) over the scale."""
ROTATION = (0.0, 2 * math.pi)
ELEVATION = (math.radians(10), math.radians(35))
SCALE = (0.25, 0.35)
TRANSLATION_Y = (-0.10, 0.10)
TRANSLATION_Z = (-0.06, 0.06)

MESHES = (
    "car_hatchback",
    "car_police",
    "car_sedan",
    "car_stationwagon",
    "car_taxi",
    "vehicle-truck-green",
    "vehicle-truck-purple",
    "vehicle-truck-red",
    "vehicle-truck-yellow",
)
"""Names of the meshes, in the order of the factor `mesh`."""

GROUNDS = (  # sRGB: asphalt, concrete, sand, grass, dry grass, earth, snow
    (0.36, 0.37, 0.39), (0.62, 0.61, 0.59), (0.80, 0.71, 0.54), (0.40, 0.53, 0.27),
    (0.63, 0.60, 0.36), (0.52, 0.42, 0.33), (0.86, 0.89, 0.93),
)  # fmt: skip
SKIES = (  # sRGB at the horizon and above: clear, deep, pale, overcast, evening, morning
    ((0.78, 0.88, 0.96), (0.36, 0.61, 0.90)), ((0.66, 0.82, 0.95), (0.20, 0.45, 0.80)),
    ((0.92, 0.94, 0.95), (0.66, 0.78, 0.88)), ((0.80, 0.82, 0.84), (0.60, 0.64, 0.69)),
    ((0.98, 0.80, 0.60), (0.48, 0.50, 0.72)), ((0.98, 0.88, 0.82), (0.62, 0.72, 0.88)),
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class Factors:
    """All factors of rendered cars, one row a picture; angles in radians, lengths in world units."""

    mesh: Int[np.ndarray, " n"]
    """Index into `MESHES`."""
    rotation: Float[np.ndarray, " n"]
    elevation: Float[np.ndarray, " n"]
    azimuth: Float[np.ndarray, " n"]
    scale: Float[np.ndarray, " n"]
    """Half length of the box; its half width and height are half of this."""
    tx: Float[np.ndarray, " n"]
    ty: Float[np.ndarray, " n"]
    tz: Float[np.ndarray, " n"]
    hue: Float[np.ndarray, " n"]
    """Of the paint, in [0, 1), with `saturation` and `value` as in HSV."""
    saturation: Float[np.ndarray, " n"]
    value: Float[np.ndarray, " n"]
    light_azimuth: Float[np.ndarray, " n"]
    """Direction of the sun; 0 is the camera's azimuth 0."""
    light_elevation: Float[np.ndarray, " n"]
    light: Float[np.ndarray, " n"]
    """The sun's share of the light, in [0, 1]; the rest is ambient."""
    ground_r: Float[np.ndarray, " n"]
    """Colours are sRGB in [0, 1]."""
    ground_g: Float[np.ndarray, " n"]
    ground_b: Float[np.ndarray, " n"]
    horizon_r: Float[np.ndarray, " n"]
    """Colour of the sky at the horizon."""
    horizon_g: Float[np.ndarray, " n"]
    horizon_b: Float[np.ndarray, " n"]
    sky_r: Float[np.ndarray, " n"]
    """Colour of the sky above."""
    sky_g: Float[np.ndarray, " n"]
    sky_b: Float[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    """Distance from the origin, away from the camera, at which the ground ends."""
    hills: Float[np.ndarray, " n"]
    """Height of the hills on the horizon, in half pictures."""
    texture: Int[np.ndarray, " n"]
    """Random seed of the ground's and the hills' pattern."""

    def __len__(self) -> int:
        return len(self.mesh)

    def row(self, i: int) -> dict[str, Any]:
        """Return the factors of one picture as plain numbers by name."""
        return {field.name: getattr(self, field.name)[i].item() for field in fields(self)}


def sample_factors(n: int, *, seed: int, start: int = 0, stream: int = 0) -> Factors:
    """Return the factors of pictures `start` to `start + n - 1`, drawn from the prior; stream 0 is training, 1 is
    test."""
    drawn = [_draw(np.random.default_rng([seed, stream, index])) for index in range(start, start + n)]
    names = [field.name for field in fields(Factors)]
    types = {"mesh": np.int64, "texture": np.int64}
    return Factors(*(np.array([row[name] for row in drawn], types.get(name, np.float64)) for name in names))


def _draw(rng: np.random.Generator) -> dict[str, Any]:
    """Return the factors of one picture."""
    neutral = rng.random() < 0.15  # white, silver, grey and black cars are common
    ground = np.array(GROUNDS[rng.integers(len(GROUNDS))])
    horizon, sky = np.array(SKIES[rng.integers(len(SKIES))])
    ground = (ground * rng.uniform(0.82, 1.12) + rng.uniform(-0.03, 0.03, 3)).clip(0.05, 0.95)
    tint = rng.uniform(-0.03, 0.03, 3)
    horizon, sky = ((c * rng.uniform(0.92, 1.04) + tint).clip(0.05, 1) for c in (horizon, sky))
    colours = {"ground": ground, "horizon": horizon, "sky": sky}
    return {
        "mesh": rng.integers(len(MESHES)),
        "rotation": rng.uniform(*ROTATION),
        "elevation": rng.uniform(*ELEVATION),
        "azimuth": 0.0,
        "scale": rng.uniform(*SCALE),
        "tx": 0.0,
        "ty": rng.uniform(*TRANSLATION_Y),
        "tz": rng.uniform(*TRANSLATION_Z),
        "hue": rng.random(),
        "saturation": rng.uniform(0.0, 0.08) if neutral else rng.uniform(0.55, 0.88),
        "value": rng.uniform(0.15, 0.95) if neutral else rng.uniform(0.5, 0.9),
        "light_azimuth": rng.uniform(-1.2, 1.2),
        "light_elevation": rng.uniform(0.6, 1.3),
        "light": rng.uniform(0.45, 0.7),
        **{f"{name}_{c}": colour[k] for name, colour in colours.items() for k, c in enumerate("rgb")},
        "distance": rng.uniform(0.9, 2.6),
        "hills": max(0.0, rng.uniform(-0.1, 0.22)),
        "texture": rng.integers(1 << 31),
    }


class Pose(NamedTuple):
    """A row's pose as tensors of one row."""

    scale: Float[Tensor, "1 3"]
    translation: Float[Tensor, "1 3"]
    rotation: Float[Tensor, " 1"]
    azimuth: Float[Tensor, " 1"]
    elevation: Float[Tensor, " 1"]


def pose_of(row: dict[str, Any]) -> Pose:
    """Return a row's pose."""
    return Pose(
        row["scale"] * torch.tensor([PROPORTIONS], dtype=torch.float64),
        torch.tensor([[row["tx"], row["ty"], row["tz"]]], dtype=torch.float64),
        torch.tensor([row["rotation"]], dtype=torch.float64),
        torch.tensor([row["azimuth"]], dtype=torch.float64),
        torch.tensor([row["elevation"]], dtype=torch.float64),
    )
