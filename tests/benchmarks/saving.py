"""What a resume state and a generator file every 1,000 steps cost of training time: one JSON line.

python tests/benchmarks/saving.py giraffe-hd-cars-64 data/cars-64
"""

import json
import statistics
import tempfile
import time
from pathlib import Path

import torch
import tyro

from training.data.folder import PictureSet
from training.loop.run import Run
from training.registry import preset


def main(name: tyro.conf.Positional[str], data: tyro.conf.Positional[Path], *, steps: int = 20, saves: int = 5) -> None:
    """Time `steps` steps and `saves` writings of the preset `name` on the prepared set `data`; print the share."""
    with tempfile.TemporaryDirectory(dir=data) as folder:  # on the disk of the data, not in memory
        run, pictures = Run(preset(name), Path(folder), torch.device("cpu")), PictureSet(data, preset(name).data)
        step, save = [], []
        for i in range(steps + 1):
            start = time.perf_counter()
            run.step(pictures)
            step += [time.perf_counter() - start] if i else []
        for _ in range(saves):
            start = time.perf_counter()
            run.save()
            save.append(time.perf_counter() - start)
            run.images += 1
        a, b = statistics.median(step), statistics.median(save)
        result = {"preset": name, "step_seconds": a, "save_seconds": b, "share_every_1000_steps": b / (1000 * a + b)}
    print(json.dumps({k: float(f"{v:.3g}") if isinstance(v, float) else v for k, v in result.items()}))


if __name__ == "__main__":
    tyro.cli(main)
