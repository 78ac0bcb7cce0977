"""Everything that a machine with a GPU does for the project in a quarter of an hour, the most useful first.

    python -m tests.gpu_visit --out OUT [--resume checkpoints/resume/giraffe-hd-cars-64] [--reference CLONE]

GPU tests, the fused op against its reference, benchmark rows, with --duel-minutes 4 the authors' program and ours
trained side by side, and training with the time that is left. Each step has a
limit of its own, and what one step leaves is in OUT before the next begins: at most 8 files of 16 MiB. Training goes on
from a folder with a state; its run folder comes back every two minutes as `run.tar.0`, `run.tar.1`, ..., and
`cat OUT/run.tar.* | tar x` makes it again, to be resumed on a CPU or on the next visit. Needs no network.
"""

import io
import json
import os
import shutil
import signal
import subprocess
import sys
import tarfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

from tests.benchmarks.rows import device_name
from tests.places import ROOT

PART = 15 << 20
"""Bytes of one part of the run folder's archive."""
PARTS = 5
"""Parts at most; with the other files there are 8."""
EVERY = 120.0
"""Seconds between copies of the run folder."""
GRACE = 30.0
"""Seconds that training has to save its state and end."""


@dataclass(frozen=True, kw_only=True)
class GpuVisit:
    """Use a GPU for some minutes."""

    out: Path
    """Folder for what comes back."""
    minutes: float = 13.0
    """All steps together end by then."""
    device: str = "cuda"
    """`cpu` tries the visit in small."""
    preset: str = "giraffe-hd-cars-64"
    """What is trained."""
    resume: Path | None = None
    """A folder with a state to go on from; without one training starts anew."""
    data: Path | None = None
    """A prepared set; without one cars are rendered, on all cores, before training."""
    cars: int = 20_000
    """Cars to render."""
    reference: Path | None = None
    """A clone of the authors' GIRAFFE HD, to be measured in turns with ours."""
    duel_minutes: float = 0.0
    """Minutes of training of each side of `tests.benchmarks.duel`; 0 leaves it out. 4 leave none for other training."""
    features: Path | None = None
    """The network for the duel's distance to real pictures; by default FID's, which has to be there."""
    options: tuple[str, ...] = ()
    """Further options of the training command, such as --loop.images=2000000."""

    def run(self) -> int:
        """Do all steps; return how many failed or were cut off, training aside."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("no CUDA device here; --device cpu tries the visit in small")
        visit = Visit(self.out, time.monotonic() + 60 * self.minutes)
        visit.note("visit", device=device_name(self.device), torch=torch.__version__, minutes=self.minutes)
        python, share = [sys.executable, "-m"], 60 * self.minutes / 13
        clone = [] if self.reference is None else ["--reference", str(self.reference.resolve())]
        visit.step("tests", [*python, "pytest", "-q", "-m", "gpu", "--no-header", "tests"], 90 * share / 60)
        rows = ["--device", self.device, "--out", str(self.out.resolve() / "rows.jsonl"), *clone]
        visit.step("benchmarks", [*python, "tests.benchmarks.all", *rows], 120 * share / 60)
        data = self.data
        if data is None:
            data = self.out.parent / "visit_cars"
            made = ["prepare", "cars", "--out", str(data), "--size", "64", "--count", str(self.cars), "--test", "500"]
            if not data.exists():
                visit.step("cars", [*python, "training", *made], visit.left() / 3)
        if self.duel_minutes > 0:
            duel = ["--data", str(data), "--out", str(self.out.parent / "visit_duel"), "--device", self.device]
            duel += ["--minutes", str(self.duel_minutes), *clone]
            duel += [] if self.features is None else ["--features", str(self.features.resolve())]
            command = [*python, "tests.benchmarks.duel", *duel]
            visit.step("duel", command, 120 * self.duel_minutes + 90 * share / 60)
        folder = self.out.parent / "visit_run"
        if self.resume is not None and not folder.exists():
            shutil.copytree(self.resume, folder)
        train = ["train", self.preset, "--data", str(data), "--out", str(folder), "--device", self.device]
        train += ["--loop.save-every", "20000", "--loop.grid-every", "20000", "--loop.keep", "1", *self.options]
        limit = visit.left() - 2 * GRACE if visit.left() > 4 * GRACE else visit.left() / 2
        visit.step("training", [*python, "training", *train], limit, lambda: pack(folder, self.out))
        return visit.failed


class Visit:
    """Runs commands one after the other, each with a limit, and writes down how each went."""

    def __init__(self, out: Path, end: float) -> None:
        self.out, self.end, self.failed = out, end, 0
        out.mkdir(parents=True, exist_ok=True)

    def left(self) -> float:
        """Return the seconds that are left."""
        return self.end - time.monotonic()

    def note(self, step: str, **what: object) -> None:
        """Add a JSON line to visit.jsonl."""
        with (self.out / "visit.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps({"step": step, **what}) + "\n")

    def step(self, name: str, command: list[str], seconds: float, copy: Callable[[], None] | None = None) -> None:
        """Run a command for at most `seconds`, its output in log.txt; call `copy` every two minutes and at the end.

        SIGTERM ends it, on which training saves its state; what still runs half a minute later is killed.
        """
        began, seconds = time.monotonic(), max(1.0, min(seconds, self.left() - GRACE / 6))
        with (self.out / "log.txt").open("a", encoding="utf-8") as log:
            log.write(f"\n== {name}: {' '.join(command[1:])}\n")
            log.flush()
            process = subprocess.Popen(
                command, cwd=ROOT, stdout=log, stderr=subprocess.STDOUT, start_new_session=True,
                env=os.environ | {"TQDM_DISABLE": "1"},
            )  # fmt: skip
            cut_off = False
            while process.poll() is None:
                try:
                    process.wait(max(0.0, min(EVERY, began + seconds - time.monotonic())))
                except subprocess.TimeoutExpired:
                    if time.monotonic() - began >= seconds:
                        cut_off = True
                        end(process)
                if copy is not None:
                    copy()
        self.failed += name != "training" and (cut_off or process.returncode != 0)
        took = round(time.monotonic() - began, 1)
        self.note(name, seconds=took, status=process.returncode, cut_off=cut_off)


def end(process: subprocess.Popen) -> None:
    """Ask a command and its children to end, and make them."""
    os.killpg(process.pid, signal.SIGTERM)
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def pack(folder: Path, out: Path) -> None:
    """Write the run folder's weights, newest state, log and last grids as parts of one archive.

    The grids are left out where the rest leaves no room.
    """
    states, grids = sorted(folder.glob("state-*.pt")), sorted((folder / "grids").glob("*.png"))
    files = [folder / name for name in ("generator.safetensors", "config.json", "data.json", "log.jsonl")]
    files = [file for file in [*files, *states[-1:]] if file.is_file()]
    room = PARTS * PART - sum(file.stat().st_size for file in files) - 65536
    for grid in grids[-3:]:
        if (room := room - grid.stat().st_size) > 0:
            files.append(grid)
    if not states or not files:
        return
    archive = io.BytesIO()
    with tarfile.open(fileobj=archive, mode="w") as tar:
        for file in files:
            tar.add(file, arcname=str(file.relative_to(folder)))
    whole = archive.getvalue()
    if len(whole) > PARTS * PART:
        raise ValueError(f"the run folder has {len(whole) >> 20} MiB; expected at most {PARTS * PART >> 20}")
    parts = [whole[start : start + PART] for start in range(0, len(whole), PART)]
    for k, part in enumerate(parts):
        temporary = out / ".part"
        temporary.write_bytes(part)
        temporary.replace(out / f"run.tar.{k}")
    for stale in out.glob("run.tar.*"):
        if int(stale.suffix[1:]) >= len(parts):
            stale.unlink()


if __name__ == "__main__":
    try:
        sys.exit(min(tyro.cli(GpuVisit).run(), 1))
    except ValueError as error:
        sys.exit(str(error))
