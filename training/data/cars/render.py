"""Rendered cars with all factors known: a small software renderer for textured meshes.

World, camera and box are those of `training.nn.camera`, so GIRAFFE HD's pose prior is exact on these pictures. A mesh
is centred and scaled uniformly to fit the box: half length 1 along the box's x (forward), at most 0.5 of that in
width and height; a car of scale s fills the box with half-extents s * (1, 0.5, 0.5). At rotation 0 it faces the camera.
"""

from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int, UInt8

from training.data.cars.backdrop import background
from training.data.cars.colour import direction, hsv, light_of, linear, srgb, to_bytes
from training.data.cars.factors import FOV, MESHES, PROPORTIONS, RADIUS, Factors, Pose, pose_of
from training.data.cars.gltf import Mesh, read_gltf
from training.data.cars.raster import rasterise
from training.nn.camera import look_at, project, world_points
from training.types import Boxes, Image, Mask

SAMPLES = 4
"""Samples along each side of a pixel, 16 in all."""
PAINT, HEAD, TAIL, GLASS, OTHER = range(5)  # what a triangle is made of


class Rendered(NamedTuple):
    """Pictures of cars, their masks and boxes."""

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


def render_place(factors: Factors, size: int) -> Image:
    """Return the same pictures without the cars: the ground, hills and sky behind them."""
    places = []
    for i in range(len(factors)):
        row = factors.row(i)
        behind = background(row, pose_of(row), _model(int(row["mesh"])).extent, size, False)
        places.append(torch.from_numpy(to_bytes(behind)))
    return torch.stack(places).permute(0, 3, 1, 2).float() / 127.5 - 1


def render_bytes(
    factors: Factors, i: int, size: int, *, shadow: bool = False
) -> tuple[UInt8[np.ndarray, "h w 3"], UInt8[np.ndarray, "h w"], tuple[float, float, float, float]]:
    """Return picture `i` and its mask as bytes, and its box as fractions of the picture."""
    row = factors.row(i)
    model = _model(int(row["mesh"]))
    pose = pose_of(row)
    foreground, mask, box = _draw_car(model, row, pose, size)
    behind = background(row, pose, model.extent, size, shadow)
    picture = behind + mask[..., None] * (foreground - behind)
    return to_bytes(picture), to_bytes(mask), box


@dataclass(frozen=True, slots=True)
class Model:
    """A mesh in the box of `training.nn.camera`, with the material of each triangle."""

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
    albedo = linear(mesh.texture / 255)
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
    """Return the material of each triangle, from its palette cell and its place on the car."""
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


def _draw_car(
    model: Model, row: dict[str, Any], pose: Pose, size: int
) -> tuple[Float[np.ndarray, "h w 3"], Float[np.ndarray, "h w"], tuple[float, float, float, float]]:
    """Return the car's colour (sRGB in [0, 1]), its coverage of each pixel, and its box in fractions of the picture."""
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
    foreground = srgb(np.stack(light, -1) / np.maximum(count, 1)[..., None])
    return foreground, mask, _bounds(x, y, fine)


def _bounds(
    x: Int[np.ndarray, " visible"], y: Int[np.ndarray, " visible"], fine: int
) -> tuple[float, float, float, float]:
    """Return the box around samples, in fractions of the picture; the whole picture if nothing is visible."""
    if len(x) == 0:
        return 0.0, 0.0, 1.0, 1.0
    return float(x.min() / fine), float(y.min() / fine), float((x.max() + 1) / fine), float((y.max() + 1) / fine)


def _shade(
    model: Model,
    row: dict[str, Any],
    pose: Pose,
    triangle: Int[np.ndarray, " visible"],
    weights: Float[np.ndarray, "visible 3"],
) -> Float[np.ndarray, "visible 3"]:
    """Return the linear radiance of visible points: sun, sky and ground light, and a specular term."""
    weights = weights.astype(np.float32)
    corners = model.triangles[triangle]
    uv = np.einsum("pk,pkc->pc", weights, model.uv.astype(np.float32)[corners])
    normals = _world_normals(model, pose).astype(np.float32)
    normal = np.einsum("pk,pkc->pc", weights, normals[corners])
    normal /= np.maximum(np.linalg.norm(normal, axis=1, keepdims=True), 1e-6)
    material = model.material[triangle]
    albedo = _texels(model.albedo, uv)
    paint = linear(np.array(hsv(row["hue"], row["saturation"], row["value"]))).astype(np.float32)
    is_paint, is_glass = material == PAINT, material == GLASS
    albedo[is_paint] = albedo[is_paint].mean(1, keepdims=True) / model.paint * paint
    albedo[is_glass] = light_of(0.012, 0.02, 0.03)
    sun = direction(row["light_azimuth"], row["light_elevation"])
    back = look_at(pose.azimuth, pose.elevation)[0, :, 2].numpy()
    middle = (sun + back) / np.linalg.norm(sun + back)
    diffuse = np.maximum(normal @ sun.astype(np.float32), 0)
    upward = (normal[:, 2:3] + 1) / 2
    sky = light_of(0.95, 1.0, 1.08)
    ground = light_of(0.62, 0.60, 0.58)
    around = ground + upward * (sky - ground)
    light = row["light"] * 1.6 * diffuse[:, None] * light_of(1.04, 1.0, 0.94) + (1 - row["light"]) * 1.15 * around
    colour = albedo * light
    facing = np.maximum(normal @ middle.astype(np.float32), 0)
    gloss = np.where(is_paint, 0.10, 0.0) + np.where(is_glass, 0.25, 0.0)
    colour += (gloss * facing**24)[:, None]
    colour[is_glass] += light_of(0.05, 0.07, 0.10) * upward[is_glass] ** 2  # windows reflect the sky
    colour[material == HEAD] = 0.35 * colour[material == HEAD] + light_of(0.95, 0.92, 0.78)
    colour[material == TAIL] = light_of(0.80, 0.012, 0.012)
    return np.minimum(colour, 1)


def _world_normals(model: Model, pose: Pose) -> Float[np.ndarray, "vertices 3"]:
    """Return the vertices' normals in world coordinates; uniform scaling leaves them a rotation."""
    unit = torch.ones(1, 3, dtype=torch.float64)
    return world_points(torch.from_numpy(model.normals)[None], unit, 0 * unit, pose.rotation)[0].numpy()


def _texels(texture: Float[np.ndarray, "h w 3"], uv: Float[np.ndarray, "points 2"]) -> Float[np.ndarray, "points 3"]:
    """Return the texture's nearest colours; interpolation would mix neighbouring cells of the palette."""
    height, width, _ = texture.shape
    x = (uv[:, 0] * width).astype(int).clip(0, width - 1)
    y = (uv[:, 1] * height).astype(int).clip(0, height - 1)
    return texture[y, x]
