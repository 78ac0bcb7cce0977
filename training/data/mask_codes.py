"""COCO's encodings of masks: column-major run lengths, plain or packed into a string, and polygons."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from jaxtyping import Bool, Float, Integer

from .polygons import trace

MAX_PIXELS = 150_000_000
"""Masks with more pixels are refused without decoding."""


class MaskError(ValueError):
    """A mask that cannot be read; the message continues a sentence that starts with the annotation's name."""


def run_lengths(mask: Bool[np.ndarray, "h w"]) -> list[int]:
    """Return the lengths of runs, column-major, beginning with zeros (that length may be 0)."""
    flat = mask.ravel(order="F")
    if flat.size == 0:
        return [0]
    changes = np.flatnonzero(flat[1:] != flat[:-1]) + 1
    lengths = np.diff(np.concatenate([[0], changes, [flat.size]])).tolist()
    return [0, *lengths] if flat[0] else lengths


def from_run_lengths(counts: Sequence[int] | Integer[np.ndarray, " runs"], size: tuple[int, int]) -> np.ndarray:
    """Return the mask (bool, h x w) of runs; `size` is height, width. Raises: MaskError if they do not fill it."""
    height, width = size
    runs = np.asarray(counts, np.int64)
    _filling(runs, size)
    values = (np.arange(len(runs)) % 2).astype(bool)
    return np.ascontiguousarray(np.repeat(values, runs).reshape(width, height).T)


def pack(counts: Sequence[int]) -> str:
    """Return runs as COCO's string: differences to the run two before, 5 bits a character, starting at '0'."""
    letters = []
    for i, count in enumerate(counts):
        value = int(count) - (int(counts[i - 2]) if i > 2 else 0)
        more = True
        while more:
            bits, value = value & 0x1F, value >> 5
            more = value != (-1 if bits & 0x10 else 0)
            letters.append(chr(48 + bits + 32 * more))
    return "".join(letters)


def unpack(text: str) -> Integer[np.ndarray, " runs"]:
    """Return the runs of COCO's string. Raises: MaskError for other characters, or a truncated string."""
    bits = np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.int64) - 48
    if len(bits) == 0 or bits.min() < 0 or bits.max() > 63:
        raise MaskError("has a run-length string that no COCO tool writes")
    last = np.flatnonzero(bits < 32)  # the sixth bit says that more follows
    if len(last) == 0 or last[-1] != len(bits) - 1:
        raise MaskError("has a run-length string that is cut short")
    first = np.concatenate([[0], last[:-1] + 1])
    if (last - first).max() > 10:
        raise MaskError("has a run-length string that no COCO tool writes")
    place = np.arange(len(bits)) - np.repeat(first, last - first + 1)
    values = np.add.reduceat((bits & 0x1F) << 5 * place, first)
    negative = bits[last] & 0x10 != 0
    counts = values - (negative.astype(np.int64) << 5 * (last - first + 1))
    counts[1::2] = counts[1::2].cumsum()  # each is a difference to the run two before, but for the first three
    counts[2::2] = counts[2::2].cumsum()
    return counts


def to_rle(mask: Bool[np.ndarray, "h w"]) -> dict[str, Any]:
    """Return a mask as COCO's packed run lengths: {"size": [h, w], "counts": string}."""
    return {"size": list(mask.shape), "counts": pack(run_lengths(mask))}


def to_polygons(mask: Bool[np.ndarray, "h w"], tolerance: float = 0.0) -> list[list[float]]:
    """Return a mask as COCO's polygons [x, y, x, y, ...]; holes are joined to their outline by a cut of zero width.

    `tolerance`: pixels by which an outline may deviate from the mask's edge, to have fewer points; with 0, filling the
    polygons reproduces the mask.
    """
    return [polygon.reshape(-1).tolist() for polygon in trace(mask, tolerance)]


def fill(polygon: Float[np.ndarray, "points 2"], size: tuple[int, int]) -> np.ndarray:
    """Return the mask (bool, h x w) of the pixels whose centre lies in a polygon, by the even-odd rule."""
    height, width = size
    mask = np.zeros(size, bool)
    x0, y0 = polygon.T
    x1, y1 = np.roll(polygon, -1, 0).T
    top, bottom = max(0, int(np.floor(y0.min()))), min(height, int(np.ceil(y0.max())))
    if top >= bottom:
        return mask
    centres = np.arange(top, bottom) + 0.5
    row, edge = np.nonzero((y0 <= centres[:, None]) != (y1 <= centres[:, None]))  # edges that cross the row's middle
    slope = (x1 - x0)[edge] / (y1 - y0)[edge]
    crossing = x0[edge] + (centres[row] - y0[edge]) * slope
    column = np.ceil(crossing - 0.5).clip(0, width).astype(np.int64)
    counts = np.bincount(row * (width + 1) + column, minlength=(bottom - top) * (width + 1))
    toggles = counts.reshape(bottom - top, width + 1)[:, :width]
    mask[top:bottom] = np.cumsum(toggles, 1) % 2 == 1
    return mask


def decode(segmentation: Any, size: tuple[int, int]) -> np.ndarray:
    """Return the mask (bool, h x w) that COCO's `segmentation` describes, for a picture of height, width `size`.

    Polygons too thin to hold a pixel's centre give the pixels under their points. Raises: MaskError.
    """
    if isinstance(segmentation, dict):
        return from_run_lengths(_runs(segmentation, size), size)
    mask = np.zeros(size, bool)
    for polygon in _polygons(segmentation):
        mask |= fill(polygon, size)
    if not mask.any():
        for polygon in _polygons(segmentation):
            x, y = np.floor(polygon.T).astype(np.int64)
            mask[y.clip(0, size[0] - 1), x.clip(0, size[1] - 1)] = True
    return mask


def check(segmentation: Any, size: tuple[int, int]) -> None:
    """Raise MaskError if `segmentation` is invalid for a picture of height, width `size`, without decoding it."""
    if not isinstance(segmentation, dict):
        _polygons(segmentation)
        return
    runs = np.asarray(_runs(segmentation, size), np.int64)
    _filling(runs, size)
    if not runs[1::2].any():
        raise MaskError("has an empty mask")


def _filling(runs: Integer[np.ndarray, " runs"], size: tuple[int, int]) -> None:
    """Raise MaskError unless runs fill a picture of height, width `size`."""
    wanted = size[0] * size[1]
    if (runs < 0).any() or (runs > wanted).any() or runs.sum() != wanted:
        raise MaskError(f"has a mask whose runs do not fill its picture of {size[0]} x {size[1]} = {wanted} pixels")


def _runs(segmentation: dict[str, Any], size: tuple[int, int]) -> Sequence[int] | Integer[np.ndarray, " runs"]:
    """Return the runs of an RLE, packed or not."""
    if segmentation.get("size") != list(size):
        raise MaskError(f"has a mask of size {segmentation.get('size')}, its picture is {list(size)} (height, width)")
    if size[0] * size[1] > MAX_PIXELS:
        raise MaskError(f"has a mask of {size[0]} x {size[1]} pixels; at most {MAX_PIXELS} are read")
    counts = segmentation.get("counts")
    if isinstance(counts, str):
        return unpack(counts)
    if not isinstance(counts, list) or not all(type(count) is int and abs(count) < 1 << 40 for count in counts):
        raise MaskError("has run lengths that are neither a string nor a list of whole numbers")
    return counts


def _polygons(segmentation: Any) -> list[np.ndarray]:
    """Return polygons as float64 arrays, (points, 2)."""
    if not isinstance(segmentation, list) or not segmentation:
        raise MaskError("has no mask: expected polygons or run lengths in `segmentation`")
    polygons = []
    for polygon in segmentation:
        if not isinstance(polygon, list) or len(polygon) < 6 or len(polygon) % 2:
            raise MaskError("has an empty polygon: expected at least three points, x and y in turn")
        if not all(isinstance(v, int | float) and abs(v) < 1e6 for v in polygon):  # False for NaN
            raise MaskError("has a polygon whose coordinates are not numbers of a picture's size")
        polygons.append(np.array(polygon, np.float64).reshape(-1, 2))
    return polygons
