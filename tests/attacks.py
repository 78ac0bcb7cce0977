"""Attacks on a running page, for tests: another visitor, watched while they go on; raw connections; names of events."""

import contextlib
import os
import socket
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import httpx

SECRET = "a line that no visitor may read"
MARK = {"_type": "gradio.FileData"}


@contextlib.contextmanager
def visitor(address: str) -> Iterator[httpx.Client]:
    """Give a browser that has opened the page."""
    with httpx.Client(base_url=address, timeout=60) as client:
        client.get("/").raise_for_status()
        yield client


def held_up(process: int | str = "self") -> float:
    """Return for how many seconds a process, or this one, could have run, in all its threads, and others ran."""
    total = 0.0
    for task in Path(f"/proc/{process}/task").glob("*/schedstat"):
        with contextlib.suppress(OSError, IndexError, ValueError):
            total += int(task.read_text().split()[1]) / 1e9
    return total


def stolen() -> float:
    """Return for how many seconds a virtual machine's processors could have run, and its host ran others."""
    with contextlib.suppress(OSError, IndexError, ValueError):
        return int(Path("/proc/stat").read_text().split()[8]) / os.sysconf("SC_CLK_TCK")
    return 0.0


@contextlib.contextmanager
def watched(server: tuple[str, int], longest: float = 1.0) -> Iterator[None]:
    """While the block runs, another visitor asks for pictures; each must come within `longest` seconds.

    `server` is the page's address and process number. It must be a process of its own: in one with the tests it would
    wait for Python's lock and for the collection of their garbage. Time in which the system gives the processor to
    other programs than this one and the server does not count.
    """
    address, process = server

    def lost() -> float:
        return held_up() + held_up(process) + stolen()

    over = threading.Event()
    waits: list[float] = []
    with httpx.Client(base_url=address, timeout=60) as client:

        def wait(number: int) -> float:
            start, others = time.monotonic(), lost()
            client.post(
                "/live/picture", json={"checkpoint": "blocks", "knobs": {"rotation": number}}
            ).raise_for_status()
            return time.monotonic() - start - max(0.0, lost() - others)

        def look() -> None:
            while not over.is_set():
                waits.append(wait(len(waits)))
                over.wait(0.05)

        wait(0)  # the first of all takes longer
        looker = threading.Thread(target=look)
        looker.start()
        try:
            yield
        finally:
            over.set()
            looker.join()
    assert waits and max(waits) < longest, f"the longest of {len(waits)} waits was {max(waits):.2f} s"


def calls(address: str) -> dict[str, dict]:
    """Return every event that the page's config has, by name or number."""
    config = httpx.get(f"{address}/config").json()
    return {str(each["api_name"] or each["id"]): each for each in config["dependencies"] if each["backend_fn"]}


def raw(address: str) -> socket.socket:
    """Return a connection."""
    parts = urlsplit(address)
    return socket.create_connection((parts.hostname or "", parts.port or 0), timeout=10)


def ends(connection: socket.socket, seconds: float) -> bool:
    """Return whether the server ends a connection in time."""
    connection.settimeout(seconds)
    try:
        while connection.recv(65536):
            pass
    except TimeoutError:
        return False
    except ConnectionError:
        pass
    return True
