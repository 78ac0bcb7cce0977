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
    film = client.predict(*around, 36, 20, "256 pixels", "MP4", api_name="/film")  # the path of the file
"""

import base64
import functools
import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, no_type_check

import gradio as gr

from demo import orders, recipes, uploads
from demo.audience import Audience
from demo.describe import describe
from demo.examples import examples_of
from demo.export import layer_png, open_raster, parts
from demo.files import Files, Visitor, server_folder
from demo.models import Model, Models
from demo.orders import Plan
from demo.recipes import PictureRecipe, Slot
from demo.routes import sentence
from demo.turns import NOBODY
from demo.unlike import kind_of, known_of, unlike_of
from training.pictures import Box, from_pil, to_pil

MAX_PHOTOS = 8
"""Example photos of a sheet at most."""


def friendly(event: Callable[..., Any]) -> Callable[..., Any]:
    """Turn a mistake into the one sentence that Gradio shows; anything unforeseen stays an error of the server's."""

    @functools.wraps(event)
    @no_type_check  # a checker's wrapper would hide from Gradio that this is a generator
    def generator(*arguments: Any, **named: Any) -> Iterator[Any]:
        try:
            yield from event(*arguments, **named)
        except ValueError as error:
            raise _gradio_error(error) from error

    @functools.wraps(event)
    def function(*arguments: Any, **named: Any) -> Any:
        try:
            return event(*arguments, **named)
        except ValueError as error:
            raise _gradio_error(error) from error

    vars(generator).pop("__no_type_check__", None)  # by which Gradio's search for gr.Request would see no annotations
    return generator if inspect.isgeneratorfunction(inspect.unwrap(event)) else function


def _gradio_error(error: ValueError) -> gr.Error:
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
        data, bounds = _photo(photo), _box(box)
        if not isinstance(checkpoint, str):
            raise ValueError("the checkpoint is not a text; give the name of one")
        model = self.known[checkpoint]
        visitor = _visitor(request)
        cut = self.known.open(uploads.cut, model, data, "the photo", bounds, visitor=visitor).result()
        image = from_pil(cut.crop)
        codes = self.known.run(recipes.read, model, image, visitor=visitor)
        kind = self.known.open(kind_of, cut.crop, visitor=visitor).result()
        known = self.known.open(known_of, model, visitor=visitor).result()
        unlike = self.known.run(unlike_of, model, image, kind, known, visitor=visitor)
        return uploads.Photo(cut=cut, codes=codes, unlike=unlike).values()

    def models(self) -> list:  # type: ignore[type-arg]
        """Return what can be turned: name, knobs with their ranges and defaults, layers, examples."""
        return [self.known.run(describe, model) for model in self.known]

    def film(
        self,
        recipe: str | None,
        kept_a: str | None,
        kept_b: str | None,
        story: str | None,
        knob: str | None,
        frames: float | None,
        fps: float | None,
        width: str | None,
        kind: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008 (Gradio finds its progress bar by this default)
    ) -> Iterator[Any]:
        """Make a film; recipes as JSON text, `story` one of "One knob", "Once around" and "From A to B"."""
        form = orders.width_of(width or ""), orders.kind_of(kind or ""), int(_number(fps, "fps"))
        now, kept = None if story == orders.A_TO_B else recipes.parse(recipe), (_kept(kept_a), _kept(kept_b))
        chosen = story or "", knob or "", _number(frames, "frames")
        plan = orders.film(self.known, now, kept, *chosen, *form, self._awaited(request))
        yield from self._made(plan, request, progress)

    def grid(
        self,
        recipe: str | None,
        across: str | None,
        down: str | None,
        photos: float | None,
        width: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        """Make a sheet of mixes over the first examples: one slot changes along a row, another from row to row."""
        now, most = recipes.parse(recipe), int(_number(photos, "photos"))
        model = self.known[now.checkpoint]
        self._awaited(request)
        slots = [self._slot(model, i) for i in range(min(most, MAX_PHOTOS, len(examples_of(model))))]
        form = across or "", down or "", slots, orders.width_of(width or "")
        yield from self._made(orders.sheet(self.known, now, *form), request, progress)

    def follow(
        self,
        recipe: str | None,
        video: str | None,
        frames: float | None,
        fps: float | None,
        width: str | None,
        kind: str | None,
        request: gr.Request,
        progress: gr.Progress = gr.Progress(),  # noqa: B008
    ) -> Iterator[Any]:
        """Make a film whose pose follows a video."""
        form = orders.width_of(width or ""), orders.kind_of(kind or ""), int(_number(fps, "fps"))
        count = _number(frames, "frames")
        if not video:
            raise ValueError("no video is chosen; choose an MP4 or WebM file")
        sent = self.files.may(_visitor(request), str(video))
        if sent is None:
            raise ValueError("this video was not sent by you; choose it again")
        self._awaited(request)
        plan = orders.follow(self.known, recipes.parse(recipe), sent, count, *form)
        yield from self._made(plan, request, progress)

    def _awaited(self, request: gr.Request) -> Visitor:
        """Return who asks. Raises: ValueError if nobody comes to fetch what an event makes."""
        if self.audience is not None and not self.audience.comes(request.session_hash or ""):
            raise ValueError("nobody fetched this in time; ask for the event's answers as soon as it is started")
        return _visitor(request)

    def _made(self, plan: Plan, request: gr.Request, progress: gr.Progress) -> Iterator[Any]:
        """Draw a plan, telling how far it is, then give the file's path."""
        for step in orders.drawing(self.known, self.files, _visitor(request), plan):
            if isinstance(step, Path):
                yield str(step)
                return
            progress((step, len(plan.frames)), desc="Drawing", unit="frames")
            yield gr.skip()  # a place to be stopped at

    def _drawn(self, recipe: Any, request: gr.Request | None) -> tuple[PictureRecipe, Any]:
        parsed, visitor = recipes.parse(recipe), _visitor(request)
        model = self.known[parsed.checkpoint]
        known = self.known.run(recipes.sealed, model, parsed, visitor=visitor)
        layers = self.known.run(recipes.layers_of, model, known, visitor=visitor, finer=model.finer(known.size))
        return known, layers

    def _slot(self, model: Model, place: int) -> Slot:
        example = examples_of(model)[place]
        cut = uploads.cut(model, example.path.read_bytes(), example.caption, example.box)
        return Slot(picture=base64.b64encode(recipes.png(cut.crop)).decode())


def _visitor(request: gr.Request | None) -> Visitor:
    """Return who asked for an event, as the guard found."""
    if request is None or request.request is None:
        return NOBODY
    return getattr(request.request.state, "visitor", NOBODY)


def _kept(text: str | None) -> PictureRecipe | None:
    return recipes.parse(text) if text else None


def _number(value: Any, name: str) -> float:
    """Return a number that was sent. Raises: ValueError if it is none, or of no use."""
    if not isinstance(value, int | float) or not -orders.MOST_NUMBER <= value <= orders.MOST_NUMBER:
        raise ValueError(f"{name} is not a number that can be used here; give another")
    return value


def _photo(text: Any) -> bytes:
    """Return the file that was sent as base64 text. Raises: ValueError if it is no such text."""
    try:
        return base64.b64decode(text, validate=True)
    except (ValueError, TypeError) as error:
        raise ValueError("the photo is not base64 text; encode the file's bytes") from error


def _box(edges: Any) -> Box | None:
    """Return a box that was sent, None for none. Raises: ValueError if it is not four numbers."""
    if edges is None:
        return None
    if not isinstance(edges, list | tuple) or len(edges) != 4:
        raise ValueError("the box is not four numbers; give x0, y0, x1, y1 as fractions of the photo")
    x0, y0, x1, y1 = (_number(edge, "an edge of the box") for edge in edges)
    return x0, y0, x1, y1
