"""Rendered cars with every factor known: a small software renderer for textured meshes.

World, camera and box are those of `training.camera`, so the pose prior of GIRAFFE HD on these pictures is exact. A mesh
is centred and scaled evenly until it fits the box: half length 1 along the box's x (forward), at most 0.5 of that in
width and height; a car of scale s fills the box with half-extents s * (1, 0.5, 0.5). At rotation 0 it faces the camera.
Picture `index` of stream `stream` under `seed` depends on nothing else.
"""

import math
from dataclasses import dataclass, fields
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8
from torch import Tensor

from ..camera import half_width, look_at, pixel_plane, project, world_points
from ..types import Boxes, Image, Mask
from .gltf import Mesh, read_gltf

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
SAMPLES = 4
"""Samples along each side of a pixel: 16 a pixel."""

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

PAINT, HEAD, TAIL, GLASS, OTHER = range(5)  # what a triangle is made of

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
    """All that a picture of a car is made from, a row a picture; angles in radians, lengths in world units."""

    mesh: Int[np.ndarray, " n"]
    """Place in `MESHES`."""
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
    """Where the sun stands; 0 is over the camera's azimuth 0."""
    light_elevation: Float[np.ndarray, " n"]
    light: Float[np.ndarray, " n"]
    """The sun's share of the light, in [0, 1]; the rest comes from all around."""
    ground_r: Float[np.ndarray, " n"]
    """Colours are sRGB in [0, 1]."""
    ground_g: Float[np.ndarray, " n"]
    ground_b: Float[np.ndarray, " n"]
    horizon_r: Float[np.ndarray, " n"]
    """Of the sky where it meets the ground."""
    horizon_g: Float[np.ndarray, " n"]
    horizon_b: Float[np.ndarray, " n"]
    sky_r: Float[np.ndarray, " n"]
    """Of the sky higher up."""
    sky_g: Float[np.ndarray, " n"]
    sky_b: Float[np.ndarray, " n"]
    distance: Float[np.ndarray, " n"]
    """From the origin, away from the camera, to where the ground ends in sky."""
    hills: Float[np.ndarray, " n"]
    """Height of what stands on the horizon, in half pictures."""
    texture: Int[np.ndarray, " n"]
    """Seed of the ground's and the hills' pattern."""

    def __len__(self) -> int:
        return len(self.mesh)

    def row(self, i: int) -> dict[str, Any]:
        """Return the factors of one picture as plain numbers by name."""
        return {field.name: getattr(self, field.name)[i].item() for field in fields(self)}


def sample_factors(n: int, *, seed: int, start: int = 0, stream: int = 0) -> Factors:
    """Return the factors of `n` pictures from `start` on, drawn from the prior; stream 0 is training, 1 is test."""
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


class Rendered(NamedTuple):
    """Pictures of cars, what of each pixel is car, and the box around that."""

    image: Image
    mask: Mask
    box: Boxes


def render(factors: Factors, size: int, *, shadow: bool = False) -> Rendered:
    """Return the pictures that `factors` describe; `shadow` adds a soft shadow on the ground, outside the mask."""
    pictures = [render_bytes(factors, i, size, shadow=shadow) for i in range(len(factors))]
    image = torch.from_numpy(np.stack([picture for picture, _, _ in pictures]))
    mask = torch.from_numpy(np.stack([mask for _, mask, _ in pictures]))
    box = torch.tensor([box for _, _, box in pictures])
    return Rendered(image.permute(0, 3, 1, 2).float() / 127.5 - 1, mask[:, None].float() / 255, box)


def render_bytes(
    factors: Factors, i: int, size: int, *, shadow: bool = False
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], tuple[float, float, float, float]]:
    """Return picture `i` and its mask as bytes, and its box as fractions of the picture."""
    row = factors.row(i)
    model = _model(int(row["mesh"]))
    pose = _pose(row)
    foreground, mask, box = _draw_car(model, row, pose, size)
    background = _background(row, pose, model, size, shadow)
    picture = background + mask[..., None] * (foreground - background)
    return _to_bytes(picture), _to_bytes(mask), box


# The car


@dataclass(frozen=True, slots=True)
class Model:
    """A mesh in the box of `training.camera`, with what its triangles are made of."""

    positions: Float[np.ndarray, "vertices 3"]
    normals: Float[np.ndarray, "vertices 3"]
    uv: Float[np.ndarray, "vertices 2"]
    triangles: Int[np.ndarray, "triangles 3"]
    material: Int[np.ndarray, " triangles"]
    albedo: Float[np.ndarray, "h w 3"]
    """The texture in linear light."""
    paint: float
    """Mean brightness, in linear light, of the paint in the texture."""
    extent: Float[np.ndarray, "3"]
    """Half-extents in the box."""


@cache
def _model(number: int) -> Model:
    """Return mesh `number` of `MESHES`, read once."""
    folder = Path(__file__).parent / "meshes"
    name = MESHES[number]
    mesh = read_gltf(folder / f"{name}.{'glb' if name.startswith('vehicle') else 'gltf'}")
    forward = [2, 0, 1]  # glTF: y up, these cars look along +z; box: x forward, y left, z up
    positions, normals = mesh.positions[:, forward], mesh.normals[:, forward]
    low, high = positions.min(0), positions.max(0)
    half = (high - low) / 2
    longest = (half / PROPORTIONS).max()
    positions = (positions - (low + high) / 2) / longest / PROPORTIONS
    albedo = _linear(mesh.texture / 255)
    material = _materials(name, mesh, positions)
    paint = _texels(albedo, mesh.uv[mesh.triangles[material == PAINT]].mean(1)).mean()
    return Model(
        positions,
        normals,
        mesh.uv,
        mesh.triangles,
        material,
        albedo.astype(np.float32),
        float(paint),
        half / longest / PROPORTIONS,
    )


CELLS = {  # (column, row) of the texture's palette that holds a mesh's paint
    "car_hatchback": (4, 1),
    "car_police": (0, 0),
    "car_sedan": (2, 1),
    "car_stationwagon": (2, 2),
    "car_taxi": (3, 1),
    "vehicle-truck-green": (1, 3),
    "vehicle-truck-purple": (1, 1),
    "vehicle-truck-red": (11, 2),
    "vehicle-truck-yellow": (7, 2),
}


def _materials(name: str, mesh: Mesh, positions: Float[np.ndarray, "vertices 3"]) -> Int[np.ndarray, " triangles"]:
    """Return what each triangle is made of, told from its palette cell and its place on the car."""
    truck = name.startswith("vehicle")
    cell = np.floor(mesh.uv[mesh.triangles].mean(1) * ((16, 4) if truck else (8, 4))).astype(int)
    x, _, z = positions[mesh.triangles].mean(1).T / np.abs(positions).max(0)[:, None]
    wheel = np.array(["wheel" in part for part in mesh.parts])[mesh.part]

    def painted(*cells: tuple[int, int]) -> Bool[np.ndarray, " triangles"]:
        return np.any([(cell == c).all(1) for c in cells], 0) & ~wheel

    material = np.full(len(mesh.triangles), OTHER)
    material[painted(CELLS[name])] = PAINT
    if truck:
        material[painted((11, 3))] = GLASS
        flat = positions[mesh.triangles, 0].std(1) < 1e-3
        material[painted((7, 2), (11, 3)) & (x > 0.925) & (z < 0.3) & flat] = HEAD
        # the tail lights are flat quads at the height of the chassis' end
        material[painted((11, 2)) & (np.abs(x + 0.93) < 0.005) & (z > -0.1) & (z < 0.3)] = TAIL
    else:
        material[painted((0, 3), (1, 3))] = GLASS
        material[painted((1, 0)) & (x > 0.9) & (z < -0.1)] = HEAD
        material[painted((6, 2))] = TAIL
    return material


class _Pose(NamedTuple):
    """A row's pose as tensors of one row."""

    scale: Float[Tensor, "1 3"]
    translation: Float[Tensor, "1 3"]
    rotation: Float[Tensor, " 1"]
    azimuth: Float[Tensor, " 1"]
    elevation: Float[Tensor, " 1"]


def _pose(row: dict[str, Any]) -> _Pose:
    """Return a row's pose."""
    return _Pose(
        row["scale"] * torch.tensor([PROPORTIONS], dtype=torch.float64),
        torch.tensor([[row["tx"], row["ty"], row["tz"]]], dtype=torch.float64),
        torch.tensor([row["rotation"]], dtype=torch.float64),
        torch.tensor([row["azimuth"]], dtype=torch.float64),
        torch.tensor([row["elevation"]], dtype=torch.float64),
    )


def _draw_car(
    model: Model, row: dict[str, Any], pose: _Pose, size: int
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"], tuple[float, float, float, float]]:
    """Return the car's colour (sRGB in [0, 1]), its share of each pixel, and its box in fractions of the picture."""
    world = world_points(torch.from_numpy(model.positions)[None], pose.scale, pose.translation, pose.rotation)
    radius = torch.full((1,), RADIUS, dtype=torch.float64)
    plane, depth = project(world, pose.azimuth, pose.elevation, radius, FOV)
    fine = size * SAMPLES
    screen = (plane[0].numpy() * (1, -1) + 1) * (fine / 2)
    nearness = 1 / depth[0].numpy()
    pixel, triangle, weights = rasterise(screen, nearness, model.triangles, fine)
    colour = _shade(model, row, pose, triangle, weights)
    y, x = np.divmod(pixel, fine)
    coarse = y // SAMPLES * size + x // SAMPLES
    count, *light = (
        np.bincount(coarse, weight, size * size).reshape(size, size) for weight in (None, *colour.T.astype(np.float64))
    )
    mask = count / SAMPLES**2
    foreground = _srgb(np.stack(light, -1) / np.maximum(count, 1)[..., None])
    return foreground, mask, _bounds(x, y, fine)


def _bounds(
    x: Int[np.ndarray, " visible"], y: Int[np.ndarray, " visible"], fine: int
) -> tuple[float, float, float, float]:
    """Return the box around samples, in fractions of the picture; the whole picture if nothing is visible."""
    if len(x) == 0:
        return 0.0, 0.0, 1.0, 1.0
    return float(x.min() / fine), float(y.min() / fine), float((x.max() + 1) / fine), float((y.max() + 1) / fine)


def rasterise(
    screen: Float[np.ndarray, "vertices 2"],
    nearness: Float[np.ndarray, " vertices"],
    triangles: Int[np.ndarray, "triangles 3"],
    size: int,
) -> tuple[Int[np.ndarray, " visible"], Int[np.ndarray, " visible"], Float[np.ndarray, "visible 3"]]:
    """Return the pixels that triangles cover, the nearest triangle in each and its vertices' weights there.

    `screen` is in pixels, x right and y down, a pixel's centre at one half; `nearness` is one over depth. Triangles
    seen from behind (clockwise) are skipped. Pixels count row by row; weights are right in perspective and sum to 1.
    """
    corner = screen[triangles]  # (triangles, 3 corners, 2)
    a, b, c = corner[:, 0], corner[:, 1], corner[:, 2]
    area = (b[:, 0] - a[:, 0]) * (c[:, 1] - a[:, 1]) - (b[:, 1] - a[:, 1]) * (c[:, 0] - a[:, 0])
    keep = np.flatnonzero(area < -1e-9)  # y is down, so counter-clockwise is negative
    corner, area = corner[keep], area[keep]
    near = nearness[triangles[keep]]
    # every row of pixel centres that a triangle crosses
    first = np.ceil(corner[:, :, 1].min(1) - 0.5).clip(0, size).astype(int)
    end = np.ceil(corner[:, :, 1].max(1) - 0.5).clip(0, size).astype(int)
    owner, row = _ranges(first, end)
    # the span of pixel centres inside it, between the two edges that cross the row
    y = row + 0.5
    left, right = np.full(len(row), np.inf), np.full(len(row), -np.inf)
    for i, j in ((0, 1), (1, 2), (2, 0)):
        (xi, yi), (xj, yj) = corner[owner, i].T, corner[owner, j].T
        crosses = (yi <= y) != (yj <= y)
        x = xi + (y - yi) * (xj - xi) / np.where(crosses, yj - yi, 1)
        left = np.where(crosses, np.minimum(left, x), left)
        right = np.where(crosses, np.maximum(right, x), right)
    start = np.ceil(left.clip(-1, size + 1) - 0.5).clip(0, size).astype(int)
    stop = np.ceil(right.clip(-1, size + 1) - 0.5).clip(0, size).astype(int)
    span, column = _ranges(start, stop)
    owner, row = owner[span], row[span]
    # nearness is linear on the screen: its value at a corner plus its slopes
    (ax, ay), (bx, by), (cx, cy) = corner[:, 0].T, corner[:, 1].T, corner[:, 2].T
    slope_x = ((near[:, 1] - near[:, 0]) * (cy - ay) - (near[:, 2] - near[:, 0]) * (by - ay)) / area
    slope_y = ((near[:, 2] - near[:, 0]) * (bx - ax) - (near[:, 1] - near[:, 0]) * (cx - ax)) / area
    base = near[:, 0] + slope_x * (0.5 - ax) + slope_y * (0.5 - ay)
    value = base[owner] + slope_x[owner] * column + slope_y[owner] * row
    pixel = row * size + column
    nearest = np.zeros(size * size)
    np.maximum.at(nearest, pixel, value)
    seen = np.flatnonzero(value == nearest[pixel])
    winner = np.full(size * size, -1)
    winner[pixel[seen]] = seen  # where two triangles tie, one of them
    seen = winner[winner >= 0]
    owner, pixel, value = owner[seen], pixel[seen], value[seen]
    dx, dy = column[seen] + 0.5 - ax[owner], row[seen] + 0.5 - ay[owner]
    w1 = (dx * (cy - ay)[owner] - dy * (cx - ax)[owner]) / area[owner]
    w2 = (dy * (bx - ax)[owner] - dx * (by - ay)[owner]) / area[owner]
    weights = np.stack([1 - w1 - w2, w1, w2], 1) * near[owner] / value[:, None]
    return pixel, keep[owner], weights


def _ranges(
    start: Int[np.ndarray, " n"], stop: Int[np.ndarray, " n"]
) -> tuple[Int[np.ndarray, " total"], Int[np.ndarray, " total"]]:
    """Return the numbers start ... stop - 1 of every range, one after the other, and the range that each is from."""
    count = np.maximum(stop - start, 0)
    owner = np.repeat(np.arange(len(start)), count)
    within = np.arange(len(owner)) - np.repeat(np.cumsum(count) - count, count)
    return owner, start[owner] + within


def _shade(
    model: Model,
    row: dict[str, Any],
    pose: _Pose,
    triangle: Int[np.ndarray, " visible"],
    weights: Float[np.ndarray, "visible 3"],
) -> Float[np.ndarray, "visible 3"]:
    """Return the light (linear) that visible points send to the camera: sun, sky and ground light, a little gloss."""
    weights = weights.astype(np.float32)
    corners = model.triangles[triangle]
    uv = np.einsum("pk,pkc->pc", weights, model.uv.astype(np.float32)[corners])
    normals = _world_normals(model, pose).astype(np.float32)
    normal = np.einsum("pk,pkc->pc", weights, normals[corners])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    material = model.material[triangle]
    albedo = _texels(model.albedo, uv)
    paint = _linear(np.array(_hsv(row["hue"], row["saturation"], row["value"]))).astype(np.float32)
    is_paint, is_glass = material == PAINT, material == GLASS
    albedo[is_paint] = albedo[is_paint].mean(1, keepdims=True) / model.paint * paint
    albedo[is_glass] = _light(0.012, 0.02, 0.03)
    sun = _direction(row["light_azimuth"], row["light_elevation"])
    back = look_at(pose.azimuth, pose.elevation)[0, :, 2].numpy()
    middle = (sun + back) / np.linalg.norm(sun + back)
    diffuse = np.maximum(normal @ sun.astype(np.float32), 0)
    upward = (normal[:, 2:3] + 1) / 2
    sky = _light(0.95, 1.0, 1.08)
    ground = _light(0.62, 0.60, 0.58)
    around = ground + upward * (sky - ground)
    light = row["light"] * 1.6 * diffuse[:, None] * _light(1.04, 1.0, 0.94) + (1 - row["light"]) * 1.15 * around
    colour = albedo * light
    facing = np.maximum(normal @ middle.astype(np.float32), 0)
    gloss = np.where(is_paint, 0.10, 0.0) + np.where(is_glass, 0.25, 0.0)
    colour += (gloss * facing**24)[:, None]
    colour[is_glass] += _light(0.05, 0.07, 0.10) * upward[is_glass] ** 2  # panes mirror the sky
    colour[material == HEAD] = 0.35 * colour[material == HEAD] + _light(0.95, 0.92, 0.78)
    colour[material == TAIL] = _light(0.80, 0.012, 0.012)
    return np.minimum(colour, 1)


def _world_normals(model: Model, pose: _Pose) -> Float[np.ndarray, "vertices 3"]:
    """Return the vertices' normals turned into the world; the mesh is scaled evenly, so they only turn."""
    unit = torch.ones(1, 3, dtype=torch.float64)
    return world_points(torch.from_numpy(model.normals)[None], unit, 0 * unit, pose.rotation)[0].numpy()


# What lies behind the car


def _background(row: dict[str, Any], pose: _Pose, model: Model, size: int, shadow: bool) -> Float[np.ndarray, "h w 3"]:
    """Return ground, hills and sky (sRGB in [0, 1]); the ground is the plane under the wheels."""
    rng = np.random.default_rng(row["texture"])
    lattice = rng.random((32, 32))
    floor = row["tz"] - row["scale"] * PROPORTIONS[2] * model.extent[2]
    horizon = _horizon(row, floor)
    x, y = (plane.numpy() for plane in pixel_plane(size))
    ground_x, ground_y = _ground(pose, x, np.minimum(y, horizon), floor)
    ground, haze, sky = (np.array([row[f"{name}_{c}"] for c in "rgb"]) for name in ("ground", "horizon", "sky"))
    pattern = _noise(lattice, ground_x * 2.2, ground_y * 2.2) + 0.6 * _noise(lattice, ground_x * 9 + 7, ground_y * 9)
    away = ((y + 1) / (horizon + 1)).clip(0, 1)[..., None]
    earth = ground * (1 + 0.09 * (pattern / 1.6 - 0.5))[..., None] * (0.92 + 0.08 * away)
    earth += 0.35 * away**3 * (haze - earth)
    if shadow:
        earth *= 1 - 0.55 * _shadow(row, model, ground_x, ground_y)[..., None]
    rise = ((y - horizon) / 0.9).clip(0, 1)[..., None]
    air = haze + rise**0.8 * (sky - haze)
    outline = row["hills"] * (0.35 + _noise(lattice, x * 1.3 + 11, np.full_like(x, 3.5)))
    far = 0.45 * ground + 0.55 * haze
    air += _edge(horizon + outline - y, size)[..., None] * (far * 0.92 - air) * min(1.0, row["hills"] * 40)
    return air + _edge(horizon - y, size)[..., None] * (earth - air)


def _horizon(row: dict[str, Any], floor: float) -> float:
    """Return the height on the picture, in [-1, 1] in view, of the line where the ground ends."""
    ce, se = math.cos(row["elevation"]), math.sin(row["elevation"])
    depth = RADIUS + row["distance"] * ce - floor * se
    return (row["distance"] * se + floor * ce) / depth / math.tan(math.radians(FOV) / 2)


def _ground(
    pose: _Pose, x: Float[np.ndarray, "h w"], y: Float[np.ndarray, "h w"], floor: float
) -> tuple[Float[np.ndarray, "h w"], Float[np.ndarray, "h w"]]:
    """Return where the rays through points of the picture meet the ground: world x and y."""
    right, up, back = look_at(pose.azimuth, pose.elevation)[0].numpy().T
    half = half_width(RADIUS, FOV) / RADIUS
    ray = x[..., None] * half * right + y[..., None] * half * up - back
    reach = (floor - RADIUS * back[2]) / ray[..., 2]
    point = RADIUS * back + reach[..., None] * ray
    return point[..., 0], point[..., 1]


def _shadow(
    row: dict[str, Any], model: Model, ground_x: Float[np.ndarray, "h w"], ground_y: Float[np.ndarray, "h w"]
) -> Float[np.ndarray, "h w"]:
    """Return how dark the ground is, in [0, 1]: the car's footprint, blurred, and moved away from the sun."""
    sun = _direction(row["light_azimuth"], row["light_elevation"])
    height = 0.35 * row["scale"] * PROPORTIONS[2]
    dx, dy = (g - row[t] + height * s / sun[2] for g, t, s in ((ground_x, "tx", sun[0]), (ground_y, "ty", sun[1])))
    c, s = math.cos(row["rotation"]), math.sin(row["rotation"])
    along, across = (c * dx - s * dy) / row["scale"], (s * dx + c * dy) / row["scale"]  # Rz(rotation) (p - t) / s
    length, width = model.extent[0], model.extent[1] * PROPORTIONS[1]
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
    """Return the share of a pixel on the positive side of an almost level line, from its centre's height above it."""
    return (above * size / 2 + 0.5).clip(0, 1)


# Colours


def _direction(azimuth: float, elevation: float) -> Float[np.ndarray, "3"]:
    """Return a unit vector to a point on the sky."""
    ce = math.cos(elevation)
    return np.array([ce * math.cos(azimuth), ce * math.sin(azimuth), math.sin(elevation)])


def _texels(texture: Float[np.ndarray, "h w 3"], uv: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 3"]:
    """Return the texture's nearest colours; its cells are flat or smooth, and blending would bleed between them."""
    height, width, _ = texture.shape
    x = (uv[:, 0] * width).astype(int).clip(0, width - 1)
    y = (uv[:, 1] * height).astype(int).clip(0, height - 1)
    return texture[y, x]


def _light(red: float, green: float, blue: float) -> Float[np.ndarray, "3"]:
    """Return a colour in linear light, in the precision of shading."""
    return np.array([red, green, blue], np.float32)


def _hsv(hue: float, saturation: float, value: float) -> tuple[float, float, float]:
    """Return red, green and blue in [0, 1]."""
    shades = [(n + 6 * hue) % 6 for n in (5, 3, 1)]
    red, green, blue = (value - value * saturation * max(0.0, min(k, 4 - k, 1.0)) for k in shades)
    return red, green, blue


def _linear(srgb: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return light from sRGB values."""
    return np.where(srgb <= 0.04045, srgb / 12.92, ((srgb + 0.055) / 1.055) ** 2.4)


def _srgb(light: Float[np.ndarray, "..."]) -> Float[np.ndarray, "..."]:
    """Return sRGB values from light."""
    light = light.clip(0, 1)
    return np.where(light <= 0.0031308, light * 12.92, 1.055 * light ** (1 / 2.4) - 0.055)


def _to_bytes(values: Float[np.ndarray, "..."]) -> UInt8[np.ndarray, "..."]:
    """Return [0, 1] as 0 ... 255."""
    return (values * 255).round().clip(0, 255).astype(np.uint8)
