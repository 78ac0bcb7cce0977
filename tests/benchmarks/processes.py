"""Pictures a second of one training process, of two and of two apart, as JSON lines (run by hand).

`python tests/benchmarks/processes.py giraffe-hd-cars-64 data/cars-64`

One thread each, on a machine with a core for each. All are measured in turn, several times; the best of each counts,
because other work on the machine only ever slows them. Two processes that each train for themselves show what the
machine has to give: cores share memory, and together they are not twice as fast as one.
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
from training.loop.run import Run
from training.registry import preset
from training.runtime.distributed import any_of, joined, rank, size
from training.runtime.malloc import keep_memory

WARM, STEPS, ROUNDS = 24, 32, 4
"""Two processes need some twenty steps to have the memory they work in, and are slower until then."""


def measure(name: str, data: Path) -> None:
    """Train a few steps with 16 pictures a process; the first process prints the speed of all."""
    torch.set_num_threads(1)
    keep_memory()  # as `training.loop.train` does
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
            pace = STEPS * config.loop.batch / clock
            print(json.dumps({"processes": size(), "pictures_per_second": pace, "busy": processor / clock}))


def speed(name: str, data: Path, processes: int, *, apart: bool = False) -> float:
    """Return pictures a second of all `processes`, which train together or, `apart`, each for itself."""
    joined_by = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    together = 1 if apart else processes
    runs = [
        subprocess.Popen(
            [*joined_by, f"--nproc-per-node={together}", __file__, "measure", name, str(data)],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            stdout=subprocess.PIPE,
            text=True,
        )
        for _ in range(processes // together)
    ]
    lines = [run.communicate()[0] for run in runs]
    if any(run.returncode for run in runs):
        raise SystemExit("a process failed, as above")
    print(*lines, sep="", end="", flush=True)
    return sum(json.loads(line.splitlines()[-1])["pictures_per_second"] for line in lines)


def compare(name: str, data: Path) -> None:
    """Measure one process, two, and two that share nothing but the machine, in turn; print the ratios of the best."""
    found = [(speed(name, data, 1), speed(name, data, 2), speed(name, data, 2, apart=True)) for _ in range(ROUNDS)]
    one, two, apart = (max(column) for column in zip(*found, strict=True))
    ratios = {"ratio": two / one, "apart_ratio": apart / one}
    print(json.dumps({"preset": name, "one": one, "two": two, "apart": apart} | ratios))


if __name__ == "__main__":
    if sys.argv[1] == "measure":
        measure(sys.argv[2], Path(sys.argv[3]))
    else:
        compare(sys.argv[1], Path(sys.argv[2]))
