"""`python -m training invert`: the codes of a photo, for every generator that can invert photos."""

import json
import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import PIL.Image
import torch
import tyro
from torch.func import functional_call

from training.checkpoint import load_generator, read_card
from training.codes_file import write_codes
from training.devices import pick_device
from training.files import check_folder
from training.invertible import Inverted, InvertsPhotos
from training.objects import LOOSE, margin_of
from training.pictures import Box, from_pil, open_picture, write_sheet
from training.segmentation.load import default_finder, square_around
from training.types import Generator, Image

log = logging.getLogger(__name__)

Crop = Literal["auto", "object", "centre"]
"""How photos are cut: around the object, to the middle square, or as the generator's training pictures were."""


def invert(generator: Generator, photo: Image, **options: Any) -> Any:
    """Return the codes of a photo, or of several photos of one object, already cut; see `training.invertible`.

    Raises: ValueError for a generator that inverts no photos.
    """
    return inverted(generator, photo, **options).codes


def inverted(generator: Generator, photo: Image, **options: Any) -> Inverted:
    """Return the result of an inversion. Raises: ValueError for a generator that inverts no photos."""
    if not isinstance(generator, InvertsPhotos):
        raise ValueError(f"a generator of the family {generator.family} inverts no photos; fast models do")
    return generator.invert(photo, **options)


def read_photo(
    path: Path, generator: Generator, margin: float | None, crop: Crop = "auto", box: Box | None = None
) -> Image:
    """Return a photo as the generator takes it: the square around `box`, fractions, or around what `crop` finds.

    `margin` is how wide it learned to see objects, None for whole pictures; with `auto` and such a generator, square
    photos stay whole. Raises: PictureError if it cannot be read.
    """
    picture = open_picture(path)
    if box is None and (crop == "object" or (crop == "auto" and (margin is not None or not is_square(picture)))):
        found = default_finder()(picture)
        if found is not None and (crop == "object" or found.sure):
            box = found.box
    if box is not None:
        picture = square_around(picture, box, margin=margin or LOOSE)
    return from_pil(picture, generator.resolution).to(generator.device)


def is_square(picture: PIL.Image.Image) -> bool:
    """Whether width and height differ by 2 % at most: such a photo may have been cut already."""
    return abs(picture.width - picture.height) <= 0.02 * max(picture.size)


@dataclass(frozen=True, kw_only=True)
class PhotoOptions:
    """How photos are cut, inverted and written; shared by the commands."""

    out: Path
    """The codes, as JSON: a recipe that the page and every command with --codes read."""
    crop: Crop = "auto"
    """`object`: the square around what the finder sees; `centre`: the middle square; `auto`: as the generator's
    training pictures were cut."""
    box: Annotated[tuple[tuple[float, float, float, float], ...], tyro.conf.arg(metavar="X Y W H")] = ()
    """Boxes of the object in pixels, one for each photo."""
    turned: bool = False
    """Start from the other end of the object, where front was taken for back."""
    sharpen: bool = False
    """Also fine-tune the last layers of the generator to the photo, and write them beside OUT: sharper, 2 s longer."""
    preview: Path | None = None
    """A sheet of each photo beside its reconstruction."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1; by default a GPU where there is one."""

    def write(self, checkpoint: Path, photos: tuple[Path, ...], **options: Any) -> dict[str, Any]:
        """Invert photos of one object, write their codes, and return the files, knobs and loss.

        Raises: ValueError for no photos, or boxes that are not one a photo.
        """
        if not photos:
            raise ValueError("got no photos; give at least one path")
        if self.box and len(self.box) != len(photos):
            raise ValueError(f"got {len(self.box)} boxes for {len(photos)} photos; give one for each")
        if self.out.suffix != ".json":
            raise ValueError(f"cannot write {self.out.name}: expected a name that ends in .json")
        check_folder(self.out.parent)
        generator = load_generator(checkpoint, pick_device(self.device))
        margin = margin_of(read_card(checkpoint))
        boxes = [_fractions(path, box) for path, box in zip(photos, self.box, strict=True)] if self.box else []
        cut = [
            read_photo(path, generator, margin, self.crop, boxes[i] if boxes else None) for i, path in enumerate(photos)
        ]
        given: dict[str, Any] = options | {"sharpen": self.sharpen, "turned": self.turned}
        chosen = {name: value for name, value in given.items() if value}
        found = inverted(generator, torch.cat(cut), **chosen)
        written = write_codes(self.out, generator, checkpoint, found.codes, torch.cat(cut), found.weights)
        if self.preview is not None:
            drawn = functional_call(generator, dict(found.weights), (found.codes,)).image  # as sharpened
            write_sheet(self.preview, torch.stack([torch.cat(cut), drawn], 1).flatten(0, 1), 2)
        return {"out": str(self.out), "loss": round(found.loss, 5), **written}


def _fractions(path: Path, box: tuple[float, float, float, float]) -> Box:
    """Return a box x y w h in pixels as edges in fractions. Raises: ValueError if it is empty."""
    width, height = open_picture(path).size
    x, y, w, h = box
    if not (w > 0 and h > 0 and x < width and y < height and x + w > 0 and y + h > 0):
        raise ValueError(f"{path.name}: the box {box} holds nothing of its {width} x {height} pixels")
    return max(x, 0) / width, max(y, 0) / height, min(x + w, width) / width, min(y + h, height) / height


@dataclass(frozen=True, kw_only=True)
class Invert(PhotoOptions):
    """Find the codes of a photo, or of several photos of one object: its pose, shape, look and background."""

    checkpoint: tyro.conf.Positional[Path]
    """A generator file, with its pose reader beside it where the family has one."""
    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos of one object."""

    def run(self) -> None:
        """Write the recipes; print files, knobs and loss as one JSON line."""
        with torch.no_grad():
            print(json.dumps(self.write(self.checkpoint, self.photos)))
