"""Objects cut out of masked photos for pasting: soft edges, and colours without a rim of the old background."""

import math
from dataclasses import dataclass

import numpy as np
import PIL.Image
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8

RIM = 6
"""Pixels around an object that get its colours, so that resizing mixes in no background."""
MOST_ENLARGED = 2.2
"""Largest factor by which an object is enlarged; beyond it becomes blurred."""


@dataclass(frozen=True, slots=True, eq=False)
class Cutout:
    """One object, cut out."""

    colour: UInt8[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    label: str
    source: str
    """The set and the photo it is from."""
    ends: tuple[str, ...] = ()
    """Sides on which its photo truncates it: left, top, right, bottom."""


def cut_out(
    image: UInt8[np.ndarray, "h w 3"],
    mask: Bool[np.ndarray, "h w"],
    label: str,
    source: str,
    *,
    erode: float = 1.0,
) -> Cutout | None:
    """Return an object of a photo; None if it is smaller than 16 pixels or in small fragments.

    `erode`: pixels by which its mask is eroded, as manual and automatic masks tend to be too large. Sides on which the
    photo truncates the object are not eroded.
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
    """Return a padded mask, extended only on the sides where the photo truncates it, so that those are not eroded."""
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
    """Return an object's colours and alpha, mirrored, rotated, and resized to `longer` pixels on its longer side."""
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
    """Return a distractor: a random closed shape filled with a picture's colours."""
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
    """Return the sides of the photo that an object touches along a fifth of its extent or more."""
    wide, high = mask.any(0).sum(), mask.any(1).sum()
    reach = {
        "left": mask[:, :2].any(1).sum() / high,
        "top": mask[:2].any(0).sum() / wide,
        "right": mask[:, -2:].any(1).sum() / high,
        "bottom": mask[-2:].any(0).sum() / wide,
    }
    return [side for side, share in reach.items() if share > 0.2]
