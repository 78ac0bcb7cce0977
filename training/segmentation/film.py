"""Detection and tracking of a film's objects, as a pipeline: read, detect, draw and write at the same time.

Three threads keep two cores busy: one reads and prepares frames, one runs the network, one suppresses duplicates,
assembles masks, draws and encodes. Networks and encoders release Python's lock while they compute.
"""

import json
import math
import queue
import threading
import time
from collections.abc import Callable, Iterator
from colorsys import hsv_to_rgb
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import PIL.Image
import PIL.ImageDraw
from jaxtyping import Float

from ..imaging.video import FAST, FilmWriter, probe, read_film
from ..pictures import whole_file
from .contract import Instance, Pixels
from .tracking import Tracked, Tracker, TrackingConfig

AHEAD = 4
"""Largest number of frames that wait between two threads."""
BEYOND = 0.05
"""Share of a box's sides by which masks may exceed it."""


@runtime_checkable
class StagedSegmenter(Protocol):
    """A segmenter whose three steps can run in three threads, each on another frame."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of its instances."""
        ...

    def prepare(self, image: Pixels) -> Any:
        """Return the network's input for a photo."""
        ...

    def predict(self, prepared: Any) -> Any:
        """Run the network."""
        ...

    def finish(self, predicted: Any) -> list[Instance]:
        """Return the instances in the network's output."""
        ...


def instances_of(
    segmenter: Callable[[Pixels], list[Instance]] | StagedSegmenter, frames: Iterator[Pixels]
) -> Iterator[tuple[Pixels, list[Instance]]]:
    """Yield frames with their instances, in order; reading and the network run ahead in separate threads.

    Raises: errors of the reader or the segmenter.
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
    """Yield items that a thread computes a few ahead; its errors are raised here."""
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
    """Write a film with its objects marked, and OUT.json with every frame's boxes and identities.

    Args:
        keep: selects a frame's instances.
        tracking: config of the tracker.
        paint: draws a frame's objects; by default `painted`.
        read: yields the film's frames.
        quality: x264's constant rate factor; lower gives better quality and larger files.

    Returns: frames, seconds, identities and labels. Raises: FilmError.
    """
    film, tracker, paint = probe(path), Tracker(tracking), paint or painted
    began, count = time.perf_counter(), 0
    lines: list[dict[str, Any]] = []
    identities: dict[int, str] = {}
    how = (*FAST[:-1], str(quality))
    size = (film.width, film.height)
    with whole_file(out) as temporary, FilmWriter(temporary, size, film.fps, how) as encoder:
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
    """Return a frame with each object tinted in its identity's colour, outlined and labelled."""
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
    """Return a drawing function that shows only the objects, on one colour."""

    def paint(frame: Pixels, tracked: list[Tracked]) -> Pixels:
        alpha: Float[np.ndarray, "h w"] = np.zeros(frame.shape[:2], np.float32)
        for item in tracked:
            x0, y0, x1, y1 = _edges(item.instance, frame.shape)
            alpha[y0:y1, x0:x1] = np.maximum(alpha[y0:y1, x0:x1], item.instance.mask[y0:y1, x0:x1])
        ground = np.array(colour, np.float32)
        return (ground + alpha[..., None] * (frame - ground) + 0.5).astype(np.uint8)

    return paint


def colour_of(identity: int) -> tuple[int, int, int]:
    """Return a light colour; consecutive identities get different ones."""
    red, green, blue = hsv_to_rgb(identity * 0.381966 % 1, 0.65, 1.0)
    return round(255 * red), round(255 * green), round(255 * blue)


def _edges(instance: Instance, shape: tuple[int, ...]) -> tuple[int, int, int, int]:
    """Return an instance's box as integer pixels inside the frame, enlarged, as masks may exceed boxes by a share of
    their sides."""
    x0, y0, x1, y1 = instance.box
    dx, dy = (max(4, math.ceil(BEYOND * side) + 1) for side in (x1 - x0, y1 - y0))
    return max(0, int(x0) - dx), max(0, int(y0) - dy), min(shape[1], int(x1) + dx + 1), min(shape[0], int(y1) + dy + 1)
