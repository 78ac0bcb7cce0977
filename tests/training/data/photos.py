"""Photos, masks and sets made for the tests of `prepare`."""

import csv
from pathlib import Path

import PIL.Image

from training.data.prepare import Prepare


def photo(path: Path, width: int = 200, height: int = 150, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, (width, height), 90).save(path)
    return path


def mask_of(path: Path, width: int = 200, height: int = 150) -> Path:
    """A mask of a rectangle in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = PIL.Image.new("L", (width, height))
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    mask.save(path)
    return path


def prepared(source: Path, **options) -> list[dict[str, str]]:
    """Prepare a source into a folder beside it; return the lines of its index."""
    out = source.parent / "prepared"
    Prepare(source=source, out=out, **options).run()
    return index(out)


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def box(row: dict[str, str]) -> list[float]:
    """A line's box in fractions of its picture."""
    width, height = float(row["width"]), float(row["height"])
    return [float(row[k]) / size for k, size in zip(("x0", "y0", "x1", "y1"), (width, height) * 2, strict=True)]
