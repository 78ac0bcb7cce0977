"""Commands that make prepared sets: of photos, `prepare photos`, and of rendered cars, `prepare cars`."""

import logging
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import PIL.Image
import tyro
from tqdm import tqdm

from ..objects import SURE, WIDE, find_object
from ..pictures import PictureError, open_picture, opened
from .layouts import LAYOUTS, detect, with_boxes
from .prepare_cars import PrepareCars
from .sources import SUFFIXES, Photo, PixelBox, Reading
from .tables import BOX_COLUMNS, BoxForm, number, texts
from .writing import report, whole_folder, write_index

log = logging.getLogger(__name__)

SLACK, CUT_OFF = 2, 0.1
"""A box may reach out of its picture by so many pixels, since listings round, or by this share of the picture, since
objects are cut off; it is clipped."""
MAX_BYTES, MAX_PIXELS = 100_000_000, 150_000_000
"""Photos beyond these are left out."""

Views = Literal["all-sides", "front", "flat"]
LayoutName = Literal[
    "auto", "table", "clothing", "cub", "dogs", "cars", "compcars", "ffhq", "afhq", "celebahq", "lsun", "plain"
]
CORNERS = ("x0", "y0", "x1", "y1")


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Make a training set from a folder of photos: read, checked and resized, with boxes and masks where known."""

    source: Path
    """The folder with the photos."""
    out: Path
    """The folder to make."""
    size: int = 64
    """Side of the pictures to train on; photos are kept larger than this, so that objects can be cut out."""
    layout: LayoutName = "auto"
    """How the source lies on disk; `auto` looks."""
    boxes: Path | None = None
    """A CSV of boxes with the columns file, x0, y0, x1, y1, files named from `source`; split and label may follow. A
    plain folder's own boxes.csv is used unasked."""
    box_form: BoxForm = "auto"
    """What the numbers of a table's boxes are: corners in pixels, corners as fractions of the photo, `yolo` (centre,
    width and height as fractions) or `xywh` (corner, width and height in pixels). `auto` goes by the names of the
    columns and refuses what is not certain."""
    box_prefix: str = ""
    """Which boxes of an index.csv to take, where it has several: `head_` takes head_x0, head_y0, head_x1, head_y1."""
    label: str | None = None
    """Column of an index.csv that holds the labels; else label, class, garment, category, species, breed or kind."""
    only: tuple[str, ...] = ()
    """Keep photos of these labels and no others."""
    require: tuple[Literal["box", "mask"], ...] = ()
    """Leave out photos without a known box, or without a mask: training uses masks only if all photos have one."""
    find_boxes: bool = True
    """In a folder of photos or a table, look for the object of each photo that has no box before its backdrop; where
    none clearly stands out, the middle of the photo is taken."""
    held_out: float = 0.1
    """Share of the photos to keep for testing, where the source has no splits."""
    margin: float = 1.5
    """Side of the square that will be cut around an object, over the longer side of its box."""
    views: Views | None = None
    """How the objects stand before the camera, for generators of scenes in 3D: seen from all sides (vehicles,
    furniture), from the front and a little aside (faces), or flat (garments, posters). Asked at a terminal; else
    all-sides is taken."""
    quality: int = 95
    """Of the JPEG files written."""

    def __post_init__(self) -> None:
        if self.size < 8 or not 0 <= self.held_out < 1 or self.margin < 1 or not 1 <= self.quality <= 100:
            raise ValueError(
                f"cannot prepare pictures of {self.size} px, held out {self.held_out}, margin {self.margin}, quality "
                f"{self.quality}; wanted at least 8 px, 0 to 1, at least 1, and 1 to 100"
            )

    def run(self) -> None:
        """Write the set; photos that cannot be used are named, counted and left out.

        Raises: ValueError, with nothing written, if the source or a listing cannot be used or no photo can.
        """
        if not self.source.is_dir():
            raise ValueError(f"{self.source} is not a folder; give the folder that holds the photos")
        layout = detect(self.source) if self.layout == "auto" else self.layout
        reading = Reading(
            held_out=self.held_out, label=self.label, box=self.box_prefix.strip().lower(), box_form=self.box_form
        )
        photos = self._photos(layout, reading)
        for sentence in reading.said:
            log.warning("%s", sentence)
        find = self.find_boxes and layout in ("plain", "table", "clothing")
        views = self.views or _asked_views()  # before the long part
        rows, skipped = [], []
        with whole_folder(self.out) as folder:
            (folder / "images").mkdir()
            if any(photo.mask for photo in photos):
                (folder / "masks").mkdir()
            for result in self._written(folder, photos, find):
                if isinstance(result, str):
                    skipped.append(result)
                    log.warning("left out: %s", result)
                else:
                    rows.append(result)
            if not rows:
                raise ValueError(
                    f"none of the {len(photos)} photos in {self.source} can be used; the first: {skipped[0]}"
                )
            arguments = {k: v.name if isinstance(v, Path) else v for k, v in asdict(self).items() if k != "out"}
            made = {
                "made_by": "python -m training prepare photos",
                "arguments": arguments | {"layout": layout},
                "views": views,
                "left_out": skipped,
            }
            write_index(folder, rows, made)
        report(self.out, rows, len(skipped), layout)

    def _photos(self, layout: str, reading: Reading) -> list[Photo]:
        """Return the photos of the source that are wanted. Raises: ValueError if there are none."""
        photos = LAYOUTS[layout](self.source, reading)
        table = self.source / "boxes.csv"
        boxes = table if self.boxes is None and layout == "plain" and table.is_file() else self.boxes
        if boxes is not None:
            photos = with_boxes(photos, self.source, boxes, reading)
        if not photos:
            raise ValueError(f"{self.source} has no photos in it (looked for {', '.join(sorted(SUFFIXES))})")
        if self.only:
            wanted = {label.strip().casefold() for label in self.only}
            labels = {photo.label for photo in photos}
            if missing := wanted - {label.casefold() for label in labels}:
                raise ValueError(
                    f"no photo bears the label {', '.join(sorted(missing))}; there are {texts(sorted(labels), 12)}"
                )
            kept = [photo for photo in photos if photo.label.casefold() in wanted]
            reading.passed_over["other labels"] += len(photos) - len(kept)
            photos = kept
        for name in self.require:
            photos = [replace(p, problem=p.problem or _lacks(p, name)) for p in photos]
        return photos

    def _written(self, folder: Path, photos: list[Photo], find: bool) -> Iterator[dict[str, Any] | str]:
        """Write photos, several at a time; give for each its line of the index, or what is wrong with it."""
        with ThreadPoolExecutor() as pool, tqdm(total=len(photos), unit="photos", disable=None) as bar:
            for start in range(0, len(photos), 1000):  # so that a long list is not held as so many tasks
                numbers = range(start, min(start + 1000, len(photos)))
                for result in pool.map(lambda i: self._write(folder, i, photos[i], find), numbers):
                    bar.update()
                    yield result

    def _write(self, folder: Path, number: int, photo: Photo, find: bool) -> dict[str, Any] | str:
        """Write one photo and its mask; return its line of the index, or what is wrong with it."""
        if photo.problem:
            return f"{photo.name}: {photo.problem}"
        try:
            picture = open_picture(photo.path, name=photo.name, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
            box = _inside(photo, picture.size)
            mask = _mask(photo, picture.size)
            if box is None and mask is not None:
                box = mask.point([255 * (value > 127) for value in range(256)]).getbbox()
            if find and box is None:
                box = _found(picture)
        except PictureError as error:
            return str(error)
        size = _kept_size(picture.size, box, self.size, self.margin)
        name = f"{number:07d}"
        kept = picture.resize(size, PIL.Image.Resampling.LANCZOS)
        kept.save(folder / "images" / f"{name}.jpg", quality=self.quality, subsampling=0)
        if mask is not None:
            mask.resize(size, PIL.Image.Resampling.BOX).save(folder / "masks" / f"{name}.png")
        row: dict[str, Any] = {"file": f"{name}.jpg", "split": photo.split, "label": photo.label}
        row |= {"width": size[0], "height": size[1]}
        if box is not None:
            factors = (size[0] / picture.width, size[1] / picture.height) * 2
            row |= {k: round(v * f, 2) for k, v, f in zip(CORNERS, box, factors, strict=True)}
        return row | {"source": photo.name} | _resized_values(photo.values, picture.size, size)


def _lacks(photo: Photo, name: str) -> str:
    """Return why a photo that lacks its box or mask has to be left out; "" if it has it."""
    known = photo.mask is not None or (name == "box" and photo.box is not None)
    return "" if known else f"it has no {name}, which was required"


def _resized_values(values: dict[str, str], size: tuple[int, int], kept: tuple[int, int]) -> dict[str, str]:
    """Return further columns of a listing; further boxes, such as head_x0 ... head_y1, follow the photo's new size."""
    result = dict(values)
    for last in [name for name in values if name.endswith("_x0")]:
        prefix = last.removesuffix("x0")
        for i, name in enumerate(prefix + corner for corner in BOX_COLUMNS[0][0]):
            known = number(values.get(name, ""), commas=True)
            if known is not None:
                result[name] = f"{known * kept[i % 2] / size[i % 2]:.2f}"
    return result


def _asked_views() -> Views:
    """Ask how the objects stand; where nobody can answer, say what is taken."""
    if not sys.stdin.isatty():
        log.info("views: all-sides; give --views front or flat if no photo shows the object's back")
        return "all-sides"
    known: tuple[Views, ...] = get_args(Views)
    print("How do the objects stand in your photos? It sets what a rotation knob can be.", file=sys.stderr)
    for place, words in enumerate(
        ("seen from all sides, such as vehicles", "from the front, such as faces", "flat, such as garments or posters"),
        1,
    ):
        print(f"  {place}  {words}", file=sys.stderr)
    while True:
        try:
            answer = input("1, 2 or 3 [1]: ").strip() or "1"
        except EOFError:
            answer = "1"
        if answer in ("1", "2", "3"):
            return known[int(answer) - 1]


def _inside(photo: Photo, size: tuple[int, int]) -> PixelBox | None:
    """Return a photo's box; PictureError if it is empty or reaches out of the picture by more than rounding does."""
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
        wanted = f"wanted 0 <= x0 < x1 <= {width} and 0 <= y0 < y1 <= {height}"
        raise PictureError(
            f"{photo.name}: its box ({x0:g}, {y0:g}, {x1:g}, {y1:g}) is not inside the picture; {wanted}"
        )
    return max(0.0, x0), max(0.0, y0), min(float(width), x1), min(float(height), y1)


def _found(picture: PIL.Image.Image) -> PixelBox:
    """Return the box of what clearly stands out from a photo's backdrop, or of its middle."""
    found = find_object(picture)
    x0, y0, x1, y1 = WIDE if found is None or found.confidence < SURE else found.box
    return x0 * picture.width, y0 * picture.height, x1 * picture.width, y1 * picture.height


def _mask(photo: Photo, size: tuple[int, int]) -> PIL.Image.Image | None:
    """Return a photo's mask in grey; PictureError if it cannot be read or is of another size."""
    if photo.mask is None:
        return None
    try:
        with opened(photo.mask) as picture:
            mask = picture.convert("L")
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise PictureError(f"{photo.name}: its mask {photo.mask.name} cannot be read") from error
    if mask.size != size:
        raise PictureError(f"{photo.name}: its mask is {mask.width} x {mask.height}, the photo {size[0]} x {size[1]}")
    return mask


def _kept_size(size: tuple[int, int], box: PixelBox | None, wanted: int, margin: float) -> tuple[int, int]:
    """Return the size to keep a photo at: never enlarged, the short side half as long again as the pictures wanted, or
    longer if the square around the object would be smaller than those, up to three times."""
    short = min(size)
    scale = 1.5 * wanted / short
    if box is not None:
        side = margin * max(box[2] - box[0], box[3] - box[1])
        scale = max(scale, min(wanted / side, 3 * wanted / short))
    scale = min(1.0, scale)
    return max(1, round(size[0] * scale)), max(1, round(size[1] * scale))


COMMAND = Annotated[PrepareCars, tyro.conf.subcommand("cars")] | Annotated[Prepare, tyro.conf.subcommand("photos")]
"""What `python -m training prepare` offers."""
