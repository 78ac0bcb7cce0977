"""Backgrounds to paste objects onto: views of environment maps, patches of photos, and generated patterns."""

import math
import zipfile
import zlib
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import PIL.Image
import scipy.ndimage
from jaxtyping import Float, UInt8

from .coco import CocoSet

Picture = UInt8[np.ndarray, "h w 3"]
MOST_ENLARGED = 3.0
"""Largest factor by which a patch of a photo is enlarged; smaller patches are mirrored first."""


def read_environments(folder: Path) -> dict[str, Float[np.ndarray, "map_h map_w 3"]]:
    """Return name -> radiance (linear, equirectangular, zenith first) of a folder's .npz maps. Raises: ValueError."""
    maps = {path.stem: _radiance(path) for path in sorted(folder.glob("*.npz"))}
    if not maps:
        raise ValueError(f"{folder} has no environment maps; expected .npz files that hold `radiance`")
    return maps


def _radiance(path: Path) -> Float[np.ndarray, "map_h map_w 3"]:
    """Return the radiance of an environment map's file. Raises: ValueError for another file; nothing is unpickled."""
    try:
        with np.load(path, allow_pickle=False) as arrays:
            radiance = arrays["radiance"].astype(np.float32)
        if radiance.ndim == 3 and radiance.shape[2] == 3 and radiance.size:
            return radiance
        reason = f"radiance of shape {radiance.shape}"
    except KeyError:
        reason = "no radiance"
    except (OSError, ValueError, TypeError, AttributeError, EOFError, zipfile.BadZipFile, zlib.error):
        reason = "no arrays that can be read"
    raise ValueError(f"{path} holds {reason}; expected `radiance`, numbers of (height, width, 3)")


def view(radiance: Float[np.ndarray, "map_h map_w 3"], size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Return what a camera sees of an environment, width x height `size`.

    Its azimuth is random, its view about level, 60 to 110 degrees wide, and its exposure set by the median.
    """
    width, height = max(1, size[0] // 2), max(1, size[1] // 2)  # the maps have no finer detail
    azimuth, pitch, roll = rng.uniform(0, 2 * math.pi), rng.normal(-0.15, 0.3), rng.normal(0, 0.05)
    reach = math.tan(math.radians(rng.uniform(60, 110)) / 2)
    x, y = np.meshgrid(np.linspace(-1, 1, width), np.linspace(-1, 1, height) * height / width)
    x, y = reach * (x * math.cos(roll) - y * math.sin(roll)), reach * (x * math.sin(roll) + y * math.cos(roll))
    up, ahead = -y * math.cos(pitch) + math.sin(pitch), math.cos(pitch) + y * math.sin(pitch)
    longitude = azimuth + np.arctan2(x, ahead)
    latitude = np.arctan2(up, np.hypot(x, ahead))
    rows = (0.5 - latitude / math.pi) * radiance.shape[0] - 0.5
    columns = (longitude / (2 * math.pi) % 1) * radiance.shape[1] - 0.5
    light = np.stack(
        [scipy.ndimage.map_coordinates(radiance[..., c], [rows, columns], order=1, mode="grid-wrap") for c in range(3)],
        -1,
    )
    exposed = light * (0.2 * 2 ** rng.uniform(-1, 1) / max(float(np.median(light)), 1e-4))
    shown = (exposed * (1 + exposed / 16) / (1 + exposed)).clip(0, 1) ** (1 / 2.2)  # Reinhard 2002, Eq. 4
    seen = PIL.Image.fromarray((255 * shown + 0.5).astype(np.uint8))
    return np.asarray(seen.resize(size, PIL.Image.Resampling.BICUBIC))


def any_photo(photos: Sequence[CocoSet], rng: np.random.Generator) -> tuple[CocoSet, int]:
    """Return the set and the index of a photo, drawn uniformly over all photos."""
    place = int(rng.integers(sum(len(found) for found in photos)))
    for found in photos:
        if place < len(found):
            return found, place
        place -= len(found)
    raise ValueError("no photos; expected at least one set that has some")


def patch(photos: Sequence[CocoSet], size: tuple[int, int], rng: np.random.Generator) -> Picture | None:
    """Return a part of a photo without its objects, at width x height `size`; None if it is too small."""
    found, i = any_photo(photos, rng)
    picture = found.load(i)
    height, width = picture.image.shape[:2]
    bands = [(0, 0, width, height)]
    if len(picture.boxes):
        x0, y0 = picture.boxes[:, :2].min(0).astype(int)
        x1, y1 = np.ceil(picture.boxes[:, 2:].max(0)).astype(int)
        bands = [(0, 0, x0 - 2, height), (x1 + 2, 0, width, height), (0, 0, width, y0 - 2), (0, y1 + 2, width, height)]
    left, top, right, bottom = max(bands, key=lambda b: min(b[2] - b[0], b[3] - b[1]))
    if min(right - left, bottom - top) < 24:
        return None
    part = picture.image[top:bottom, left:right]
    wanted = np.array(size[::-1]) / rng.uniform(1, MOST_ENLARGED)
    need = np.maximum(0, np.ceil(wanted).astype(int) - part.shape[:2])
    part = np.pad(part, ((0, need[0]), (0, need[1]), (0, 0)), mode="symmetric")
    row, column = (
        int(rng.integers(0, max(1, have - int(want)))) for have, want in zip(part.shape, wanted, strict=False)
    )
    cut = part[row : row + math.ceil(wanted[0]), column : column + math.ceil(wanted[1])]
    return np.asarray(PIL.Image.fromarray(cut).resize(size, PIL.Image.Resampling.BICUBIC))


def pattern(size: tuple[int, int], rng: np.random.Generator) -> Picture:
    """Return a generated background, width x height `size`: a gradient, smooth noise, stripes or tiles."""
    width, height = size
    x, y = np.meshgrid(np.linspace(0, 1, width), np.linspace(0, height / width, height))
    turn = rng.uniform(0, 2 * math.pi)
    along, across = x * math.cos(turn) + y * math.sin(turn), y * math.cos(turn) - x * math.sin(turn)
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    if rng.random() < 0.4:  # plain backdrops are common: nearly one colour, often light
        first = rng.uniform(120, 255) + rng.normal(0, 12, 3)
        second = first + rng.normal(0, 20, 3)
    kind = int(rng.integers(4))
    if kind == 0:
        share = (along - along.min()) / np.ptp(along)
    elif kind == 1:
        share = cloud(size, rng)
    else:
        pitch = rng.uniform(0.04, 0.25)
        share = (np.floor(along / pitch) % 2).astype(float)
        if kind == 3:
            share = (share + np.floor(across / pitch) % 2) % 2
        share = scipy.ndimage.gaussian_filter(share, rng.uniform(0.4, 1.5))
    share = share + 0.3 * (cloud(size, rng) - 0.5) * rng.random()
    noise = rng.normal(0, rng.uniform(0, 10), (height, width, 1))
    return (first + share[..., None] * (second - first) + noise).clip(0, 255).astype(np.uint8)


def cloud(size: tuple[int, int], rng: np.random.Generator) -> Float[np.ndarray, "h w"]:
    """Return fractal noise in [0, 1]: amplitude falls with frequency, as in photos of ground."""
    width, height = size
    total, weight = np.zeros((height, width)), rng.uniform(0.4, 0.8)
    for octave in range(2, 8):
        cells = 2**octave
        grid = PIL.Image.fromarray(rng.random((cells, cells)).astype(np.float32))
        total += weight**octave * np.asarray(grid.resize(size, PIL.Image.Resampling.BICUBIC))
    return (total - total.min()) / max(np.ptp(total), 1e-6)


def background(
    size: tuple[int, int],
    maps: Sequence[Float[np.ndarray, "map_h map_w 3"]],
    photos: Sequence[CocoSet],
    rng: np.random.Generator,
) -> Picture:
    """Return a picture without objects, of a random kind among those with sources."""
    kind = rng.random()
    if kind < 0.45 and maps:
        return view(maps[int(rng.integers(len(maps)))], size, rng)
    if kind < 0.85 and photos:
        for _ in range(10):
            found = patch(photos, size, rng)
            if found is not None:
                return found
    return pattern(size, rng)
