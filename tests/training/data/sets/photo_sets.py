"""Photos of a disc with their masks, and what `prepare` made of them."""

import csv
from pathlib import Path

import numpy as np
import PIL.Image

from training.data.prepare import Prepare

WIDTH, HEIGHT = 120, 90


def disc(seed: int = 0, centre: float = 0.5) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """A red disc before a plain ground, and its mask."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((x - WIDTH * centre) / 26) ** 2 + ((y - 40) / 22) ** 2 < 1
    pixels = 235 + np.random.default_rng(seed).integers(-6, 6, (HEIGHT, WIDTH, 3))
    pixels[inside] = (200, 40, 40)
    return PIL.Image.fromarray(pixels.astype(np.uint8)), PIL.Image.fromarray((inside * 255).astype(np.uint8))


def saved(picture: PIL.Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


def prepared(source: Path, **options) -> list[dict[str, str]]:
    out = source.parent / f"set{len(list(source.parent.iterdir()))}"
    Prepare(source=source, out=out, size=32, held_out=0, **options).run()
    with (out / "index.csv").open(newline="", encoding="utf-8") as file:
        return [line | {"out": str(out)} for line in csv.DictReader(file)]


def fractions(row: dict[str, str]) -> list[float]:
    sides = (float(row["width"]), float(row["height"])) * 2
    return [float(row[k]) / side for k, side in zip(("x0", "y0", "x1", "y1"), sides, strict=True)]
