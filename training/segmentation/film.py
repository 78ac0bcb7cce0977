"""Objects of a film, frame by frame, with identities that stay: read, found, painted and written at the same time.

Three threads keep two cores busy: one reads frames and makes them ready, one runs the network, one suppresses doubles,
assembles masks, paints and encodes. Networks and coders leave Python's lock while they compute.
"""

import json
import queue
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from colorsys import hsv_to_rgb
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import imageio_ffmpeg
import numpy as np
import PIL.Image
import PIL.ImageDraw
from jaxtyping import Float, UInt8

from ..pictures import whole_file
from .contract import Instance, Pixels
from .tracking import Tracked, Tracker, TrackingConfig

AHEAD = 4
"""Frames that wait between two threads at most."""
MAX_SIDE, MAX_FRAMES = 4096, 200_000
"""Films beyond these are refused, or end there."""
PATIENCE = 60
"""Seconds to wait for a film's first frame."""
FORMATS = "mov,mp4,m4a,3gp,3g2,mj2,matroska,webm,avi,gif,mpegts,ogg,flv"
"""Containers that are read; none of them names other files, as play lists do."""


class FilmError(ValueError):
    """A film that cannot be used, in one sentence."""


@runtime_checkable
class StagedSegmenter(Protocol):
    """A segmenter whose three steps can run in three threads, each on another frame."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Names that its instances can carry."""
        ...

    def prepare(self, image: Pixels) -> Any:
        """Return what the network takes for a photo."""
        ...

    def predict(self, prepared: Any) -> Any:
        """Run the network."""
        ...

    def finish(self, predicted: Any) -> list[Instance]:
        """Return the instances that the network's outputs hold."""
        ...


@dataclass(frozen=True, slots=True)
class Film:
    """What a film is like."""

    width: int
    height: int
    fps: float


def probe(path: Path) -> Film:
    """Return a film's size, upright, and pace. Raises: FilmError if it is no film, or too large."""
    if not path.is_file():
        raise FilmError(f"{path} does not exist; give a film such as an .mp4")
    first = [*_reading(path), "-frames:v", "1", "-pix_fmt", "yuv444p", "-f", "yuv4mpegpipe", "-"]
    try:
        answer = subprocess.run(first, capture_output=True, timeout=PATIENCE, stdin=subprocess.DEVNULL).stdout
    except subprocess.TimeoutExpired as error:
        raise FilmError(f"{path.name} gives no frame within {PATIENCE} seconds; give another film") from error
    head = answer.partition(b"\n")[0].decode("ascii", "replace").split()
    if not head or head[0] != "YUV4MPEG2":
        raise FilmError(f"{path.name} is no film that can be read; give an MP4, WebM, MOV, AVI or GIF")
    fields = {word[0]: word[1:] for word in head[1:]}
    width, height = int(fields["W"]), int(fields["H"])
    if max(width, height) > MAX_SIDE:
        raise FilmError(f"{path.name} is {width} x {height}; expected sides of at most {MAX_SIDE} pixels")
    over, _, under = fields.get("F", "25:1").partition(":")
    fps = int(over) / max(1, int(under or 1))
    return Film(width, height, fps if 0 < fps <= 240 else 25.0)


def read_film(path: Path) -> Iterator[Pixels]:
    """Yield the frames of a film, upright, RGB, at a steady pace. Raises: FilmError if it has no frame."""
    film, count = probe(path), 0
    size = film.width * film.height * 3
    command = [*_reading(path), "-r", f"{film.fps:.6f}", "-pix_fmt", "rgb24", "-f", "rawvideo", "-"]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, stdin=subprocess.DEVNULL, bufsize=size
    ) as process:
        assert process.stdout is not None
        try:
            while count < MAX_FRAMES and len(data := process.stdout.read(size)) == size:
                count += 1
                yield np.frombuffer(data, np.uint8).reshape(film.height, film.width, 3)
        finally:
            process.kill()
    if count == 0:
        raise FilmError(f"{path.name} has no frames that can be read")


def _reading(path: Path) -> list[str]:
    """Return how ffmpeg reads a film and opens nothing but its file: play lists could name others."""
    safe = ["-protocol_whitelist", "file", "-format_whitelist", FORMATS]
    return [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-nostdin", *safe, "-i", f"file:{path}", "-map", "0:v:0"]


def instances_of(
    segmenter: Callable[[Pixels], list[Instance]] | StagedSegmenter, frames: Iterator[Pixels]
) -> Iterator[tuple[Pixels, list[Instance]]]:
    """Yield frames with what was found in them, in order; reading and the network run ahead in threads of their own.

    Raises: whatever the reader or the segmenter raises.
    """
    stop = threading.Event()
    if isinstance(segmenter, StagedSegmenter):
        staged = segmenter
        ready = _ahead(((frame, staged.prepare(frame)) for frame in frames), stop)
        predicted = _ahead(((frame, staged.predict(prepared)) for frame, prepared in ready), stop)
        found = ((frame, staged.finish(outputs)) for frame, outputs in predicted)
    else:
        plain: Callable[[Pixels], list[Instance]] = segmenter
        found = _ahead(((frame, plain(frame)) for frame in _ahead(frames, stop)), stop)
    try:
        yield from found
    finally:
        stop.set()


def _ahead(items: Iterator[Any], stop: threading.Event) -> Iterator[Any]:
    """Yield items, a few of which a thread makes ahead; its errors are raised here."""
    waiting: queue.Queue[tuple[bool, Any]] = queue.Queue(AHEAD)

    def put(entry: tuple[bool, Any]) -> bool:
        while not stop.is_set():
            try:
                waiting.put(entry, timeout=0.1)
                return True
            except queue.Full:
                continue
        return False

    def work() -> None:
        try:
            for item in items:
                if not put((True, item)):
                    return
            put((False, None))
        except BaseException as error:  # the consumer raises it
            put((False, error))

    threading.Thread(target=work, daemon=True).start()
    while not stop.is_set():
        try:
            more, item = waiting.get(timeout=0.1)
        except queue.Empty:
            continue
        if more:
            yield item
        elif item is None:
            return
        else:
            raise item


def track_film(
    segmenter: Callable[[Pixels], list[Instance]] | StagedSegmenter,
    path: Path,
    out: Path,
    *,
    keep: Callable[[list[Instance]], list[Instance]] = list,
    tracking: TrackingConfig | None = None,
    paint: Callable[[Pixels, list[Tracked]], Pixels] | None = None,
    read: Callable[[Path], Iterator[Pixels]] = read_film,
    quality: int = 23,
) -> dict[str, Any]:
    """Write a film with its objects painted, and OUT.json with every frame's boxes and identities.

    Args:
        keep: chooses among a frame's instances.
        tracking: when instances of different frames are one object.
        paint: makes a written frame of a frame and its objects; `painted` if not given.
        read: gives the film's frames.
        quality: x264's constant rate factor; lower is finer and larger.

    Returns: frames, seconds, identities and labels. Raises: FilmError.
    """
    film, tracker, paint = probe(path), Tracker(tracking), paint or painted
    began, count = time.perf_counter(), 0
    lines: list[dict[str, Any]] = []
    identities: dict[int, str] = {}
    with whole_file(out) as temporary, _Encoder(temporary, film, quality) as encoder:
        for frame, instances in instances_of(segmenter, read(path)):
            tracked = tracker(frame, keep(instances))
            encoder.write(paint(frame, tracked))
            count += 1
            identities |= {item.identity: item.label for item in tracked}
            lines.append({"frame": count - 1, "objects": [_entry(item) for item in tracked]})
    seconds = time.perf_counter() - began
    report = {"film": path.name, "width": film.width, "height": film.height, "fps": film.fps, "frames": lines}
    with whole_file(out.with_suffix(".json")) as temporary:
        temporary.write_text(json.dumps(report) + "\n", encoding="utf-8")
    return {
        "out": str(out),
        "frames": count,
        "seconds": round(seconds, 3),
        "frames_a_second": round(count / seconds, 2),
        "identities": {str(k): v for k, v in identities.items()},
    }


def _entry(item: Tracked) -> dict[str, Any]:
    x0, y0, x1, y1 = (round(edge, 1) for edge in item.instance.box)
    score = round(item.instance.score, 3)
    return {"id": item.identity, "label": item.label, "score": score, "bbox": [x0, y0, x1 - x0, y1 - y0]}


def painted(frame: Pixels, tracked: list[Tracked]) -> Pixels:
    """Return a frame with each object tinted in its identity's colour, outlined and named."""
    shown = frame.copy()
    for item in tracked:
        x0, y0, x1, y1 = _edges(item.instance, frame.shape)
        colour = np.array(colour_of(item.identity), np.int16)
        mask = item.instance.mask[y0:y1, x0:x1]
        weight = (mask * 115).astype(np.int16)[..., None]
        part = shown[y0:y1, x0:x1].astype(np.int16)
        shown[y0:y1, x0:x1] = (part + (colour - part) * weight // 256).astype(np.uint8)
    picture = PIL.Image.fromarray(shown)
    draw = PIL.ImageDraw.Draw(picture)
    for item in tracked:
        x0, y0, x1, y1 = _edges(item.instance, frame.shape)
        colour = colour_of(item.identity)
        draw.rectangle((x0, y0, max(x0, x1 - 1), max(y0, y1 - 1)), outline=colour, width=2)
        text = f"{item.identity} {item.label} {item.instance.score:.2f}"
        where = draw.textbbox((x0 + 3, max(0, y0 - 12)), text)
        draw.rectangle((where[0] - 3, where[1] - 1, where[2] + 3, where[3] + 1), fill=colour)
        draw.text((x0 + 3, max(0, y0 - 12)), text, fill=(0, 0, 0))
    return np.asarray(picture)


def cut_out_on(colour: tuple[int, int, int]) -> Callable[[Pixels, list[Tracked]], Pixels]:
    """Return a painter that shows the objects alone, on one colour."""

    def paint(frame: Pixels, tracked: list[Tracked]) -> Pixels:
        alpha: Float[np.ndarray, "h w"] = np.zeros(frame.shape[:2], np.float32)
        for item in tracked:
            x0, y0, x1, y1 = _edges(item.instance, frame.shape)
            alpha[y0:y1, x0:x1] = np.maximum(alpha[y0:y1, x0:x1], item.instance.mask[y0:y1, x0:x1])
        ground = np.array(colour, np.float32)
        return (ground + alpha[..., None] * (frame - ground) + 0.5).astype(np.uint8)

    return paint


def colour_of(identity: int) -> tuple[int, int, int]:
    """Return a light colour that neighbours in number do not share."""
    red, green, blue = hsv_to_rgb(identity * 0.381966 % 1, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _edges(instance: Instance, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return an instance's box as whole pixels inside the frame, and a little wider, as its mask may be."""
    x0, y0, x1, y1 = instance.box
    return max(0, int(x0) - 4), max(0, int(y0) - 4), min(shape[1], int(x1) + 5), min(shape[0], int(y1) + 5)


class _Encoder:
    """Writes frames as H.264; its thread and ffmpeg's run beside the caller."""

    def __init__(self, path: Path, film: Film, quality: int) -> None:
        even = f"scale={film.width + film.width % 2}:{film.height + film.height % 2}"
        self._command = [
            *(imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"),
            *("-s", f"{film.width}x{film.height}", "-r", str(film.fps), "-i", "-", "-an", "-vf", even),
            *("-c:v", "libx264", "-preset", "ultrafast", "-tune", "fastdecode", "-threads", "1"),
            *("-crf", str(quality), "-pix_fmt", "yuv420p", "-movflags", "+faststart", "-f", "mp4", str(path)),
        ]

    def __enter__(self) -> "_Encoder":
        self._process = subprocess.Popen(self._command, stdin=subprocess.PIPE, stderr=subprocess.PIPE)
        return self  # its pipes are closed by `communicate`

    def write(self, frame: UInt8[np.ndarray, "h w 3"]) -> None:
        """Add a frame. Raises: FilmError if the coder has ended."""
        assert self._process.stdin is not None
        try:
            self._process.stdin.write(np.ascontiguousarray(frame).data)
        except BrokenPipeError as error:
            raise FilmError(f"the film could not be written: {self._said()}") from error

    def __exit__(self, kind: Any, *_: Any) -> None:
        assert self._process.stdin is not None
        if kind is not None:
            self._process.kill()
            self._process.communicate()
            return
        said = self._said()
        if self._process.returncode:
            raise FilmError(f"the film could not be written: {said}")

    def _said(self) -> str:
        """Wait for the coder; return its last line."""
        _, text = self._process.communicate()
        return (text.decode(errors="replace").strip().splitlines() or ["no reason given"])[-1]
