"""All rows of a GPU, or of a CPU, in one command, written to tests/benchmarks/results/<device>.jsonl.

python -m tests.benchmarks.all [--device cpu] [--reference CLONE_OF_GIRAFFEHD] [--mix-reference CLONE_OF_MIXNMATCH]

Takes some ten minutes on a GPU, three on a CPU. A benchmark that fails is named at the end and leaves no row; the
others stay, also when the command is cut off.
"""

import json
import logging
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import torch
import tyro

from tests.benchmarks.rows import device_name
from tests.places import ROOT

log = logging.getLogger(__name__)


def commands(device: str, reference: Path | None, mix_reference: Path | None) -> list[list[str]]:
    """Return the benchmarks and their arguments, those that say the most first."""
    theirs = [] if reference is None else ["--reference", str(reference.resolve())]
    their_mix = [] if mix_reference is None else ["--reference", str(mix_reference.resolve())]
    batches = ("1", "32") if device == "cuda" else ("1",)
    made = [["step", "--device", device, *theirs]] if device == "cuda" else []
    made += [
        ["volume", "--device", device, "--batch", batch, bf16, *theirs]
        for batch in batches
        for bf16 in ("--no-bf16", "--bf16")
    ]
    made += [
        ["render", "--device", device, "--size", size, "--batch", batch, bf16]
        for size in ("64", "128")
        for batch in batches
        for bf16 in ("--no-bf16", "--bf16")
    ]
    made.append(["mix", "--device", device, *their_mix])
    return made + [
        ["field", "--dtype", dtype, "--batch", batch, "--rays", rays]
        for dtype in ("bf16", "fp32")
        for batch, rays in (("1", "64"), ("16", "64"), ("1", "16"), ("32", "16"))
        if device == "cuda"
    ]


@dataclass(frozen=True, kw_only=True)
class All:
    """Run everything."""

    device: Literal["cuda", "cpu"] = "cuda"
    reference: Path | None = None
    """A clone of github.com/AustinXY/GIRAFFEHD, to be measured in turns with ours."""
    mix_reference: Path | None = None
    """A clone of github.com/Yuheng-Li/MixNMatch, likewise."""
    out: Path | None = None
    """File of JSON lines; by default named after the device."""

    def run(self) -> int:
        """Run all, write the file, return how many benchmarks failed."""
        if self.device == "cuda" and not torch.cuda.is_available():
            raise ValueError("no CUDA device here; --device cpu measures what a CPU can")
        name = re.sub(r"[^a-z0-9]+", "-", device_name(self.device).lower()).strip("-")
        out = self.out or Path(__file__).parent / "results" / f"{name}.jsonl"
        rows: list[str] = []
        failed: list[str] = []
        out.parent.mkdir(parents=True, exist_ok=True)
        for module, *arguments in commands(self.device, self.reference, self.mix_reference):
            command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
            shown = " ".join([module, *arguments])
            log.info("%s", shown)
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            rows += [line for line in done.stdout.splitlines() if is_row(line)]
            failed += [shown] if done.returncode else []
            partial = out.with_suffix(".partial")  # after each, so that a run that is cut off leaves what it has
            partial.write_text("".join(f"{row}\n" for row in rows))
            partial.replace(out)
        log.info("%d rows in %s", len(rows), out)
        for shown in failed:
            log.error("failed: %s", shown)
        return len(failed)


def is_row(line: str) -> bool:
    """Return whether a line of a benchmark's output is a figure."""
    try:
        return isinstance(json.loads(line), dict)
    except ValueError:
        return False


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    try:
        sys.exit(min(tyro.cli(All).run(), 1))
    except ValueError as error:
        sys.exit(str(error))
