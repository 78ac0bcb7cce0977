"""Films, filmstrips and grids: one knob turned, once around, from one state to another, one factor over many photos.

Each maker returns its pictures as jobs for the generators' thread, so that a long film lets live pictures through and
can be stopped between two of its own.
"""

import base64
import math
import tempfile
import threading
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch
from jaxtyping import Float
from torch import Tensor, nn

from demo.files import server_folder
from demo.models import Model
from demo.recipes import PictureRecipe, Slot, codes_of, keeps_outline, layers_of, photo, png, pose_shows, values_of
from training.films import fields_of_both
from training.imaging.video import OF_UPLOADS, Pixels, read_film, write_film
from training.interpolation import interpolate
from training.knob_values import MAX_SEED, Between, Value, changed, turnable, turned
from training.pictures import square_crop, tile_pictures, to_uint8, whole_file
from training.resize import resized
from training.types import Image, Knob

Frame = Callable[[], Image]
"""Makes one picture, (1, 3, h, w)."""
Kind = Literal["mp4", "webp", "gif", "png"]
"""A film, or `png`: all of its pictures on one sheet."""
MAX_FRAMES = 120
MOST_SHEET_PIXELS = 16_000_000
"""Pictures of a sheet of more pixels are made less large."""
VIDEO_SIDE, VIDEO_FPS, VIDEO_SECONDS = 256, 12, 50
"""Of a video to follow, the centre squares are read at this size and pace, up to here."""
WRITING = threading.Lock()


def vary(model: Model, recipe: PictureRecipe, name: str, frames: int) -> list[Frame]:
    """Return a film that turns one knob through its trained range; a full circle closes.

    A seed goes through the codes between it and the three seeds after it, and back.
    Raises: ValueError if the model has no such knob, or one that takes a photo, or the recipe keeps a photo's outline.
    """
    knob = model.generator.knob(name)
    if knob.kind == "picture":
        raise ValueError(f"{knob.label} takes a photo; choose a knob with numbers or seeds")
    codes = _free_codes(model, recipe)
    return [_turned(model, codes, knob, value) for value in _through(knob, values_of(recipe).get(name), frames)]


def _through(knob: Knob, present: Value | None, frames: int) -> list[Value]:
    """Return the values that a knob goes through, one a frame."""
    if knob.kind == "seed":
        first = min(MAX_SEED - 3, present.start if isinstance(present, Between) else int(present or 0))
        places = [4 * i / frames for i in range(frames)]
        return [Between(start=first + int(p), end=first + (int(p) + 1) % 4, at=p - int(p)) for p in places]
    steps = frames if _goes_round(knob) else max(1, frames - 1)
    low, high = knob.extended_range or (knob.low, knob.high)
    return [low + (high - low) * i / steps for i in range(frames)]


def turntable(model: Model, recipe: PictureRecipe, frames: int) -> list[Frame]:
    """Return a film in which the object turns once around, or to and fro where its knob does not go full circle.

    Raises: ValueError if the model has no knob that turns the object.
    """
    knob = next((knob for knob in model.generator.knobs if knob.name in ("rotation", "azimuth")), None)
    if knob is None:
        raise ValueError(f"{model.name} has no knob that turns the object around; choose another film")
    codes = codes_of(model, recipe)
    start = _number(knob, recipe)
    turns = [i / frames for i in range(frames)]
    if _goes_round(knob):
        values = [start + 360 * turn for turn in turns]
    else:
        middle, half = (knob.low + knob.high) / 2, (knob.high - knob.low) / 2
        values = [middle + half * math.sin(2 * math.pi * turn) for turn in turns]
    return [_turned(model, codes, knob, value) for value in values]


def path(model: Model, start: PictureRecipe, end: PictureRecipe, frames: int) -> list[Frame]:
    """Return a film from one state to another: numbers evenly, full circles the short way round, codes in between.

    Raises: ValueError if the two are of different checkpoints, or one keeps a photo's outline.
    """
    if start.checkpoint != end.checkpoint:
        raise ValueError("A and B were made with different checkpoints; keep both from the same one")
    codes = _free_codes(model, start)
    first, last = fields_of_both(codes, _free_codes(model, end))
    numbers = [knob for knob in turnable(model.generator) if knob.kind in ("range", "angle")]
    by_numbers: set[str] = set()
    for knob in numbers:
        by_numbers |= changed(codes, turned(model.generator, codes, knob, _number(knob, start))).keys()
    drawn = [name for name, row in first.items() if row is not None and name not in by_numbers]

    def frame(at: float) -> Image:
        rows = interpolate({name: first[name] for name in drawn}, {name: last[name] for name in drawn}, at)
        now = replace(codes, **rows)
        for knob in numbers:
            low = _number(knob, start)
            way = _number(knob, end) - low
            way = (way + 180) % 360 - 180 if _goes_round(knob) else way
            now = turned(model.generator, now, knob, low + way * at)
        return model.generator(now).image

    return [partial(frame, float(at)) for at in np.linspace(0, 1, frames)]


def grid(
    model: Model, recipe: PictureRecipe, down: str, across: str, photos: Sequence[Slot]
) -> tuple[list[Frame], int]:
    """Return a sheet of mixes and its number of columns: the slot `across` changes along a row, `down` from row to row.

    Photos head rows and columns. Without `down` it is one row.
    Raises: ValueError for slots that are not the model's, one for both, or `pose` where it would repeat one picture.
    """
    size = model.photo_side
    for name in filter(None, (down, across)):
        if model.generator.knob(name).kind != "picture":
            raise ValueError(f"{name} takes no photo; choose a slot")
    if down == across:
        raise ValueError("row and column change the same slot; choose two different ones, or Nothing from row to row")
    blank = torch.ones(1, 3, size, size)
    heads: list[Frame] = [partial(photo, slot, size) for slot in photos]
    sheet: list[Frame] = [lambda: blank, *heads] if down else heads
    for row in photos if down else photos[:1]:
        slots = recipe.slots | ({down: row} if down else {})
        mixes = [recipe.model_copy(update={"slots": slots | {across: column}, "size": None}) for column in photos]
        if "pose" in (down, across) and not pose_shows(model, mixes[0]):
            reason = "the shape's photo gives the pose as well where its outline is kept"
            raise ValueError(f"{reason}, so pose would change nothing; choose another slot")
        sheet += [partial(photo, row, size)] if down else []
        sheet += [partial(_mixed, model, mix) for mix in mixes]
    return sheet, len(photos) + bool(down)


def follow(model: Model, recipe: PictureRecipe, pictures: Sequence[PIL.Image.Image]) -> list[Frame]:
    """Return a film whose pose follows the pictures of a video, each cut to its centre square.

    In feature mode the outline follows as well.
    """
    size = model.photo_side

    def frame(picture: PIL.Image.Image) -> Image:
        square = square_crop(picture, None).resize((size, size), PIL.Image.Resampling.BICUBIC)
        slot = Slot(picture=base64.b64encode(png(square)).decode())
        named = ("pose", "shape") if recipe.mode == "feature" else ("pose",)
        follows = {knob.name: slot for knob in model.generator.knobs if knob.name in named}
        return layers_of(model, recipe.model_copy(update={"slots": recipe.slots | follows, "size": None})).image

    return [partial(frame, picture) for picture in pictures]


def photos_of(video: Path, limit: int) -> list[PIL.Image.Image]:
    """Return at most `limit` pictures, the centre squares of frames evenly spread over a video's first 50 seconds.

    Raises: ValueError (training.imaging.video.FilmError) for a file that is no video, or has frames of too many pixels.
    """
    n = 0
    with tempfile.TemporaryFile(dir=server_folder()) as file:  # in memory, two films at once would take 200 MB
        for frame in read_film(video, OF_UPLOADS, fps=VIDEO_FPS, seconds=VIDEO_SECONDS, square=VIDEO_SIDE):
            file.write(np.ascontiguousarray(frame).data)
            n += 1
        pictures = []
        for place in np.linspace(0, n - 1, min(limit, n)).round().astype(int):
            file.seek(int(place) * VIDEO_SIDE**2 * 3)
            data = file.read(VIDEO_SIDE**2 * 3)
            pictures.append(PIL.Image.frombytes("RGB", (VIDEO_SIDE, VIDEO_SIDE), data))
    return pictures


def enlarged(image: Image, size: int) -> Float[Tensor, "n 3 large large"]:
    """Return pictures at `size` pixels, smooth; as they are if they have more."""
    if size <= image.shape[3]:
        return image
    return nn.functional.interpolate(image, size=(size, size), mode="bicubic", align_corners=False).clamp(-1, 1)


def side_of(n: int, kind: Kind, size: int) -> int:
    """Return the side of each of `n` pictures that are to have `size` pixels: less where a sheet would be too large."""
    return min(size, math.isqrt(MOST_SHEET_PIXELS // max(1, n))) if kind == "png" else size


class Drawn:
    """Frames of a film as they are to be written, kept on disk meanwhile: a long or fine one takes no memory."""

    def __init__(self, n: int, kind: Kind, size: int) -> None:
        """Take how many frames are to come, and the side that smaller ones are enlarged to.

        All get the side of the first; of a sheet that would be too large, less than that.
        """
        self.size = size
        self._side = partial(side_of, n, kind)
        self.shape = (0, 0, 0)
        self._file = tempfile.TemporaryFile(dir=server_folder())  # noqa: SIM115 (closed with the film)
        weakref.finalize(self, self._file.close)
        self._n = 0

    def add(self, image: Image) -> None:
        """Add pictures."""
        side = self.shape[0] or self._side(max(self.size, image.shape[3]))
        if side < image.shape[3]:
            image = resized(image, side)
        for row in to_uint8(enlarged(image, side)).contiguous().numpy():
            self.shape = row.shape
            self._file.write(row.data)
            self._n += 1

    def __len__(self) -> int:
        return self._n

    def __iter__(self) -> Iterator[Pixels]:
        self._file.seek(0)
        for _ in range(self._n):
            data = self._file.read(math.prod(self.shape))
            yield np.frombuffer(data, np.uint8).reshape(self.shape)


def write_drawn(target: Path, drawn: Drawn, kind: Kind, *, fps: int = 20, columns: int = 8) -> None:
    """Write a film, or a sheet with `columns` pictures a row. One is written at a time, which bounds memory."""
    with WRITING, whole_file(target) as temporary:
        if kind != "png":
            write_film(temporary, drawn, len(drawn), fps=fps)
            return
        tile_pictures(map(PIL.Image.fromarray, drawn), len(drawn), columns).save(temporary, "PNG")


def write(target: Path, frames: Image, kind: Kind, *, size: int = 0, fps: int = 20, columns: int = 8) -> None:
    """Write frames as `write_drawn` does."""
    drawn = Drawn(len(frames), kind, size)
    drawn.add(frames)
    write_drawn(target, drawn, kind, fps=fps, columns=columns)


def _mixed(model: Model, recipe: PictureRecipe) -> Image:
    return layers_of(model, recipe).image


def _turned(model: Model, codes: Any, knob: Knob, value: Value) -> Frame:
    return lambda: model.generator(turned(model.generator, codes, knob, value)).image


def _free_codes(model: Model, recipe: PictureRecipe) -> Any:
    """Return a recipe's codes; ValueError where a photo's own outline is drawn, which no code changes."""
    if keeps_outline(recipe):
        raise ValueError("this film turns codes and cannot keep a photo's outline; use the mode 'code'")
    return codes_of(model, recipe)


def _goes_round(knob: Knob) -> bool:
    low, high = knob.extended_range or (knob.low, knob.high)
    return knob.kind == "angle" and high - low >= 360


def _number(knob: Knob, recipe: PictureRecipe) -> float:
    """Return a number knob's value in a recipe; ValueError for a way between seeds."""
    value = recipe.knobs.get(knob.name, knob.default)
    if not isinstance(value, float | int):
        raise ValueError(f"{knob.label} takes a number; give one")
    return float(value)
