"""Photos as input of MixNMatch: the square around the object, at the generator's size."""

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import PIL.Image
import torch

from training.objects import LOOSE, box_of
from training.pictures import Box, from_pil, open_picture, square_region
from training.segmentation.load import default_finder, load_finder, square_around
from training.segmentation.subject import SubjectFinder
from training.types import Generator, Image

Crop = Literal["auto", "finder", "backdrop", "mask", "centre"]
"""How an object without a box is found."""


class Cutter:
    """Reads and crops photos for one generator; keeps the boxes that it used."""

    def __init__(
        self, generator: Generator, margin: float | None, crop: Crop, known: Mapping[Path, tuple[float, ...]]
    ) -> None:
        """Set up for a generator.

        Args:
            generator: the model that will read the photos.
            margin: side of its training crops over the object's box; None for whole pictures.
            crop: how objects without a box are found.
            known: boxes x y w h in pixels, by photo.
        """
        self.generator, self.margin, self.known = generator, margin, known
        self.crop: Crop = crop
        self.boxes: dict[str, list[float] | None] = {}
        """Box x y w h in pixels used for each photo, None for the centre square; in the form that `--boxes` takes."""

    def __call__(self, path: Path) -> Image:
        """Return a photo, cropped, as a batch of one. Raises: PictureError if it cannot be read."""
        picture = open_picture(path)
        return self._cut(picture, self._box(path, picture))

    def all(self, paths: Sequence[Path]) -> Image:
        """Return photos, cropped, as one batch. Raises: ValueError if there are none."""
        if not paths:
            raise ValueError("got no photos; give at least one path")
        return torch.cat([self(path) for path in paths])

    def film(self, path: Path, frames: Iterable[PIL.Image.Image]) -> Image:
        """Return the frames of a film as one batch, all cropped to the box of the first."""
        box, cut = None, []
        for i, frame in enumerate(frames):
            box = box if i else self._box(path, frame)
            cut.append(self._cut(frame, box))
        return torch.cat(cut)

    def _cut(self, picture: PIL.Image.Image, box: Box | None) -> Image:
        if box is not None:
            picture = square_around(picture, box, margin=self.margin or LOOSE)
        return from_pil(picture, self.generator.resolution).to(self.generator.device)

    def _box(self, path: Path, picture: PIL.Image.Image) -> Box | None:
        """Return the object's box, None for the centre square. Raises: ValueError for a box outside the picture."""
        width, height = picture.size
        if path in self.known:
            x, y, w, h = self.known[path]
            box = (max(x, 0) / width, max(y, 0) / height, min(x + w, width) / width, min(y + h, height) / height)
            if not (box[0] < box[2] and box[1] < box[3]):
                came = f"x {x:g} y {y:g} width {w:g} height {h:g}"
                raise ValueError(f"{path.name}: the box {came} holds nothing of its {width} x {height} pixels")
        else:
            box = self._found(picture)
        pixels = None
        if box is not None:
            x0, y0, x1, y1 = (round(edge * side, 1) for edge, side in zip(box, picture.size * 2, strict=True))
            pixels = [x0, y0, round(x1 - x0, 1), round(y1 - y0, 1)]
        self.boxes[str(path)] = pixels
        return box

    def _found(self, picture: PIL.Image.Image) -> Box | None:
        """Return the object's box by the method `crop`; None for the centre square."""
        if self.crop == "centre" or (self.crop == "auto" and self.margin is None):
            return None
        if self.crop != "mask":
            found = _finder(self.crop)(picture)
            if found is not None and (self.crop != "auto" or found.sure):
                return found.box
        return self._masked(picture) if self.crop in ("auto", "mask") else None

    def _masked(self, picture: PIL.Image.Image) -> Box | None:
        """Return the box of the generator's own mask of the centre square; None if that mask is empty or full."""
        generator: Any = self.generator
        left, top, side = square_region(*picture.size, None)
        image = self._cut(picture, None)
        try:
            feature = generator.shape_feature(image)
        except ValueError:  # a model without feature mode
            feature = None
        mask = (generator(generator.encode(image), feature=feature).mask[0, 0] > 0.5).cpu().numpy()
        if not 0.02 <= mask.mean() <= 0.95:
            return None
        x0, y0, x1, y1 = (edge * side for edge in box_of(mask))
        width, height = picture.size
        return (left + x0) / width, (top + y0) / height, (left + x1) / width, (top + y1) / height


def _finder(crop: Crop) -> SubjectFinder:
    """Return the classical finder for `backdrop`, else the bundled network where there is one."""
    return load_finder("classical") if crop == "backdrop" else default_finder()


def boxes_for(
    paths: Sequence[Path], boxes: Sequence[tuple[float, ...]], table: Path | None
) -> dict[Path, tuple[float, ...]]:
    """Return the boxes x y w h of photos: of all in order, or those of a JSON table by path or file name.

    Raises: ValueError for both at once, another number of boxes than photos, two for one photo, or no table.
    """
    if boxes and table is not None:
        raise ValueError("got both --box and --boxes; give one of them")
    if boxes:
        if len(boxes) != len(paths):
            raise ValueError(
                f"got {len(boxes)} boxes for {len(paths)} photos; give x y width height for each, in order"
            )
        known = {}
        for path, box in zip(paths, boxes, strict=True):
            if known.setdefault(path, box) != box:
                raise ValueError(
                    f"{path.name} has two boxes, {known[path]} and {box}; copy the photo to take both objects"
                )
    else:
        lines = {} if table is None else _table(table)
        named = {path: lines.get(str(path), lines.get(path.name)) for path in paths}
        known = {path: box for path, box in named.items() if box is not None}
    for path, box in known.items():
        if not (box[2] > 0 and box[3] > 0):
            raise ValueError(f"{path.name}: the box {box} is empty; expected x y width height in pixels")
    return known


def _table(path: Path) -> dict[str, tuple[float, ...] | None]:
    """Return a JSON table of boxes."""
    wanted = 'expected JSON of the form {"photo.jpg": [x, y, width, height], ...}'
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        content = content.get("boxes", content)  # the output of a command is accepted too
        return {name: None if box is None else _four(box) for name, box in content.items()}
    except FileNotFoundError as error:
        raise ValueError(f"there is no file {path}; {wanted}") from error
    except (AttributeError, TypeError, ValueError, UnicodeDecodeError) as error:
        raise ValueError(f"{path.name} is no table of boxes ({error}); {wanted}") from error


def _four(box: Any) -> tuple[float, ...]:
    x, y, w, h = (float(edge) for edge in box)
    return x, y, w, h
