"""What Gradio's events and its HTTP interface run: pictures, layers, photos, films and sheets, all from recipes.

With Gradio's client, while `python -m demo` runs:

    import base64, json
    from gradio_client import Client

    client = Client("http://127.0.0.1:7860")
    models = client.predict(api_name="/models")
    recipe = {"checkpoint": models[0]["name"], "knobs": {"rotation": 120}}
    made = client.predict(recipe, api_name="/render")
    picture = base64.b64decode(made["png"])  # a PNG file with its recipe inside
    again = client.predict(made["recipe"], api_name="/render")  # the same picture, bit for bit
    layers = client.predict(recipe, api_name="/layers")  # foreground, mask, depth, ... and all of them in "ora"

    photo = client.predict("mixnmatch-cars-64", base64.b64encode(picture).decode(), None, api_name="/read_photo")
    slot = {"picture": photo["picture"], "codes": photo["codes"], "strength": 0.5}
    mix = client.predict({"checkpoint": "mixnmatch-cars-64", "slots": {"texture": slot}}, api_name="/render")

    around = [json.dumps(recipe), "", "", "Once around", None]
    film = client.predict(*around, 36, 20, "256 pixels", "MP4", api_name="/film")
"""

import base64
import functools
import inspect
from collections.abc import Callable, Iterator, Sequence
from typing import Any, get_args, no_type_check

import gradio as gr

from demo import films, recipes, uploads
from demo.audience import Audience
from demo.describe import describe
from demo.examples import examples_of
from demo.export import layer_png, open_raster, parts
from demo.files import Files, Visitor, server_folder
from demo.films import Frame, Kind
from demo.models import Model, Models
from demo.recipes import PictureRecipe, Slot
from demo.routes import sentence
from demo.turns import NOBODY
from training.pictures import from_pil, to_pil

ONE_KNOB, AROUND, A_TO_B = "One knob", "Once around", "From A to B"
NOTHING = "Nothing"
MAX_PHOTOS = 8
WIDEST = 512
"""Side in pixels of a film's pictures at most."""


def friendly(event: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a mistake into the one sentence that Gradio shows; anything unforeseen stays an error of the server's."""

    @functools.wraps(event)
    @no_type_check  # a checker's wrapper would hide from Gradio that this is a generator
    def generator(*arguments: Any, **named: Any) -> Iterator[Any]:
        try:
            yield from event(*arguments, **named)
        except ValueError as error:
            raise _said(error) from error

    @functools.wraps(event)
    def function(*arguments: Any, **named: Any) -> Any:
        try:
            return event(*arguments, **named)
        except ValueError as error:
            raise _said(error) from error

    vars(generator).pop("__no_type_check__", None)  # by which Gradio's search for gr.Request would see no annotations
    return generator if inspect.isgeneratorfunction(inspect.unwrap(event)) else function


def _said(error: ValueError) -> gr.Error:
    return gr.Error(sentence(error), print_exception=False, title="Please check")


class Events:
    """The functions behind the buttons, over the generators."""

    def __init__(self, models: Models, files: Files | None = None, audience: Audience | None = None) -> None:
        """Take the registry of visitors' files, and who listens: with `audience`, nothing is drawn for nobody."""
        self.known = models
        self.files = files or Files(server_folder())
        self.audience = audience

    def render(self, recipe: dict, request: gr.Request | None = None) -> dict:  # type: ignore[type-arg]
        """Return {"png", "recipe"}: the picture as a PNG file in base64, and the recipe that makes it again."""
        known, layers = self._drawn(recipe, request)
        data = recipes.png(to_pil(layers.image)[0], known)
        return {"png": base64.b64encode(data).decode(), "recipe": known.model_dump(mode="json")}

    def layers(self, recipe: dict, request: gr.Request | None = None) -> dict:  # type: ignore[type-arg]
        """Return every layer by name as a PNG file in base64, and all in one OpenRaster file as "ora"."""
        known, layers = self._drawn(recipe, request)
        names = dict.fromkeys(["image", "foreground", *parts(layers)])
        files = {name: layer_png(layers, name, known) for name in names} | {"ora": open_raster(layers, known)}
        return {name: base64.b64encode(data).decode() for name, data in files.items()}

    def read_photo(  # type: ignore[type-arg]
        self, checkpoint: str, photo: str, box: list[float] | None = None, request: gr.Request | None = None
    ) -> dict:
        """Return {"picture", "view", "box", "codes"} of a photo, a file in base64; picture and codes fill a slot."""
        try:
            data = base64.b64decode(photo, validate=True)
        except ValueError as error:
            raise ValueError("the photo is not base64 text; encode the file's bytes") from error
        if box is not None and len(box) != 4:
            raise ValueError(f"the box has {len(box)} numbers; wanted x0, y0, x1, y1 as fractions of the photo")
        model = self.known[checkpoint]
        bounds = None if box is None else (box[0], box[1], box[2], box[3])
        visitor = _visitor(request)
        view, found, crop = self.known.open(uploads.cut, model, data, "the photo", bounds, visitor=visitor).result()
        codes = self.known.run(recipes.read, model, from_pil(crop), visitor=visitor)
        return uploads.Photo(view=view, box=found, crop=crop, codes=codes).values()

    def models(self) -> list:  # type: ignore[type-arg]
        """Return what can be turned: name, knobs with their ranges and defaults, layers, examples."""
        return [self.known.run(describe, model) for model in self.known]

    def film(
        self,
        recipe: str,
        kept_a: str,
        kept_b: str,
        story: str,
        knob: str | None,
        frames: float,
        fps: float,
        width: str,
        kind: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds its progress bar by this default)
    ) -> Iterator[Any]:
        """Make a film; recipes as JSON text, `story` one of "One knob", "Once around" and "From A to B"."""
        count = _count(frames)
        start = _kept(kept_a, "A") if story == A_TO_B else recipes.parse(recipe)
        end = _kept(kept_b, "B") if story == A_TO_B else start
        side = _width(width) or None
        finer = self.known[start.checkpoint].finer(side)
        model = self.known[start.checkpoint].at(side if finer else None)

        def plan() -> list[Frame]:
            if story == A_TO_B:
                return films.path(model, start, end, count)
            if story == AROUND:
                return films.turntable(model, start, count)
            if not knob:
                raise ValueError("no knob is chosen; choose one to turn")
            return films.vary(model, start, knob, count)

        name = f"{model.name}-film"
        self._awaited(request)
        drawn = self.known.run(plan, visitor=_visitor(request))
        made = self._made(name, drawn, _kind(kind), _width(width), int(fps), 8, request, progress, finer=finer)
        yield from made

    def grid(
        self,
        recipe: str,
        across: str,
        down: str,
        photos: float,
        width: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        """Make a sheet of mixes over the first examples: one slot changes along a row, another from row to row."""
        now = recipes.parse(recipe)
        model = self.known[now.checkpoint]
        self._awaited(request)
        slots = [self._slot(model, i) for i in range(min(int(photos), MAX_PHOTOS, len(examples_of(model))))]
        if not slots:
            raise ValueError(f"{model.name} has no example photos to mix")
        frames, columns = films.grid(model, now, "" if down == NOTHING else down, across, slots)
        yield from self._made(f"{model.name}-mixes", frames, "png", _width(width), 1, columns, request, progress)

    def follow(
        self,
        recipe: str,
        video: str | None,
        frames: float,
        fps: float,
        width: str,
        kind: str,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        """Make a film whose pose follows a video."""
        if not video:
            raise ValueError("no video is chosen; choose an MP4 or WebM file")
        sent = self.files.may(_visitor(request), str(video))
        if sent is None:
            raise ValueError("this video was not sent by you; choose it again")
        now = recipes.parse(recipe)
        self._awaited(request)
        pictures = films.photos_of(sent, _count(frames))
        model = self.known[now.checkpoint]
        plan = films.follow(model, now, pictures)
        yield from self._made(f"{model.name}-film", plan, _kind(kind), _width(width), int(fps), 8, request, progress)

    def _awaited(self, request: gr.Request) -> None:
        """Raise ValueError if nobody comes to fetch what an event makes."""
        if self.audience is not None and not self.audience.comes(request.session_hash or ""):
            raise ValueError("nobody fetched this in time; ask for the event's answers as soon as it is started")

    def _made(
        self,
        name: str,
        plan: Sequence[Frame],
        kind: Kind,
        width: int,
        fps: int,
        columns: int,
        request: gr.Request,
        progress: gr.Progress,
        *,
        finer: bool = False,
    ) -> Iterator[Any]:
        """Run a plan, telling how far it is, then give the updates of a video and a picture, of which one shows it.

        The file is called `name`.
        """
        made, visitor = films.Drawn(len(plan), kind, width), _visitor(request)
        for done, frame in enumerate(plan):
            progress((done, len(plan)), desc="Drawing", unit="pictures")
            made.add(self.known.run(frame, visitor=visitor, finer=finer))
            yield gr.skip(), gr.skip()  # a place to be stopped at
        progress(1.0, desc="Writing")
        target = self.files.place(f"{name}.{kind}")  # where Gradio takes no copy
        films.write_drawn(target, made, kind, fps=min(60, max(1, fps)), columns=columns)
        self.files.own(visitor, target)
        moving = kind == "mp4"
        yield (
            gr.update(value=str(target) if moving else None, visible=moving),
            gr.update(value=None if moving else str(target), visible=not moving),
        )

    def _drawn(self, recipe: Any, request: gr.Request | None) -> tuple[PictureRecipe, Any]:
        parsed, visitor = recipes.parse(recipe), _visitor(request)
        model = self.known[parsed.checkpoint]
        known = self.known.run(recipes.sealed, model, parsed, visitor=visitor)
        layers = self.known.run(recipes.layers_of, model, known, visitor=visitor, finer=model.finer(known.size))
        return known, layers

    def _slot(self, model: Model, place: int) -> Slot:
        example = examples_of(model)[place]
        _, _, crop = uploads.cut(model, example.path.read_bytes(), example.caption, example.box)
        return Slot(picture=base64.b64encode(recipes.png(crop)).decode())


def _visitor(request: gr.Request | None) -> Visitor:
    """Return who asked for an event, as the guard found."""
    if request is None or request.request is None:
        return NOBODY
    return getattr(request.request.state, "visitor", NOBODY)


def _kept(text: str, name: str) -> PictureRecipe:
    if not text:
        raise ValueError(f"{name} is empty; press 'Keep as {name}' first")
    return recipes.parse(text)


def _count(frames: float) -> int:
    if not 2 <= frames <= films.MAX_FRAMES:
        raise ValueError(f"{frames:g} pictures cannot be made at once; wanted 2 to {films.MAX_FRAMES}")
    return int(frames)


def _kind(kind: str) -> Kind:
    chosen = "png" if kind == "Filmstrip" else kind.lower()
    for known in get_args(Kind):
        if chosen == known:
            return known
    raise ValueError(f"films cannot be written as {kind[:20]!r}; wanted MP4, WebP, GIF or Filmstrip")


def _width(width: str) -> int:
    text = width.split()[0] if width else ""
    return min(WIDEST, int(text)) if text.isascii() and text.isdigit() else 0
