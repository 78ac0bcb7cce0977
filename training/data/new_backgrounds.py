"""Masked photos on other backgrounds: for objects photographed on white, whose background shows nothing to learn."""

import hashlib
import math
import os
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Float

from training.data.backgrounds import view
from training.data.cutouts import RIM, cut_out
from training.imaging.masks import bounds
from training.pictures import PixelBox

ROOM = 1.1
"""Side of a new photo over that of the crop around its object."""


class Pasted(NamedTuple):
    """An object on its new background."""

    picture: PIL.Image.Image
    mask: PIL.Image.Image
    """Grey, 0 to 255."""
    box: PixelBox


@dataclass(frozen=True, slots=True)
class NewBackgrounds:
    """Cuts an object out and pastes it, at its own size, onto a view of a random environment."""

    maps: tuple[Float[np.ndarray, "map_h map_w 3"], ...]
    """Radiance, as `read_environments` returns it."""
    margin: float
    """Side of the crop around an object over the longer side of its box; the new photo is a little larger."""

    def __call__(self, picture: PIL.Image.Image, mask: PIL.Image.Image, name: str) -> Pasted | None:
        """Return the object in the middle of a new photo, the same for the same name; None if it is too small."""
        rng = np.random.default_rng(list(hashlib.sha256(os.fsencode(name)).digest()))
        inside = np.asarray(mask.resize(picture.size, PIL.Image.Resampling.BILINEAR)) > 127
        item = cut_out(np.asarray(picture.convert("RGB")), inside, "", name)
        if item is None:
            return None
        height, width = item.alpha.shape
        side = math.ceil(ROOM * self.margin * (max(height, width) - 2 * RIM))
        top, left = (side - height) // 2, (side - width) // 2
        place = slice(top, top + height), slice(left, left + width)
        canvas = view(self.maps[int(rng.integers(len(self.maps)))], (side, side), rng).astype(np.float32)
        canvas[place] += item.alpha[..., None] * (item.colour - canvas[place])
        alpha = np.zeros((side, side), np.float32)
        alpha[place] = item.alpha
        shown = PIL.Image.fromarray((255 * alpha + 0.5).astype(np.uint8))
        x0, y0, x1, y1 = bounds(shown) or (0, 0, side, side)
        return Pasted(PIL.Image.fromarray(canvas.clip(0, 255).astype(np.uint8)), shown, (x0, y0, x1, y1))
