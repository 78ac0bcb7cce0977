"""Decodes untrusted pictures in subprocesses with limits on time and memory."""

import atexit
import contextlib
import fcntl
import json
import os
import selectors
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any, Literal

import PIL.Image

from training.imaging.read import Decoded, Limits, PictureError

ROOT = Path(__file__).parent.parent.parent
START = "import sys; sys.path[:0] = [{root!r}]; from training.imaging.child import main; main()"
MOST_ANSWER = 1 << 31
"""Longest answer in bytes."""
ENDS = "{name} cannot be decoded: this program is about to end."
IDLE_SECONDS = 20.0
"""Idle time after which a subprocess is ended: each takes about 40 MB."""


class _EndedError(Exception):
    """The process ended, or took too long."""


class Clock:
    """The time left for one picture: a limit in seconds of the child's CPU time, and four times that in wall time.

    So a picture is not refused because other programs use the CPU.
    """

    def __init__(self, pid: int, seconds: float) -> None:
        """Begin to count."""
        self.pid, self.seconds = pid, seconds
        self.began, self.used = time.monotonic(), self._used()

    def left(self) -> float:
        """Return the seconds left, approximately."""
        passed, used = time.monotonic() - self.began, self._used()
        if used is None or self.used is None:
            return self.seconds - passed
        return min(self.seconds - (used - self.used), 4 * self.seconds - passed)

    def _used(self) -> float | None:
        """Return the child's CPU time in seconds; None where it is unknown."""
        try:
            fields = Path(f"/proc/{self.pid}/stat").read_text().rpartition(")")[2].split()
            return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")
        except (OSError, ValueError, IndexError):
            return None


class Child:
    """One decoding subprocess and the pipe to it."""

    def __init__(self) -> None:
        """Start it."""
        threads = dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS"), "1")
        self.process = subprocess.Popen(
            [sys.executable, "-c", START.format(root=str(ROOT))],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | threads,
            cwd=ROOT,
        )
        assert self.process.stdin is not None and self.process.stdout is not None
        self.source, self.sink = self.process.stdout, self.process.stdin
        self.idle_since = time.monotonic()
        for pipe in (self.source, self.sink):
            os.set_blocking(pipe.fileno(), False)
            if hasattr(fcntl, "F_SETPIPE_SZ"):
                with contextlib.suppress(OSError):  # a larger pipe needs fewer context switches
                    fcntl.fcntl(pipe.fileno(), fcntl.F_SETPIPE_SZ, 1 << 20)

    def send(self, data: bytes, until: Clock) -> None:
        """Write bytes. Raises: _EndedError."""
        view = memoryview(data)
        while view:
            self._wait(self.sink.fileno(), selectors.EVENT_WRITE, until)
            try:
                view = view[os.write(self.sink.fileno(), view[: 1 << 20]) :]
            except BlockingIOError:
                continue
            except OSError as error:
                raise _EndedError from error

    def receive(self, n: int, until: Clock) -> bytes:
        """Read exactly so many bytes. Raises: _EndedError."""
        parts = []
        while n:
            self._wait(self.source.fileno(), selectors.EVENT_READ, until)
            try:
                part = os.read(self.source.fileno(), min(n, 1 << 20))
            except BlockingIOError:
                continue
            if not part:
                raise _EndedError
            parts.append(part)
            n -= len(part)
        return b"".join(parts)

    def _wait(self, handle: int, event: int, until: Clock) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(handle, event)
            while not selector.select(min(0.5, max(0.0, until.left()))):
                if until.left() <= 0:
                    raise _EndedError("time")

    def ask(self, job: dict[str, Any], data: bytes, until: Clock) -> None:
        """Send a job."""
        head = json.dumps(job | {"bytes": len(data)}).encode()
        self.send(struct.pack("<I", len(head)) + head, until)
        self.send(data, until)

    def answer(self, until: Clock) -> tuple[dict[str, Any], bytes]:
        """Return the next answer and its pixels. Raises: _EndedError."""
        head = json.loads(self.receive(struct.unpack("<I", self.receive(4, until))[0], until))
        return head, self.receive(min(int(head["bytes"]), MOST_ANSWER), until)

    def end(self) -> None:
        """Kill it."""
        with contextlib.suppress(OSError):
            self.process.kill()
        for pipe in (self.sink, self.source):
            with contextlib.suppress(OSError):
                pipe.close()
        self.process.wait()


class Decoders:
    """A pool of decoding subprocesses, started on demand, with a common limit on memory."""

    def __init__(self, n: int | None = None) -> None:
        """Set the number of subprocesses; None takes one for each core, at most 8."""
        cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        self.n = n or min(8, cores)
        self._free, self._all = list[Child](), set[Child]()
        self._used, self._busy = 0, 0
        self._closed, self._sweeping = False, False
        self._changed = threading.Condition()
        self._owner = os.getpid()
        atexit.register(self.close)

    def photo(self, source: Path | bytes, name: str, limits: Limits) -> Decoded:
        """Return a photo as sRGB, upright. Raises: PictureError."""
        return self._decoded("photo", source, name, limits)

    def mask(self, source: Path | bytes, name: str, limits: Limits) -> Decoded:
        """Return a mask, 255 on the object. Raises: PictureError."""
        return self._decoded("mask", source, name, limits)

    def is_mask(self, source: Path | bytes, name: str, limits: Limits) -> bool:
        """Whether a file looks like a mask. Raises: PictureError if it is not a picture."""
        return bool(self._done("look", source, name, limits)[0]["mask"])

    def frames(
        self, source: Path, name: str, limits: Limits, *, patience: float
    ) -> Iterator[tuple[PIL.Image.Image, float]]:
        """Yield the frames of an animated picture, upright, RGB, and each one's duration in milliseconds.

        A separate subprocess decodes them, so that a slow consumer does not block photos. `limits.seconds` applies to
        all frames, `patience` to each. Raises: PictureError.
        """
        with self._changed:
            if self._closed:
                raise PictureError(ENDS.format(name=name))
            child = Child()
            self._all.add(child)
        job = {"kind": "film", "name": name, "path": os.fsencode(source.absolute()).hex(), "limits": asdict(limits)}
        try:
            whole = Clock(child.process.pid, limits.seconds)
            child.ask(job, b"", Clock(child.process.pid, patience))
            while True:
                if whole.left() <= 0:
                    raise _EndedError("time")
                answer, pixels = child.answer(Clock(child.process.pid, patience))
                if "need" in answer:
                    child.send(b"y", whole)
                elif "error" in answer:
                    raise PictureError(answer["error"])
                elif "shown" not in answer:
                    return
                else:
                    size = (int(answer["kept"][0]), int(answer["kept"][1]))
                    yield PIL.Image.frombytes(answer["mode"], size, pixels), float(answer["shown"])
        except _EndedError as error:
            problem = "takes too long to decode" if error.args else "cannot be decoded: it ends the program that tries"
            raise PictureError(f"{name} {problem}; please choose another file.") from None
        finally:
            self._drop(child)

    def close(self) -> None:
        """Kill all subprocesses and start no more; pending jobs raise PictureError."""
        if self._owner != os.getpid():
            return
        with self._changed:
            self._closed = True
            children, self._free = list(self._all), []
            self._changed.notify_all()
        for child in children:
            with contextlib.suppress(OSError):
                child.process.kill()
        with self._changed:
            self._changed.wait_for(lambda: self._busy == 0, timeout=2)
            self._free = []
            children, self._all = list(self._all), set()
        for child in children:
            child.end()

    def _decoded(self, kind: Literal["photo", "mask"], source: Path | bytes, name: str, limits: Limits) -> Decoded:
        answer, pixels = self._done(kind, source, name, limits)
        kept = (int(answer["kept"][0]), int(answer["kept"][1]))
        picture = PIL.Image.frombytes(answer["mode"], kept, pixels)
        size = (int(answer["size"][0]), int(answer["size"][1]))
        return Decoded(picture=picture, size=size, orientation=int(answer["orientation"]))

    def _done(self, kind: str, source: Path | bytes, name: str, limits: Limits) -> tuple[dict[str, Any], bytes]:
        """Run a job in one of the subprocesses; return its answer."""
        data = source if isinstance(source, bytes) else b""
        if len(data) > limits.max_bytes:
            size = f"a file of more than {limits.max_bytes} bytes"
            raise PictureError(f"{name} is {size}; {limits.in_words()}, please choose a smaller one.")
        path = "" if isinstance(source, bytes) else os.fsencode(source.absolute()).hex()
        job = {"kind": kind, "name": name, "path": path, "limits": asdict(limits)}
        if isinstance(source, bytes) and not data:
            raise PictureError(f"{name} is not a picture that can be read; it is empty.")
        with self._child(name) as child:
            try:
                answer, pixels = self._exchange(child, job, data, limits)
            except _EndedError as error:
                self._drop(child)
                if error.args:
                    raise PictureError(
                        f"{name} takes more than {limits.seconds:g} s to decode; please choose another file."
                    ) from None
                raise PictureError(f"{name} cannot be decoded: it ends the program that tries.") from None
            except BaseException:
                self._drop(child)
                raise
        if "error" in answer:
            raise PictureError(answer["error"])
        return answer, pixels

    def _exchange(self, child: Child, job: dict[str, Any], data: bytes, limits: Limits) -> tuple[dict[str, Any], bytes]:
        """Send a job and return its answer, granting the memory that it asks for when it is available."""
        until = Clock(child.process.pid, limits.seconds)
        child.ask(job, data, until)
        answer, pixels = child.answer(until)
        if "need" not in answer:
            return answer, pixels
        need = int(answer["need"])
        if need > limits.memory:
            child.send(b"n", until)
            return child.answer(until)
        with self._room(need, limits.memory):
            until = Clock(child.process.pid, limits.seconds)
            child.send(b"y", until)
            return child.answer(until)

    @contextmanager
    def _room(self, need: int, memory: int) -> Iterator[None]:
        """Wait until `need` bytes of `memory` are free, and reserve them inside the block."""
        with self._changed:
            self._changed.wait_for(lambda: self._used + need <= memory)
            self._used += need
        try:
            yield
        finally:
            with self._changed:
                self._used -= need
                self._changed.notify_all()

    @contextmanager
    def _child(self, name: str) -> Iterator[Child]:
        """Yield a free subprocess, waiting for one. Raises: PictureError after `close`."""
        with self._changed:
            if self._owner != os.getpid():  # after a fork: the subprocesses belong to the parent
                self._owner, self._free, self._all, self._used, self._busy = os.getpid(), [], set(), 0, 0
                self._sweeping = False
            self._changed.wait_for(lambda: self._busy < self.n or self._closed)
            if self._closed:
                raise PictureError(ENDS.format(name=name))
            self._busy += 1
            child = self._free.pop() if self._free else None
        try:
            if child is not None and child.process.poll() is not None:
                self._drop(child)
                child = None
            if child is None:
                child = Child()
                with self._changed:
                    self._all.add(child)
                    closed = self._closed
                if closed:  # meanwhile
                    child.process.kill()
            yield child
            with self._changed:
                if child in self._all:
                    child.idle_since = time.monotonic()
                    self._free.append(child)
                    self._sweep_later()
        finally:
            with self._changed:
                self._busy -= 1
                self._changed.notify_all()

    def _sweep_later(self) -> None:
        """Schedule the end of idle subprocesses, unless that is scheduled already. The lock must be held."""
        if not self._sweeping and not self._closed:
            self._sweeping = True
            timer = threading.Timer(IDLE_SECONDS, self._sweep)
            timer.daemon = True
            timer.start()

    def _sweep(self) -> None:
        """End the subprocesses that have been idle for `IDLE_SECONDS`."""
        with self._changed:
            self._sweeping = False
            until = time.monotonic() - 0.9 * IDLE_SECONDS
            idle = [child for child in self._free if child.idle_since <= until]
            self._free = [child for child in self._free if child not in idle]
            self._all -= set(idle)
            if self._free or self._busy:
                self._sweep_later()
        for child in idle:
            child.end()

    def _drop(self, child: Child) -> None:
        """Kill a subprocess and remove it from the pool."""
        with self._changed:
            self._all.discard(child)
            if child in self._free:
                self._free.remove(child)
        child.end()


DECODERS = Decoders()
"""The pool of this process."""
