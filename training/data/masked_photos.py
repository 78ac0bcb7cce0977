"""`prepare masked`: converts photos with one mask each to a COCO folder."""

import json
import logging
import math
import re
import shutil
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

import numpy as np
import PIL.Image

from ..pictures import opened
from .account import NAMED, reason_of
from .coco import CocoWriter
from .photo_writer import CORNERS
from .tables import read_table
from .writing import whole_folder

log = logging.getLogger(__name__)

LABEL_COLUMNS = ("species", "garment", "label", "class")
"""Columns of index.csv that may hold the label, in this order."""
SPLIT = re.compile(r"[\w-]+")
"""What a split may be called: files are named after it."""
LEAST, MOST = 0.01, 0.95
"""Smallest and largest share of the picture that a usable mask covers."""


@dataclass(frozen=True, kw_only=True)
class PrepareMasked:
    """Make a COCO folder (train.json, validation.json, images) from photos with one mask each."""

    source: Path
    """A folder with index.csv (file, split, and a label), images/ and masks/ (PNG of the photo's name, in the same
    subfolder)."""
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
        """Write the set; photos without a usable mask are logged, counted and left out.

        Raises: ValueError, and writes nothing, if the index or all photos cannot be used.
        """
        rows = _rows(self.source)
        column = self._column(rows[0])
        lacking = [name for corner in CORNERS if (name := f"{self._prefix}{corner}") not in rows[0]]
        if self._prefix and lacking:
            raise ValueError(
                f"{self.source / 'index.csv'} has no column {lacking[0]}; --box-prefix is {self.box_prefix}"
            )
        splits = {row["split"] for row in rows}
        renamed = {"test": "validation"} if "validation" not in splits else {}
        kept: dict[str, list[dict[str, str]]] = {}
        for row in rows:
            if not SPLIT.fullmatch(row["split"]):
                raise ValueError(
                    f"{self.source / 'index.csv'}: {row['file']} has the split {row['split']!r}; expected a name such "
                    "as train or validation"
                )
            kept.setdefault(renamed.get(row["split"], row["split"]), []).append(row)
        labels = sorted({self.label or row[column] for row in rows if self._files(row)[1].is_file()})
        counts: Counter[str] = Counter()
        left_out = LeftOut()
        with whole_folder(self.out) as folder:
            (folder / "images").mkdir()
            for split, lines in kept.items():
                made = {k: str(v) for k, v in asdict(self).items() if k not in ("out", "source")}
                writer = CocoWriter(labels, made_by="python -m training prepare masked", **made)
                for row in lines[:: self.every]:
                    why = self._add(writer, folder, row, column)
                    if why:
                        left_out.add(row["file"], why)
                    counts["left out" if why else split] += 1
                writer.write(folder / f"{split}.json")
            if not counts.total() - counts["left out"]:
                raise ValueError(
                    f"none of the {counts['left out']} photos in {self.source} can be used; the first: {left_out.first}"
                )
        log.info("%s: %s", self.out, dict(counts))
        left_out.tell()
        print(json.dumps({"out": str(self.out), "labels": labels, **counts}))

    @property
    def _prefix(self) -> str:
        """Return `box_prefix` as columns are spelled."""
        return self.box_prefix.strip().lower()

    def _column(self, row: Mapping[str, str]) -> str:
        """Return the column of labels. Raises: ValueError."""
        if self.label is not None:
            return ""
        names = LABEL_COLUMNS if self.label_column is None else (self.label_column.strip().lower(),)
        found = [name for name in names if name in row]
        if not found:
            raise ValueError(f"{self.source / 'index.csv'} has no column {' or '.join(names)}; give --label")
        return found[0]

    def _files(self, row: Mapping[str, str]) -> tuple[Path, Path]:
        """Return the paths of a photo and its mask."""
        name = Path(row["file"])
        return self.source / "images" / name, self.source / "masks" / name.parent / f"{name.stem}.png"

    def _add(self, writer: CocoWriter, folder: Path, row: Mapping[str, str], column: str) -> str:
        """Copy one photo and add its mask; return "", or why they cannot be used."""
        name = row["file"]
        photo, file = self._files(row)
        if not name or Path(name).is_absolute() or ".." in Path(name).parts:
            return f"{name}: this is no name of a file in images"
        if not photo.is_file() or not file.is_file():
            return f"{name}: its mask is not in masks" if photo.is_file() else f"{name}: it is not in images"
        try:
            with opened(photo) as picture, opened(file) as mask:
                size, pixels = picture.size, np.asarray(mask.convert("L")) > 127
        except (OSError, ValueError, SyntaxError, PIL.Image.DecompressionBombError) as error:
            return f"{name}: it cannot be read ({error})"
        if pixels.shape != size[::-1]:
            return f"{name}: its mask is {pixels.shape[1]} x {pixels.shape[0]}, the photo {size[0]} x {size[1]}"
        if self._prefix:
            try:
                pixels = within(pixels, row, self._prefix)
            except ValueError as error:
                return f"{name}: its box in columns {self._prefix}... is none ({error})"
            if not pixels.any():
                return f"{name}: none of its mask is in a box of columns {self._prefix}..."
        if not LEAST <= pixels.mean() <= MOST:
            return f"{name}: its mask covers {pixels.mean():.1%} of it; expected {LEAST:.0%} to {MOST:.0%}"
        copy = folder / "images" / name
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copyfile(photo, copy)
        image = writer.add_image(name, *size)
        writer.add(image, self.label or row[column], pixels)
        return ""


@dataclass(slots=True)
class LeftOut:
    """The photos that are left out, by reason."""

    first: str = ""
    """One sentence about the first of them."""
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, name: str, why: str) -> None:
        """Count a photo; log the sentence `why` if few others have the same reason."""
        self.first = self.first or why
        reason = reason_of(name, why)
        self.reasons[reason] += 1
        if self.reasons[reason] <= NAMED:
            log.warning("left out: %s", why)

    def tell(self) -> None:
        """Log how many photos each reason has."""
        for reason, n in self.reasons.most_common():
            log.warning("left out: %d photos: %s", n, reason)


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
    listing = read_table(path, ("file", "split"))
    for sentence in listing.said:
        log.warning("%s: %s", path.name, sentence)
    if not listing.lines:
        raise ValueError(f"{path} has a header but no lines; expected a line for each photo")
    return listing.plain_lines()
