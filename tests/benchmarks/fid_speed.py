"""How much faster FID in memory is than writing PNGs and calling clean-fid on the folders: one JSON line.

python tests/benchmarks/fid_speed.py --n 10000 --size 128

Both ways score the same pictures with the same network, put where clean-fid looks for its own. Its arithmetic is kept
small on purpose: what differs between the two ways is everything around the network. `--side memory` leaves clean-fid
out and shows the peak memory of our way.
"""

import json
import os
import platform
import resource
import tempfile
import time
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
import tyro

from tests.training.metrics.small_networks import RandomInception
from training.metrics.features import load_features
from training.metrics.fid import distances, statistics
from training.pictures import to_pil
from training.runtime.malloc import keep_memory
from training.types import Image


@dataclass(frozen=True, kw_only=True)
class Speed:
    """Time both ways."""

    n: int = 10_000
    size: int = 128
    side: Literal["both", "memory"] = "both"
    workers: int = 2
    """clean-fid's data loading processes."""

    def block(self, seed: int, start: int, stop: int) -> Image:
        """Return pictures `start` to `stop` of one of the two sides: smooth noise, much like photos to a PNG writer."""
        rng = torch.Generator().manual_seed(seed * 1_000_003 + start)
        coarse = torch.randn(stop - start, 3, self.size // 8, self.size // 8, generator=rng) * (0.4 + 0.1 * seed)
        fine = torch.nn.functional.interpolate(coarse, size=(self.size, self.size), mode="bicubic")
        return (fine + 0.03 * torch.randn(fine.shape, generator=rng)).clamp(-1, 1)

    def blocks(self, seed: int) -> list[tuple[int, int]]:
        """Return where blocks of pictures start and stop."""
        return [(start, min(start + 64, self.n)) for start in range(0, self.n, 64)]

    def ours(self, weights: Path) -> dict[str, float]:
        """Return FID in memory."""
        features = load_features(weights=weights)
        real, drawn = (
            statistics((self.block(seed, *b) for b in self.blocks(seed)), self.n, features) for seed in (0, 1)
        )
        return distances(real, drawn, features, frechet=True, kernel=False)

    def theirs(self, folder: Path) -> float:
        """Return clean-fid's FID of saved pictures."""
        from cleanfid import fid

        for seed in (0, 1):
            (folder / str(seed)).mkdir()
            for start, stop in self.blocks(seed):
                for i, picture in enumerate(to_pil(self.block(seed, start, stop))):
                    picture.save(folder / str(seed) / f"{start + i:06}.png")
        return float(
            fid.compute_fid(
                str(folder / "0"), str(folder / "1"), device=torch.device("cpu"), num_workers=self.workers,
                use_dataparallel=False, verbose=False,
            )
        )  # fmt: skip

    def run(self) -> None:
        """Print the result."""
        torch.manual_seed(0)
        keep_memory()  # as the command does; clean-fid has the good of it here, too
        platform.system = lambda: "Windows"  # there clean-fid's place for weights is the working folder
        with tempfile.TemporaryDirectory() as name, warnings.catch_warnings():
            warnings.simplefilter("ignore")
            os.chdir(name)
            weights = Path(name) / "inception-2015-12-05.pt"
            torch.jit.save(torch.jit.script(RandomInception().eval()), weights)
            _, drawing = timed(
                lambda: sum(len(self.block(seed, *part)) for seed in (0, 1) for part in self.blocks(seed))
            )
            found, ours = timed(lambda: self.ours(weights)["FID"])
            ours = ours - drawing  # both ways draw the pictures: left out of both
            result = {"n": self.n, "size": self.size, "fid": found, "seconds": ours.wall, "cpu_seconds": ours.cpu}
            result["peak_memory_mb"] = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
            if self.side == "both":
                expected, theirs = timed(lambda: self.theirs(Path(name)))
                theirs = theirs - drawing
                result |= {"clean_fid": expected, "clean_fid_seconds": theirs.wall, "clean_fid_cpu_seconds": theirs.cpu}
                result |= {"times_faster": theirs.wall / ours.wall, "times_less_cpu": theirs.cpu / ours.cpu}
                result["relative_difference"] = abs(found / expected - 1)
        print(json.dumps({k: float(f"{v:.6g}") for k, v in result.items()}))


class Spent(NamedTuple):
    """Seconds on the clock, and of processors, those of child processes included."""

    wall: float
    cpu: float

    def __sub__(self, other: "Spent") -> "Spent":
        return Spent(self.wall - other.wall, self.cpu - other.cpu)


def now() -> Spent:
    """Return the time."""
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return Spent(time.perf_counter(), sum(u.ru_utime + u.ru_stime for u in used))


def timed(work: Callable[[], Any]) -> tuple[Any, Spent]:
    """Return what `work` returns, and the time it took."""
    start = now()
    return work(), now() - start


if __name__ == "__main__":
    tyro.cli(Speed).run()
