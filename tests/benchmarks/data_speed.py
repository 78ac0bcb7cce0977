"""Pictures a second of the car renderer and of `PictureSet.batch`, as JSON lines (run by hand)."""

import json
import os
import tempfile
import time
from pathlib import Path

import torch

from training.config import DataConfig
from training.data.cars.factors import sample_factors
from training.data.cars.render import render_bytes
from training.data.folder import PictureSet
from training.data.prepare import PrepareCars


def renderer(size: int, n: int = 200) -> None:
    """One process, by its own processor time and by the clock (other work on the machine slows the latter)."""
    factors = sample_factors(n, seed=0)
    for i in range(20):
        render_bytes(factors, i, size)  # reads the meshes
    clock, processor = time.perf_counter(), time.process_time()
    for i in range(n):
        render_bytes(factors, i, size)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    print(json.dumps({"what": "render", "size": size, "per_second": n / clock, "per_processor_second": n / processor}))


def written_sets(folder: Path, n: int = 2000) -> Path:
    """The whole command: start of the processes, rendering, encoding, writing."""
    out = folder / "cars"
    clock = time.perf_counter()
    PrepareCars(out=out, count=n, test=0).run()
    clock = time.perf_counter() - clock
    print(json.dumps({"what": "prepare cars", "size": 64, "processes": os.cpu_count(), "per_second": n / clock}))
    return out


def batches(path: Path, config: DataConfig, n: int = 200) -> None:
    """Batches of 64 from memory."""
    clock = time.perf_counter()
    pictures = PictureSet(path, config)
    read = len(pictures) / (time.perf_counter() - clock)
    rng = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(pictures), (n, 64), generator=rng).tolist()
    clock, processor = time.perf_counter(), time.process_time()
    for indices in chosen:
        pictures.batch(indices, rng)
    clock, processor = time.perf_counter() - clock, time.process_time() - processor
    rates = {"per_second": n * 64 / clock, "per_processor_second": n * 64 / processor, "read_per_second": read}
    views = {"object_margin": config.object_margin, "scene": config.scene, "jitter": config.jitter}
    print(json.dumps({"what": "batch", "size": config.size, **views, **rates}))


if __name__ == "__main__":
    torch.set_num_threads(1)
    for size in (64, 128):
        renderer(size)
    with tempfile.TemporaryDirectory() as folder:
        path = written_sets(Path(folder))
        for config in (DataConfig(), DataConfig(object_margin=1.5, scene=True, jitter=0.1)):
            batches(path, config)
