"""Speed of one picture of the fast GIRAFFE HD, whole and by its parts: one JSON line a figure.

python -m tests.benchmarks.render [--checkpoint FILE] [--size 128] [--device cuda] [--threads 2]
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro
from torch.utils.flop_counter import FlopCounterMode

from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.presets import CARS_64, CARS_128
from tests.benchmarks.rows import floors, say, timed
from training.checkpoint import load_generator


@dataclass(frozen=True, kw_only=True)
class Render:
    """Time the fast generator."""

    checkpoint: Path | None = None
    """A generator file of the fast family; without one, fresh weights, which cost the same."""
    size: Literal[64, 128] = 64
    """Side of the picture of fresh weights of the cars' presets."""
    device: Literal["cuda", "cpu"] = "cpu"
    batch: int = 1
    threads: int = 2
    bf16: bool = False
    repeats: int = 20

    @torch.no_grad()
    def run(self) -> None:
        """Print all figures."""
        torch.manual_seed(0)
        torch.set_num_threads(self.threads)
        generator = self.generator().to(self.device).eval().requires_grad_(False)
        codes = generator.sample(self.batch, torch.Generator().manual_seed(0))
        w_shape, w_look = generator.map_shape(codes.z_s_fg), generator.map_look(codes.z_a_fg)
        features, alpha, _, hit, _ = generator.volume(codes, w_shape)
        works = {
            "whole": lambda: generator(codes),
            "volume": lambda: generator.volume(codes, w_shape),
            "object renderer": lambda: generator.object(features, w_shape, w_look, 0),
            "mask": lambda: generator.mask(features, alpha, hit),
            "background": lambda: generator.draw_background(codes),
        }
        dtype = torch.bfloat16 if self.bf16 else torch.float32
        with torch.autocast(self.device, torch.bfloat16, enabled=self.bf16):
            times = timed(*works.values(), device=self.device, repeats=self.repeats)
            for (name, work), time in zip(works.items(), times, strict=True):
                with FlopCounterMode(display=False) as counter:
                    work()
                flops = float(counter.get_total_flops())
                say(
                    f"fast {generator.resolution} px, {name}", self.device, dtype, self.batch, ms=1000 * time.wall,
                    cpu_ms=1000 * time.cpu, pictures_per_second=self.batch / time.wall,
                    gflop_an_image=flops / self.batch / 1e9,
                    **floors(flops, 0.0, dtype),
                )  # fmt: skip

    def generator(self) -> Generator:
        """Return what is timed."""
        if self.checkpoint is not None:
            loaded = load_generator(self.checkpoint)
            if not isinstance(loaded, Generator):
                raise ValueError(f"{self.checkpoint} is of family {loaded.family}; expected one of giraffe_hd")
            return loaded
        return Generator((CARS_64 if self.size == 64 else CARS_128).generator)


if __name__ == "__main__":
    tyro.cli(Render).run()
