"""Photos from people: opened with care, the object found, cut as the generator was trained to see it."""

import base64
import io
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import PIL.Image

from demo.models import Model
from demo.recipes import png
from training.inversion import is_square
from training.objects import LOOSE, margin_of
from training.pictures import OF_UPLOADS, Box, open_picture, square_crop, square_region
from training.segmentation.load import propose_box, square_around

MAX_BYTES = OF_UPLOADS.max_bytes
"""The page takes no larger files (LARGEST in `page/dom.js`)."""
KEPT_PIXELS = 4_000_000
"""Larger photos are made smaller as they are opened: enough for a tenth of them to fill a picture."""
VIEW = 640
"""Longest side in pixels of the photo in the crop tool."""
WHOLE: Box = (0.0, 0.0, 1.0, 1.0)
"""The box of "Whole photo"."""


class Cut(NamedTuple):
    """A photo and what the generator sees of it."""

    view: PIL.Image.Image
    """The whole photo, at most VIEW pixels wide and high."""
    box: Box
    """The object, as fractions of the photo."""
    square: Box
    """What the generator sees, as fractions; it may reach over the border."""
    crop: PIL.Image.Image
    """What the generator sees, at its own size."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Photo:
    """A photo in a slot."""

    cut: Cut
    codes: dict[str, dict[str, str]]
    """What the generator reads (`demo.recipes.CodesOfKnob`)."""
    unlike: str = ""
    """A sentence where it is of another kind than the generator's pictures."""

    def values(self) -> dict[str, Any]:
        """Return this photo as the page takes it: files as base64 text."""
        return {**seen(self.cut), "codes": self.codes, "unlike": self.unlike}


def seen(cut: Cut) -> dict[str, Any]:
    """Return a photo and what the generator sees of it as the page takes them: files as base64 text."""
    view = io.BytesIO()
    cut.view.save(view, "JPEG", quality=88)
    return {
        "picture": base64.b64encode(png(cut.crop)).decode(),
        "view": base64.b64encode(view.getvalue()).decode(),
        "box": list(cut.box),
        "square": list(cut.square),
    }


def cut(
    model: Model, data: bytes, name: str, box: Box | None, *, find: bool = False, find_in_oblong: bool = False
) -> Cut:
    """Return the photo to show, the object's box, and the square that the generator sees.

    Of a box over the whole photo, nothing is added around. Without a box, the object is looked for where the generator
    learned from objects, or where `find` asks for it, or `find_in_oblong` and the photo is not square; else the box is
    the photo's centre square.

    Raises: ValueError (training.pictures.PictureError) for what is no picture, too large, or an empty box.
    """
    picture = open_picture(data, name=name, keep_pixels=KEPT_PIXELS)
    view = picture.copy()
    view.thumbnail((VIEW, VIEW), PIL.Image.Resampling.LANCZOS)
    margin = margin_of(model.card)
    find = find or (find_in_oblong and not is_square(picture))
    if box is not None or find or margin is not None:
        box = checked(box) if box is not None else propose_box(view)
        around = 1.0 if box == WHOLE else margin or LOOSE
        region, square = square_region(*picture.size, box, margin=around), square_around(picture, box, margin=around)
        square_box = _fractions(region, picture)
    else:
        region, square = square_region(*picture.size, None), square_crop(picture, None)
        box = square_box = _fractions(region, picture)
    size = model.photo_side
    return Cut(view, box, square_box, square.resize((size, size), PIL.Image.Resampling.BICUBIC))


def _fractions(region: tuple[int, int, int], picture: PIL.Image.Image) -> Box:
    left, top, side = region
    return left / picture.width, top / picture.height, (left + side) / picture.width, (top + side) / picture.height


def too_large(what: str) -> str:
    """Return the sentence for a file of more than MAX_BYTES."""
    return f"this file is larger than {MAX_BYTES // 1_000_000} MB; {what}"


def checked(box: Box) -> Box:
    """Return a box clipped to its photo.

    Raises: ValueError if less than a hundredth of the photo's width or height is left.
    """
    if not np.isfinite(box).all():
        raise ValueError("this box has an edge that is no number; draw it again")
    x0, y0, x1, y1 = (min(1.0, max(0.0, float(edge))) for edge in box)
    if x1 - x0 < 0.01 or y1 - y0 < 0.01:
        raise ValueError("this box is too small; draw one around the object")
    return x0, y0, x1, y1
