"""The authors' GIRAFFE HD and ours, each trained for some minutes on the same set and device, then measured alike.

python -m tests.benchmarks.duel --data data/cars-64 --out OUT [--minutes 4] [--reference CLONE_OF_THE_AUTHORS_PROGRAM]

Ours is a preset of the fast family, trained by `python -m training train`. Theirs are the authors' networks of 64 px
with the paper's losses and rates, in float32 as they train. Both are read by `python -m training evaluate`, theirs
through our reader of the authors' files. One JSON line each: pictures a second, distance to held-out pictures, knobs.
"""

import json
import shutil
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
import tyro

from giraffe_hd.paper.presets import train_config
from tests.benchmarks.rows import say
from tests.benchmarks.step import TrainingStep
from tests.benchmarks.volume import Volume, authors, imported
from tests.places import ROOT
from training.checkpoint import read_card, save_generator
from training.config import DataConfig
from training.data.folder import PictureSet


@dataclass(frozen=True, kw_only=True)
class Duel:
    """Train both, measure both."""

    data: Path
    """A prepared set of 64 px."""
    out: Path
    """Folder for runs and reports."""
    minutes: float = 4.0
    """Of training, for each."""
    preset: str = "giraffe-hd-cars-64"
    """Ours."""
    device: Literal["cuda", "cpu"] = "cuda"
    batch: int = 16
    """Of theirs; ours is the preset's."""
    reference: Path | None = None
    """A clone of github.com/AustinXY/GIRAFFEHD; without one, ours is trained and measured alone."""
    n: int = 128
    """Pictures for each knob's fit."""
    n_distance: int = 1000
    """Pictures on either side of the distance."""
    features: Path | None = None
    """The network for the distance, as of `python -m training evaluate`; by default FID's."""
    options: tuple[str, ...] = ()
    """Further options of our training command."""

    def run(self) -> None:
        """Print one line each."""
        for who, train in (("ours", self.ours), ("authors'", self.theirs)):
            if who == "ours" or self.reference is not None:
                file, seen, seconds = train()
                figures = {"seconds": seconds, "images": seen, "pictures_per_second": seen / seconds}
                say(f"duel, {who}", self.device, torch.float32, self.batch, **figures, **self.measured(file))

    def ours(self) -> tuple[Path, int, float]:
        """Train our preset; return its generator file, the pictures that it has seen and the seconds that it took."""
        folder = self.out / "ours"
        shutil.rmtree(folder, ignore_errors=True)
        command = [sys.executable, "-m", "training", "train", self.preset, "--data", str(self.data.resolve())]
        command += ["--out", str(folder.resolve()), "--device", self.device, *self.options]
        process = subprocess.Popen(command, cwd=ROOT, stdout=sys.stderr)
        while process.poll() is None and not list(folder.glob("state-*.pt")):  # written before the first step
            time.sleep(0.05)
        began = time.monotonic()
        try:
            process.wait(60 * self.minutes)
        except subprocess.TimeoutExpired:
            process.terminate()  # training saves its state
            process.wait()
        seconds = min(time.monotonic() - began, 60 * self.minutes)
        if process.returncode:
            raise RuntimeError(f"our training ended with status {process.returncode}")
        file = folder / "generator.safetensors"
        return file, int(read_card(file)["images_seen"]), seconds

    def theirs(self) -> tuple[Path, int, float]:
        """Train the authors' networks; return the same as `ours`, their average as one of our generator files."""
        assert self.reference is not None
        torch.manual_seed(0)
        config = train_config("compcar", 64)
        about = Volume(set="compcar", size=64, batch=self.batch, device=self.device)
        step = TrainingStep(
            set="compcar", size=64, batch=self.batch, device=self.device, reference=self.reference, steps=1
        )
        pictures = PictureSet(self.data, DataConfig(size=64, flip=True))
        rng, model = torch.Generator().manual_seed(0), authors(self.reference, about, density=1.0)[0].train()

        def batch() -> torch.Tensor:
            chosen = torch.randint(len(pictures), (self.batch,), generator=rng).tolist()
            return pictures.batch(chosen, rng).image.to(self.device)

        work, average = step.theirs(model, config, batch)
        seen, began = 0, time.monotonic()
        while time.monotonic() - began < 60 * self.minutes:
            work()
            seen += step.steps * self.batch
        if self.device == "cuda":
            torch.cuda.synchronize()
        seconds = time.monotonic() - began
        folder = self.out / "authors"
        folder.mkdir(parents=True, exist_ok=True)
        ours, _ = imported((average.eval(), average.get_rand_rep(1)), about)
        save_generator(folder / "generator.safetensors", ours, card={"images_seen": seen})
        return folder / "generator.safetensors", seen, seconds

    def measured(self, file: Path) -> dict[str, Any]:
        """Return the figures of a generator's report."""
        out = file.parent / "report"
        command = [sys.executable, "-m", "training", "evaluate", str(file.resolve()), "--out", str(out.resolve())]
        command += ["--data", str(self.data.resolve()), "--device", self.device, "--n", str(self.n)]
        command += ["--n-distance", str(self.n_distance)]
        if self.features is not None:
            command += ["--features", str(self.features.resolve())]
        done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True, check=True)
        figures = json.loads(done.stdout.strip().splitlines()[-1])
        return {name: value for name, value in figures.items() if isinstance(value, int | float)}


if __name__ == "__main__":
    tyro.cli(Duel).run()
