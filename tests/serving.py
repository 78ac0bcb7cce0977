"""The page on toy generators, in a thread or in a process of its own: what its tests talk to."""

import asyncio
import queue
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import TypeVar

import uvicorn

from demo.app import configure, serve
from demo.models import Model, Models
from tests.toys import Blocks, Patches
from training.segmentation.classical import ClassicalSegmenter
from training.segmentation.contract import Segmenter

T = TypeVar("T")


def toy_models() -> Models:
    """Return models, one for each tab."""
    return Models(
        [
            Model(name="blocks", generator=Blocks().eval(), sha256="b" * 64, card={"title": "Blocks"}),
            Model(
                name="patches",
                generator=Patches().eval(),
                sha256="c" * 64,
                card={"data": "clothing", "title": "Patches"},
            ),
        ]
    )


def result_of(coroutine: Coroutine[None, None, T]) -> T:
    """Run a coroutine in a thread of its own, as Playwright leaves a loop running in the thread of its tests."""
    with ThreadPoolExecutor(1) as thread:
        return thread.submit(asyncio.run, coroutine).result()


@contextmanager
def served(
    models: Models,
    *,
    host: str = "127.0.0.1",
    password: str | None = None,
    root_path: str = "",
    port: int = 0,
    finder: Callable[[], Segmenter] = ClassicalSegmenter,
) -> Iterator[str]:
    """Serve a page on a free port, or a given one, while the block runs; gives its address."""
    started = queue.Queue()

    async def run() -> None:  # Gradio leaves event loops open when it lays out a page where none runs
        try:
            app = serve(models, host=host, password=password, root_path=root_path, finder=finder)
        except Exception as error:
            started.put(error)
            raise
        server = uvicorn.Server(uvicorn.Config(app, host=host, port=port, **configure()))
        started.put(server)
        await server.serve()

    thread = threading.Thread(target=lambda: asyncio.run(run()), daemon=True)
    thread.start()
    server = started.get()
    if isinstance(server, Exception):
        raise server
    while not server.started:
        if not thread.is_alive():
            raise RuntimeError("the server did not start")
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://{f'[{host}]' if ':' in host else host}:{port}"
    finally:
        server.should_exit = True
        thread.join(10)
        models.close()


@contextmanager
def served_apart() -> Iterator[tuple[str, int]]:
    """Serve the toys in a process of its own while the block runs; gives address and process number.

    An attack and a server in one process share Python's lock, so that the attacker would delay the server by running.
    """
    with subprocess.Popen([sys.executable, "-m", "tests.serving"], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip(), process.pid
        finally:
            process.terminate()


if __name__ == "__main__":
    with served(toy_models()) as here:
        print(here, flush=True)
        threading.Event().wait()
