"""Reads triangles and texture of a glTF 2.0 file (.gltf or .glb): the part of the format that the car renderer
needs."""

import json
import struct
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Float, Int, UInt8

COMPONENTS = {5120: np.int8, 5121: np.uint8, 5122: np.int16, 5123: np.uint16, 5125: np.uint32, 5126: np.float32}
WIDTHS = {"SCALAR": 1, "VEC2": 2, "VEC3": 3, "VEC4": 4, "MAT4": 16}
TRIANGLES = 4  # the glTF number of the only primitive mode that is a mesh of triangles


@dataclass(frozen=True, slots=True)
class Mesh:
    """A textured triangle mesh in the file's own space (glTF: y up)."""

    positions: Float[np.ndarray, "vertices 3"]
    normals: Float[np.ndarray, "vertices 3"]
    uv: Float[np.ndarray, "vertices 2"]
    """Texture coordinates from the top left, in [0, 1]."""
    triangles: Int[np.ndarray, "triangles 3"]
    part: Int[np.ndarray, " triangles"]
    """Number of the node that a triangle belongs to."""
    parts: tuple[str, ...]
    """Names of the nodes."""
    texture: UInt8[np.ndarray, "h w 3"]


def read_gltf(path: Path) -> Mesh:
    """Return every triangle of a file's nodes, placed by the nodes' transforms, with the file's one texture.

    Raises: ValueError that names the file if it is no glTF or lacks triangles, normals, texture coordinates or texture.
    """
    document, binary = _document(path)
    buffers = [binary if "uri" not in b else (path.parent / b["uri"]).read_bytes() for b in document.get("buffers", [])]
    positions, normals, uv, triangles, part, parts = [], [], [], [], [], []
    start = 0
    for node, matrix in _placed_nodes(document):
        for primitive in document["meshes"][node["mesh"]]["primitives"]:
            attributes = primitive["attributes"]
            missing = [name for name in ("POSITION", "NORMAL", "TEXCOORD_0") if name not in attributes]
            if missing or primitive.get("mode", TRIANGLES) != TRIANGLES or "indices" not in primitive:
                raise ValueError(f"{path.name}: expected indexed triangles with POSITION, NORMAL and TEXCOORD_0")
            p, n, t = (_accessor(document, buffers, attributes[k]) for k in ("POSITION", "NORMAL", "TEXCOORD_0"))
            indices = _accessor(document, buffers, primitive["indices"]).reshape(-1, 3).astype(np.int64)
            positions.append(p @ matrix[:3, :3].T + matrix[:3, 3])
            turned = n @ np.linalg.inv(matrix[:3, :3])
            normals.append(turned / np.linalg.norm(turned, axis=1, keepdims=True))
            uv.append(t)
            triangles.append(indices + start)
            part.append(np.full(len(indices), len(parts)))
            start += len(p)
        parts.append(node.get("name", ""))
    if not triangles or not document.get("images"):
        raise ValueError(f"{path.name} has no textured mesh; expected at least one mesh and one picture")
    with PIL.Image.open(path.parent / document["images"][0]["uri"]) as picture:
        texture = np.array(picture.convert("RGB"))
    return Mesh(
        np.concatenate(positions).astype(np.float64),
        np.concatenate(normals).astype(np.float64),
        np.concatenate(uv).astype(np.float64),
        np.concatenate(triangles),
        np.concatenate(part),
        tuple(parts),
        texture,
    )


def _document(path: Path) -> tuple[dict[str, Any], bytes]:
    """Return a file's JSON and, of a .glb, its binary chunk."""
    data = path.read_bytes()
    if data[:4] != b"glTF":
        try:
            return json.loads(data), b""
        except ValueError as error:
            raise ValueError(f"{path.name} is no glTF file: {error}") from error
    chunks, at = {}, 12
    while at < len(data):
        length, kind = struct.unpack("<I4s", data[at : at + 8])
        chunks[kind] = data[at + 8 : at + 8 + length]
        at += 8 + length
    return json.loads(chunks[b"JSON"]), chunks.get(b"BIN\x00", b"")


def _accessor(document: dict[str, Any], buffers: list[bytes], number: int) -> np.ndarray:
    """Return the values of an accessor, one row an element."""
    accessor = document["accessors"][number]
    view = document["bufferViews"][accessor["bufferView"]]
    dtype, width = np.dtype(COMPONENTS[accessor["componentType"]]), WIDTHS[accessor["type"]]
    start = view.get("byteOffset", 0) + accessor.get("byteOffset", 0)
    stride = view.get("byteStride", dtype.itemsize * width)
    return np.ndarray(
        (accessor["count"], width), dtype, buffers[view["buffer"]], start, (stride, dtype.itemsize)
    ).copy()


def _placed_nodes(document: dict[str, Any]) -> list[tuple[dict[str, Any], Float[np.ndarray, "4 4"]]]:
    """Return the nodes that have a mesh, each with the matrix from its own space to the scene's."""
    nodes = document["nodes"]
    found = []
    todo = [(root, np.eye(4)) for root in document["scenes"][document.get("scene", 0)]["nodes"]]
    while todo:
        number, outer = todo.pop(0)
        matrix = outer @ _local(nodes[number])
        if "mesh" in nodes[number]:
            found.append((nodes[number], matrix))
        todo += [(child, matrix) for child in nodes[number].get("children", [])]
    return found


def _local(node: dict[str, Any]) -> Float[np.ndarray, "4 4"]:
    """Return a node's own transform: its matrix, or translation after rotation (a quaternion) after scale."""
    if "matrix" in node:
        return np.array(node["matrix"], float).reshape(4, 4).T
    x, y, z, w = node.get("rotation", (0.0, 0.0, 0.0, 1.0))
    rotation = np.array(
        [
            [1 - 2 * (y * y + z * z), 2 * (x * y - z * w), 2 * (x * z + y * w)],
            [2 * (x * y + z * w), 1 - 2 * (x * x + z * z), 2 * (y * z - x * w)],
            [2 * (x * z - y * w), 2 * (y * z + x * w), 1 - 2 * (x * x + y * y)],
        ]
    )
    matrix = np.eye(4)
    matrix[:3, :3] = rotation * np.array(node.get("scale", (1.0, 1.0, 1.0)))
    matrix[:3, 3] = node.get("translation", (0.0, 0.0, 0.0))
    return matrix
