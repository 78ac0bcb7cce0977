"""Objects cut out of masked photos, ready to be pasted: colours without a rim of what was behind, and soft edges."""

import math
from dataclasses import dataclass

import numpy as np
import PIL.Image
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8

RIM = 6
"""Pixels around an object that carry its colours, so that resizing mixes in nothing else."""
MOST_ENLARGED = 2.2
"""Times that an object is enlarged at most; beyond it looks washed out."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """One object, cut out."""

    colour: UInt8[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    label: str
    source: str
    """Which photo of which set it is from."""
    ends: tuple[str, ...] = ()
    """Sides where its photo cut it off: left, top, right, bottom."""


def cut_out(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    label: str,
    source: str,
    *,
    erode: float = 1.0,
) -> Cutout | None:
    """Return an object of a photo; None if less than 16 pixels across or in crumbs.

    `erode`: pixels taken off its edge, which hand-made and automatic masks draw a little outside. Sides that the photo
    cuts are not eroded.
    """
    main = _largest(mask)
    if main is None:
        return None
    rows, columns = np.flatnonzero(main.any(1)), np.flatnonzero(main.any(0))
    if min(len(rows), len(columns)) < 16:
        return None
    ends = tuple(_ends(main))
    window = slice(rows[0], rows[-1] + 1), slice(columns[0], columns[-1] + 1)
    inside = np.pad(main[window], RIM, mode="edge" if ends else "constant")
    inside = _without_rim(inside, main[window].shape, ends)
    colour = np.pad(image[window], ((RIM, RIM), (RIM, RIM), (0, 0)), mode="edge")
    depth = scipy.ndimage.distance_transform_edt(inside)
    alpha = (np.asarray(depth) - erode + 0.5).clip(0, 1)
    core = np.asarray(depth) > erode + 1
    if core.sum() < 64:
        return None
    nearest = scipy.ndimage.distance_transform_edt(~core, return_distances=False, return_indices=True)
    colour = colour[tuple(np.asarray(nearest))]
    cropped = alpha.copy()
    cropped[:RIM], cropped[-RIM:], cropped[:, :RIM], cropped[:, -RIM:] = 0, 0, 0, 0
    return Cutout(colour, cropped.astype(np.float32), label, source, ends)


def _without_rim(
    inside: Bool[np.ndarray, "h w"], shape: tuple[int, int], ends: tuple[str, ...]
) -> Bool[np.ndarray, "h w"]:
    """Return a padded mask whose rim is kept only on the sides that the photo cuts: there, no edge is eroded."""
    kept = inside.copy()
    height, width = shape
    if "left" not in ends:
        kept[:, :RIM] = False
    if "right" not in ends:
        kept[:, RIM + width :] = False
    if "top" not in ends:
        kept[:RIM] = False
    if "bottom" not in ends:
        kept[RIM + height :] = False
    return kept


def turned(
    item: Cutout, longer: float, degrees: float, mirror: bool
) -> tuple[UInt8[np.ndarray, "h w 3"], Float[np.ndarray, "h w"]]:
    """Return an object's colours and alpha, mirrored, turned, and with `longer` pixels on its longer side."""
    colour, alpha = PIL.Image.fromarray(item.colour), PIL.Image.fromarray(item.alpha)
    if mirror:
        colour = colour.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
        alpha = alpha.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT)
    scale = min(longer / (max(item.alpha.shape) - 2 * RIM), MOST_ENLARGED)
    size = max(8, round(colour.width * scale)), max(8, round(colour.height * scale))
    colour = colour.resize(size, PIL.Image.Resampling.LANCZOS)
    alpha = alpha.resize(size, PIL.Image.Resampling.BILINEAR)
    if degrees:
        colour = colour.rotate(degrees, PIL.Image.Resampling.BICUBIC, expand=True)
        alpha = alpha.rotate(degrees, PIL.Image.Resampling.BILINEAR, expand=True)
    return np.array(colour), np.array(alpha).clip(0, 1)


def blob(rng: np.random.Generator, colours: UInt8[np.ndarray, "h w 3"]) -> Cutout:
    """Return a thing that is no object: a random closed shape filled with a picture's colours."""
    height, width = colours.shape[:2]
    y, x = np.mgrid[:height, :width]
    angle = np.arctan2(y - height / 2, x - width / 2)
    reach = np.full_like(angle, 0.7)
    for k in range(1, 7):
        reach += rng.normal(0, 0.25 / k) * np.cos(k * angle + rng.uniform(0, 2 * math.pi))
    distance = np.hypot((y - height / 2) / (height / 2), (x - width / 2) / (width / 2))
    if rng.random() < 0.4:
        distance = np.maximum(abs(y - height / 2) / (height / 2), abs(x - width / 2) / (width / 2))
        reach = np.full_like(reach, 0.8)
    alpha = ((reach.clip(0.2, 0.95) - distance) * min(height, width) / 2).clip(0, 1).astype(np.float32)
    return Cutout(colours, alpha, "", "drawn")


def _largest(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"] | None:
    """Return the mask's parts of a tenth of its area or more; None if it is empty."""
    labelled = scipy.ndimage.label(mask)
    assert isinstance(labelled, tuple)
    places, count = labelled
    if count == 0:
        return None
    areas = np.bincount(places.ravel())
    areas[0] = 0
    return (areas >= 0.1 * areas.sum())[places]


def _ends(mask: Bool[np.ndarray, "h w"]) -> list[str]:
    """Return the sides of the photo that an object reaches along a fifth of its extent or more."""
    wide, high = mask.any(0).sum(), mask.any(1).sum()
    reach = {
        "left": mask[:, :2].any(1).sum() / high,
        "top": mask[:2].any(0).sum() / wide,
        "right": mask[:, -2:].any(1).sum() / high,
        "bottom": mask[-2:].any(0).sum() / wide,
    }
    return [side for side, share in reach.items() if share > 0.2]
