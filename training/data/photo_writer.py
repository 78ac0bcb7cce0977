"""Writes one photo of a source into a prepared set: decoded within limits, checked, resized."""

import hashlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image

from training.data.new_backgrounds import NewBackgrounds
from training.data.sources import Photo, PixelBox
from training.data.tables import BOX_COLUMNS, number
from training.imaging.decoders import DECODERS
from training.imaging.mask_repair import repaired_picture
from training.imaging.masks import bounds, looks_like_mask
from training.imaging.read import TURNS, Decoded, Limits, PictureError
from training.objects import WIDE
from training.pictures import Box
from training.segmentation.subject import Subject, SubjectFinder

LIMITS = Limits(max_bytes=100_000_000, max_pixels=150_000_000, seconds=60.0, memory=1_000_000_000)
"""Limits of photos; larger ones are left out."""
SLACK, CUT_OFF = 2, 0.1
"""Pixels (rounding of listings) and share of the picture (truncated objects) by which a box may exceed its picture; it
is clipped."""
CORNERS = ("x0", "y0", "x1", "y1")
CHANGED = 0.02
"""Change of a mask's area from which its repair is counted."""
RIM = 0.03
"""Width of the rim over the shorter side."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """A photo that was written."""

    row: dict[str, Any]
    """Its row of the index."""
    odd: tuple[str, ...]
    """Reasons why it is suspicious."""
    noted: tuple[str, ...]
    """Other notes, such as a rotation by EXIF."""
    digest: bytes
    """Of its pixels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PhotoWriter:
    """Writes the photos of a source into a folder."""

    folder: Path
    size: int
    margin: float
    quality: int
    finder: SubjectFinder | None
    """Finder for photos without a known box or mask; None uses none."""
    mask_share: tuple[float, float]
    mask_rim: float
    require: tuple[str, ...] = ()
    """`box`, `mask`: photos for which neither the source nor the finder gives it are left out."""
    parts: bool = False
    """Whether boxes are those of a part of the object, such as a head: a mask does not tell where that is."""
    repair_masks: bool = False
    """Whether to repair the source's masks by the colours of their photos."""
    backgrounds: NewBackgrounds | None = None
    """What replaces the photos' own backgrounds; photos without a mask are then left out."""

    def write(self, place: int, photo: Photo) -> Written | str:
        """Write one photo and its mask; return its entry, or why it cannot be used."""
        if photo.problem:
            return f"{photo.name}: {photo.problem}"
        try:
            shown = DECODERS.photo(photo.path, photo.name, replace(LIMITS, keep_short=4 * self.size))
            mask, noted = self._mask(photo, shown)
            box, origin = self._box(photo, shown, mask)
            located = self._found(photo, shown, mask, box, origin)
            if self.backgrounds is not None:
                shown, located = self._pasted(self.backgrounds, photo, shown, located)
                kept = {k: v for k, v in photo.values.items() if not k.endswith(tuple(f"_{c}" for c in CORNERS))}
                photo = replace(photo, values=kept)  # further boxes are those of the old picture
        except PictureError as error:
            return str(error)
        return self._written(f"{place:07d}", photo, shown, located, noted)

    def _written(
        self,
        name: str,
        photo: Photo,
        shown: Decoded,
        located: "Located",
        noted: list[str],
    ) -> Written:
        mask, box, origin = located.mask, located.box, located.box_from
        size = kept_size(shown.size, box, self.size, self.margin)
        kept = shown.picture.resize(size, PIL.Image.Resampling.LANCZOS)
        kept.save(self.folder / "images" / f"{name}.jpg", quality=self.quality, subsampling=0)
        odd = []
        if mask is not None:
            mask = mask.resize(size, PIL.Image.Resampling.BOX)
            mask.save(self.folder / "masks" / f"{name}.png")
            odd += odd_mask(np.asarray(mask) > 127, self.mask_share, self.mask_rim)
        if looks_like_mask(shown.picture):
            odd.append(MASK_LIKE)
        odd += [DOUBTS[origin]] if origin in DOUBTS else []
        row: dict[str, Any] = {"file": f"{name}.jpg", "split": photo.split, "label": photo.label}
        row |= {"width": size[0], "height": size[1]}
        if box is not None:
            factors = (size[0] / shown.size[0], size[1] / shown.size[1]) * 2
            row |= {k: round(v * f, 2) for k, v, f in zip(CORNERS, box, factors, strict=True)}
            if max(row["x1"] - row["x0"], row["y1"] - row["y0"]) * self.margin < self.size / 2:
                odd.append("object under half the pictures' size")
        elif min(size) < self.size / 2:
            odd.append("photo under half the pictures' size")
        if shown.orientation != 1 and origin == "listing" and not photo.fractions:
            noted.append("rotated by EXIF: its box is taken as one of the upright photo")
        values = _resized_values(photo.values, shown.size, size)
        row |= {"source": photo.name, "box_from": origin} | located.columns | values
        return Written(row=row, odd=tuple(odd), noted=tuple(noted), digest=hashlib.sha256(kept.tobytes()).digest())

    def _mask(self, photo: Photo, shown: Decoded) -> tuple[PIL.Image.Image | None, list[str]]:
        """Return a photo's mask, upright. Raises: PictureError if it cannot be read or is ambiguous."""
        if photo.mask is None:
            return None, []
        try:
            mask = DECODERS.mask(photo.mask, f"mask {photo.mask.name}", LIMITS)
        except PictureError as error:
            raise PictureError(f"{photo.name}: its {error}") from error
        picture, noted = stood_up(mask, shown, photo.name)
        if not self.repair_masks:
            return picture, noted
        picture = picture.resize(shown.picture.size, PIL.Image.Resampling.BILINEAR)
        repaired = repaired_picture(shown.picture, picture)
        if _overlap(repaired, picture) < 1 - CHANGED:
            noted.append("mask repaired by colours")
        return repaired, noted

    def _box(self, photo: Photo, shown: Decoded, mask: PIL.Image.Image | None) -> tuple[PixelBox | None, str]:
        """Return the known box, in pixels of the photo as stored, and its origin."""
        box = inside(photo, shown.size)
        if box is not None:
            return box, "listing"
        width, height = shown.size
        if mask is not None and not self.parts:
            edges = bounds(mask)
            if edges is None:
                raise PictureError(f"{photo.name}: its mask is empty")
            x, y = width / mask.width, height / mask.height
            return (edges[0] * x, edges[1] * y, edges[2] * x, edges[3] * y), "mask"
        return None, ""

    def _found(
        self, photo: Photo, shown: Decoded, mask: PIL.Image.Image | None, box: PixelBox | None, origin: str
    ) -> "Located":
        """Return the object's box and mask: the source's where known, else the finder's.

        Raises: PictureError if a required one is neither known nor found.
        """
        mask_from = "" if mask is None else "source"
        if self.finder is None:
            return Located(mask=mask, box=box, box_from=origin)
        subject = None
        if box is None:
            subject = self.finder(shown.picture)
            box, origin = self._box_of(subject, shown.size)
        elif mask is None and self.finder.is_network:
            subject = self.finder(shown.picture, _as_fractions(box, shown.size))
        if mask is None and subject is not None and subject.sure and subject.mask is not None:
            mask, mask_from = PIL.Image.fromarray((subject.mask * 255 + 0.5).astype(np.uint8)), "finder"
        self._check_required(photo, mask, origin)
        told = {"mask_from": mask_from, "finder_label": "", "finder_confidence": ""}
        if subject is not None:
            told |= {"finder_label": subject.label, "finder_confidence": f"{subject.confidence:.3f}"}
        return Located(mask=mask, box=box, box_from=origin, columns=told)

    def _box_of(self, subject: Subject | None, size: tuple[int, int]) -> tuple[PixelBox, str]:
        """Return the box of a found object in pixels, and its origin."""
        assert self.finder is not None
        if subject is None or (not subject.sure and subject.origin == "backdrop"):
            (x0, y0, x1, y1), origin = WIDE, MIDDLE
        else:
            (x0, y0, x1, y1), origin = subject.box, UNSURE
            if subject.sure:
                origin = FOUND if self.finder.is_network == (subject.origin == "network") else BACKDROP
        return (x0 * size[0], y0 * size[1], x1 * size[0], y1 * size[1]), origin

    def _pasted(
        self, backgrounds: NewBackgrounds, photo: Photo, shown: Decoded, located: "Located"
    ) -> tuple[Decoded, "Located"]:
        """Return a photo's object on another background. Raises: PictureError without a mask to cut it out by."""
        if located.mask is None:
            raise PictureError(f"{photo.name}: it has no mask to cut its object out by")
        pasted = backgrounds(shown.picture, located.mask, photo.name)
        if pasted is None:
            raise PictureError(f"{photo.name}: its object is under 16 pixels wide or in small fragments")
        new = replace(shown, picture=pasted.picture, size=pasted.picture.size, orientation=1)
        return new, replace(located, mask=pasted.mask, box=pasted.box, box_from="mask")

    def _check_required(self, photo: Photo, mask: PIL.Image.Image | None, origin: str) -> None:
        """Raise PictureError for a photo without a required box or mask that is known or found with confidence."""
        if "mask" in self.require and mask is None:
            raise PictureError(f"{photo.name}: it has no mask, which was required, and none was found with confidence")
        if "box" in self.require and origin in DOUBTS:
            raise PictureError(f"{photo.name}: it has no box, which was required, and none was found with confidence")


@dataclass(frozen=True, slots=True, kw_only=True)
class Located:
    """A photo's object, and the origin of its box and mask."""

    mask: PIL.Image.Image | None
    """At the photo's aspect ratio."""
    box: PixelBox | None
    """In pixels of the photo as stored."""
    box_from: str
    """`listing`, `mask`, one of the next four names, or "" where no box is known."""
    columns: dict[str, str] = field(default_factory=dict)
    """Columns of the index: origin of the mask, and the finder's label and confidence."""


FOUND, UNSURE, BACKDROP, MIDDLE = "found", "unsure", "backdrop", "middle"
"""Origins of boxes that the source does not give: a confident result of the finder; one below the threshold; what
stands out from the backdrop, where the network is not confident; the centre of the photo, where nothing is found."""
DOUBTS = {UNSURE: "the finder is not sure of the object", MIDDLE: "no object was found: the middle is taken"}
"""Origins of boxes that should be checked by eye -> why."""
MASK_LIKE = "looks like a mask, two flat colours"


def _as_fractions(box: PixelBox, size: tuple[int, int]) -> Box:
    return box[0] / size[0], box[1] / size[1], box[2] / size[0], box[3] / size[1]


def stood_up(mask: Decoded, shown: Decoded, name: str) -> tuple[PIL.Image.Image, list[str]]:
    """Return a mask in the orientation of its upright photo. Raises: PictureError if no orientation fits, or two do."""
    picture, noted = mask.picture, []
    turned = TURNS.get(shown.orientation)
    if mask.orientation in TURNS:
        picture = picture.transpose(TURNS[mask.orientation])
        size = mask.size if mask.orientation < 5 else (mask.size[1], mask.size[0])
    elif turned is None:
        size = mask.size
    else:
        other = picture.transpose(turned)
        stored = shown.size if shown.orientation < 5 else (shown.size[1], shown.size[0])
        fits, fits_stored = _alike(mask.size, shown.size), _alike(mask.size, stored)
        if fits and fits_stored:
            same = picture.size == other.size and _overlap(picture, other) > 0.97
            if not same:
                raise PictureError(
                    f"{name} is rotated by EXIF, and its mask {mask.size[0]} x {mask.size[1]} fits both ways; "
                    "save the photo upright"
                )
            size = shown.size
        elif fits_stored:
            picture, size = other, (mask.size if shown.orientation < 5 else (mask.size[1], mask.size[0]))
            noted.append("rotated by EXIF, and its mask with it")
        else:
            size = mask.size
    if not _alike(size, shown.size):
        came = f"{size[0]} x {size[1]}"
        raise PictureError(f"{name}: its mask is {came}, the photo {shown.size[0]} x {shown.size[1]}")
    if size != shown.size:
        noted.append("mask of another size but the photo's proportions: scaled")
    return picture, noted


def _alike(size: tuple[int, int], other: tuple[int, int]) -> bool:
    """Whether two sizes have the same aspect ratio, to a pixel of the smaller one."""
    small, large = sorted((size, other))
    return abs(large[0] * small[1] - large[1] * small[0]) <= max(large)


def _overlap(one: PIL.Image.Image, two: PIL.Image.Image) -> float:
    """Return the IoU of two masks."""
    a, b = np.asarray(one) > 127, np.asarray(two) > 127
    return float((a & b).sum() / max(1, (a | b).sum()))


def odd_mask(mask: np.ndarray, share: tuple[float, float], rim: float) -> list[str]:
    """Return why a mask is suspicious: the share of the picture, or of its rim, that it covers; empty if it is not."""
    odd = []
    covered = mask.mean()
    if covered < share[0]:
        odd.append(f"mask under {share[0]:g} of the picture")
    if covered > share[1]:
        odd.append(f"mask over {share[1]:g} of the picture")
    width = max(1, round(RIM * min(mask.shape)))
    border = np.ones_like(mask)
    border[width:-width, width:-width] = False
    if mask[border].mean() > rim:
        odd.append(f"mask over {rim:g} of the rim")
    return odd


def inside(photo: Photo, size: tuple[int, int]) -> PixelBox | None:
    """Return a photo's box, clipped. Raises: PictureError if it is empty or exceeds the picture by too much."""
    if photo.box is None:
        return None
    width, height = size
    x0, y0, x1, y1 = photo.box
    if photo.fractions:
        x0, y0, x1, y1 = x0 * width, y0 * height, x1 * width, y1 * height
    elif photo.size is not None and photo.size != size:
        came = f"{photo.size[0]} x {photo.size[1]}"
        raise PictureError(f"{photo.name}: its box was measured in {came} pixels, but the photo has {width} x {height}")
    over_x, over_y = (max(SLACK, CUT_OFF * side) for side in size)
    across = -over_x <= x0 < x1 <= width + over_x and x1 > 0 and x0 < width
    down = -over_y <= y0 < y1 <= height + over_y and y1 > 0 and y0 < height
    if not (across and down):
        wanted = f"expected 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
        raise PictureError(
            f"{photo.name}: its box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is not inside the picture; {wanted}"
        )
    box = max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)
    if (box[2] - box[0] <= 1 < width) or (box[3] - box[1] <= 1 < height):
        raise PictureError(
            f"{photo.name}: its box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is a pixel or less; expected pixels, not fractions"
        )
    return box


def kept_size(size: tuple[int, int], box: PixelBox | None, wanted: int, margin: float) -> tuple[int, int]:
    """Return the size to store a photo at: never enlarged; the short side 1.5 times the training size, or up to 3 times
    if the crop around the object would otherwise be smaller than the training size."""
    short = min(size)
    scale = 1.5 * wanted / short
    if box is not None:
        side = margin * max(box[2] - box[0], box[3] - box[1])
        scale = max(scale, min(wanted / side, 3 * wanted / short))
    scale = min(1.0, scale)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


def _resized_values(values: dict[str, str], size: tuple[int, int], kept: tuple[int, int]) -> dict[str, str]:
    """Return further columns of a listing; further boxes, such as head_x0 ... head_y1, are scaled to the new size."""
    result = dict(values)
    for last in [name for name in values if name.endswith("_x0")]:
        prefix = last.removesuffix("x0")
        for i, name in enumerate(prefix + corner for corner in BOX_COLUMNS[0][0]):
            known = number(values.get(name, ""), commas=True)
            if known is not None:
                result[name] = f"{known * kept[i % 2] / size[i % 2]:.2f}"
    return result
