"""Pictures a second of one training process and of two with a batch twice as large, as JSON lines (run by hand).

`python tests/benchmarks/processes.py giraffe-hd-cars-64 data/cars-64`

One thread each, on a machine with a core for each. The two are measured in turn, several times; the best of each
counts, because other work on the machine only ever slows them.
"""

import json
import os
import subprocess
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import torch

from training.data.folder import PictureSet
from training.distributed import any_of, joined, rank, size
from training.loop import Run
from training.registry import preset

WARM, STEPS, ROUNDS = 4, 16, 4


def measure(name: str, data: Path) -> None:
    """Train a few steps with 16 pictures a process; the first process prints the speed of all."""
    torch.set_num_threads(1)
    with joined("cpu") as device, tempfile.TemporaryDirectory() as out:
        config = preset(name)
        config = replace(config, loop=replace(config.loop, batch=16 * size()))
        run, pictures = Run(config, Path(out), device), PictureSet(data, config.data)
        for _ in range(WARM):
            run.step(pictures)
        any_of(False)  # start together
        clock, processor = time.perf_counter(), time.process_time()
        for _ in range(STEPS):
            run.step(pictures)
        any_of(False)
        clock, processor = time.perf_counter() - clock, time.process_time() - processor
        if rank() == 0:
            speed = STEPS * config.loop.batch / clock
            print(json.dumps({"processes": size(), "pictures_per_second": speed, "busy": processor / clock}))


def compare(name: str, data: Path) -> None:
    """Measure one and two processes in turn and print the ratio of the best."""
    best: dict[int, float] = {}
    for _ in range(ROUNDS):
        for n in (1, 2):
            command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={n}"]
            done = subprocess.run(
                [*command, __file__, "measure", name, str(data)],
                env=os.environ | {"OMP_NUM_THREADS": "1"},
                stdout=subprocess.PIPE,
                text=True,
                check=True,
            )
            print(done.stdout, end="", flush=True)
            best[n] = max(best.get(n, 0.0), json.loads(done.stdout.splitlines()[-1])["pictures_per_second"])
    print(json.dumps({"preset": name, "one": best[1], "two": best[2], "ratio": best[2] / best[1]}))


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        compare(sys.argv[1], Path(sys.argv[2]))
