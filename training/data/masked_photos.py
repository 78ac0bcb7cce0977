"""`prepare masked`: converts photos with one mask each to a COCO folder."""

import csv
import json
import logging
import math
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np
import PIL.Image

from ..pictures import opened
from .coco import CocoWriter
from .photo_writer import CORNERS
from .writing import whole_folder

log = logging.getLogger(__name__)

LABEL_COLUMNS = ("species", "garment", "label", "class")
"""Columns of index.csv that may hold the label, in this order."""
LEAST, MOST = 0.01, 0.95
"""Smallest and largest share of the picture that a usable mask covers."""


@dataclass(frozen=True, kw_only=True)
class PrepareMasked:
    """Make a COCO folder (train.json, validation.json, images) from photos with one mask each."""

    source: Path
    """A folder with index.csv (file, split, and a label), images/ and masks/ (PNG of the photo's name)."""
    out: Path
    """The folder to make."""
    label: str | None = None
    """One label for all photos; by default that of the column."""
    label_column: str | None = None
    """Column of index.csv that holds the label; by default the first present of species, garment, label, class."""
    box_prefix: str = ""
    """Take as objects the masks within boxes of columns with this prefix: `head_` takes head_x0, ..., head_y1, to train
    a finder of heads. Photos without such a box are left out."""
    every: int = 1
    """Take every n-th photo of each split, for frames of films, where neighbours are nearly equal."""
    licence: str = ""
    """Credit and licence of the photos, stored in the set."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"cannot take every {self.every}th photo; expected at least 1")

    def run(self) -> None:
        """Write the set; photos without a usable mask are counted and left out. Raises: ValueError."""
        rows = _rows(self.source)
        column = self._column(rows[0])
        lacking = [name for corner in CORNERS if (name := f"{self.box_prefix}{corner}") not in rows[0]]
        if self.box_prefix and lacking:
            raise ValueError(
                f"{self.source / 'index.csv'} has no column {lacking[0]}; --box-prefix is {self.box_prefix}"
            )
        splits = {row["split"] for row in rows}
        renamed = {"test": "validation"} if "validation" not in splits else {}
        kept: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            kept.setdefault(renamed.get(row["split"], row["split"]), []).append(row)
        labels = sorted({self.label or row[column] for row in rows if self._files(row)[1].is_file()})
        counts: Counter[str] = Counter()
        with whole_folder(self.out) as folder:
            (folder / "images").mkdir()
            for split, lines in kept.items():
                made = {k: str(v) for k, v in asdict(self).items() if k not in ("out", "source")}
                writer = CocoWriter(labels, made_by="python -m training prepare masked", **made)
                for row in lines[:: self.every]:
                    counts[split if self._add(writer, folder, row, column) else "left out"] += 1
                writer.write(folder / f"{split}.json")
        log.info("%s: %s", self.out, dict(counts))
        print(json.dumps({"out": str(self.out), "labels": labels, **counts}))

    def _column(self, row: Mapping[str, str]) -> str:
        """Return the column of labels. Raises: ValueError."""
        if self.label is not None:
            return ""
        names = LABEL_COLUMNS if self.label_column is None else (self.label_column,)
        found = [name for name in names if name in row]
        if not found:
            raise ValueError(f"{self.source / 'index.csv'} has no column {' or '.join(names)}; give --label")
        return found[0]

    def _files(self, row: Mapping[str, str]) -> tuple[Path, Path]:
        """Return the paths of a photo and its mask."""
        name = Path(row["file"])
        return self.source / "images" / name, self.source / "masks" / name.with_suffix(".png").name

    def _add(self, writer: CocoWriter, folder: Path, row: Mapping[str, str], column: str) -> bool:
        """Copy one photo and add its mask; return False if the mask cannot be used."""
        name = row["file"]
        photo, file = self._files(row)
        if not photo.is_file() or not file.is_file():
            return False
        try:
            with opened(photo) as picture, opened(file) as mask:
                size, pixels = picture.size, np.asarray(mask.convert("L")) > 127
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            log.warning("left out: %s: %s", name, error)
            return False
        if pixels.shape != size[::-1]:
            return False
        if self.box_prefix:
            try:
                pixels = within(pixels, row, self.box_prefix)
            except ValueError as error:
                log.warning("left out: %s: its box in columns %s... is none: %s", name, self.box_prefix, error)
                return False
        if not LEAST <= pixels.mean() <= MOST:
            return False
        shutil.copyfile(photo, folder / "images" / name)
        image = writer.add_image(name, *size)
        writer.add(image, self.label or row[column], pixels)
        return True


def within(mask: np.ndarray, row: Mapping[str, str], prefix: str) -> np.ndarray:
    """Return a mask inside its row's box alone, pixels that the box touches; empty where the row has no box.

    Raises: ValueError for a box that is no numbers.
    """
    corners = [row.get(f"{prefix}{corner}") for corner in CORNERS]
    cut = np.zeros_like(mask)
    if all(corners):
        x0, y0, x1, y1 = (float(value) for value in corners if value)
        inside = (slice(max(0, int(y0)), max(0, math.ceil(y1))), slice(max(0, int(x0)), max(0, math.ceil(x1))))
        cut[inside] = mask[inside]
    return cut


def _rows(source: Path) -> list[dict[str, str]]:
    """Return the lines of a set's index. Raises: ValueError."""
    path = source / "index.csv"
    if not path.is_file():
        raise ValueError(f"{source} has no index.csv; give a folder with index.csv, images and masks")
    with path.open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    if not rows or not {"file", "split"} <= set(rows[0]):
        raise ValueError(f"{path} has no lines with the columns file and split")
    return rows
