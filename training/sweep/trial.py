"""One trial: a training process in its own run folder, supervised through its log."""

import ctypes
import fcntl
import json
import math
import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from training.files import write_whole
from training.registry import preset
from training.sweep.results import metric_curve, metric_of, parsed
from training.upgrade import upgraded


class Watch:
    """A training process in its own run folder, and its log."""

    def __init__(
        self, folder: str, preset: str, config: str, data: str, device: str | None, metric: str, mode: str = "min"
    ) -> None:
        self.folder, self.metric, self.mode = Path(folder), metric, mode
        self.folder.mkdir(parents=True, exist_ok=True)
        job = {"preset": preset, "config": json.loads(config), "data": data, "device": device}
        write_whole(self.folder / "trial.json", json.dumps(job, indent=1).encode())
        self.lock = (self.folder / "trial.lock").open("a+")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # inherited by the training process, so that two never write one run
        self.lock.truncate(0)
        self.lock.write(str(os.getpid()))
        self.lock.flush()
        here = str(Path(__file__).parent.parent.parent)
        with (self.folder / "trial.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "training.sweep.trial", str(self.folder), str(os.getpid())],
                stdout=output,
                stderr=output,
                pass_fds=[self.lock.fileno()],
                start_new_session=True,  # Ray kills the process group of a dead worker before it could save
                env=os.environ | {"PYTHONPATH": os.pathsep.join([here, os.environ.get("PYTHONPATH", "")])},
            )
        logged = self.folder / "log.jsonl"
        self.read, self.names = logged.stat().st_size if logged.is_file() else 0, set[str]()
        curve = metric_curve(self.folder, metric)
        self.last = {"images": curve[-1][0], "value": self._finite(curve[-1][1])} if curve else None

    def next(self) -> dict[str, Any]:
        """Return the pictures seen and the metric of the next line that has it, and whether training is over.

        Raises: RuntimeError if training failed, or ended without the metric.
        """
        while True:
            over = self.process.poll()  # before reading, so that no line is missed
            lines = self._lines()
            self.names |= {name for line in lines for name in line}
            if with_metric := [line for line in lines if metric_of(line, self.metric) is not None]:
                value = float(metric_of(with_metric[-1], self.metric))  # type: ignore[arg-type]
                self.last = {"images": with_metric[-1]["images"], "value": self._finite(value)}
                return self.last | {"done": False}
            if over is not None:
                break
            time.sleep(0.1)
        if over != 0:
            text = (self.folder / "trial.log").read_text(encoding="utf-8", errors="replace").strip()
            raise RuntimeError(f"training ended with {over}: {(text.splitlines() or [''])[-1]}")
        if self.last is None:
            names = ", ".join(sorted(self.names - {"images"}))
            raise RuntimeError(f"the log of {self.folder} has no {self.metric}; it has {names or 'no line'}")
        return self.last | {"done": True}

    def stop(self) -> None:
        """Stop training after the current step, with its state saved."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.lock.close()

    def _finite(self, value: float) -> float:
        """Return `value`, or the worst possible one for NaN and infinity."""
        return value if math.isfinite(value) else 1e30 if self.mode == "min" else -1e30

    def _lines(self) -> list[dict[str, Any]]:
        """Return the whole lines of the log that were not read yet."""
        path = self.folder / "log.jsonl"
        if not path.is_file():
            return []
        with path.open("rb") as file:
            file.seek(self.read)
            content = file.read()
        content = content[: content.rfind(b"\n") + 1]
        self.read += len(content)
        return parsed(content.decode(errors="replace"))


def main(folder: Path, parent: int) -> None:
    """Train the trial in `folder`, as a subprocess of `Watch`; it saves and ends when its parent dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: Linux sends it then, whatever the cause
    if os.getppid() != parent:
        return
    from training.loop.train import train

    job = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    kind = type(preset(job["preset"]))
    config = TypeAdapter(kind).validate_python(upgraded(job["config"], kind))
    train(config, Path(job["data"]), folder, device=job["device"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
