"""Contact sheets of a prepared set: crops around objects with boxes and masks drawn."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import PIL.ImageDraw

from training.imaging.read import opened
from training.pictures import square_crop, square_mask, square_region

SIDE, COLUMNS, CROPS, GAP = 160, 8, 32, 4
"""Pixels a crop, crops a row, crops in all, pixels between them."""
BOX, MASK, ODD = (230, 30, 30), (30, 200, 60), (255, 150, 0)
"""Colours of boxes, of masks' outlines, and of the frames around suspicious photos."""


def write_sheet(folder: Path, rows: Sequence[dict[str, Any]], odd: Sequence[str], margin: float) -> None:
    """Write `sheet.jpg` into a prepared set: 32 crops as in training, up to 8 of them from `odd`, framed."""
    strange = [row for row in rows if row["file"] in set(odd)]
    others = [row for row in rows if row["file"] not in set(odd)]
    n = min(len(strange), 8) if others else len(strange)
    chosen = _spread(strange, min(n, CROPS)) + _spread(others, CROPS - min(n, CROPS))
    height = max(1, -(-len(chosen) // COLUMNS))
    sheet = PIL.Image.new("RGB", (COLUMNS * (SIDE + GAP) - GAP, height * (SIDE + GAP) - GAP), "white")
    for i, row in enumerate(chosen):
        crop = _drawn(folder, row, margin)
        if i < n:
            PIL.ImageDraw.Draw(crop).rectangle((0, 0, SIDE - 1, SIDE - 1), outline=ODD, width=4)
        sheet.paste(crop, (i % COLUMNS * (SIDE + GAP), i // COLUMNS * (SIDE + GAP)))
    sheet.save(folder / "sheet.jpg", quality=88)


def _spread(rows: Sequence[dict[str, Any]], n: int) -> list[dict[str, Any]]:
    """Return `n` rows evenly spread, or all."""
    n = min(n, len(rows))
    return [rows[i * len(rows) // n] for i in range(n)]


def _drawn(folder: Path, row: dict[str, Any], margin: float) -> PIL.Image.Image:
    """Return the square around a picture's object with its box and the outline of its mask."""
    with opened(folder / "images" / row["file"]) as file:
        picture = file.convert("RGB")
    width, height = picture.size
    box = None
    if row.get("x0", "") != "":
        box = (row["x0"] / width, row["y0"] / height, row["x1"] / width, row["y1"] / height)
    left, top, side = square_region(width, height, box, margin=margin)
    path, shown = folder / "masks" / f"{Path(row['file']).stem}.png", None
    if path.is_file():
        with opened(path) as file:
            shown = file.convert("L")
    known = None if shown is None else np.asarray(shown) > 127
    crop = square_crop(picture, box, margin=margin, mask=known).resize((SIDE, SIDE), PIL.Image.Resampling.BICUBIC)
    if shown is not None:
        mask = square_mask(shown, box, margin=margin).resize((SIDE, SIDE))
        inside = np.asarray(mask) > 127
        grown = np.pad(inside, 2)
        around = np.zeros_like(inside)
        for dy in range(5):
            for dx in range(5):
                around |= grown[dy : dy + SIDE, dx : dx + SIDE]
        pixels = np.array(crop)
        pixels[around & ~inside] = MASK
        crop = PIL.Image.fromarray(pixels)
    if box is not None:
        edges = [(row[k] - o) * SIDE / side for k, o in (("x0", left), ("y0", top), ("x1", left), ("y1", top))]
        x0, y0, x1, y1 = (min(max(edge, 0), SIDE - 1) for edge in edges)
        PIL.ImageDraw.Draw(crop).rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=BOX, width=2)
    return crop
