"""Commands that make prepared sets: of photos, `prepare photos`, and of rendered cars, `prepare cars`."""

import json
import logging
import multiprocessing
import os
import sys
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import PIL.Image
import torch
import tyro
from tqdm import tqdm

from ..objects import SURE, WIDE, find_object
from ..pictures import PictureError, open_picture, opened
from .cars import render_bytes
from .factors import (
    ELEVATION,
    FOV,
    MESHES,
    PROPORTIONS,
    RADIUS,
    ROTATION,
    SCALE,
    TRANSLATION_Y,
    TRANSLATION_Z,
    sample_factors,
)
from .layouts import LAYOUTS, SUFFIXES, Photo, PixelBox, detect, with_boxes
from .masked_photos import PrepareMasked
from .prepare_composites import PrepareComposites
from .writing import whole_folder, write_index

log = logging.getLogger(__name__)

CHUNK = 50
"""Pictures that a worker renders at a time."""
SLACK = 2
"""Pixels that a box may reach out of its picture; listings round."""
MAX_BYTES, MAX_PIXELS = 100_000_000, 150_000_000
"""Photos beyond these are left out."""

Views = Literal["all-sides", "front", "flat"]
LayoutName = Literal["auto", "clothing", "cub", "dogs", "cars", "compcars", "ffhq", "afhq", "celebahq", "lsun", "plain"]


@dataclass(frozen=True, kw_only=True)
class PrepareCars:
    """Render cars with every factor, box and mask known; the same arguments always give the same pictures."""

    out: Path
    """The folder to make."""
    size: int = 64
    """Side of the pictures in pixels."""
    count: int = 20_000
    """Training pictures."""
    test: int = 3_000
    """Test pictures, drawn apart: they are the same for every `count`."""
    seed: int = 0
    shadow: bool = False
    """Draw a soft shadow on the ground; it belongs to neither object nor background, which makes learning harder."""
    workers: int = 0
    """Processes that render; 0 takes one a core."""

    def __post_init__(self) -> None:
        if self.size < 8 or self.count < 1 or self.test < 0 or self.seed < 0 or self.workers < 0:
            raise ValueError(
                f"cannot render {self.count} + {self.test} pictures of {self.size} px with seed {self.seed} and "
                f"{self.workers} workers; wanted at least 8 px, 1 training picture and no negative number"
            )

    def run(self) -> None:
        """Write the set. Raises: ValueError if the folder is there already."""
        jobs = [
            (stream, start, min(CHUNK, n - start))
            for stream, n in enumerate((self.count, self.test))
            for start in range(0, n, CHUNK)
        ]
        workers = self.workers or os.cpu_count() or 1
        with whole_folder(self.out) as folder:
            for name in ("images", "masks"):
                (folder / name).mkdir()
            arguments = [(self, folder, *job) for job in jobs]
            rows: list[dict[str, Any]] = []
            with tqdm(total=self.count + self.test, unit="pictures", disable=None) as bar:
                if workers == 1:
                    for part in map(_render_job, arguments):
                        rows += part
                        bar.update(len(part))
                else:
                    spawn = multiprocessing.get_context("spawn")
                    with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
                        for part in pool.map(_render_job, arguments):
                            rows += part
                            bar.update(len(part))
            write_index(folder, rows, self._made())
        _report(self.out, rows, 0, "rendered")

    def _made(self) -> dict[str, Any]:
        """Return what `set.json` says."""
        prior = {
            "rotation": ROTATION,
            "elevation": ELEVATION,
            "scale": SCALE,
            "ty": TRANSLATION_Y,
            "tz": TRANSLATION_Z,
            "tx": 0,
            "azimuth": 0,
        }
        return {
            "made_by": "python -m training prepare cars",
            "arguments": {k: v for k, v in asdict(self).items() if k not in ("out", "workers")},
            "label": "mesh",
            "licence": "CC0-1.0, as the meshes",
            "units": "angles in radians, lengths in world units, boxes in pixels, colours sRGB in [0, 1]",
            "camera": {"radius": RADIUS, "fov_degrees": FOV},
            "box_proportions": PROPORTIONS,
            "prior": prior,
        }


def _render_job(job: tuple[PrepareCars, Path, int, int, int]) -> list[dict[str, Any]]:
    """Render some pictures of a stream into a folder; return their lines of the index."""
    command, folder, stream, start, n = job
    factors = sample_factors(n, seed=command.seed, start=start, stream=stream)
    rows = []
    for i in range(n):
        name = f"{('train', 'test')[stream]}-{start + i:06d}.png"
        picture, mask, box = render_bytes(factors, i, command.size, shadow=command.shadow)
        PIL.Image.fromarray(picture).save(folder / "images" / name, compress_level=4)
        PIL.Image.fromarray(mask).save(folder / "masks" / name, compress_level=4)
        edges = dict(zip(("x0", "y0", "x1", "y1"), (edge * command.size for edge in box), strict=True))
        shape = {"width": command.size, "height": command.size}
        values = factors.row(i)
        label = MESHES[values["mesh"]]
        rows.append({"file": name, "split": ("train", "test")[stream], "label": label, **shape, **edges, **values})
    return rows


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
    """A CSV of boxes in pixels with the columns file, x0, y0, x1, y1, files named from `source`; split and label may
    follow. A plain folder's own boxes.csv is used unasked."""
    find_boxes: bool = True
    """In a plain folder, look for the object of each photo that has no box before its backdrop; where none clearly
    stands out, the middle of the photo is taken."""
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
        photos = LAYOUTS[layout](self.source, self.held_out)
        table = self.source / "boxes.csv"
        boxes = table if self.boxes is None and layout == "plain" and table.is_file() else self.boxes
        if boxes is not None:
            photos = with_boxes(photos, self.source, boxes)
        if not photos:
            raise ValueError(f"{self.source} has no photos in it (looked for {', '.join(sorted(SUFFIXES))})")
        find = self.find_boxes and layout == "plain"
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
        _report(self.out, rows, len(skipped), layout)

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
            row |= {k: round(v * f, 2) for k, v, f in zip(("x0", "y0", "x1", "y1"), box, factors, strict=True)}
        return row | {"source": photo.name}


def _asked_views() -> Views:
    """Ask how the objects stand; where nobody can answer, say what is taken."""
    if not sys.stdin.isatty():
        log.info("views: all-sides; give --views front or flat if no photo shows the object's back")
        return "all-sides"
    known: tuple[Views, ...] = get_args(Views)
    print("How do the objects stand in your photos? It sets what a rotation knob can be.", file=sys.stderr)
    for number, words in enumerate(
        ("seen from all sides, such as vehicles", "from the front, such as faces", "flat, such as garments or posters"),
        1,
    ):
        print(f"  {number}  {words}", file=sys.stderr)
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
    x0, y0, x1, y1 = photo.box
    width, height = size
    across = -SLACK <= x0 < x1 <= width + SLACK and x1 > 0 and x0 < width
    down = -SLACK <= y0 < y1 <= height + SLACK and y1 > 0 and y0 < height
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


def _report(out: Path, rows: list[dict[str, Any]], left_out: int, layout: str) -> None:
    """Tell people and programs what came of it."""
    splits = Counter(row["split"] for row in rows)
    said = ", ".join(f"{n} {split}" for split, n in splits.items())
    log.info("%s: %s; %d left out; layout: %s", out, said, left_out, layout)
    found = {"out": str(out), "layout": layout, "pictures": len(rows), "left_out": left_out, "splits": splits}
    print(json.dumps(found))


COMMAND = (
    Annotated[PrepareCars, tyro.conf.subcommand("cars")]
    | Annotated[Prepare, tyro.conf.subcommand("photos")]
    | Annotated[PrepareMasked, tyro.conf.subcommand("masked")]
    | Annotated[PrepareComposites, tyro.conf.subcommand("composites")]
)
"""What `python -m training prepare` offers."""
