"""All rows that need a GPU, in one command, written to tests/benchmarks/results/<device>.jsonl.

python -m tests.benchmarks.all_gpu [--reference CLONE_OF_THE_AUTHORS_PROGRAM]

Takes some ten minutes. A benchmark that fails is named at the end and leaves no row; the others stay.
"""

import json
import logging
import re
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import torch
import tyro

ROOT = Path(__file__).parent.parent.parent
log = logging.getLogger(__name__)


def commands(reference: Path | None) -> list[list[str]]:
    """Return the benchmarks and their arguments."""
    made = [
        ["field", "--dtype", dtype, "--batch", batch, "--rays", rays]
        for dtype in ("bf16", "fp32")
        for batch, rays in (("1", "64"), ("16", "64"), ("1", "16"), ("32", "16"))
    ]
    made += [
        ["render", "--device", "cuda", "--size", size, "--batch", batch, bf16]
        for size in ("64", "128")
        for batch in ("1", "32")
        for bf16 in ("--no-bf16", "--bf16")
    ]
    theirs = [] if reference is None else ["--reference", str(reference.resolve())]
    made += [
        ["volume", "--device", "cuda", "--batch", batch, bf16, *theirs]
        for batch in ("1", "32")
        for bf16 in ("--no-bf16", "--bf16")
    ]
    return [*made, ["step", "--device", "cuda", *theirs]]


@dataclass(frozen=True, kw_only=True)
class AllGpu:
    """Run everything that needs a GPU."""

    reference: Path | None = None
    """A clone of github.com/AustinXY/GIRAFFEHD, to be measured in turns with ours."""
    out: Path | None = None
    """File of JSON lines; by default named after the GPU."""

    def run(self) -> int:
        """Run all, write the file, return how many benchmarks failed."""
        if not torch.cuda.is_available():
            raise ValueError("no CUDA device here; these rows need one (without: tests.benchmarks.render and volume)")
        name = re.sub(r"[^a-z0-9]+", "-", torch.cuda.get_device_name().lower()).strip("-")
        out = self.out or Path(__file__).parent / "results" / f"{name}.jsonl"
        rows: list[str] = []
        failed: list[str] = []
        for module, *arguments in commands(self.reference):
            command = [sys.executable, "-m", f"tests.benchmarks.{module}", *arguments]
            shown = " ".join([module, *arguments])
            log.info("%s", shown)
            done = subprocess.run(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
            rows += [line for line in done.stdout.splitlines() if is_row(line)]
            failed += [shown] if done.returncode else []
        out.parent.mkdir(parents=True, exist_ok=True)
        partial = out.with_suffix(".partial")
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
        sys.exit(min(tyro.cli(AllGpu).run(), 1))
    except ValueError as error:
        sys.exit(str(error))
