"""The background of a rendered car: ground, hills, sky, and optionally its shadow."""

import math
from typing import Any

import numpy as np
from jaxtyping import Float

from training.data.cars.colour import direction
from training.data.cars.factors import FOV, PROPORTIONS, RADIUS, Pose
from training.nn.camera import half_width, look_at, pixel_plane


def background(
    row: dict[str, Any], pose: Pose, extent: Float[np.ndarray, "3"], size: int, shadow: bool
) -> Float[np.ndarray, "h w 3"]:
    """Return ground, hills and sky (sRGB in [0, 1]) behind a car of half-extents `extent` in its box.

    The ground is the plane under the wheels, up to the row's distance, so the horizon moves with the camera's
    elevation.
    """
    rng = np.random.default_rng(row["texture"])
    lattice = rng.random((32, 32))
    floor = row["tz"] - row["scale"] * PROPORTIONS[2] * extent[2]
    horizon = _horizon(row, floor)
    x, y = (plane.numpy() for plane in pixel_plane(size))
    ground_x, ground_y = _ground(pose, x, np.minimum(y, horizon), floor)
    ground, haze, sky = (np.array([row[f"{name}_{c}"] for c in "rgb"]) for name in ("ground", "horizon", "sky"))
    pattern = _noise(lattice, ground_x * 2.2, ground_y * 2.2) + 0.6 * _noise(lattice, ground_x * 9 + 7, ground_y * 9)
    away = ((y + 1) / (horizon + 1)).clip(0, 1)[..., None]
    earth = ground * (1 + 0.09 * (pattern / 1.6 - 0.5))[..., None] * (0.92 + 0.08 * away)
    earth += 0.35 * away**3 * (haze - earth)
    if shadow:
        earth *= 1 - 0.55 * _shadow(row, extent, ground_x, ground_y)[..., None]
    rise = ((y - horizon) / 0.9).clip(0, 1)[..., None]
    air = haze + rise**0.8 * (sky - haze)
    outline = row["hills"] * (0.35 + _noise(lattice, x * 1.3 + 11, np.full_like(x, 3.5)))
    far = 0.45 * ground + 0.55 * haze
    air += _edge(horizon + outline - y, size)[..., None] * (far * 0.92 - air) * min(1.0, row["hills"] * 40)
    return air + _edge(horizon - y, size)[..., None] * (earth - air)


def _horizon(row: dict[str, Any], floor: float) -> float:
    """Return the height of the horizon in the picture, in [-1, 1] if visible."""
    ce, se = math.cos(row["elevation"]), math.sin(row["elevation"])
    depth = RADIUS + row["distance"] * ce - floor * se
    return (row["distance"] * se + floor * ce) / depth / math.tan(math.radians(FOV) / 2)


def _ground(
    pose: Pose, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], floor: float
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Return the intersections of the rays through points of the picture with the ground: world x and y."""
    right, up, back = look_at(pose.azimuth, pose.elevation)[0].numpy().T
    half = half_width(RADIUS, FOV) / RADIUS
    ray = x[..., None] * half * right + y[..., None] * half * up - back
    reach = (floor - RADIUS * back[2]) / ray[..., 2]
    point = RADIUS * back + reach[..., None] * ray
    return point[..., 0], point[..., 1]


def _shadow(
    row: dict[str, Any],
    extent: Float[np.ndarray, "3"],
    ground_x: Float[np.ndarray, "h w"],
    ground_y: Float[np.ndarray, "h w"],
) -> Float[np.ndarray, "h w"]:
    """Return the shadow on the ground in [0, 1]: the car's footprint, blurred and moved away from the sun."""
    sun = direction(row["light_azimuth"], row["light_elevation"])
    height = 0.35 * row["scale"] * PROPORTIONS[2]
    dx, dy = (g - row[t] + height * s / sun[2] for g, t, s in ((ground_x, "tx", sun[0]), (ground_y, "ty", sun[1])))
    c, s = math.cos(row["rotation"]), math.sin(row["rotation"])
    along, across = (c * dx - s * dy) / row["scale"], (s * dx + c * dy) / row["scale"]  # Rz(rotation) (p - t) / s
    length, width = extent[0], extent[1] * PROPORTIONS[1]
    outside = np.hypot(np.maximum(np.abs(along) - 0.85 * length, 0), np.maximum(np.abs(across) - 0.75 * width, 0))
    return np.exp(-((outside / 0.16) ** 2))


def _noise(
    lattice: Float[np.ndarray, "k k"], x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Return smooth random values in [0, 1]: a periodic lattice, interpolated."""
    k = len(lattice)
    x0, y0 = np.floor(x).astype(int), np.floor(y).astype(int)
    fx, fy = x - x0, y - y0
    fx, fy = fx * fx * (3 - 2 * fx), fy * fy * (3 - 2 * fy)
    low = lattice[y0 % k, x0 % k] * (1 - fx) + lattice[y0 % k, (x0 + 1) % k] * fx
    high = lattice[(y0 + 1) % k, x0 % k] * (1 - fx) + lattice[(y0 + 1) % k, (x0 + 1) % k] * fx
    return low * (1 - fy) + high * fy


def _edge(above: Float[np.ndarray, "h w"], size: int) -> Float[np.ndarray, "h w"]:
    """Return the share of each pixel above an almost level line, from the height of its centre above the line."""
    return (above * size / 2 + 0.5).clip(0, 1)
