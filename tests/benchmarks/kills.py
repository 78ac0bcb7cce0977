"""Kill training at random moments, go on, and see that no run is lost: one JSON line.

python tests/benchmarks/kills.py --kills 200

A tiny generator is trained in processes of their own, which are killed (SIGKILL) at random moments, those of writing
included: states are saved every other step. The same command goes on each time. Every run that came to its end must
have the weights of a run that nobody disturbed, bit for bit.
"""

import json
import multiprocessing
import random
import shutil
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import PIL.Image
import torch
import tyro

from giraffe_hd.fast.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from giraffe_hd.fast.presets import CARS_64
from training.checkpoint import load_generator
from training.config import DataConfig, LoopConfig
from training.loop import train

TINY = replace(
    CARS_64,
    data=DataConfig(size=16),
    loop=LoopConfig(images=240, batch=4, save_every=8, grid_every=100_000, log_every=4, bf16=False),
    generator=GeneratorConfig(
        resolution=16, rays=8, samples=3, z_dim=8, w_dim=8, field_dim=8, features=8, object_channels=(8, 8),
        mask_channels=4, background_channels=(8, 8, 8), background_shape_layers=1,
    ),
    discriminator=DiscriminatorConfig(channels=(8, 8)),
    r1_every=2,
)  # fmt: skip


def squares(folder: Path) -> Path:
    """Write a prepared set of twelve coloured squares; return its folder."""
    (folder / "images").mkdir(parents=True)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    for i in range(12):
        pixels = np.full((16, 16, 3), 30 * (i % 4), np.uint8)
        pixels[4:12, 4:12] = (200, 20 * i, 90)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,train,square,16,16,4,4,12,12")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder


def work(config: TrainConfig, data: Path, out: Path) -> None:
    """Train in a process of its own."""
    torch.set_num_threads(1)
    train(config, data, out, device="cpu")


@dataclass(frozen=True, kw_only=True)
class Kills:
    """Kill and go on."""

    kills: int = 200
    longest: float = 3.0
    """Seconds a process may live before it is killed, at most."""
    seed: int = 0
    out: Path | None = None
    """Where to work; a temporary folder if not given."""

    def run(self) -> dict[str, float]:
        """Return how many processes were killed, and how many runs came to their end, were lost or ended wrongly."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.out) as name:
            return self.count(Path(name)) | {"seconds": round(time.monotonic() - start, 1)}

    def count(self, folder: Path) -> dict[str, float]:
        """Return the counts, working in `folder`."""
        rng, data = random.Random(self.seed), squares(folder / "set")
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload([__name__, "training.loop", "torch.utils.tensorboard"])

        def live(out: Path, seconds: float | None) -> bool:
            process = context.Process(target=work, args=(TINY, data, out))
            process.start()
            process.join(seconds)
            if process.exitcode is None:
                process.kill()
                process.join()
            if process.exitcode not in (0, -9):
                raise RuntimeError(f"training ended with {process.exitcode}: a run was lost")
            return process.exitcode == 0

        live(folder / "whole", None)
        undisturbed = load_generator(folder / "whole" / "generator.safetensors").state_dict()
        killed = runs = wrong = 0
        while killed < self.kills:
            out, ended = folder / f"run{runs}", False
            while not ended and killed < self.kills:
                ended = live(out, rng.uniform(0.0, self.longest))
                killed += not ended
            live(out, None)  # the last one of a run is let live
            weights = load_generator(out / "generator.safetensors").state_dict()
            wrong += any(not torch.equal(tensor, undisturbed[key]) for key, tensor in weights.items())
            runs += 1
            shutil.rmtree(out)
        return {"kills": killed, "runs": runs, "lost": 0, "wrong": wrong}


if __name__ == "__main__":
    print(json.dumps(tyro.cli(Kills).run()))
