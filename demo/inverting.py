"""The page's route for a photo that becomes knobs: its pose at once, then its codes as they sharpen, line by line.

Nothing is kept here: the page holds the codes, and they come back within its recipes. A page that leaves, or cancels,
ends its photo. The script's side is `page/inverting.js`.
"""

import asyncio
import threading
from collections import Counter, deque
from collections.abc import AsyncGenerator, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import fastapi
from fastapi import Request, Response

from demo import uploads
from demo.models import Model
from demo.parts import packed_parts, parts_of
from demo.routes import BusyError, Routes, body_of, box_of, visitor_of
from demo.streaming import json_lines
from training.inversion import inverted
from training.invertible import Inverted, OnProgress, Progress
from training.pictures import from_pil
from training.types import Image

SHOWN = (0.15, 0.4)
"""Shares of the steps after which codes are shown, before those of all steps."""
UNSURE = 0.7
"""How clear the front must be; below it the page offers the other end."""
MOST, MOST_EACH = 8, 2
"""Photos that wait or are inverted, of all and of one visitor, who may drop another while one ends."""


class Inverting:
    """Inverts the photos of the page's visitors, one at a time and in their turns."""

    def __init__(self, routes: Routes) -> None:
        """Take the page's routes, which open photos and read poses in their visitors' turns."""
        self.routes = routes
        self.router = fastapi.APIRouter()
        self.router.add_api_route("/live/invert", self.invert, methods=["POST"])
        self._under_way: Counter[str] = Counter()

    async def invert(
        self, request: Request, model: str, name: str = "", box: str = "", turned: bool = False
    ) -> Response:
        """Answer a photo, the request's body, line by line as JSON: what the model sees of it and the pose, then codes.

        `turned` starts from the other end of the object.
        """
        chosen, visitor = self.routes.known[model], visitor_of(request)
        if not chosen.inverts:
            raise ValueError(f"{chosen.name} finds no codes of photos; choose a model that does")
        bounds = box_of(box)
        data = await body_of(request, uploads.MAX_BYTES, uploads.too_large("please choose a smaller one"))
        if self._under_way.total() >= MOST or self._under_way[visitor.id] >= MOST_EACH:
            raise BusyError
        name = " ".join(name.split())[:60]
        options = {"turned": True} if turned else {}
        with self._counted(visitor.id):
            cut = await self.routes.open(request, partial(uploads.cut, chosen, data, name, bounds, find_in_oblong=True))
            read = await self.routes.run(request, _read, chosen, from_pil(cut.crop), options)
        first = {
            **uploads.seen(cut),
            **_found(chosen, read.stage, 0.0, read.codes),
            "turns": read.front is not None,
            "unsure": read.front is not None and read.front < UNSURE,
        }
        return json_lines(self._steps(request, chosen, cut, options, first), "a photo")

    async def _steps(
        self, request: Request, model: Model, cut: uploads.Cut, options: dict[str, Any], first: dict[str, Any]
    ) -> AsyncGenerator[dict[str, Any], None]:
        """Invert a photo in its turn and yield how far it is, and whether it is of another kind than the model's;
        closing this ends the photo."""
        visitor, photo = visitor_of(request), from_pil(cut.crop)
        stop, found, done = threading.Event(), deque[dict[str, Any]](), [-1.0]

        def keep(step: Progress) -> bool:
            if any(done[0] < share <= step.done for share in SHOWN):
                found.append(_found(model, step.stage, step.done, step.codes))
            done[0] = step.done
            return not stop.is_set()

        job = warning = None
        with self._counted(visitor.id):
            try:
                yield first
                job = asyncio.wrap_future(
                    self.routes.known.invert(_inverted, model, photo, options, keep, visitor=visitor)
                )
                warning = asyncio.ensure_future(self._unlike(request, model, cut))
                waited: set[asyncio.Future[Any]] = {job, warning}
                while waited:
                    ready, waited = await asyncio.wait(waited, timeout=0.1, return_when=asyncio.FIRST_COMPLETED)
                    if warning in ready and warning.result():
                        yield {"unlike": warning.result(), "done": max(0.0, done[0]), "waits": done[0] < 0}
                    while found:
                        yield found.popleft()
                    yield {"done": max(0.0, done[0]), "waits": done[0] < 0}
                yield _found(model, "done", 1.0, job.result().codes)
            finally:
                stop.set()
                for each in (job, warning):
                    if each is not None:
                        each.cancel()  # a photo that has not begun

    @contextmanager
    def _counted(self, visitor: str) -> Iterator[None]:
        """Count a photo as its visitor's while it is opened or inverted."""
        self._under_way[visitor] += 1
        try:
            yield
        finally:
            self._under_way[visitor] -= 1
            self._under_way += Counter()  # forgets those with none

    async def _unlike(self, request: Request, model: Model, cut: uploads.Cut) -> str:
        """Return a sentence for a photo of another kind than the model's; empty for others, and where many wait."""
        try:
            return await self.routes.unlike(request, model, cut)
        except BusyError:
            return ""


def _read(model: Model, photo: Image, options: dict[str, Any]) -> Progress:
    """Return what is read from a photo at once."""
    read: list[Progress] = []

    def end(step: Progress) -> bool:
        read.append(step)
        return False

    _inverted(model, photo, options, end)
    return read[0]


def _inverted(model: Model, photo: Image, options: dict[str, Any], progress: OnProgress) -> Inverted:
    return inverted(model.generator, photo.to(model.generator.device), progress=progress, **options)


def _found(model: Model, stage: str, done: float, codes: Any) -> dict[str, Any]:
    """Return where the knobs stand that are numbers, and the codes of the parts."""
    generator = parts_of(model.generator)
    assert generator is not None
    knobs = {name: round(float(values[0]), 6) for name, values in generator.knob_values(codes).items()}
    return {"stage": stage, "done": round(done, 4), "knobs": knobs, "codes": packed_parts(generator, codes)}
