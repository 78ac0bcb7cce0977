"""Pictures drawn finer than a generator was trained: one JSON line for each measure.

    python -m tests.benchmarks.sizes CHECKPOINT --data data/cars-64 --renders data/cars-256 [--features NET] [--n 1400]

`agreement`: fine pictures averaged down against those of the generator's own size. `distance`: both against real
pictures of that size. `edges`: how steep the outlines of fine pictures are, beside those of real renders as large, and
of the generator's own pictures enlarged.
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro

from training.batched import rows
from training.checkpoint import load_generator
from training.config import DataConfig
from training.data.folder import PictureSet
from training.metrics.features import load_features
from training.metrics.fid import distances, real_statistics, statistics
from training.resize import resized
from training.types import Image, Mask


@dataclass(frozen=True, kw_only=True)
class Sizes:
    """Measure fine pictures."""

    checkpoint: tyro.conf.Positional[Path]
    """A generator that renders by rays."""
    data: Path
    """Real pictures of the generator's own size."""
    renders: Path
    """Real renders of the fine size, with masks."""
    features: Path | None = None
    """Network of the distance; by default FID's."""
    size: int = 256
    n: int = 1400
    """Pictures of the distance; the agreement takes the first 100, the edges the first 60."""

    @torch.inference_mode()
    def run(self) -> None:
        """Print the lines."""
        torch.set_num_threads(1)
        generator: Any = load_generator(self.checkpoint)
        codes, own = generator.sample(self.n, torch.Generator().manual_seed(0)), generator.resolution
        pairs = [self._pair(generator, rows(codes, slice(i, i + 4))) for i in range(0, self.n, 4)]
        coarse, averaged = (torch.cat([pair[i] for pair in pairs]) for i in (0, 1))
        say("agreement", n=min(100, self.n), mean_difference=float((coarse - averaged)[:100].abs().mean()), range=2.0)
        network = load_features(features=self.features)
        real = real_statistics(PictureSet(self.data, DataConfig(size=own), "test"), self.n, network)
        found = [
            distances(real, statistics(part.split(16), self.n, network), network, frechet=True, kernel=False)
            for part in (coarse, averaged)
        ]
        (name,) = found[0]
        say("distance", n=self.n, name=name, own_size=found[0][name], averaged=found[1][name])
        self._edges(generator, rows(codes, slice(0, 60)))

    def _pair(self, generator: Any, codes: Any) -> tuple[Image, Image]:
        """Return pictures of the generator's own size, and fine ones averaged down to it."""
        fine = generator.at(self.size)(codes).image
        return generator(codes).image, F.avg_pool2d(fine, self.size // generator.resolution)

    def _edges(self, generator: Any, codes: Any) -> None:
        """Print the mean gradient across outlines."""
        fine, small = generator.at(self.size)(codes), generator(codes)
        held = PictureSet(self.renders, DataConfig(size=self.size), "test")
        real = held.get(list(range(min(60, len(held)))))
        if real.mask is None:
            raise SystemExit(f"error: {self.renders} has no masks; prepare it with `prepare cars`")
        values = {
            "drawn": steepness(fine.image, fine.mask),
            "enlarged": steepness(resized(small.image, self.size), resized(small.mask, self.size)),
            "real": steepness(real.image, real.mask),
        }
        say("edges", n=len(fine.image), **values, ratio=values["drawn"] / values["real"])


def steepness(image: Image, mask: Mask) -> float:
    """Return the mean over outlines of the largest change of grey between neighbours within two pixels of them."""
    grey = image.mean(1, keepdim=True)
    down, right = grey.diff(dim=2, append=grey[:, :, -1:]), grey.diff(dim=3, append=grey[:, :, :, -1:])
    steepest = F.max_pool2d((down**2 + right**2).sqrt(), 5, stride=1, padding=2)
    inside = (mask > 0.5).float()
    outline = (inside - F.avg_pool2d(inside, 3, stride=1, padding=1)).abs() > 0
    return float(steepest[outline].mean())


def say(what: str, **values: Any) -> None:
    """Print one JSON line."""
    print(json.dumps({"what": what, **values}), flush=True)


if __name__ == "__main__":
    tyro.cli(Sizes).run()
