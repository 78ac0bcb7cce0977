"""The subprocess that decodes pictures for `decoders`: it handles jobs from its input, one by one, until that ends."""

import contextlib
import json
import os
import signal
import stat
import struct
import sys
import time
from pathlib import Path
from typing import Any, BinaryIO

from training.imaging.read import Limits, PictureError, decode, frames
from training.runtime.malloc import trim

LITTLE = 40_000_000
"""Pictures that need less memory, in bytes, are decoded without asking the parent."""
SPARE = 160_000_000
"""Memory, in bytes, that a job may take besides its picture's."""


def main() -> None:
    """Answer jobs: a job is a header and optionally bytes; the answer is the memory needed and, once allowed,
    pixels."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is handled by the parent, which ends this process
    source, sink = sys.stdin.buffer, sys.stdout.buffer
    sys.stdout = sys.stderr  # libraries must not print into the answers
    base = _address_space()
    while (job := _received(source)) is not None:
        data = source.read(job.pop("bytes", 0))
        try:
            _answer(sink, *_done(job, data, source, sink, base))
        except MemoryError:
            _answer(sink, {"error": f"{job['name']} takes too much memory to decode; please choose a smaller one."})
        except PictureError as error:
            _answer(sink, {"error": str(error)})
        except OSError as error:
            _answer(sink, {"error": f"{job['name']} cannot be read ({error.strerror}); please check it."})
        data = b""
        _limit_memory(None)
        trim()


def _done(
    job: dict[str, Any], data: bytes, source: BinaryIO, sink: BinaryIO, base: int
) -> tuple[dict[str, Any], bytes]:
    """Do a job; return its answer and its pixels."""
    limits = Limits(**job["limits"])
    _limit_time(limits.seconds)
    data = data or _read(job, limits)

    def allowed(need: int) -> None:
        if need > min(LITTLE, limits.memory):
            _answer(sink, {"need": need})
        if need > min(LITTLE, limits.memory) and source.read(1) != b"y":
            raise PictureError(f"{job['name']} takes too much memory to decode; please choose a smaller one.")
        _limit_memory(base + len(data) + 2 * need + SPARE if base else None)

    if job["kind"] == "film":
        for picture, shown in frames(data, job["name"], limits, allowed):
            _answer(sink, {"mode": picture.mode, "kept": picture.size, "shown": shown}, picture.tobytes())
        return {}, b""
    if job["kind"] == "photo":
        done = decode(data, job["name"], limits, allowed)
    else:
        from training.imaging.masks import decode_mask, look  # only where it is needed: a process starts sooner

        if job["kind"] == "look":
            return {"mask": look(data, job["name"], limits, allowed)}, b""
        done = decode_mask(data, job["name"], limits, allowed)
    picture = done.picture
    answer = {"mode": picture.mode, "kept": picture.size, "size": done.size, "orientation": done.orientation}
    return answer, picture.tobytes()


def _read(job: dict[str, Any], limits: Limits) -> bytes:
    """Return the bytes of a job's file, at most one more than the limit."""
    name, path = job["name"], os.fsdecode(bytes.fromhex(job["path"]))
    try:
        handle = os.open(path, os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0))
    except FileNotFoundError as error:
        raise PictureError(f"{name} does not exist; please check its name.") from error
    except OSError as error:
        raise PictureError(f"{name} cannot be read ({error.strerror}); please check it.") from error
    if not stat.S_ISREG(os.fstat(handle).st_mode):
        os.close(handle)
        raise PictureError(f"{name} is no file; please choose a picture.")
    with os.fdopen(handle, "rb") as file:
        return file.read(limits.max_bytes + 1)


def _received(source: BinaryIO) -> dict[str, Any] | None:
    """Return the next header, None at the end."""
    head = source.read(4)
    if len(head) < 4:
        return None
    return json.loads(source.read(struct.unpack("<I", head)[0]))


def _answer(sink: BinaryIO, answer: dict[str, Any], pixels: bytes = b"") -> None:
    """Send an answer and its pixels."""
    head = json.dumps(answer | {"bytes": len(pixels)}).encode()
    sink.write(struct.pack("<I", len(head)) + head)
    sink.write(pixels)
    sink.flush()


def _address_space() -> int:
    """Return the size of this process's address space in bytes; 0 where it is unknown."""
    try:
        return int(Path("/proc/self/statm").read_text().split()[0]) * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, IndexError):
        return 0


def _limit_time(seconds: float) -> None:
    """Let the system kill this process some time after the job's limit, in case its parent is gone."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_CPU)[1]
        resource.setrlimit(resource.RLIMIT_CPU, (int(time.process_time() + seconds) + 3, hard))


def _limit_memory(most: int | None) -> None:
    """Limit this process's address space (None: remove the limit), where the system supports it."""
    with contextlib.suppress(ImportError, ValueError, OSError):
        import resource

        hard = resource.getrlimit(resource.RLIMIT_AS)[1]
        resource.setrlimit(resource.RLIMIT_AS, (hard if most is None else most, hard))
