"""Many visitors turn knobs while one attacks: how long do they wait, is a picture wrong, what does the server take.

`python -m tests.benchmarks.visitors --seconds 600` starts a page of its own on the bundled models, attacks it in every
way below in turn, and prints one JSON line; `--only "many scans"` attacks in that way alone.

Memory is that of the server and of all its children together, the decoders of photos and ffmpeg: their proportional set
sizes, in which a page that several of them share counts once. Visitors come from 127.0.0.1, attackers from 127.0.0.9.
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
import tempfile
import threading
import time
import zlib
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import Any

import httpx
import imageio_ffmpeg
import PIL.Image
import tyro

from demo.__main__ import free_port
from tests.odd_files import chunk, png_of_zeros

ATTACKER = "127.0.0.9"
"""Where attackers come from: what is kept for an address is not the visitors'."""
MARK = {"_type": "gradio.FileData"}
STOPPING = 5.0
"""Seconds that attacks go on after the last visitor has left, in which the server is told to stop."""
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
    only: tyro.conf.UseAppendAction[list[str]] = field(default_factory=list)
    """Attack in this way alone; may be given again for more. A wrong name answers with all."""


@dataclass
class Seen:
    """What visitors met, and the server's memory, megabytes, at its start and at most during each attack."""

    waits: list[tuple[float, str]] = field(default_factory=list)
    wrong: int = 0
    failed: list[str] = field(default_factory=list)
    attacks: dict[str, int] = field(default_factory=dict)
    now: str = "visitors"
    start: float = 0.0
    peaks: dict[str, float] = field(default_factory=dict)

    def weigh(self, process: int) -> None:
        """Look at the server's memory, and put it down to what goes on."""
        now, memory = self.now, megabytes(process)
        self.peaks[now] = max(self.peaks.get(now, 0.0), memory)


def recipes(models: list[dict]) -> list[dict]:
    """Return recipes of all models, those that read photos by their seeds."""
    rng = random.Random(0)
    return [{"checkpoint": rng.choice(models)["name"], "seed": rng.randrange(1000), "knobs": {}} for _ in range(KINDS)]


def visit(address: str, known: dict[str, bytes], until: float, pause: float, seen: Seen) -> None:
    """Ask for pictures as a person does; a connection that the server gave up is made again, as browsers do."""
    rng = random.Random()
    with httpx.Client(base_url=address, timeout=60, transport=httpx.HTTPTransport(retries=1)) as client:
        opened(client)
        while time.monotonic() < until:
            recipe, picture = rng.choice(list(known.items()))
            start = time.monotonic()
            try:
                got = client.post("/live/picture", content=recipe)
                seen.wrong += got.content != picture
            except httpx.HTTPError as error:
                seen.failed.append(f"{seen.now}: {error!r}"[:100])
            seen.waits.append((time.monotonic() - start, seen.now))
            time.sleep(rng.uniform(0, 2 * pause))


def opened(client: httpx.Client) -> httpx.Response:
    """Open the page, once more where the connection was refused."""
    with contextlib.suppress(httpx.ConnectError):
        return client.get("/")
    time.sleep(0.5)
    return client.get("/")


@cache
def many_scans(count: int = 20_000) -> bytes:
    """Return a progressive JPEG of 0.7 MB that repeats its last scan."""
    file = io.BytesIO()
    PIL.Image.effect_noise((1024, 1024), 90).save(file, "JPEG", progressive=True, quality=1)
    data = file.getvalue()
    last = data.rindex(b"\xff\xda")
    return data[:last] + data[last:-2] * min(count, 700_000 // len(data[last:-2])) + b"\xff\xd9"


@cache
def sixteen_bits(side: int = 12_200) -> bytes:
    """Return a square grey PNG of 16 bits a pixel, all zeros."""
    head = struct.pack(">IIBBBBB", side, side, 16, 0, 0, 0, 0)
    packer = zlib.compressobj(9)
    row = bytes(1 + 2 * side)
    body = b"".join(packer.compress(row) for _ in range(side)) + packer.flush()
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", body) + chunk(b"IEND", b"")


@cache
def large_png() -> bytes:
    """Return a PNG of 149 megapixels."""
    return png_of_zeros(12_200, 12_200)


@cache
def thin_strip(height: int = 15_900_000) -> bytes:
    """Return a PNG of 1 pixel by `height`."""
    head = struct.pack(">IIBBBBB", 1, height, 8, 0, 0, 0, 0)
    rows = zlib.compress(bytes(2 * height), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


@cache
def moving(side: tuple[int, int] = (1920, 1080), seconds: int = 60) -> bytes:
    """Return a film of few bytes whose frames are as large as the page takes them."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "film.mp4"
        command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-f", "lavfi", "-i"]
        command += [
            f"color=red:size={side[0]}x{side[1]}:rate=30",
            "-t",
            str(seconds),
            "-preset",
            "ultrafast",
            str(path),
        ]
        subprocess.run(command, check=True)
        return path.read_bytes()


class Attacker:
    """Every attack by name, from an address of its own; each takes some seconds at most."""

    def __init__(self, address: str) -> None:
        host, port = address.removeprefix("http://").split(":")
        self.server = (host, int(port))
        self.web = httpx.Client(
            base_url=address, timeout=20, transport=httpx.HTTPTransport(local_address=ATTACKER, retries=1)
        )

    def ways(self) -> dict[str, Callable[[], None]]:
        """Return the attacks."""
        photo = "/live/photo?model=mixnmatch-cars-64"
        call, join = "/gradio_api/call/", "/gradio_api/queue/join"
        around = ['{"checkpoint": "giraffe-hd-cars-64"}', "", "", "Once around", None, 120, 20, "512 pixels", "GIF"]
        file = {"path": "/dev/zero", "meta": MARK}
        slow = b"POST /gradio_api/upload HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 9000000\r\n\r\n"
        return {
            "half-sent heads": lambda: self.hold(b"GET / HTTP/1.1\r\nX: ", 1200, 3),
            "half-sent bodies": lambda: self.hold(slow + b"x" * 100_000, 300, 3),
            "endless JSON": self.endless,
            "large JSON": lambda: self.posts(5, call + "render", json={"data": ["x" * 13_000_000]}),
            "brackets": lambda: self.posts(5, join, content=b"[" * 10_000_000),
            "foreign files": lambda: self.posts(20, call + "film", json={"data": [file, *around[1:]]}),
            "unfetched films": lambda: self.posts(20, call + "film", json={"data": around}),
            "fetched films": lambda: self.fetch("film", around),
            "followed films": lambda: self.follow(moving()),
            "uploads": lambda: self.posts(10, "/gradio_api/upload", files={"files": ("x.mp4", bytes(9_900_000))}),
            "many scans": lambda: self.at_once(4, photo, many_scans()),
            "thin strip": lambda: self.at_once(4, photo, thin_strip()),
            "large PNG": lambda: self.at_once(4, photo, large_png()),
            "16-bit PNG": lambda: self.at_once(4, photo, sixteen_bits()),
        }

    def posts(self, count: int, path: str, **sent: Any) -> None:
        """Send the same thing again and again."""
        for _ in range(count):
            self.web.post(path, **sent)

    def at_once(self, count: int, path: str, content: bytes) -> None:
        """Send the same thing several times at once."""
        with ThreadPoolExecutor(count) as pool:
            for answer in [pool.submit(self.web.post, path, content=content) for _ in range(count)]:
                answer.result()

    def hold(self, start: bytes, count: int, seconds: float) -> None:
        """Begin many requests and send no more."""
        with contextlib.ExitStack() as held:
            for _ in range(count):
                each = held.enter_context(self.connected())
                with contextlib.suppress(OSError):
                    each.sendall(start)
            time.sleep(seconds)

    def endless(self) -> None:
        """Send a body of 300 MB."""
        with self.connected() as one:
            one.sendall(b"POST /gradio_api/queue/join HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 300000000\r\n\r\n")
            for _ in range(300):
                one.sendall(b"[" * 1_000_000)

    def fetch(self, event: str, data: list[Any]) -> None:
        """Ask for several films at once and wait for all."""

        def one() -> None:
            started = self.web.post(f"/gradio_api/call/{event}", json={"data": data})
            if started.status_code == 200:
                self.web.get(f"/gradio_api/call/{event}/{started.json()['event_id']}", timeout=60)

        with ThreadPoolExecutor(4) as pool:
            for each in [pool.submit(one) for _ in range(4)]:
                each.result()

    def follow(self, film: bytes) -> None:
        """Have a film followed, several times at once."""
        (sent,) = self.web.post("/gradio_api/upload", files={"files": ("film.mp4", film)}).json()
        recipe = '{"checkpoint": "mixnmatch-cars-64"}'
        self.fetch("follow", [recipe, {"path": sent, "meta": MARK}, 120, 20, "512 pixels", "MP4"])

    def connected(self) -> socket.socket:
        """Return a connection."""
        return socket.create_connection(self.server, timeout=5, source_address=(ATTACKER, 0))


def attack(ways: dict[str, Callable[[], None]], until: float, seen: Seen) -> None:
    """Attack in turn until the time is over."""
    for name, run in itertools.cycle(ways.items()):
        if time.monotonic() > until:
            return
        seen.now = name
        try:
            run()
        except (httpx.ConnectError, ConnectionRefusedError):  # the server has ended
            return
        except (httpx.HTTPError, OSError):  # refused, or cut off
            pass
        seen.attacks[name] = seen.attacks.get(name, 0) + 1


def chosen(ways: dict[str, Callable[[], None]], only: list[str]) -> dict[str, Callable[[], None]]:
    """Return the attacks that are asked for. Raises: ValueError for others."""
    if unknown := [name for name in only if name not in ways]:
        raise ValueError(f"there is no attack {unknown[0]!r}; expected one of {', '.join(ways)}")
    return {name: way for name, way in ways.items() if not only or name in only}


def megabytes(process: int) -> float:
    """Return the memory of a process and all its children; what they share counts once."""
    total = 0.0
    with contextlib.suppress(OSError, StopIteration):
        lines = Path(f"/proc/{process}/smaps_rollup").read_text().splitlines()
        total = int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{process}/task").iterdir():
            with contextlib.suppress(OSError):
                total += sum(megabytes(int(child)) for child in (task / "children").read_text().split())
    return total


def besiege(args: Visitors, address: str, process: int) -> Seen:
    """Learn the right pictures, let visitors in, attack."""
    seen = Seen()
    with httpx.Client(base_url=address, timeout=60, transport=httpx.HTTPTransport(retries=10)) as client:
        models = client.get("/live/models").json()
        known = {text: client.post("/live/picture", content=text).content for text in map(json.dumps, recipes(models))}
    ways = chosen(Attacker(address).ways(), args.only)
    seen.start = megabytes(process)
    until = time.monotonic() + args.seconds
    people = [
        threading.Thread(target=visit, args=(address, known, until, args.pause, seen)) for _ in range(args.visitors)
    ]
    attacker = threading.Thread(target=attack, args=(ways, until + STOPPING, seen))
    for each in [*people, *([attacker] if args.attack else [])]:
        each.start()
    while any(each.is_alive() for each in people):
        seen.weigh(process)
        time.sleep(0.2)
    return seen


def main(args: Visitors) -> None:
    """Serve, attack, count."""
    port = free_port("127.0.0.1", 0)
    given = [word for file in args.checkpoint for word in ("--checkpoint", str(file))]
    command = [sys.executable, "-m", "demo", "--no-open", "--port", str(port), "--device", "cpu", *given]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as server:
        try:
            seen = besiege(args, f"http://127.0.0.1:{port}", server.pid)
            server.send_signal(signal.SIGTERM)
            start = time.monotonic()
            server.wait(60)
            stopped = time.monotonic() - start
        finally:
            server.kill()
    print(json.dumps(told(seen) | {"seconds_to_stop": round(stopped, 1)} | asdict(args), default=str))


def told(seen: Seen) -> dict[str, Any]:
    """Return the figures."""
    waits = sorted(seen.waits)
    plain = [wait for wait, _ in waits]
    longest = {name: round(max(w for w, now in waits if now == name), 2) for name in {now for _, now in waits}}
    peaks = {name: round(peak - seen.start) for name, peak in seen.peaks.items()}
    return {
        "pictures": len(waits),
        "wrong": seen.wrong,
        "failed": len(seen.failed),
        "first_failures": seen.failed[:3],
        "longest_wait": round(plain[-1], 2),
        "wait_99": round(plain[int(0.99 * len(plain))], 2),
        "wait_50": round(statistics.median(plain), 3),
        "longest_wait_during": longest,
        "megabytes_at_start": round(seen.start),
        "megabytes_more_at_peak": max(peaks.values()),
        "megabytes_more_during": peaks,
        "attacks": seen.attacks,
    }


if __name__ == "__main__":
    try:
        main(tyro.cli(Visitors))
    except ValueError as error:
        raise SystemExit(f"{error}") from error
