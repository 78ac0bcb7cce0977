"""Films and sheets as people order them, and the pictures that they are made of: one plan for the page and for HTTP."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from demo import films, recipes
from demo.files import Files, Visitor
from demo.films import Frame, Kind
from demo.models import Models
from demo.payloads import MOST_PARTS, has_too_many_parts
from demo.recipes import PictureRecipe, Slot

ONE_KNOB, AROUND, A_TO_B = "One knob", "Once around", "From A to B"
NOTHING = "Nothing"
MAX_PHOTOS = 12
"""Photos of a sheet; it has as many rows and columns."""
MAX_ROWS = 24
"""Pictures of a sheet of rows, in each of which one knob is turned."""
MOST_NUMBER = 1_000_000
"""Frames and frames a second that are understood; how many can be made is said of those."""
WIDEST = 512
"""Side in pixels of a film's pictures at most."""


class Order(BaseModel):
    """What the page asks for."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    what: Literal["film", "sheet", "rows", "follow"]
    recipe: dict[str, Any]
    a: dict[str, Any] | None = None
    b: dict[str, Any] | None = None
    story: str = Field(default=ONE_KNOB, max_length=40)
    knob: str = Field(default="", max_length=80)
    frames: int = Field(default=36, ge=0, le=MOST_NUMBER)
    fps: int = Field(default=20, ge=0, le=MOST_NUMBER)
    width: int = Field(default=256, ge=0, le=WIDEST)
    file: str = Field(default="MP4", max_length=20)
    across: str = Field(default="", max_length=80)
    down: str = Field(default="", max_length=80)
    photos: list[Slot] = Field(default=[], max_length=MAX_PHOTOS)
    rows: list[dict[str, Any]] = Field(default=[], max_length=MAX_ROWS)
    video: str = Field(default="", max_length=1000)
    """A file that the visitor sent."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Plan:
    """Pictures to draw, and the file that they become."""

    name: str
    frames: Sequence[Frame]
    kind: Kind
    width: int
    fps: int = 1
    columns: int = 8
    finer: bool = False
    """Whether they are drawn beside the generators' thread."""


def order(data: bytes) -> Order:
    """Return what a request asks for. Raises: ValueError in one sentence."""
    if has_too_many_parts(data):
        raise ValueError(f"this film cannot be made: its order has more than {MOST_PARTS:,} parts; order less at once")
    try:
        return Order.model_validate_json(data)
    except ValidationError as error:
        raise ValueError(f"this film cannot be made: {recipes.complaint(error)}") from error


def plan(models: Models, asked: Order, video: Path | None, visitor: Visitor) -> Plan:
    """Return the plan of the page's order; `video` is the visitor's own file.

    Raises: ValueError for what cannot be drawn.
    """
    recipe = recipes.parse(asked.recipe)
    if asked.what == "sheet":
        return sheet(models, recipe, asked.across, asked.down, asked.photos, asked.width)
    kind = kind_of(asked.file)
    if asked.what == "rows":
        rows = [recipes.parse(row) for row in asked.rows]
        return rows_of(models, rows, asked.knob, asked.frames, asked.width, visitor)
    if asked.what == "follow":
        return follow(models, recipe, video, asked.frames, asked.width, kind, asked.fps)
    a, b = (None if each is None else recipes.parse(each) for each in (asked.a, asked.b))
    return film(models, recipe, (a, b), asked.story, asked.knob, asked.frames, asked.width, kind, asked.fps, visitor)


def film(
    models: Models,
    recipe: PictureRecipe | None,
    kept: tuple[PictureRecipe | None, PictureRecipe | None],
    story: str,
    knob: str,
    frames: float,
    width: int,
    kind: Kind,
    fps: int,
    visitor: Visitor,
) -> Plan:
    """Return a film of one knob, once around, or from A to B."""
    count = count_of(frames)
    width = films.side_of(count, kind, width)
    if story not in (ONE_KNOB, AROUND, A_TO_B):
        raise ValueError(f"there is no film {story[:40]!r}; choose {ONE_KNOB}, {AROUND} or {A_TO_B}")
    if story == A_TO_B:
        for name, each in zip("AB", kept, strict=True):
            if each is None:
                raise ValueError(f"{name} is empty; press 'Keep as {name}' first")
    start, end = kept if story == A_TO_B else (recipe, recipe)
    assert start is not None and end is not None
    finer = models[start.checkpoint].finer(width or None)
    model = models[start.checkpoint].at(width if finer else None)

    def frames_of() -> list[Frame]:
        if story == A_TO_B:
            return films.path(model, start, end, count)
        if story == AROUND:
            return films.turntable(model, start, count)
        if not knob:
            raise ValueError("no knob is chosen; choose one to turn")
        return films.vary(model, start, knob, count)

    drawn = models.run(frames_of, visitor=visitor)
    return Plan(name=f"{model.name}-film", frames=drawn, kind=kind, width=width, fps=fps, finer=finer)


def sheet(models: Models, recipe: PictureRecipe, across: str, down: str, photos: Sequence[Slot], width: int) -> Plan:
    """Return a sheet of mixes: photos change the slot `across` along a row, and `down` from row to row."""
    model = models[recipe.checkpoint]
    if not photos:
        raise ValueError(f"no photo is chosen for the sheet of {model.name}; choose two or more")
    drawn, columns = films.grid(model, recipe, "" if down == NOTHING else down, across, photos[:MAX_PHOTOS])
    return Plan(name=f"{model.name}-mixes", frames=drawn, kind="png", width=width, columns=columns)


def rows_of(
    models: Models, rows: Sequence[PictureRecipe], knob: str, frames: float, width: int, visitor: Visitor
) -> Plan:
    """Return a sheet with a row for each recipe, along which one knob is turned."""
    if not rows:
        raise ValueError("the tray is empty; keep pictures in it first")
    count = count_of(frames)
    width = films.side_of(len(rows) * count, "png", width)
    finer = models[rows[0].checkpoint].finer(width or None)

    def frames_of() -> list[Frame]:
        found = [models[row.checkpoint] for row in rows]
        return [
            frame
            for model, row in zip(found, rows, strict=True)
            for frame in films.vary(model.at(width) if model.finer(width or None) else model, row, knob, count)
        ]

    drawn = models.run(frames_of, visitor=visitor)
    return Plan(name="tray-rows", frames=drawn, kind="png", width=width or 64, columns=count, finer=finer)


def follow(
    models: Models, recipe: PictureRecipe, video: Path | None, frames: float, width: int, kind: Kind, fps: int
) -> Plan:
    """Return a film whose pose follows a video."""
    if video is None:
        raise ValueError("no video is chosen; choose an MP4 or WebM file")
    pictures = films.photos_of(video, count_of(frames))
    model = models[recipe.checkpoint]
    drawn = films.follow(model, recipe, pictures)
    return Plan(name=f"{model.name}-film", frames=drawn, kind=kind, width=width, fps=fps)


def drawing(models: Models, files: Files, visitor: Visitor, made: Plan) -> Iterator[int | Path]:
    """Draw a plan: yield how many pictures are done, one by one, and at last the file, which is its visitor's."""
    drawn = films.Drawn(len(made.frames), made.kind, made.width)
    for done, frame in enumerate(made.frames):
        yield done
        drawn.add(models.run(frame, visitor=visitor, finer=made.finer))
    yield len(made.frames)
    target = files.place(f"{made.name}.{made.kind}")  # where Gradio takes no copy
    films.write_drawn(target, drawn, made.kind, fps=min(60, max(1, made.fps)), columns=made.columns)
    files.own(visitor, target)
    yield target


def count_of(frames: float) -> int:
    """Return the number of pictures of a film; ValueError for too few or too many."""
    if not 2 <= frames <= films.MAX_FRAMES:
        raise ValueError(f"{frames:g} frames cannot be made at once; choose 2 to {films.MAX_FRAMES}")
    return int(frames)


def kind_of(name: str) -> Kind:
    """Return the kind of file by its name on the page."""
    chosen = "png" if name == "Filmstrip" else name.lower()
    for known in get_args(Kind):
        if chosen == known:
            return known
    raise ValueError(f"films cannot be written as {name[:20]!r}; choose MP4, WebP, GIF or Filmstrip")


def width_of(width: str) -> int:
    """Return the side in pixels in the words of the HTTP interface, 0 for the model's own."""
    text = width.split()[0] if width else ""
    return min(WIDEST, int(text)) if text.isascii() and text.isdigit() else 0
