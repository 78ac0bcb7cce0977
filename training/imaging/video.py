"""Films: a reader of untrusted files within limits, and a streaming writer. Imports no torch.

ffmpeg reads videos; it opens only that file and runs with limits on time and memory. Animated pictures (GIF, WebP, PNG,
AVIF) are read by a decoding subprocess, over white where they are transparent.
"""

import contextlib
import logging
import os
import selectors
import subprocess
import tempfile
import time
from collections.abc import Generator, Iterable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, TypeVar

import imageio_ffmpeg
import numpy as np
import PIL.Image
from jaxtyping import UInt8

from training.imaging.decoders import DECODERS
from training.imaging.read import Limits, PictureError

log = logging.getLogger(__name__)

T = TypeVar("T")
Pixels = UInt8[np.ndarray, "h w 3"]
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,ogg,flv"
"""Containers that are read; none of them refers to other files, as playlists do."""
READ = "an MP4, WebM, MOV, AVI or GIF"
PIPE = 1 << 20
MOST_ANIMATION = 200_000_000
"""Largest animated picture in bytes; it is read into memory."""
LEAST_SHOWN = 20
"""Shortest duration of a frame of a .gif or .webp in milliseconds; players treat shorter ones as 100."""
UNTOLD = 100
"""Milliseconds for which players show a frame that is shorter than LEAST_SHOWN."""
FINE, FAST = ("-qp", "5"), ("-preset", "ultrafast", "-tune", "fastdecode", "-crf", "23")
"""Options of H.264: high quality, or fast."""


class FilmError(ValueError):
    """A film that cannot be used; the message is one sentence."""


@dataclass(frozen=True, slots=True, kw_only=True)
class FilmLimits:
    """Limits on reading a film."""

    max_bytes: int = 20_000_000_000
    """Larger files, in bytes, are refused without reading them."""
    max_side: int = 4096
    """Films with a longer side are refused."""
    max_pixels: int = 4096 * 4096
    """Films with more pixels a frame are refused."""
    max_frames: int = 200_000
    """Longer films are cut there."""
    patience: float = 60.0
    """Seconds to wait for a frame."""
    seconds: float = 86_400.0
    """CPU seconds for the whole film."""
    memory: int = 4_000_000_000
    """Address space of ffmpeg in bytes."""
    threads: int = 0
    """Threads of ffmpeg; 0 lets it decide."""


OF_FILES = FilmLimits()
"""Limits for files on the user's own disk."""
OF_UPLOADS = FilmLimits(
    max_bytes=10_000_000, max_pixels=1920 * 1088, max_frames=600, patience=15.0, seconds=30.0, memory=600_000_000,
    threads=1,
)  # fmt: skip
"""Limits for uploads; decoders round sides up to multiples of 16."""


@dataclass(frozen=True, slots=True)
class Film:
    """Properties of a film."""

    width: int
    height: int
    fps: float


def probe(path: Path, limits: FilmLimits = OF_FILES) -> Film:
    """Return a film's upright size and frame rate. Raises: FilmError if it is not a film, or too large."""
    if not path.is_file():
        raise FilmError(f"there is no film at {path}: the file does not exist; give {READ}")
    if path.stat().st_size > limits.max_bytes:
        raise FilmError(f"{path.name} is larger than {limits.max_bytes / 1e6:.0f} MB; give a smaller film")
    if is_animation(path):
        return _probed_animation(path, limits)
    options = ["-frames:v", "1", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-"]
    with _ffmpeg([*_reading(path, limits), *options], limits) as process:
        head = _line(process, limits, path.name).split()
    if not head or head[0] != "YUV4MPEG2":
        most = f"at most {_megapixels(limits.max_pixels)} a frame"
        raise FilmError(f"{path.name} is no film that can be read; give {READ} of {most}")
    fields = {word[0]: word[1:] for word in head[1:]}
    over, _, under = fields.get("F", "25:1").partition(":")
    fps = int(over) / max(1, int(under or 1))
    film = Film(int(fields["W"]), int(fields["H"]), fps if 0 < fps <= 240 else 25.0)
    _check(film, path.name, limits)
    return film


def read_film(
    path: Path,
    limits: FilmLimits = OF_FILES,
    *,
    fps: float | None = None,
    seconds: float | None = None,
    square: int | None = None,
) -> Iterator[Pixels]:
    """Yield the frames of a film, upright, RGB, at a constant frame rate.

    Args:
        limits: on size, time and memory.
        fps: frames a second; by default the film's own.
        seconds: where to stop; by default the film's end.
        square: side in pixels of the centre squares to yield; by default whole frames.

    Raises: FilmError for files that are not films, exceed the limits, or have no frames.
    """
    film, count = probe(path, limits), 0
    pace = film.fps if fps is None else fps
    most = limits.max_frames if seconds is None else min(limits.max_frames, max(1, int(seconds * pace)))
    frames = _animation(path, film, pace, limits) if is_animation(path) else _video(path, film, pace, limits, square)
    for frame in islice(frames, most):
        count += 1
        yield _centre(frame, square) if square is not None and frame.shape[:2] != (square, square) else frame
    if count == 0:
        raise FilmError(f"{path.name} has no frames that can be read; give another film")


def is_animation(path: Path) -> bool:
    """Whether a file's first bytes are those of a format of animated pictures."""
    try:
        with path.open("rb") as file:
            head = file.read(12)
    except OSError:
        return False
    webp = head[:4] == b"RIFF" and head[8:] == b"WEBP"
    avif = head[4:8] == b"ftyp" and head[8:] in (b"avif", b"avis")
    return webp or avif or head.startswith((b"GIF8", b"\x89PNG"))


def _check(film: Film, name: str, limits: FilmLimits) -> None:
    if max(film.width, film.height) > limits.max_side:
        raise FilmError(f"{name} is {film.width} x {film.height}; expected sides of at most {limits.max_side} pixels")
    if film.width * film.height > limits.max_pixels:
        most = _megapixels(limits.max_pixels)
        raise FilmError(f"{name} is {film.width} x {film.height}; expected at most {most} a frame")


def _megapixels(pixels: int) -> str:
    return f"{pixels / 1e6:.3g} megapixels"


def _centre(frame: Pixels, side: int) -> Pixels:
    """Return a frame's centre square at another size."""
    height, width = frame.shape[:2]
    edge = min(height, width)
    top, left = (height - edge) // 2, (width - edge) // 2
    picture = PIL.Image.fromarray(frame[top : top + edge, left : left + edge])
    return np.asarray(picture.resize((side, side), PIL.Image.Resampling.BICUBIC))


# Animated pictures


def _frames(path: Path, limits: FilmLimits) -> Generator[tuple[Pixels, float], None, None]:
    """Yield the frames of an animation with their durations in seconds."""
    allowed = Limits(
        max_bytes=min(limits.max_bytes, MOST_ANIMATION), max_pixels=limits.max_pixels, seconds=limits.seconds
    )
    try:
        for picture, shown in DECODERS.frames(path, path.name, allowed, patience=limits.patience):
            yield np.asarray(picture), (shown if shown >= LEAST_SHOWN else UNTOLD) / 1000
    except PictureError as error:
        raise FilmError(str(error)) from error


def _probed_animation(path: Path, limits: FilmLimits) -> Film:
    """Return an animation's properties; its frame rate is the most frequent one of its first frames."""
    with contextlib.closing(_frames(path, limits)) as frames:
        first = list(islice(frames, 8))
    if not first:
        raise FilmError(f"{path.name} has no frames that can be read; give another film")
    height, width = first[0][0].shape[:2]
    film = Film(width, height, 1 / sorted(shown for _, shown in first)[(len(first) - 1) // 2])
    _check(film, path.name, limits)
    return film


def _animation(path: Path, film: Film, fps: float, limits: FilmLimits) -> Iterator[Pixels]:
    """Yield an animation's frames at a constant rate: frames of long duration are repeated."""
    end, made = 0.0, 0
    with contextlib.closing(_frames(path, limits)) as frames:
        for frame, shown in frames:
            if frame.shape[:2] != (film.height, film.width):
                raise FilmError(f"{path.name} has frames of different sizes; give another film")
            end += shown
            while made < round(end * fps):
                made += 1
                yield frame


# Videos


def _reading(path: Path, limits: FilmLimits) -> list[str]:
    """Return ffmpeg's input options, which let it open only this file: playlists could refer to others."""
    safe = ["-protocol_whitelist", "file", "-format_whitelist", FORMATS, "-max_pixels", str(limits.max_pixels)]
    threads = ["-threads", str(limits.threads)] if limits.threads else []
    source = [*safe, *threads, "-i", f"file:{path}", "-map", "0:v:0", "-an"]
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *source]


def _video(path: Path, film: Film, fps: float, limits: FilmLimits, square: int | None) -> Iterator[Pixels]:
    """Yield a video's frames at a constant rate."""
    shape = (film.height, film.width, 3) if square is None else (square, square, 3)
    scale = [] if square is None else ["-vf", f"crop='min(iw,ih)':'min(iw,ih)',scale={square}:{square}"]
    threads = ["-filter_threads", "1"] if limits.threads else []
    command = [*_reading(path, limits), "-r", f"{fps:.6f}", *scale, *threads]
    size = shape[0] * shape[1] * 3
    count = 0
    with (
        tempfile.TemporaryFile() as said,
        _ffmpeg([*command, "-pix_fmt", "rgb24", "-f", "rawvideo", "-"], limits, said) as process,
    ):
        while len(data := _read(process, size, limits, path.name)) == size:
            yield np.frombuffer(data, np.uint8).reshape(shape)
            count += 1
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(limits.patience)
        said.seek(0)
        problem = said.read(2000).decode("utf-8", "replace").strip().split("\n")[0]
        if problem or process.returncode:
            why = problem or f"its decoder ended with status {process.returncode}"
            log.warning("%s may be damaged or cut short: %d frames were read (%s)", path.name, count, why)


@contextlib.contextmanager
def _ffmpeg(
    command: list[str], limits: FilmLimits, said: IO[bytes] | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """Run ffmpeg with limits on time and memory, its messages in `said`; kill it when the block ends."""
    quiet = subprocess.DEVNULL
    with subprocess.Popen(
        command, bufsize=0, stdin=quiet, stdout=subprocess.PIPE, stderr=quiet if said is None else said
    ) as process:
        try:
            _bound(process.pid, limits)
            yield process
        finally:
            process.kill()


def _bound(process: int, limits: FilmLimits) -> None:
    """Set a process's limits on CPU time and memory, where the system supports them."""
    with contextlib.suppress(ImportError, AttributeError, ValueError, OSError):
        import resource

        resource.prlimit(process, resource.RLIMIT_CPU, (int(limits.seconds) + 1, int(limits.seconds) + 2))
        resource.prlimit(process, resource.RLIMIT_AS, (limits.memory, limits.memory))


def _read(process: "subprocess.Popen[bytes]", size: int, limits: FilmLimits, name: str) -> bytes:
    """Return the next `size` bytes of a process's output, fewer at its end. Raises: FilmError on a timeout."""
    assert process.stdout is not None
    data, handle, until = bytearray(), process.stdout.fileno(), time.monotonic() + limits.patience
    with selectors.DefaultSelector() as selector:
        selector.register(handle, selectors.EVENT_READ)
        while len(data) < size:
            if not selector.select(max(0.0, until - time.monotonic())):
                raise FilmError(f"{name} gives no frame within {limits.patience:g} seconds; give another film")
            part = os.read(handle, min(PIPE, size - len(data)))
            if not part:
                break
            data += part
    return bytes(data)


def _line(process: "subprocess.Popen[bytes]", limits: FilmLimits, name: str) -> str:
    """Return the first line of a process's output."""
    line = b""
    while len(line) < 500 and (byte := _read(process, 1, limits, name)) not in (b"", b"\n"):
        line += byte
    return line.decode("ascii", "replace")


# Writing


class FilmWriter:
    """Encodes frames one by one as H.264 for browsers and editors; the encoder runs in a subprocess."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float, how: tuple[str, ...] = FINE) -> None:
        """Start the encoder for a file, width and height of its frames, and `how`, FINE or FAST."""
        self._even = (size[0] % 2, size[1] % 2)  # its colour planes need even sides: odd ones are padded
        width, height = size[0] + self._even[0], size[1] + self._even[1]
        self._command = [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{width}x{height}", "-r", f"{fps:.6f}", "-i", "-", "-an", "-c:v", "libx264", *how),
            *("-threads", "1", "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(path)),
        ]

    def __enter__(self) -> "FilmWriter":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        return self  # its pipes are closed by `communicate`

    def write(self, frame: Pixels) -> None:
        """Add a frame. Raises: FilmError if the encoder has ended."""
        assert self._process.stdin is not None
        if any(self._even):
            frame = np.pad(frame, ((0, self._even[1]), (0, self._even[0]), (0, 0)), mode="edge")
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError as error:
            raise FilmError(f"the film could not be written: {self._last_message()}") from error

    def __exit__(self, kind: Any, *_: Any) -> None:
        if kind is not None:
            self._process.kill()
            self._process.communicate()
            return
        problem = self._last_message()
        if self._process.returncode:
            raise FilmError(f"the film could not be written: {problem}")

    def _last_message(self) -> str:
        """Wait for the encoder; return its last line of output."""
        _, text = self._process.communicate()
        return (text.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]


def write_film(path: Path, frames: Iterable[Pixels], n: int, *, fps: float) -> None:
    """Write `n` frames from an iterator as .mp4 (H.264), .webp or .gif, the last two looping. Raises: FilmError."""
    kind = path.suffix.lower()
    first, left = _first(frames)
    if kind == ".mp4":
        with FilmWriter(path, (first.shape[1], first.shape[0]), fps) as writer:
            for frame in left:
                writer.write(frame)
        return
    times = paced(n, fps, step=10 if kind == ".gif" else 1)
    shown = {place for place, _ in times}
    kept, rest = _first(PIL.Image.fromarray(frame) for place, frame in enumerate(left) if place in shown)
    next(rest)
    options: dict[str, Any] = {"quality": 90, "method": 4} if kind == ".webp" else {"disposal": 1}
    duration = [length for _, length in times]
    kept.save(path, save_all=True, append_images=rest, duration=duration, loop=0, **options)


def _first(items: Iterable[T]) -> tuple[T, Iterator[T]]:
    """Return the first item, and an iterator over all items."""
    left = iter(items)
    first = next(left)
    return first, chain([first], left)


def paced(n: int, fps: float, *, step: int) -> list[tuple[int, int]]:
    """Return the frames, of `n`, that a film shows, each with its duration in milliseconds, a multiple of `step`.

    Players treat less than 20 ms as 100 ms: faster films drop frames, so that their length is kept.
    """
    shown: list[tuple[int, int]] = []
    end = 0
    for i in range(n):
        until = round((i + 1) * 1000 / fps / step) * step
        if until - end >= LEAST_SHOWN:
            shown.append((i, until - end))
            end = until
    if not shown:
        return [(0, LEAST_SHOWN)]
    return shown
