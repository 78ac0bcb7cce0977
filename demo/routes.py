"""The page's own routes: pictures while a knob turns, photos in, files out. Stateless: each request holds its recipe.

Nothing of one visitor is kept for another: a picture is made from what its request says, and nothing is written to
disk. The script's side is `page/live.js`.
"""

import asyncio
import json
import logging
import time
from collections import Counter
from collections.abc import Callable
from functools import partial
from importlib import resources
from typing import Any, TypeVar
from urllib.parse import quote

import fastapi
from fastapi import Request, Response
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse

from demo import recipes, thumbs, uploads
from demo.describe import describe, start_of
from demo.examples import Example, examples_of
from demo.export import layer_png, open_raster, photoshop, quick, strip
from demo.files import Visitor
from demo.knobs import drag_axes
from demo.models import Model, Models
from demo.recipes import PictureRecipe
from demo.turns import NOBODY
from demo.unlike import kind_of, known_of, unlike_of
from training.knob_values import codes_for
from training.pictures import Box, from_pil, to_pil

MAX_RECIPE = 4 * 1000 * 1000
"""Recipes of more bytes are refused; four photos of 256 pixels take a tenth of it."""
MAX_WAITING, MOST_EACH = 128, 32
"""Jobs that may wait at a time, of all and of one visitor; more are asked to try again."""
MAX_FINER, MOST_FINER_EACH = 24, 4
"""The same of finer pictures, each of which takes up to a second."""
STACKS = {"ora": (".ora", "image/openraster"), "psd": (".psd", "image/vnd.adobe.photoshop")}
"""Files of all layers: ending and media type."""
TYPES = {".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}

T = TypeVar("T")
log = logging.getLogger(__name__)


class BusyError(Exception):
    """More pictures are wanted than can be made soon."""


class Routes:
    """The routes over the generators."""

    def __init__(self, models: Models) -> None:
        self.known = models
        self.router = fastapi.APIRouter()
        self._waiting: Counter[tuple[str, bool]] = Counter()
        self._told: list[dict[str, Any]] | None = None
        self._seeds: dict[tuple[str, str], tuple[bytes, list[int]]] = {}
        self._examples: dict[tuple[str, str], bytes] = {}
        add = self.router.add_api_route
        add("/live/models", self.models, methods=["GET"])
        add("/live/picture", self.picture, methods=["POST"])
        add("/live/drag", self.drag, methods=["POST"])
        add("/live/file/{what}", self.file, methods=["POST"])
        add("/live/photo", self.photo, methods=["POST"])
        add("/live/recipe", self.recipe, methods=["POST"])
        add("/live/examples/{model}/{name}", self.example, methods=["GET"])
        add("/live/seeds/{model}/{knob}", self.seeds, methods=["GET"])
        add("/page/{name}", self.page, methods=["GET"])

    async def run(self, request: Request, job: Callable[..., T], *arguments: Any, finer: bool = False) -> T:
        """Run `job` on the generators' thread, or that of finer pictures. Raises: BusyError if too many wait."""
        return await self._awaited(partial(self.known.submit, finer=finer), request, finer, job, *arguments)

    async def open(self, request: Request, job: Callable[..., T], *arguments: Any) -> T:
        """Run a job that opens a photo, beside the generators' thread. Raises: BusyError if too many wait."""
        return await self._awaited(self.known.open, request, False, job, *arguments)

    async def _awaited(self, submit: Callable[..., Any], request: Request, finer: bool, *job: Any) -> Any:
        visitor = visitor_of(request)
        most, most_each = (MAX_FINER, MOST_FINER_EACH) if finer else (MAX_WAITING, MOST_EACH)
        waiting = sum(n for (_, kind), n in self._waiting.items() if kind == finer)
        key = (visitor.id, finer)
        if waiting >= most or self._waiting[key] >= most_each:
            raise BusyError
        self._waiting[key] += 1
        try:
            return await asyncio.wrap_future(submit(*job, visitor=visitor))
        finally:
            self._waiting[key] -= 1
            if not self._waiting[key]:
                del self._waiting[key]

    async def models(self, request: Request) -> Response:
        """Answer what can be turned on this page."""
        if self._told is None:
            self._told = [await self.run(request, describe, model) for model in self.known]
        return JSONResponse(self._told, headers={"Cache-Control": "no-store"})

    async def picture(self, request: Request, size: int | None = None) -> Response:
        """Answer a recipe with its layers side by side, `size` pixels high whatever the recipe says; without it as
        high as the generator's own pictures. The header says how long the generator took."""

        def job(recipe: PictureRecipe) -> tuple[bytes, str, float]:
            start = time.perf_counter()
            shown = strip(recipes.layers_of(self.known[recipe.checkpoint], recipe))
            milliseconds = 1000 * (time.perf_counter() - start)
            return *quick(shown), milliseconds

        recipe = recipes.resized(await self._recipe(request), size)
        finer = self.known[recipe.checkpoint].finer(size)
        data, kind, milliseconds = await self.run(request, job, recipe, finer=finer)
        headers = {"X-Milliseconds": f"{milliseconds:.1f}", "Cache-Control": "no-store"}
        return Response(data, media_type=kind, headers=headers)

    async def drag(self, request: Request, right: float = 0.0, up: float = 0.0) -> Response:
        """Answer how far knobs turn when the object at a point is pulled (`demo.knobs.drag_axes`)."""

        def job(recipe: PictureRecipe) -> dict[str, tuple[float, float]]:
            generator = self.known[recipe.checkpoint].generator
            values = recipes.values_of(recipe)
            return drag_axes(generator, codes_for(generator, recipe.seed, values), (right, up))

        return JSONResponse(await self.run(request, job, await self._recipe(request)))

    async def file(self, what: str, request: Request) -> Response:
        """Answer a recipe with a file: `ora`, or the layer's name for a PNG."""
        recipe = await self._recipe(request)
        model = self.known[recipe.checkpoint]
        known = await self.run(request, recipes.sealed, model, recipe)

        def job() -> bytes:
            layers = recipes.layers_of(model, known)
            if what == "ora":
                return open_raster(layers, known)
            if what == "psd":
                return photoshop(layers)
            if what == "image":
                return recipes.png(to_pil(layers.image)[0], known)
            return layer_png(layers, what, known)

        data = await self.run(request, job, finer=model.finer(known.size))
        ending, kind = STACKS.get(what, (".png", "image/png"))
        name = recipe.checkpoint if what in STACKS else f"{recipe.checkpoint}-{what}"
        headers = {"Content-Disposition": f"attachment; filename*=UTF-8''{quote(name + ending)}"}
        return Response(data, media_type=kind, headers=headers)

    async def photo(
        self, request: Request, model: str, name: str = "", box: str = "", example: str = "", find: bool = False
    ) -> Response:
        """Answer a photo, the request's body or one of the examples, with what the generator sees and reads.

        Without a box it is the example's own, or found as the generator needs it; `find` looks for the object anyhow.
        """
        chosen = self.known[model]
        bounds = box_of(box)
        if example:
            shown = _example(chosen, example)
            data, name = shown.path.read_bytes(), shown.caption
            bounds = bounds if bounds or find else shown.box
        else:
            data = await body_of(request, uploads.MAX_BYTES, uploads.too_large("please choose a smaller one"))
        name = " ".join(name.split())[:60]
        cut = await self.open(request, partial(uploads.cut, chosen, data, name, bounds, find=find))
        image = from_pil(cut.crop)
        codes = await self.run(request, recipes.read, chosen, image)
        unlike = "" if example else await self.unlike(request, chosen, cut)
        photo = uploads.Photo(cut=cut, codes=codes, unlike=unlike)
        return JSONResponse(photo.values(), headers={"Cache-Control": "no-store"})

    async def unlike(self, request: Request, model: Model, cut: uploads.Cut) -> str:
        """Return a sentence for a photo of another kind than the model's, empty for others. Raises: BusyError."""
        kind, known = await self.open(request, kind_of, cut.crop), await self.open(request, known_of, model)
        return await self.run(request, unlike_of, model, from_pil(cut.crop), kind, known)

    async def recipe(self, request: Request, name: str = "") -> Response:
        """Answer a file that this page saved with the recipe in it, completed and checked, and a note if it differs."""
        data = await body_of(request, uploads.MAX_BYTES, uploads.too_large("it was not saved on this page"))
        found = await self.open(request, recipes.from_file, data, " ".join(name.split())[:60])
        model = self.known.of(found.checkpoint, found.sha256)
        note = ""
        if found.sha256 and found.sha256 != model.sha256:
            note = f"It was made with another version of {model.name}, so the picture may differ."
        sealed = await self.run(request, recipes.sealed, model, found)
        await self.run(request, recipes.codes_of, model, sealed)
        return JSONResponse({"recipe": json.loads(recipes.to_json(sealed)), "note": note})

    async def example(self, model: str, name: str, request: Request) -> Response:
        """Answer an example photo, as the generator sees it."""
        chosen = self.known[model]
        shown = _example(chosen, name)
        if (model, name) not in self._examples:
            cut = partial(uploads.cut, chosen, shown.path.read_bytes(), shown.caption, shown.box)
            self._examples[model, name] = recipes.png((await self.open(request, cut)).crop)
        data = self._examples[model, name]
        return Response(data, media_type="image/png", headers={"Cache-Control": "max-age=3600"})

    async def seeds(self, model: str, knob: str, request: Request) -> Response:
        """Answer small pictures of seeds that differ from each other, side by side; the header X-Seeds names them."""
        chosen = self.known[model]
        if (model, knob) not in self._seeds:
            recipe, drawn = PictureRecipe(checkpoint=model, knobs={**start_of(chosen)}), []
            for seed in thumbs.candidates(chosen, knob):
                drawn.append(await self.run(request, thumbs.thumb, chosen, recipe, knob, seed))
            self._seeds[model, knob] = await asyncio.to_thread(thumbs.most_different, drawn)
        data, seeds = self._seeds[model, knob]
        headers = {"X-Seeds": ",".join(map(str, seeds)), "Cache-Control": "max-age=3600"}
        return Response(data, media_type="image/webp", headers=headers)

    async def page(self, name: str) -> Response:
        """Answer one of the page's own scripts or its style sheet."""
        ending = name[name.rfind(".") :]
        found = resources.files("demo").joinpath("page", name)
        if ending not in TYPES or "/" in name or not found.is_file():
            return Response(status_code=404)
        return Response(found.read_bytes(), media_type=TYPES[ending], headers={"Cache-Control": "no-cache"})

    async def _recipe(self, request: Request) -> PictureRecipe:
        """Return the recipe in a request's body."""
        refusal = "this recipe is larger than 4 MB; choose smaller photos"
        return recipes.parse(await body_of(request, MAX_RECIPE, refusal))


async def error_response(request: Request, error: Exception) -> Response:
    """Answer a mistake with its one sentence, anything unforeseen with another and a line in the log."""
    if isinstance(error, ValueError):
        return JSONResponse({"message": sentence(error)}, status_code=422)
    if isinstance(error, BusyError):
        return JSONResponse({"message": "Many people are here just now; please try again."}, status_code=503)
    log.error("%s %s failed", request.method, request.url.path, exc_info=error)
    return JSONResponse({"message": "Something went wrong here; please try again."}, status_code=500)


async def invalid_response(request: Request, error: Exception) -> Response:
    """Answer values of the wrong kind with where they stand; FastAPI itself would send them all back."""
    problem = recipes.complaint(error) if isinstance(error, RequestValidationError) else "this request cannot be read"
    message = sentence(ValueError(problem))[:200]
    return JSONResponse({"message": message, "detail": message}, status_code=422)


def sentence(error: ValueError) -> str:
    """Return a mistake's message with a capital and a full stop."""
    text = str(error).rstrip(".") + "."
    return text[:1].upper() + text[1:]


def visitor_of(request: Request) -> Visitor:
    """Return who asks, as the guard found."""
    return getattr(request.state, "visitor", NOBODY)


async def body_of(request: Request, limit: int, refusal: str) -> bytes:
    """Return a request's body; ValueError with `refusal` as soon as it is longer than `limit` bytes."""
    parts, length = [], 0
    async for part in request.stream():
        length += len(part)
        if length > limit:
            raise ValueError(refusal)
        parts.append(part)
    return b"".join(parts)


def box_of(text: str) -> Box | None:
    """Return the box in `x0,y0,x1,y1`, None for no text."""
    if not text:
        return None
    try:
        x0, y0, x1, y1 = (float(edge) for edge in text.split(","))
    except ValueError as error:
        raise ValueError("this box is not four numbers; draw it again") from error
    return uploads.checked((x0, y0, x1, y1))


def _example(model: Model, name: str) -> Example:
    """Return a model's example by name; ValueError if it has none of that name."""
    for example in examples_of(model):
        if example.name == name:
            return example
    raise ValueError(f"there is no example {name[:60]!r} for {model.name}; choose one that the page shows")
