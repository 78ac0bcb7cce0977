"""Batches from a prepared folder: pictures decoded once into memory, cropped, mirrored, with boxes, masks and factors.

A prepared set is a folder with `images/`, optional `masks/<stem>.png`, `index.csv` and `set.json` (how it was made).
`index.csv` has the columns file, split, label, width, height, x0, y0, x1, y1 (pixels; the last four empty where no box
is known); every further column of numbers is a factor. `python -m training prepare` writes such folders.
"""

import math
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from itertools import zip_longest
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int, UInt8
from pydantic import TypeAdapter
from torch import Tensor

from training.checkpoint import read_card
from training.config import DataConfig
from training.data.tables import DECIMAL_COMMA, read_rows
from training.pictures import Box, PictureError, opened, square_crop, square_mask, square_region
from training.runtime.sharded_random import rand
from training.types import Batch, Boxes, Generator, Image

COLUMNS = ("file", "split", "label", "width", "height", "x0", "y0", "x1", "y1")
"""Columns required in every index."""
NO_FACTORS = {*COLUMNS, "finder_confidence"}
"""Numeric columns that are not factors of the pictures."""
MEMORY = 2 << 30
"""Sets with more decoded bytes than this are decoded batch by batch."""


@dataclass(frozen=True, slots=True)
class _Row:
    """One line of the index."""

    file: str
    label: str
    width: int
    height: int
    box: Box | None
    sequence: str


@dataclass(frozen=True, slots=True)
class _Decoded:
    """One decoded picture before cropping: bytes, boxes as fractions."""

    image: UInt8[Tensor, "3 side side"]
    box: Float[Tensor, "4"]
    mask: UInt8[Tensor, "1 side side"] | None
    scene: UInt8[Tensor, "3 h w"] | None
    scene_box: Float[Tensor, "4"] | None


class PictureSet:
    """The pictures of one split of a prepared folder.

    The same indices and state of `rng` give the same batch. In a set with boxes, a picture without one gets the whole
    picture as its box.
    """

    def __init__(self, path: Path, config: DataConfig, split: str | None = "train", *, memory: int = MEMORY) -> None:
        """Read the index and, if they fit in `memory` bytes, the pictures of `split` (None: of every split).

        Raises: ValueError for a missing folder, index, column, split or picture.
        """
        self.path = path
        self.config = config
        rows, columns = _read_index(path, split)
        self._rows = rows
        self.has_boxes = any(row.box is not None for row in rows)
        self.has_masks = all((path / "masks" / f"{Path(row.file).stem}.png").is_file() for row in rows)
        self.label_names: tuple[str, ...] = tuple(sorted({row.label for row in rows}))
        """Names of the numbers in `labels`."""
        number = {name: i for i, name in enumerate(self.label_names)}
        self.labels: Int[Tensor, " n"] = torch.tensor([number[row.label] for row in rows])
        """The label of each picture, as an index into `label_names`."""
        self.factors: dict[str, Tensor] = columns
        """Further numeric columns of the index by name, float64 `(n,)`; NaN where a cell is empty."""
        self.sequences: tuple[str, ...] = tuple(row.sequence for row in rows)
        """The film that each picture is a frame of, by the column `sequence`; "" for none."""
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="pictures")
        self._memory: list[_Decoded] | None = None
        if len(rows) * _bytes_a_picture(config, self.has_masks) <= memory:
            self._memory = list(self._pool.map(self._decode, range(len(rows))))

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def files(self) -> tuple[str, ...]:
        """Return the pictures' file names, relative to the folder `images`."""
        return tuple(row.file for row in self._rows)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Return a training batch: randomly cropped and mirrored; under torchrun this process's rows of it."""
        n = len(indices)
        flip = rand(n, rng=rng) < 0.5 if self.config.flip else torch.zeros(n, dtype=torch.bool)
        place = rand(n, self._numbers, rng=rng)
        return self._assemble(indices, flip, place)

    def get(self, indices: Sequence[int]) -> Batch:
        """Return an evaluation batch, not mirrored: cropped in the centre, or, with `jitter_size`, each picture at a
        place and size of its own, always the same."""
        n = len(indices)
        place = torch.full((n, self._numbers), 0.5)
        if self.config.jitter_size:
            drawn = [torch.rand(self._numbers, generator=torch.Generator().manual_seed(int(i))) for i in indices]
            place = torch.stack(drawn) if drawn else place
        return self._assemble(indices, torch.zeros(n, dtype=torch.bool), place)

    @property
    def _numbers(self) -> int:
        """Return how many numbers in [0, 1) choose a picture's crops: offsets (x, y) in it and in its scene, size."""
        return 5 if self.config.jitter_size else 4

    def batches(self, n: int | None = None, size: int = 64) -> Iterator[Batch]:
        """Yield the set once as evaluation batches: all of it, or `n` pictures evenly spread over it.

        Raises: ValueError if it has fewer than `n`.
        """
        n = len(self) if n is None else n
        if n > len(self):
            raise ValueError(f"{self.path} has {len(self)} pictures in this split, {n} were asked for; ask for fewer")
        chosen = [i * len(self) // n for i in range(n)]
        for start in range(0, n, size):
            yield self.get(chosen[start : start + size])

    def pictures(self, n: int | None = None) -> Image:
        """Return `batches(n)` as one tensor of pictures."""
        return torch.cat([batch.image for batch in self.batches(n)])

    def _assemble(self, indices: Sequence[int], flip: Bool[Tensor, " n"], place: Float[Tensor, "n _"]) -> Batch:
        """Return a batch; `place` in [0, 1] is the relative offset of the crop in the larger picture, then its size."""
        if len(indices) == 0:
            raise ValueError("got a batch of no pictures; give at least one index")
        indices = [int(i) for i in indices]
        if self._memory is not None:
            decoded = [self._memory[i] for i in indices]
        else:
            decoded = list(self._pool.map(self._decode, indices))
        size, n = self.config.size, len(indices)
        whole = decoded[0].image.shape[-1]
        cut = size + (place[:, 4:] * (whole - size)).round().long() if self.config.jitter_size else size
        corners = (place[:, :2] * (whole - cut)).round().long().tolist()
        image = _float(_cut([item.image for item in decoded], corners, cut, size), flip)
        sides = torch.tensor([whole] * 2).expand(n, 2)
        box = _boxes(torch.stack([item.box for item in decoded]), sides, corners, cut, flip)
        mask = scene = scene_box = None
        if self.has_masks:
            masks = _cut([item.mask for item in decoded if item.mask is not None], corners, cut, size)
            mask = _mirror(masks, flip).float().div_(255)
        if self.config.scene:
            views = [item.scene for item in decoded if item.scene is not None]
            sides = torch.tensor([[view.shape[2], view.shape[1]] for view in views])
            side = _scene_size(self.config)
            corners = (place[:, 2:4] * (sides - side)).round().long().tolist()
            scene = _float(_cut(views, corners, side, side), flip)
            boxes = torch.stack([item.scene_box for item in decoded if item.scene_box is not None])
            scene_box = _boxes(boxes, sides, corners, side, flip)
        return Batch(
            image=image,
            box=box if self.has_boxes else None,
            scene=scene,
            scene_box=scene_box if self.has_boxes else None,
            mask=mask,
            index=tuple(indices),
        )

    def _decode(self, i: int) -> _Decoded:
        """Return picture `i`, read and resized."""
        row, config = self._rows[i], self.config
        picture = _read(self.path / "images" / row.file, "RGB")
        box = row.box or (0.0, 0.0, 1.0, 1.0)
        around = row.box if config.object_margin is not None else None
        margin = config.object_margin or 1.0
        side = _stored_side(config.size, config)
        region = square_region(*picture.size, around, margin=margin)
        mask = object_mask = None
        if self.has_masks:
            shown = _read(self.path / "masks" / f"{Path(row.file).stem}.png", "L")
            if shown.size != picture.size:
                raise ValueError(f"the mask of {row.file} in {self.path} is {shown.size}, its picture {picture.size}")
            mask = _resized(square_mask(shown, around, margin=margin), (side, side))[None]
            object_mask = np.asarray(shown) > 127
        scene = scene_box = None
        if config.scene:
            short, least = min(picture.size), _stored_side(_scene_size(config), config)
            width, height = (max(least, round(edge * least / short)) for edge in picture.size)
            scene = _resized(picture, (width, height)).permute(2, 0, 1).contiguous()
            scene_box = torch.tensor(box)
        square = _resized(square_crop(picture, around, margin=margin, mask=object_mask), (side, side))
        return _Decoded(
            image=square.permute(2, 0, 1).contiguous(),
            box=_box_in(box, picture.size, region),
            mask=mask,
            scene=scene,
            scene_box=scene_box,
        )


def _scene_size(config: DataConfig) -> int:
    """Return the side of the scenes in training batches."""
    return config.scene_size or config.size


def _stored_side(size: int, config: DataConfig) -> int:
    """Return the (shorter) side at which pictures are stored before they are cropped to `size`: larger by the
    jitter."""
    return int(size * (1 + config.jitter))


def _bytes_a_picture(config: DataConfig, masks: bool) -> int:
    """Return the approximate size of a decoded picture in bytes."""
    of_scene = config.scene * _stored_side(_scene_size(config), config) ** 2 * 4
    return _stored_side(config.size, config) ** 2 * (4 if masks else 3) + of_scene


def _read(path: Path, mode: str) -> PIL.Image.Image:
    """Return a picture of a prepared set, decoded."""
    try:
        with opened(path) as picture:
            return picture.convert(mode)
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise PictureError(f"{path} cannot be read ({error}); prepare the set again") from error


def _resized(picture: PIL.Image.Image, size: tuple[int, int]) -> UInt8[Tensor, "..."]:
    """Return a picture's bytes at `size` (width, height), antialiased."""
    if picture.size != size:
        picture = picture.resize(size, PIL.Image.Resampling.BICUBIC)
    return torch.from_numpy(np.array(picture))


def _box_in(box: Box, size: tuple[int, int], region: tuple[int, int, int]) -> Float[Tensor, "4"]:
    """Return a box, in fractions of a picture of `size`, in fractions of the square `region` (left, top, side)."""
    left, top, side = region
    pixels = torch.tensor(box) * torch.tensor([*size, *size])
    return ((pixels - torch.tensor([left, top, left, top])) / side).clamp(0, 1)


def _cut(
    views: list[Tensor], corners: list[list[int]], cut: int | Int[Tensor, "n 1"], size: int
) -> UInt8[Tensor, "n channels size size"]:
    """Return the square of side `cut` at each view's corner (x, y), brought to `size`, antialiased."""
    if all(view.shape[1] == view.shape[2] == size for view in views):
        return torch.stack(views)
    result, edges = [], [cut] * len(views) if isinstance(cut, int) else cut[:, 0].tolist()
    for view, (x, y), side in zip(views, corners, edges, strict=True):
        square = view[:, y : y + side, x : x + side]
        if side != size:
            square = F.interpolate(square[None], size=(size, size), mode="bilinear", antialias=True)[0]
        result.append(square)
    return torch.stack(result)


def _mirror(pixels: UInt8[Tensor, "n channels h w"], flip: Bool[Tensor, " n"]) -> UInt8[Tensor, "n channels h w"]:
    """Return pictures, those where `flip` is true mirrored left to right."""
    if not flip.any():
        return pixels
    return torch.where(flip[:, None, None, None], pixels.flip(-1), pixels)


def _float(pixels: UInt8[Tensor, "n 3 h w"], flip: Bool[Tensor, " n"]) -> Image:
    """Return bytes as float pictures in [-1, 1]."""
    return _mirror(pixels, flip).float().div_(127.5).sub_(1)


def _boxes(
    boxes: Boxes,
    sides: Int[Tensor, "n 2"],
    corners: list[list[int]],
    size: int | Int[Tensor, "n 1"],
    flip: Bool[Tensor, " n"],
) -> Boxes:
    """Return boxes of views with `sides` (width, height) as boxes of the squares cut at `corners`, mirrored too."""
    corner = torch.tensor(corners).repeat(1, 2)
    cut = ((boxes * sides.repeat(1, 2) - corner) / size).clamp(0, 1)
    mirrored = torch.stack([1 - cut[:, 2], cut[:, 1], 1 - cut[:, 0], cut[:, 3]], 1)
    return torch.where(flip[:, None], mirrored, cut)


def splits_of(path: Path) -> list[str]:
    """Return the names of a prepared set's splits. Raises: ValueError if it has no whole index."""
    return sorted({line["split"] for line in _lines_of(path)[0]})


def _lines_of(path: Path) -> tuple[list[dict[str, str]], list[str]]:
    """Return the lines of a set's index, and the names of its columns."""
    index = path / "index.csv"
    if not index.is_file():
        raise ValueError(
            f"{path} is no prepared set: it has no index.csv; make one with `python -m training prepare photos`"
        )
    (names, *rows), separator, _ = read_rows(index, ", ".join(COLUMNS))
    names = [name.strip() for name in names]
    if missing := [name for name in COLUMNS if name not in names]:
        raise ValueError(
            f"{index} lacks the column {', '.join(missing)}; prepare the set again, or save it in UTF-8 with commas"
        )
    if separator != ",":  # from a spreadsheet, whose numbers may have decimal commas
        rows = [[v.replace(",", ".") if DECIMAL_COMMA.fullmatch(v) else v for v in row] for row in rows]
    return [dict(zip_longest(names, row[: len(names)], fillvalue="")) for row in rows], names


def _read_index(path: Path, split: str | None) -> tuple[list[_Row], dict[str, Tensor]]:
    """Return the lines of a set's index that belong to `split`, and their columns of factors."""
    index, (lines, names) = path / "index.csv", _lines_of(path)
    splits = sorted({line["split"] for line in lines})
    lines = [line for line in lines if split is None or line["split"] == split]
    if not lines:
        raise ValueError(f"{index} has no pictures in the split {split!r}; it has {', '.join(splits) or 'none at all'}")
    rows = [_row(index, number, line) for number, line in enumerate(lines)]
    factors: dict[str, Tensor] = {}
    for name in names:
        if name not in NO_FACTORS:
            numbers = [_number(line[name]) for line in lines]
            known = [value is not None or not line[name] for value, line in zip(numbers, lines, strict=True)]
            if all(known) and any(value is not None for value in numbers):
                values = [math.nan if value is None else value for value in numbers]
                factors[name] = torch.tensor(values, dtype=torch.float64)
    return rows, factors


def _row(index: Path, number: int, line: dict[str, str]) -> _Row:
    """Return one line of an index, checked."""
    try:
        width, height = int(line["width"]), int(line["height"])
        edges = [float(line[name]) for name in ("x0", "y0", "x1", "y1") if line[name]]
        if edges and len(edges) != 4:
            raise ValueError("a box needs all of x0, y0, x1, y1")
    except (TypeError, ValueError) as error:
        raise ValueError(f"{index}: the line of {line['file'] or number} is not right: {error}") from error
    box = None
    if edges:
        x0, y0, x1, y1 = edges
        box = (x0 / width, y0 / height, x1 / width, y1 / height)
    return _Row(line["file"], line["label"], width, height, box, line.get("sequence", ""))


def _number(text: str | None) -> float | None:
    """Return a number, or None where the text is none."""
    try:
        value = float(text or "")
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def evaluation_data(checkpoint: Path, generator: Generator) -> DataConfig:
    """Return the config of the generator's training data, from its card; pictures are not mirrored."""
    stored = read_card(checkpoint).get("config", {}).get("data", {})
    config = TypeAdapter(DataConfig).validate_python(stored) if stored else DataConfig()
    return replace(config, size=generator.resolution, scene=False, flip=False)
