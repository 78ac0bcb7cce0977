"""Films of three moving cut-outs that cross: identities kept (IDF1), and the time of each stage of the pipeline.

    python -m tests.benchmarks.segment_film MODEL --objects COCO_DIR... [--environments DIR] [--film OUT.mp4]

MODEL is a checkpoint, an .onnx file, or `truth`, which finds what was pasted. Times are of the thread that does the
stage, so that other programs on the machine count little; the pipeline's frames a second are by the clock.
"""

import json
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import imageio_ffmpeg
import numpy as np
import scipy.optimize
import tyro

from training.data.backgrounds import pattern, read_environments, view
from training.data.coco import find_split
from training.data.composites import Sources
from training.data.cutouts import Cutout, turned
from training.imaging.video import read_film
from training.metrics.coco_map import mask_iou
from training.segmentation.contract import Instance
from training.segmentation.film import StagedSegmenter, instances_of, painted, track_film
from training.segmentation.load import load_segmenter
from training.segmentation.tracking import Tracker

SIZE = (640, 360)


@dataclass(frozen=True, kw_only=True)
class SegmentFilm:
    """Measure a finder on made films."""

    model: tyro.conf.Positional[str]
    objects: tuple[Path, ...]
    environments: Path | None = None
    frames: int = 120
    films: int = 4
    seed: int = 0
    film: Path | None = None
    """Where to keep the last film."""

    def run(self) -> None:
        """Print one JSON line a film, and one for all."""
        sources = Sources([find_split(folder, "validation") for folder in self.objects], [], [])
        segmenter = None if self.model == "truth" else load_segmenter(self.model)
        scores, speeds = [], []
        with tempfile.TemporaryDirectory() as folder:
            for k in range(self.films):
                rng = np.random.default_rng([self.seed, k])
                frames, truth, labels = self._made(sources, rng)
                path = self.film if self.film and k == self.films - 1 else Path(folder) / "film.mp4"
                write_film(path, frames)
                found = segmenter or _Truth(truth, rng)
                score = identities(found, path, truth)
                speed = {} if segmenter is None else _timed(segmenter, path)
                began = time.perf_counter()
                done = track_film(found, path, Path(folder) / "out.mp4")
                speeds.append(done["frames"] / (time.perf_counter() - began))
                scores.append(score)
                print(
                    json.dumps({"film": k, "labels": labels, "idf1": round(score, 4), "fps": speeds[-1], "ms": speed})
                )
        print(
            json.dumps(
                {
                    "what": "identities",
                    "model": self.model,
                    "idf1": float(np.mean(scores)),
                    "fps": float(np.median(speeds)),
                }
            )
        )

    def _made(self, sources: Sources, rng: np.random.Generator) -> tuple[list[np.ndarray], list[dict], list[str]]:
        """Return frames, the masks seen in each by object, and the objects' labels."""
        ground = pattern(SIZE, rng)
        if self.environments is not None:
            maps = list(read_environments(self.environments).values())
            ground = view(maps[int(rng.integers(len(maps)))], SIZE, rng)
        items: list[Cutout] = []
        while len(items) < 3:
            item = sources.draw(rng)
            if not item.ends:
                items.append(item)
        cuts = [turned(item, float(rng.uniform(110, 170)), 0.0, False) for item in items]
        frames, truth = [], []
        for t in range(self.frames):
            s = t / (self.frames - 1)
            places = [(90 + 460 * s, 190), (550 - 460 * s, 210), (320 + 60 * np.sin(6 * s), 60 + 240 * s)]
            picture, seen = ground.astype(np.float32), {}
            for k, ((colour, alpha), (x, y)) in enumerate(zip(cuts, places, strict=True)):
                whole = np.zeros(SIZE[::-1], np.float32)
                paint = np.zeros((*SIZE[::-1], 3), np.float32)
                top, left = round(y - alpha.shape[0] / 2), round(x - alpha.shape[1] / 2)
                rows, columns = slice(max(0, top), top + alpha.shape[0]), slice(max(0, left), left + alpha.shape[1])
                inside = whole[rows, columns].shape
                cut = slice(max(0, -top), max(0, -top) + inside[0]), slice(max(0, -left), max(0, -left) + inside[1])
                whole[rows, columns], paint[rows, columns] = alpha[cut], colour[cut]
                picture += whole[..., None] * (paint - picture)
                mask = whole > 0.5
                seen = {who: m & ~mask for who, m in seen.items()} | {k: mask}
            frames.append(picture.clip(0, 255).astype(np.uint8))
            truth.append({who: mask for who, mask in seen.items() if mask.sum() > 200})
        return frames, truth, [item.label for item in items]


class _Truth:
    """Finds what was pasted, a tenth of it not, and of shaky score."""

    labels = ("object",)

    def __init__(self, truth: list[dict[int, np.ndarray]], rng: np.random.Generator) -> None:
        self.truth, self.rng, self.frame = truth, rng, 0

    def __call__(self, image: np.ndarray) -> list[Instance]:
        seen = self.truth[self.frame % len(self.truth)]
        self.frame += 1
        found = []
        for mask in seen.values():
            if self.rng.random() < 0.1:
                continue
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            box = (float(columns[0]), float(rows[0]), float(columns[-1] + 1), float(rows[-1] + 1))
            found.append(Instance(mask.astype(np.float32), box, "object", float(self.rng.uniform(0.4, 1))))
        return found


def identities(segmenter: Any, path: Path, truth: list[dict[int, np.ndarray]]) -> float:
    """Return IDF1 (Ristani et al. 2016) of what is tracked in a film; a match is a mask IoU of at least .5."""
    tracker, pairs, n_found = Tracker(), [], 0
    for (frame, instances), seen in zip(instances_of(segmenter, read_film(path)), truth, strict=False):
        tracked = tracker(frame, [instance for instance in instances if instance.score >= 0.4])
        n_found += len(tracked)
        for who, mask in seen.items():
            pairs += [(who, item.identity) for item in tracked if mask_iou(mask, item.instance.binary) >= 0.5]
    given = sorted({identity for _, identity in pairs})
    counts = np.zeros((3, max(1, len(given))))
    for who, identity in pairs:
        counts[who, given.index(identity)] += 1
    rows, columns = scipy.optimize.linear_sum_assignment(-counts)
    return float(2 * counts[rows, columns].sum() / max(1, sum(map(len, truth)) + n_found))


def _timed(segmenter: Any, path: Path) -> dict[str, float]:
    """Return median milliseconds of processor time of each stage, one after the other."""
    assert isinstance(segmenter, StagedSegmenter)
    tracker = Tracker()
    times: dict[str, list[float]] = {}

    def timed(name: str, what: Any, *arguments: Any) -> Any:
        began = time.process_time()
        result = what(*arguments)
        times.setdefault(name, []).append(1000 * (time.process_time() - began))
        return result

    frames: Iterator[Any] = read_film(path)
    for _ in range(60):
        frame = timed("read", next, frames, None)
        if frame is None:
            break
        prepared = timed("prepare", segmenter.prepare, frame)
        predicted = timed("network", segmenter.predict, prepared)
        found = timed("finish", segmenter.finish, predicted)
        tracked = timed("track", tracker, frame, found)
        timed("paint", painted, frame, tracked)
    return {name: round(float(np.median(values)), 2) for name, values in times.items()}


def write_film(path: Path, frames: list[np.ndarray]) -> None:
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-y", "-v", "error", "-f", "rawvideo", "-pix_fmt", "rgb24"]
    command += ["-s", f"{SIZE[0]}x{SIZE[1]}", "-r", "30", "-i", "-", "-c:v", "libx264", "-crf", "16"]
    command += ["-preset", "veryfast", "-pix_fmt", "yuv420p", str(path)]
    subprocess.run(command, input=b"".join(frame.tobytes() for frame in frames), check=True)


if __name__ == "__main__":
    tyro.cli(SegmentFilm).run()
