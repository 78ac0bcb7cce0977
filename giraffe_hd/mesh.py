"""Surfaces out of density fields: marching tetrahedra in NumPy, and mesh files (.obj, .ply, .glb).

A cube of eight grid points is cut into six tetrahedra around its diagonal, the same way in every cube, so neighbours
meet and the surface is closed (Doi and Koide, IEICE 1991). Inside a tetrahedron the field is taken as linear.
"""

import json
import struct
from itertools import permutations
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from jaxtyping import Bool, Float, Int

from giraffe_hd.codes import Codes
from training.checkpoint import write_whole

TETRAHEDRA = np.array([np.cumsum([0, *(1 << axis for axis in order)]) for order in permutations((2, 1, 0))])
"""Corners of the six tetrahedra; a corner's bits are its offsets along x (4), y (2) and z (1)."""


class Mesh(NamedTuple):
    """Triangles, counter-clockwise seen from outside."""

    vertices: Float[np.ndarray, "vertices 3"]
    faces: Int[np.ndarray, "faces 3"]


def march(values: Float[np.ndarray, "x y z"], level: float) -> Mesh:
    """Return the surface at which `values` pass `level`, in grid steps; what is above the level is inside."""
    tetrahedra = _crossed(values, level)
    flat = values.reshape(-1)
    above = flat[tetrahedra] > level
    tetrahedra = np.take_along_axis(tetrahedra, np.argsort(~above, axis=1, kind="stable"), 1)  # those above first
    right_handed = _right_handed(tetrahedra, values.shape)
    found = []  # triangles of three edges, each of a corner above and one below
    for n_above, triangles in (
        (1, [((0, 1), (0, 2), (0, 3))]),
        (2, [((0, 2), (0, 3), (1, 3)), ((0, 2), (1, 3), (1, 2))]),
        (3, [((0, 3), (1, 3), (2, 3))]),
    ):
        which = above.sum(1) == n_above
        for triangle in triangles:  # turned outward in a right-handed tetrahedron
            edges = np.stack([tetrahedra[which][:, list(edge)] for edge in triangle], 1)
            found.append(np.where(right_handed[which, None, None], edges, edges[:, ::-1]))
    pairs, index = np.unique(np.concatenate(found).reshape(-1, 2), axis=0, return_inverse=True)
    ends = np.stack(np.unravel_index(pairs, values.shape), -1).astype(np.float64)
    high, low = flat[pairs[:, 0]], flat[pairs[:, 1]]
    share = ((high - level) / (high - low))[:, None]
    return Mesh(ends[:, 0] + share * (ends[:, 1] - ends[:, 0]), index.reshape(-1, 3))


def _crossed(values: Float[np.ndarray, "x y z"], level: float) -> Int[np.ndarray, "tetrahedra 4"]:
    """Return the grid points of the tetrahedra in all cubes that the surface crosses."""
    x, y, z = values.shape
    index = np.arange(x * y * z).reshape(x, y, z)
    corners = [np.s_[i : x - 1 + i, j : y - 1 + j, k : z - 1 + k] for i in (0, 1) for j in (0, 1) for k in (0, 1)]
    above = values > level
    some, every = above[corners[0]].copy(), above[corners[0]].copy()
    for corner in corners[1:]:  # one by one: at 512 points a side all eight together would fill 20 GB
        some |= above[corner]
        every &= above[corner]
    cubes = np.stack([index[corner][some & ~every] for corner in corners], -1)
    return cubes[:, TETRAHEDRA].reshape(-1, 4)


def _right_handed(
    tetrahedra: Int[np.ndarray, "tetrahedra 4"], shape: tuple[int, ...]
) -> Bool[np.ndarray, " tetrahedra"]:
    """Return whether the last three corners turn counter-clockwise, seen from outside; exact, in whole numbers."""
    corners = np.stack(np.unravel_index(tetrahedra, shape), -1)
    b, c, d = (corners[:, i] - corners[:, 0] for i in (1, 2, 3))
    return (b * np.cross(c, d)).sum(1) > 0


@torch.no_grad()
def object_mesh(
    generator: Any, codes: Codes, *, resolution: int = 96, level: float | None = None, **which: int
) -> Mesh:
    """Return the surface of the first scene's object in world units, its box centred at the origin and unturned.

    `level` is a density per world unit; None takes the one that lets half of the light through a tenth of the box.
    `which` is passed on to the generator's `density`, as GIRAFFE's `index` of the object.

    Raises: ValueError for a level that is not above 0, and where no density passes it.
    """
    if level is not None and not level > 0:
        raise ValueError(f"level {level:g} bounds nothing; expected a density above 0")
    scale = codes.scale.reshape(codes.scale.shape[0], -1, 3)[0, which.get("index", 0)].double().cpu().numpy()
    level = float(np.log(2) / (0.2 * scale[0])) if level is None else level
    line = torch.linspace(-1.15, 1.15, resolution, device=codes.azimuth.device)  # past the edge of every field
    values = np.empty((resolution,) * 3, dtype=np.float64)
    for i, x in enumerate(line):
        points = torch.stack(torch.meshgrid(x[None], line, line, indexing="ij"), -1).reshape(1, -1, 3)
        points = points.expand(codes.azimuth.shape[0], -1, -1)
        values[i] = generator.density(codes, points, **which)[0].double().cpu().numpy().reshape(resolution, -1)
    if not (values > level).any():
        raise ValueError(
            f"no density of this object passes {level:.3g}, the highest is {values.max():.3g}; lower --level"
        )
    mesh = march(values, level)
    return Mesh((mesh.vertices / (resolution - 1) * 2.3 - 1.15) * scale, mesh.faces)


MESHES = (".obj", ".ply", ".glb")
"""Endings of mesh files."""
Colours = Float[np.ndarray, "vertices 3"]
"""Linear light in [0, 1]."""


def write_mesh(path: Path, mesh: Mesh, colours: Colours | None = None) -> None:
    """Write a mesh whole or not at all; the name's ending says how, and a .glb has colours too.

    Raises: ValueError for another ending.
    """
    kind = path.suffix.lower()
    if kind == ".obj":
        lines = [f"v {x:.6g} {y:.6g} {z:.6g}" for x, y, z in mesh.vertices.tolist()]
        lines += [f"f {a} {b} {c}" for a, b, c in (mesh.faces + 1).tolist()]
        write_whole(path, ("\n".join(lines) + "\n").encode())
    elif kind == ".ply":
        head = (
            "ply\nformat binary_little_endian 1.0\n"
            f"element vertex {len(mesh.vertices)}\nproperty float x\nproperty float y\nproperty float z\n"
            f"element face {len(mesh.faces)}\nproperty list uchar int vertex_indices\nend_header\n"
        )
        faces = np.empty(len(mesh.faces), dtype=[("n", "u1"), ("corners", "<i4", 3)])
        faces["n"], faces["corners"] = 3, mesh.faces
        write_whole(path, head.encode() + mesh.vertices.astype("<f4").tobytes() + faces.tobytes())
    elif kind == ".glb":
        write_whole(path, glb(mesh, colours))
    else:
        raise ValueError(f"cannot write {path.name}: expected a name that ends in {', '.join(MESHES)}")


def normals(mesh: Mesh) -> Float[np.ndarray, "vertices 3"]:
    """Return the vertices' unit normals: those of their triangles, weighted by area; up where these have no area."""
    a, b, c = (mesh.vertices[mesh.faces[:, i]] for i in range(3))
    across = np.cross(b - a, c - a)
    total = np.zeros_like(mesh.vertices)
    for corner in range(3):
        np.add.at(total, mesh.faces[:, corner], across)
    total /= np.abs(total).max(1, keepdims=True).clip(1e-300)  # of triangles however thin, the square is no zero
    total[~total.any(1)] = [0.0, 0.0, 1.0]
    return total / np.linalg.norm(total, axis=1, keepdims=True)


def glb(mesh: Mesh, colours: Colours | None = None) -> bytes:
    """Return a mesh as binary glTF 2.0: y up, facing +z. Colours are light already, so no lamp shades them again."""
    turned = [1, 2, 0]  # glTF's x, y, z are the box's y, z, x
    positions = np.ascontiguousarray(mesh.vertices[:, turned], "<f4")
    arrays = [positions, np.ascontiguousarray(normals(mesh)[:, turned], "<f4"), mesh.faces.astype("<u4").reshape(-1)]
    if colours is not None:
        opaque = np.concatenate([colours, np.ones((len(colours), 1))], 1)
        arrays.append((opaque.clip(0, 1) * 65535).round().astype("<u2"))
    views, start = [], 0
    for array, target in zip(arrays, (34962, 34962, 34963, 34962), strict=False):
        views.append({"buffer": 0, "byteOffset": start, "byteLength": array.nbytes, "target": target})
        start += array.nbytes  # of 4 bytes each, or of 8: every view is aligned
    float_, short, integer, n = 5126, 5123, 5125, len(positions)
    ends = {"min": positions.min(0).tolist(), "max": positions.max(0).tolist()}
    accessors: list[dict[str, Any]] = [
        {"bufferView": 0, "componentType": float_, "count": n, "type": "VEC3", **ends},
        {"bufferView": 1, "componentType": float_, "count": n, "type": "VEC3"},
        {"bufferView": 2, "componentType": integer, "count": mesh.faces.size, "type": "SCALAR"},
        {"bufferView": 3, "componentType": short, "normalized": True, "count": n, "type": "VEC4"},
    ][: len(arrays)]
    attributes = {"POSITION": 0, "NORMAL": 1} | ({"COLOR_0": 3} if colours is not None else {})
    material: dict[str, Any] = {"pbrMetallicRoughness": {"metallicFactor": 0.0, "roughnessFactor": 1.0}}
    unlit = {} if colours is None else {"extensions": {"KHR_materials_unlit": {}}}
    document = {
        "asset": {"version": "2.0"},
        "scene": 0,
        "scenes": [{"nodes": [0]}],
        "nodes": [{"mesh": 0, "name": "object"}],
        "meshes": [{"primitives": [{"attributes": attributes, "indices": 2, "material": 0, "mode": 4}]}],
        "materials": [material | unlit],
        "accessors": accessors,
        "bufferViews": views,
        "buffers": [{"byteLength": start}],
    } | ({} if colours is None else {"extensionsUsed": ["KHR_materials_unlit"]})
    text = json.dumps(document).encode()
    text += b" " * (-len(text) % 4)
    size = 12 + 8 + len(text) + 8 + start
    head = struct.pack("<4sII", b"glTF", 2, size) + struct.pack("<I4s", len(text), b"JSON")
    return head + text + struct.pack("<I4s", start, b"BIN\0") + b"".join(array.tobytes() for array in arrays)
