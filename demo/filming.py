"""The page's route for films and sheets: what is ordered is drawn while the page listens, line by line.

The script's side is `page/filming.js`. A page that leaves, or presses Stop, ends its film.
"""

import asyncio
import threading
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Sized
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from typing import Any

import fastapi
from fastapi import Request, Response

from demo import orders
from demo.files import Files, Visitor
from demo.models import Models
from demo.orders import Plan
from demo.routes import BusyError, visitor_of
from demo.streaming import json_lines

MOST = 8
"""Films that wait or are drawn; one visitor has one."""


class Filming:
    """Draws the films of the page's visitors, each in its own thread, its pictures in the visitors' turns.

    No film waits on a thread that requests share: others could then not even send a file.
    """

    def __init__(self, models: Models, files: Files) -> None:
        self.models, self.files = models, files
        self._threads, self._over = ThreadPoolExecutor(MOST, "film"), threading.Event()
        self._under_way: set[str] = set()
        self.router = fastapi.APIRouter(lifespan=ending(self._threads, self._over, self._under_way))
        self.router.add_api_route("/live/film", self.film, methods=["POST"])

    async def film(self, request: Request) -> Response:
        """Answer line by line, as JSON, how many pictures are drawn, and at last the file."""
        asked, visitor = orders.order(await request.body()), visitor_of(request)
        video = self.files.may(visitor, asked.video) if asked.video else None
        if asked.video and video is None:
            raise ValueError("this video was not sent by you; choose it again")
        if visitor.id in self._under_way:
            raise ValueError("a film of yours is being made; wait until it is done, or stop it")
        if len(self._under_way) >= MOST:
            raise BusyError
        self._under_way.add(visitor.id)
        try:
            loop = asyncio.get_running_loop()
            made = await loop.run_in_executor(self._threads, orders.plan, self.models, asked, video, visitor)
        except BaseException:
            self._under_way.discard(visitor.id)
            raise
        return json_lines(self._steps(visitor, made), "a film")

    async def _steps(self, visitor: Visitor, made: Plan) -> AsyncGenerator[dict[str, Any], None]:
        """Draw a plan in a thread and yield how far it is; closing this ends the film."""
        stop, done, total = threading.Event(), [0], len(made.frames)

        def draw() -> Path | None:
            for step in orders.drawing(self.models, self.files, visitor, made):
                if isinstance(step, Path):
                    return step
                if stop.is_set() or self._over.is_set():
                    return None
                done[0] = step
            return None

        try:
            job = asyncio.get_running_loop().run_in_executor(self._threads, draw)
            while not job.done():
                yield {"done": done[0], "of": total}
                await asyncio.wait([job], timeout=0.2)
            if (path := job.result()) is not None:
                yield {"done": total, "of": total, "file": str(path), "name": path.name}
        finally:
            stop.set()
            self._under_way.discard(visitor.id)


def ending(
    threads: ThreadPoolExecutor, over: threading.Event, under_way: Sized
) -> Callable[[object], AbstractAsyncContextManager[None]]:
    """Return a router's lifespan, at whose end films stop after the present picture.

    `over` tells their threads. For a second at most it waits for those `under_way`, whose visitors then see that the
    connection is lost.
    """

    @asynccontextmanager
    async def lifespan(_: object) -> AsyncIterator[None]:
        try:
            yield
        finally:
            over.set()
            threads.shutdown(wait=False, cancel_futures=True)
            for _ in range(20):
                if not under_way:
                    break
                await asyncio.sleep(0.05)

    return lifespan
