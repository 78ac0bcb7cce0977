"""Many visitors turn knobs while one attacks: how long do they wait, is a picture wrong, what does the server take.

`python -m tests.benchmarks.visitors --seconds 600` starts a page of its own on the bundled models, attacks it in every
way below in turn, and prints one JSON line.
"""

import contextlib
import io
import itertools
import json
import random
import signal
import socket
import statistics
import struct
import subprocess
import sys
import threading
import time
import zlib
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from pathlib import Path

import httpx
import PIL.Image
import tyro

from demo.__main__ import free_port
from tests.odd_files import chunk, png_of_zeros

KINDS = 40
"""Recipes that visitors choose from; each one's picture is known before the attack."""


@dataclass(frozen=True, kw_only=True)
class Visitors:
    """Print the longest wait, wrong pictures and the server's memory under attack."""

    seconds: float = 120.0
    visitors: int = 20
    pause: float = 1.0
    """Seconds between two pictures of a visitor, on average."""
    checkpoint: tyro.conf.UseAppendAction[list[Path]] = field(default_factory=list)
    """Generator files; without any, the bundled ones."""
    attack: bool = True


@dataclass
class Seen:
    """What visitors met."""

    waits: list[float] = field(default_factory=list)
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    attacks: dict[str, int] = field(default_factory=dict)


def recipes(models: list[dict]) -> list[dict]:
    """Return recipes of all models, those that read photos by their seeds."""
    rng = random.Random(0)
    return [{"checkpoint": rng.choice(models)["name"], "seed": rng.randrange(1000), "knobs": {}} for _ in range(KINDS)]


def visit(address: str, known: dict[str, bytes], until: float, pause: float, seen: Seen) -> None:
    """Ask for pictures as a person does; a connection that the server gave up is made again, as browsers do."""
    rng = random.Random()
    transport = httpx.HTTPTransport(retries=1)
    with httpx.Client(base_url=address, timeout=60, transport=transport) as client:
        client.get("/")
        while time.monotonic() < until:
            recipe, picture = rng.choice(list(known.items()))
            start = time.monotonic()
            try:
                got = client.post("/live/picture", content=recipe)
                seen.wrong += got.content != picture
            except httpx.HTTPError as error:
                seen.failed.append(repr(error)[:100])
            seen.waits.append(time.monotonic() - start)
            time.sleep(rng.uniform(0, 2 * pause))


def many_scans(count: int = 20_000) -> bytes:
    """Return a progressive JPEG of 0.7 MB that repeats its last scan."""
    file = io.BytesIO()
    PIL.Image.effect_noise((1024, 1024), 90).save(file, "JPEG", progressive=True, quality=1)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * min(count, 700_000 // len(data[last:-2])) + b"\xff\xd9"


def thin_strip(height: int = 15_900_000) -> bytes:
    """Return a PNG of 1 pixel by `height`."""
    head = struct.pack(">IIBBBBB", 1, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2 * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def attacks(address: str) -> dict[str, Callable[[], None]]:
    """Return every attack by name; each takes some seconds at most."""
    host, port = address.removeprefix("http://").split(":")
    web = httpx.Client(base_url=address, timeout=8)
    jpeg, strip, large = many_scans(), thin_strip(), png_of_zeros(12_200, 12_200)

    def opened(start: bytes, count: int, seconds: float) -> None:
        held = []
        for _ in range(count):
            held.append(socket.create_connection((host, int(port)), timeout=5))
            held[-1].sendall(start)
        time.sleep(seconds)
        for each in held:
            each.close()

    def endless() -> None:
        with socket.create_connection((host, int(port)), timeout=5) as one:
            one.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 300000000\r\n\r\n")
            for _ in range(300):
                one.sendall(b"[" * 1_000_000)

    def posts(count: int, path: str, **sent: object) -> None:
        for _ in range(count):
            web.post(path, **sent)  # type: ignore[arg-type]

    film = ['{"checkpoint": "giraffe-hd-cars-64"}', "", "", "Once around", None, 120, 20, "512 pixels", "GIF"]
    file = {"path": "/dev/zero", "meta": {"_type": "gradio.FileData"}}
    slow = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n\r\n"
    query = "/live/photo?model=mixnmatch-cars-64"
    return {
        "half-sent heads": lambda: opened(b"GET / HTTP/1.1\r\nX: ", 1200, 3),
        "half-sent bodies": lambda: opened(slow + b"x" * 100_000, 300, 3),
        "endless JSON": endless,
        "large JSON": lambda: posts(5, "/gradio_api/call/render", json={"data": ["x" * 13_000_000]}),
        "brackets": lambda: posts(5, "/gradio_api/queue/join", content=b"[" * 10_000_000),
        "foreign files": lambda: posts(20, "/gradio_api/call/film", json={"data": [file, *film[1:]]}),
        "unfetched films": lambda: posts(20, "/gradio_api/call/film", json={"data": film}),
        "uploads": lambda: posts(10, "/gradio_api/upload", files={"files": ("x.mp4", bytes(9_900_000))}),
        "many scans": lambda: posts(2, query, content=jpeg),
        "thin strip": lambda: posts(2, query, content=strip),
        "large PNG": lambda: posts(2, query, content=large),
    }


def attack(ways: dict[str, Callable[[], None]], until: float, seen: Seen) -> None:
    """Attack in turn until the time is over."""
    for name, run in itertools.cycle(ways.items()):
        if time.monotonic() > until:
            return
        with contextlib.suppress(httpx.HTTPError, OSError):
            run()
        seen.attacks[name] = seen.attacks.get(name, 0) + 1


def megabytes(process: int) -> float:
    """Return the memory of a process and its children."""
    total = 0.0
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
        total = int(next(line for line in lines if line.startswith("VmRSS")).split()[1]) / 1024
        for task in Path(f"/proc/{process}/task").iterdir():
            total += sum(megabytes(int(child)) for child in (task / "children").read_text().split())
    return total


def main(args: Visitors) -> None:
    """Serve, learn the right pictures, attack, count."""
    port = free_port("127.0.0.1", 0)
    given = [word for file in args.checkpoint for word in ("--checkpoint", str(file))]
    command = [sys.executable, "-m", "demo", "--no-open", "--port", str(port), "--device", "cpu", *given]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        address, seen, memory = f"http://127.0.0.1:{port}", Seen(), [0.0]
        try:
            with httpx.Client(base_url=address, timeout=60, transport=httpx.HTTPTransport(retries=10)) as client:
                models = client.get("/live/models").json()
                known = {
                    text: client.post("/live/picture", content=text).content
                    for text in map(json.dumps, recipes(models))
                }
            memory = [megabytes(server.pid)]
            ways = attacks(address)
            until = time.monotonic() + args.seconds
            people = [
                threading.Thread(target=visit, args=(address, known, until, args.pause, seen))
                for _ in range(args.visitors)
            ]
            people += [threading.Thread(target=attack, args=(ways, until, seen))] if args.attack else []
            for each in people:
                each.start()
            while any(each.is_alive() for each in people):
                memory.append(megabytes(server.pid))
                time.sleep(0.2)
            server.send_signal(signal.SIGTERM)
            start = time.monotonic()
            server.wait(60)
        finally:
            server.kill()
    waits = sorted(seen.waits)
    found = {
        "pictures": len(waits),
        "wrong": seen.wrong,
        "failed": len(seen.failed),
        "first_failures": seen.failed[:3],
        "longest_wait": round(waits[-1], 2),
        "wait_99": round(waits[int(0.99 * len(waits))], 2),
        "wait_50": round(statistics.median(waits), 3),
        "megabytes_at_start": round(memory[0]),
        "megabytes_more_at_peak": round(max(memory) - memory[0]),
        "seconds_to_stop": round(time.monotonic() - start, 1),
        "attacks": seen.attacks,
    }
    print(json.dumps(found | asdict(args), default=str))


if __name__ == "__main__":
    main(tyro.cli(Visitors))
