"""Programs side by side on one machine, each against itself alone, as JSON lines (run by hand, 4 minutes).

    python -m tests.benchmarks.beside --data data/cars-64 [--seconds 30]

`train` and `evaluate` with their default settings, and the page's pictures while `train` runs.
"""

import contextlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import httpx
import tyro

from tests.benchmarks.page import Measure, percentile, say, server

ROOT = Path(__file__).parents[2]
T = TypeVar("T")
MODEL = ROOT / "checkpoints" / "giraffe-hd-cars-64.safetensors"


@dataclass(frozen=True, kw_only=True)
class Beside:
    """Measure the programs alone and side by side."""

    data: Path
    """A prepared set of rendered cars."""
    seconds: float = 30.0
    """For which training is watched."""
    n: int = 200
    """Pictures that `evaluate` reads."""
    pictures: int = 150
    """Pictures that the page is asked for, one after another."""
    port: int = 7897

    def run(self) -> None:
        """Print a line for each pair."""
        with tempfile.TemporaryDirectory() as folder:
            out = Path(folder)
            with self._training(out / "alone") as log:
                train, _ = _pace(log, lambda: time.sleep(self.seconds))
            evaluate = self._evaluated(out)
            with self._training(out / "with") as log:
                train_beside, evaluate_beside = _pace(log, lambda: self._evaluated(out))
            say("train beside evaluate", alone=train, beside=train_beside, of_alone=train_beside / train, target=0.45)
            share = evaluate / evaluate_beside
            say("evaluate beside train", alone_s=evaluate, beside_s=evaluate_beside, of_alone=share, target=0.45)
            with server(Measure(checkpoint=[MODEL], port=self.port)) as (address, _):
                alone = self._waits(address)
                with self._training(out / "page") as log:
                    train_page, beside = _pace(log, lambda: self._waits(address))
            p95 = [percentile(waits, 0.95) for waits in (alone, beside)]
            medians = [statistics.median(waits) for waits in (alone, beside)]
            say(
                "page beside train", median_ms=medians[0], beside_median_ms=medians[1], p95_ms=p95[0],
                beside_p95_ms=p95[1], ratio=p95[1] / p95[0], target=1.5, train_of_alone=train_page / train,
            )  # fmt: skip

    @contextlib.contextmanager
    def _training(self, out: Path) -> Iterator[Path]:
        """Train inside the block; yields the log once there is a line in it."""
        command = [sys.executable, "-m", "training", "train", "giraffe-hd-cars-64", "--data", str(self.data)]
        options = ["--out", str(out), "--loop.images", "100000000", "--loop.log-every", "1"]
        process = subprocess.Popen([*command, *options], cwd=ROOT, stderr=subprocess.DEVNULL)
        log = out / "log.jsonl"
        try:
            while not log.is_file() or _seen(log) < 64:
                if process.poll() is not None:
                    raise SystemExit(f"training ended with {process.returncode}")
                time.sleep(0.1)
            yield log
        finally:
            process.terminate()
            process.wait()

    def _evaluated(self, out: Path) -> float:
        """Return the seconds that `evaluate` takes."""
        command = [sys.executable, "-m", "training", "evaluate", str(MODEL), "--data", str(self.data)]
        began = time.perf_counter()
        subprocess.run(
            [*command, "--n", str(self.n), "--out", str(out / "report")], cwd=ROOT, check=True, capture_output=True
        )
        return time.perf_counter() - began

    def _waits(self, address: str) -> list[float]:
        """Return milliseconds from asking for a picture to having it, one after another."""
        [model] = httpx.get(f"{address}/live/models", timeout=60).json()
        waits = []
        with httpx.Client(base_url=address, timeout=60) as client:
            for turn in range(self.pictures + 10):
                knobs = model["start"] | {"rotation": (37.0 * turn) % 360}
                began = time.perf_counter()
                client.post("/live/picture", json={"checkpoint": model["name"], "knobs": knobs}).raise_for_status()
                waits.append(1000 * (time.perf_counter() - began))
        return waits[10:]


def _pace(log: Path, during: Callable[[], T]) -> tuple[float, T]:
    """Return the pictures a second that training sees while `during` runs, and what that returns."""
    before, began = _seen(log), time.perf_counter()
    result = during()
    return (_seen(log) - before) / (time.perf_counter() - began), result


def _seen(log: Path) -> int:
    """Return the pictures that the log's last whole line tells of."""
    lines = log.read_text(encoding="utf-8").split("\n")[:-1]
    return int(json.loads(lines[-1])["images"]) if lines else 0


if __name__ == "__main__":
    tyro.cli(Beside).run()
