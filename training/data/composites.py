"""Synthetic scenes of several objects pasted onto backgrounds, with the exact mask of the visible part of each.

After Dwibedi et al. 2017 (cut, paste and learn) and Ghiasi et al. 2021 (simple copy-paste): training data for object
finders whose masks are known by construction.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

import numpy as np
import PIL.Image
import scipy.ndimage
from jaxtyping import Bool, Float, UInt8

from .backgrounds import any_photo, background, cloud
from .coco import CocoSet
from .cutouts import Cutout, blob, cut_out, turned

SHAPES = ((320, 320), (320, 320), (320, 240), (240, 320), (320, 180), (214, 320))
"""Widths and heights of scenes for a longer side of 320; squares are the most frequent."""
LEAST_AREA = 60
"""Visible pixels below which an object is not annotated."""
LEAST_INSIDE = 0.6
"""Share of an object that must lie in the picture."""
DISTRACTOR_SEEN = 0.35
"""Share of a distractor that must stay visible, whatever `SceneOptions.least_seen` asks of objects."""
TURNS = {"car": 5.0, "cat": 12.0, "dog": 12.0, "fruit": 180.0}
"""Largest rotation of an object in degrees, by label; 25 for others."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SceneOptions:
    """Options of `make_scene`."""

    side: int = 320
    """Longer side of the pictures, pixels."""
    least: int = 1
    """Objects pasted into a scene."""
    most: int = 5
    empty: float = 0.06
    """Share of scenes without any object."""
    on_photos: float = 0.25
    """Share of scenes whose background is a photo with its own objects."""
    mosaics: float = 0.12
    """Share of scenes whose background is a mosaic of four such photos."""
    shadow: float = 0.5
    """Share of objects that cast a shadow."""
    least_seen: float = 0.2
    """Share of every object that must stay visible; a placement that hides more is rejected."""
    crowded: float = 0.6
    """Share of objects, after the first, that are placed so that they overlap others."""
    distractors: float = 0.25
    """Share of scenes with distractors: shapes that are not objects."""


class SceneObject(NamedTuple):
    """The visible part of one object of a scene."""

    mask: Bool[np.ndarray, "h w"]
    label: str
    source: str


class Scene(NamedTuple):
    """A picture and its objects."""

    image: UInt8[np.ndarray, "h w 3"]
    objects: list[SceneObject]


@dataclass(slots=True)
class _Layer:
    """One pasted patch, and the row and column of its corner on the canvas; it may partly lie outside."""

    colour: Float[np.ndarray, "h w 3"]
    alpha: Float[np.ndarray, "h w"]
    corner: tuple[int, int]
    label: str
    source: str


@dataclass(frozen=True, slots=True)
class Sources:
    """Objects and backgrounds that scenes are made from."""

    objects: Sequence[CocoSet]
    photos: Sequence[CocoSet]
    """Photos used as background: whole, with their objects, or a part without objects."""
    maps: Sequence[Float[np.ndarray, "h w 3"]]
    names: Sequence[str] = ()
    """Names of the sets in `objects`, for the annotations."""
    erode: Sequence[float] = ()
    """Pixels by which each set's masks are eroded; 1 where empty."""
    _places: dict[str, list[tuple[int, int, int]]] = field(default_factory=dict)

    def places(self) -> dict[str, list[tuple[int, int, int]]]:
        """Return the objects of each label as (set, picture, object); computed once."""
        if not self._places:
            for s, found in enumerate(self.objects):
                for i, picture in enumerate(found.pictures):
                    for k, item in enumerate(picture.objects):
                        if not item.crowd:
                            self._places.setdefault(found.categories[item.label], []).append((s, i, k))
        return self._places

    def draw(self, rng: np.random.Generator) -> Cutout:
        """Return a random object; the probability of a label is proportional to the root of its number of objects."""
        places = self.places()
        labels = list(places)
        weights = np.sqrt([len(places[label]) for label in labels])
        for _ in range(50):
            label = labels[int(rng.choice(len(labels), p=weights / weights.sum()))]
            s, i, k = places[label][int(rng.integers(len(places[label])))]
            picture = self.objects[s].load(i)
            source = f"{self.names[s] if self.names else s}/{self.objects[s].pictures[i].name}"
            found = cut_out(picture.image, picture.masks[k], label, source, erode=self.erode[s] if self.erode else 1.0)
            if found is not None:
                return found
        raise ValueError("50 objects in a row are too small to be cut out; expected at least 16 pixels across")


def make_scene(sources: Sources, options: SceneOptions, rng: np.random.Generator) -> Scene:
    """Return one scene; the same generator state gives the same scene. Raises: ValueError without objects to paste."""
    width, height = (round(edge * options.side / 320) for edge in SHAPES[int(rng.integers(len(SHAPES)))])
    empty = rng.random() < options.empty
    ground, behind = _ground((width, height), sources, options, empty, rng)
    layers: list[_Layer] = []
    n = 0 if empty else int(rng.integers(options.least, options.most + 1))
    seen = np.ones((height, width), bool)  # pixels that no object covers yet
    base = [(item.mask, int(item.mask.sum())) for item in behind]
    if rng.random() < options.distractors:
        _place_blob(layers, seen, base, rng)
    for k in range(n):
        item = sources.draw(rng)
        longer, crowded = _length((width, height), n, rng), k > 0 and rng.random() < options.crowded
        _place(layers, seen, base, item, longer, crowded=crowded, least_seen=options.least_seen, rng=rng)
    return _painted(ground, behind, layers, options, rng)


def _length(size: tuple[int, int], n: int, rng: np.random.Generator) -> float:
    """Return a random longer side of an object in pixels, smaller for scenes with more objects."""
    low, high = {0: (0.2, 0.8), 1: (0.25, 1.15), 2: (0.22, 0.9)}.get(n, (0.16, 0.7))
    return float(min(size) * np.exp(rng.uniform(np.log(low), np.log(high))))


def _ground(
    size: tuple[int, int], sources: Sources, options: SceneOptions, empty: bool, rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], list[SceneObject]]:
    """Return the background, and the objects already in it."""
    kind = rng.random()
    if not empty and sources.photos and kind < options.on_photos:
        return _photo(size, sources.photos, rng)
    if not empty and sources.photos and kind < options.on_photos + options.mosaics:
        return _mosaic(size, sources.photos, rng)
    return background(size, sources.maps, sources.photos, rng), []


def _photo(
    size: tuple[int, int], photos: Sequence[CocoSet], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], list[SceneObject]]:
    """Return a photo enlarged to cover width x height `size` and cut there at random, with its objects."""
    found, i = any_photo(photos, rng)
    picture = found.load(i)
    height, width = picture.image.shape[:2]
    scale = max(size[0] / width, size[1] / height)
    new = max(size[0], round(width * scale)), max(size[1], round(height * scale))
    left, top = int(rng.integers(new[0] - size[0] + 1)), int(rng.integers(new[1] - size[1] + 1))
    window = left, top, left + size[0], top + size[1]
    mirror = rng.random() < 0.5

    def fitted(pixels: np.ndarray, how: PIL.Image.Resampling) -> np.ndarray:
        whole = PIL.Image.fromarray(pixels).resize(new, how).crop(window)
        return np.array(whole.transpose(PIL.Image.Transpose.FLIP_LEFT_RIGHT) if mirror else whole)

    objects = []
    for mask, label, crowd in zip(picture.masks, picture.labels, picture.crowd, strict=True):
        kept = fitted(mask.astype(np.uint8) * 255, PIL.Image.Resampling.BILINEAR) > 127
        if crowd or kept.sum() < LEAST_AREA:
            continue
        objects.append(
            SceneObject(kept, found.categories[int(label)], f"{found.path.parent.name}/{found.pictures[i].name}")
        )
    return fitted(picture.image, PIL.Image.Resampling.BICUBIC), objects


def _mosaic(
    size: tuple[int, int], photos: Sequence[CocoSet], rng: np.random.Generator
) -> tuple[UInt8[np.ndarray, "h w 3"], list[SceneObject]]:
    """Return four photos around a random point (Bochkovskiy et al. 2020), with their objects."""
    width, height = size
    x, y = int(width * rng.uniform(0.35, 0.65)), int(height * rng.uniform(0.35, 0.65))
    canvas, objects = np.zeros((height, width, 3), np.uint8), []
    for left, top, right, bottom in ((0, 0, x, y), (x, 0, width, y), (0, y, x, height), (x, y, width, height)):
        image, found = _photo((right - left, bottom - top), photos, rng)
        canvas[top:bottom, left:right] = image
        for item in found:
            mask = np.zeros((height, width), bool)
            mask[top:bottom, left:right] = item.mask
            objects.append(item._replace(mask=mask))
    return canvas, objects


def _place(
    layers: list[_Layer],
    seen: Bool[np.ndarray, "h w"],
    base: list[tuple[Bool[np.ndarray, "h w"], int]],
    item: Cutout,
    longer: float,
    *,
    crowded: bool,
    least_seen: float,
    rng: np.random.Generator,
) -> None:
    """Add an object behind those in `layers`, if a placement leaves enough of it and of the background's objects
    visible."""
    most = TURNS.get(item.label, 25.0)
    degrees = 0.0 if item.ends else float(rng.uniform(-most, most))
    mirror = rng.random() < 0.5
    colour, alpha = turned(item, longer, degrees, mirror)
    whole = int((alpha > 0.5).sum())
    if whole < LEAST_AREA:
        return
    swap = {"left": "right", "right": "left"} if mirror else {}
    ends = {swap.get(end, end) for end in item.ends} if rng.random() < 0.75 else set()
    for _ in range(8):
        corner = _corner(alpha.shape, seen, ends, crowded and bool(layers), rng)
        canvas, patch = _overlap(corner, alpha.shape, seen.shape)
        mask = alpha[patch] > 0.5
        shown = int((mask & seen[canvas]).sum())
        if mask.sum() < LEAST_INSIDE * whole or shown < max(LEAST_AREA, least_seen * whole):
            continue
        if any((behind & seen).sum() - (behind & seen)[canvas][mask].sum() < 0.4 * size for behind, size in base):
            continue
        layers.append(_Layer(_recoloured(colour, alpha, rng), alpha, corner, item.label, item.source))
        seen[canvas] &= ~mask
        return


def _place_blob(
    layers: list[_Layer],
    seen: Bool[np.ndarray, "h w"],
    base: list[tuple[Bool[np.ndarray, "h w"], int]],
    rng: np.random.Generator,
) -> None:
    """Add a distractor."""
    height, width = seen.shape
    side = int(min(height, width) * rng.uniform(0.15, 0.5))
    share = cloud((side, side), rng)[..., None]
    first, second = rng.uniform(0, 255, 3), rng.uniform(0, 255, 3)
    colours = (first + share * (second - first) + rng.normal(0, 6, (side, side, 1))).clip(0, 255).astype(np.uint8)
    shape, longer = blob(rng, colours), side * float(rng.uniform(0.8, 1.5))
    _place(layers, seen, base, shape, longer, crowded=False, least_seen=DISTRACTOR_SEEN, rng=rng)


def _corner(
    shape: tuple[int, ...], seen: Bool[np.ndarray, "h w"], ends: set[str], crowded: bool, rng: np.random.Generator
) -> tuple[int, int]:
    """Return row and column of an object's corner; an object truncated by its photo is placed at the picture's
    border."""
    size = np.array(seen.shape)
    middle = rng.uniform(0.08, 0.92, 2) * size
    taken = np.argwhere(~seen)
    if crowded and len(taken):
        middle = taken[int(rng.integers(len(taken)))] + rng.normal(0, 0.35, 2) * shape
    row, column = np.round(middle - np.array(shape) / 2).astype(int).tolist()
    over = 7  # the cut-out's rim is placed outside
    if "bottom" in ends:
        row = seen.shape[0] - shape[0] + over
    elif "top" in ends:
        row = -over
    if "right" in ends:
        column = seen.shape[1] - shape[1] + over
    elif "left" in ends:
        column = -over
    return row, column


def _overlap(
    corner: tuple[int, int], shape: tuple[int, ...], size: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]]:
    """Return the part of a canvas of `size` that a patch of `shape` at `corner` covers, and that part of the patch."""
    (top, left), (height, width) = corner, shape[:2]
    first, last = (max(0, top), max(0, left)), (min(size[0], top + height), min(size[1], left + width))
    rows, columns = ((first[k], max(first[k], last[k])) for k in (0, 1))
    canvas = slice(*rows), slice(*columns)
    return canvas, (slice(rows[0] - top, rows[1] - top), slice(columns[0] - left, columns[1] - left))


def _recoloured(
    colours: UInt8[np.ndarray, "h w 3"], alpha: Float[np.ndarray, "h w"], rng: np.random.Generator
) -> Float[np.ndarray, "h w 3"]:
    """Return an object's colours with random brightness, contrast and colour temperature."""
    mean = colours[alpha > 0.5].mean(0, dtype=np.float32)
    contrast, gain = rng.uniform(0.75, 1.25), rng.uniform(0.7, 1.25) * np.exp(rng.normal(0, 0.06, 3))
    table = np.arange(256, dtype=np.float32)[:, None]
    table = ((table - mean) * np.float32(contrast) + mean) * gain.astype(np.float32)
    return np.stack([table[colours[..., c], c] for c in range(3)], -1)


def _painted(
    ground: UInt8[np.ndarray, "h w 3"],
    behind: list[SceneObject],
    layers: list[_Layer],
    options: SceneOptions,
    rng: np.random.Generator,
) -> Scene:
    """Composite layers back to front, and remove from each object's mask what covers it."""
    picture = ground.astype(np.float32)
    harmony = np.float32(rng.uniform(0, 0.35))
    objects = list(behind)
    for layer in reversed(layers):
        canvas, patch = _overlap(layer.corner, layer.alpha.shape, ground.shape)
        inside = layer.alpha[patch] > 0.5
        light = ground[canvas][inside].mean() - layer.colour[patch][inside].mean()
        colour, alpha = layer.colour + harmony * np.float32(light), layer.alpha
        if rng.random() < 0.5:  # slightly out of focus, without moving its edge
            sigma = float(rng.uniform(0.3, 1.1))
            alpha, colour = _blurred(alpha, sigma), np.stack([_blurred(colour[..., c], sigma) for c in range(3)], -1)
        if rng.random() < options.shadow:
            _darken(picture, layer, rng)
        picture[canvas] += alpha[patch][..., None] * (colour[patch] - picture[canvas])
        mask = np.zeros(ground.shape[:2], bool)
        mask[canvas] = inside
        objects = [item._replace(mask=item.mask & ~mask) for item in objects]
        if layer.label:
            objects.append(SceneObject(mask, layer.label, layer.source))
    return Scene(_developed(picture, rng), [item for item in objects if item.mask.sum() >= LEAST_AREA])


def _darken(picture: Float[np.ndarray, "h w 3"], layer: _Layer, rng: np.random.Generator) -> None:
    """Darken the picture by an object's shadow: its mask, moved and blurred."""
    extent = float(np.sqrt((layer.alpha > 0.5).sum()))
    sigma = rng.uniform(0.02, 0.1) * extent + 0.5
    rim = int(2.5 * sigma) + 1
    moved = np.round(rng.normal(0, 0.08, 2) * extent + (0.04 * extent, 0)).astype(int).tolist()
    shadow = _blurred(np.pad(layer.alpha, rim), sigma) * np.float32(rng.uniform(0.15, 0.6))
    corner = layer.corner[0] - rim + moved[0], layer.corner[1] - rim + moved[1]
    canvas, patch = _overlap(corner, shadow.shape, picture.shape)
    picture[canvas] *= 1 - shadow[patch][..., None]


def _blurred(values: Float[np.ndarray, "h w"], sigma: float) -> Float[np.ndarray, "h w"]:
    """Return values blurred by a Gaussian, truncated at 2.5 standard deviations."""
    return scipy.ndimage.gaussian_filter(values, sigma, truncate=2.5)


def _developed(picture: Float[np.ndarray, "h w 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "h w 3"]:
    """Return a scene as bytes, with exposure, blur and noise applied to the whole picture."""
    if rng.random() < 0.2:
        sigma = float(rng.uniform(0.3, 0.9))
        picture = np.stack([_blurred(picture[..., c], sigma) for c in range(3)], -1)
    picture = picture * np.float32(rng.uniform(0.8, 1.15)) + np.float32(rng.normal(0, 6))
    if rng.random() < 0.5:
        noise = rng.standard_normal((*picture.shape[:2], 3 if rng.random() < 0.5 else 1), np.float32)
        picture = picture + np.float32(rng.uniform(1, 6)) * noise
    return picture.clip(0, 255).astype(np.uint8)


def only(options: SceneOptions, least: int, most: int) -> SceneOptions:
    """Return options for evaluation: `least` to `most` objects in every scene, at least a third of each visible, on
    backgrounds without objects."""
    return replace(options, least=least, most=most, empty=0.0, on_photos=0.0, mosaics=0.0, least_seen=0.35, crowded=0.5)
