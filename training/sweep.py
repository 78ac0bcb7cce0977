"""Many runs of one preset side by side, on Ray Tune: a grid of values, bad runs stopped early, one table and plot.

A sweep's folder holds `trials/NAME`, each an ordinary run folder that `python -m training train` can go on with,
`results.csv`, `results.txt` and `results.png`, and Ray's own notes. Ray is an extra: `pip install .[sweep]`.
"""

import contextlib
import csv
import ctypes
import fcntl
import functools
import io
import itertools
import json
import logging
import math
import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import TypeAdapter, ValidationError

from training.files import check_folder, locked, read_plain_file, write_whole
from training.registry import preset
from training.upgrade import renamed_fields

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train a preset with every combination of values, stop the bad ones early, write one table and plot.

    The same command goes on with a sweep that was cut off; its trials go on from their last saved states.
    """

    preset: tyro.conf.Positional[str]
    """The preset whose options are varied."""
    data: Path
    """A prepared set, at this path on every machine."""
    out: Path
    """The sweep's folder; on a cluster, one that all machines share."""
    vary: Annotated[tuple[str, ...], tyro.conf.UseAppendAction]
    """FIELD=VALUE,VALUE,... such as loop.batch=8,16; one value alone sets the field for all trials."""
    metric: str
    """What to compare: a name of the runs' log.jsonl, such as G/pose, or one of their figures, such as fd or
    rotation_error, with --vary loop.figures_every=PICTURES (for fd with --vary loop.figures_distance=PICTURES too)."""
    mode: Literal["min", "max"] = "min"
    """Whether the lowest or the highest is best."""
    early_stop: bool = True
    """Stop trials that are worse than most at the same number of pictures (ASHA, Li et al. 2020)."""
    grace: float = 0.125
    """Share of a trial before which none is stopped."""
    cpus_per_trial: float = 1.0
    """Processor cores that a trial takes; fewer run more trials at once."""
    gpus_per_trial: float | None = None
    """0.25 puts four trials on one GPU; by default a GPU each where there is one now."""
    address: str = "local"
    """`auto` on a machine of a running Ray cluster, or its address; by default this machine alone."""
    retries: int = 3
    """How often a trial whose process was lost is started again."""

    def run(self) -> None:
        """Train all, then print the folder's table.

        Raises: ValueError for an unknown field, a value that does not fit, a folder of another sweep, no Ray.
        """
        if not 0 < self.grace <= 1:
            raise ValueError(f"--grace is {self.grace}; wanted a share of a trial, above 0 and at most 1")
        grid = trials(self.preset, self.vary, self.data)
        check_folder(self.out)
        with locked(self.out, "sweep.lock", "`sweep`"):
            _keep_request(self, [name for name, _ in grid])
            _tune(self, grid)
            print(write_results(self.out))


def trials(name: str, vary: Sequence[str], data: Path | None = None) -> list[tuple[str, Any]]:
    """Return the name and the train config of every combination of values in `vary`, `FIELD=VALUE,VALUE,...` each.

    What the prepared set `data` says of itself is in all of them.

    Raises: ValueError for an unknown field or a value that does not fit.
    """
    base = preset(name, data)
    adapter, names = TypeAdapter(type(base)), renamed_fields(type(base))
    choices = [[(path, value) for value in values] for path, values in map(_choices, vary)]
    paths = [values[0][0] for values in choices]
    if twice := sorted({path for path in paths if paths.count(path) > 1}):
        raise ValueError(f"--vary names {twice[0]} twice; give all its values at once, as {twice[0]}=VALUE,VALUE")
    found = []
    for values in itertools.product(*choices):
        plain = adapter.dump_python(base, mode="json")
        for path, value in values:
            _put(plain, names.get(path, path), value)
        try:
            config = adapter.validate_python(plain)
        except ValidationError as error:
            first = error.errors()[0]
            where = ".".join(str(part) for part in first["loc"]) or "the combination"
            raise ValueError(
                f"{', '.join(map('='.join, values))} does not fit {name}: {where}: {first['msg']}"
            ) from None
        varied = [f"{path}={value}" for i, (path, value) in enumerate(values) if len(choices[i]) > 1]
        found.append(("_".join(varied).replace("/", "-") or "only", config))
    return found


def _choices(text: str) -> tuple[str, list[str]]:
    """Return the field and the values of `FIELD=VALUE,VALUE,...`; commas within brackets belong to a value."""
    path, equals, values = text.partition("=")
    if not equals or not values:
        raise ValueError(f"--vary {text} is not of the form FIELD=VALUE,VALUE,... such as loop.batch=8,16")
    return path.strip(), [value.strip() for value in re.split(r",(?![^\[]*\])", values)]


def _put(plain: dict[str, Any], path: str, value: str) -> None:
    """Set the field at the dotted `path`; ValueError with the names there if it is not one."""
    *groups, last = path.split(".")
    for group in groups:
        plain = plain.get(group, {}) if isinstance(plain, dict) else {}
    if not isinstance(plain, dict) or last not in plain or isinstance(plain[last], dict):
        names = sorted(k for k, v in plain.items() if not isinstance(v, dict)) if isinstance(plain, dict) else []
        raise ValueError(f"the preset has no field {path}; fields beside it: {', '.join(names) or 'none'}")
    try:
        plain[last] = json.loads(value)
    except ValueError:
        plain[last] = value


def _keep_request(sweep: Sweep, names: list[str]) -> None:
    """Write what was asked for; a folder of another sweep is refused."""
    path = sweep.out / "sweep.json"
    asked = {"preset": sweep.preset, "vary": list(sweep.vary), "metric": sweep.metric, "mode": sweep.mode}
    asked |= {"data": str(sweep.data), "trials": names}
    if path.is_file():
        before = json.loads(read_plain_file(path, 2**24))
        if not isinstance(before, dict):
            raise ValueError(f"{path} is not a sweep's own; give another --out")
        changed = [name for name in asked if before.get(name) != asked[name]]
        if changed:
            raise ValueError(
                f"{sweep.out} holds a sweep with another {changed[0]} ({before.get(changed[0])}); give the same "
                f"options to go on with it, or another --out"
            )
    if not sweep.data.is_dir():
        raise ValueError(f"there is no prepared set at {sweep.data}; make one with `python -m training prepare`")
    write_whole(path, json.dumps(asked, indent=1).encode())


def _tune(sweep: Sweep, grid: list[tuple[str, Any]]) -> None:
    """Run all trials on Ray Tune, or go on with them."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        import ray
        from ray import tune
        from ray.tune.schedulers import ASHAScheduler, FIFOScheduler
    except ImportError as error:
        raise ValueError(f"a sweep needs Ray ({error}); install it with: pip install '.[sweep]'") from error

    gpus = sweep.gpus_per_trial
    alone = sweep.address == "local"
    board = False if alone else None
    ray.init(sweep.address, include_dashboard=board, log_to_driver=False, logging_level=logging.ERROR)
    try:
        if gpus is None:
            gpus = 1.0 if ray.cluster_resources().get("GPU", 0) > 0 else 0.0
            if not alone and not gpus:
                log.warning("no machine of the cluster has a GPU now: trials train on CPUs; or give --gpus-per-trial 1")
        if alone:  # a cluster may yet grow
            _check_resources(ray.cluster_resources(), sweep.cpus_per_trial, gpus)
        longest = max(config.loop.images for _, config in grid)
        scheduler: Any = FIFOScheduler()
        if sweep.early_stop and len(grid) > 1:
            grace = max(1, round(sweep.grace * longest))
            scheduler = ASHAScheduler(time_attr="images", max_t=longest + 1, grace_period=grace, reduction_factor=3)
        folder = sweep.out.absolute()
        jobs = [
            {
                "folder": str(folder / "trials" / name),
                "preset": sweep.preset,
                "config": TypeAdapter(type(config)).dump_json(config).decode(),
                "data": str(sweep.data.absolute()),
                "device": None if gpus else "cpu",
                "metric": sweep.metric,
                "mode": sweep.mode,
            }
            for name, config in grid
        ]
        trainable = tune.with_resources(_trainable(), {"cpu": sweep.cpus_per_trial, "gpu": gpus})
        space = {"job": tune.grid_search(jobs)}
        kept = folder / "ray" / "sweep"
        if kept.is_dir() and tune.Tuner.can_restore(str(kept)):
            log.info("going on with the sweep in %s", folder)
            tuner = tune.Tuner.restore(str(kept), trainable, resume_errored=True, param_space=space)
        else:
            tuner = tune.Tuner(
                trainable,
                param_space=space,
                tune_config=tune.TuneConfig(
                    metric="value",
                    mode=sweep.mode,
                    scheduler=scheduler,
                    trial_dirname_creator=lambda trial: trial.trial_id,
                ),
                run_config=tune.RunConfig(
                    name="sweep",
                    storage_path=str(folder / "ray"),
                    failure_config=tune.FailureConfig(max_failures=sweep.retries),
                    verbose=0,
                ),
            )
        errors = [str(error).strip().splitlines()[-1] for error in tuner.fit().errors]
        for error in sorted(set(errors)):
            log.error("%d of %d trials failed: %s", errors.count(error), len(grid), error)
        if len(errors) == len(grid):
            raise ValueError(f"no trial came to an end: {errors[0]}")
    finally:
        ray.shutdown()


def _check_resources(there: Mapping[str, float], cpus: float, gpus: float) -> None:
    """Raise ValueError if no trial could ever start."""
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(name, 0):
            raise ValueError(
                f"a trial asks for {wanted:g} {name}, this machine has {there.get(name, 0):g}; lower "
                f"--{name.lower()}s-per-trial"
            )


def _trainable() -> Any:
    """Return the class of which Ray makes one object a trial: it watches over a training process."""
    from ray import tune

    class Trial(tune.Trainable):
        """One step is one line of the run's log that holds the metric."""

        def setup(self, config: dict[str, Any]) -> None:
            self.watch = Watch(**config["job"])

        def step(self) -> dict[str, Any]:
            return self.watch.next()

        def cleanup(self) -> None:
            self.watch.stop()

        def save_checkpoint(self, checkpoint_dir: str) -> dict[str, Any]:
            return {}  # the run folder holds its own

        def load_checkpoint(self, checkpoint: dict[str, Any] | None) -> None:
            pass

    return Trial


class Watch:
    """A training process in a run folder of its own, and what its log says."""

    def __init__(
        self, folder: str, preset: str, config: str, data: str, device: str | None, metric: str, mode: str = "min"
    ) -> None:
        self.folder, self.metric, self.mode = Path(folder), metric, mode
        self.folder.mkdir(parents=True, exist_ok=True)
        job = {"preset": preset, "config": json.loads(config), "data": data, "device": device}
        write_whole(self.folder / "trial.json", json.dumps(job, indent=1).encode())
        self.lock = (self.folder / "trial.lock").open("a+")
        fcntl.flock(self.lock, fcntl.LOCK_EX)  # held by the training process too: two never write one run
        self.lock.truncate(0)
        self.lock.write(str(os.getpid()))
        self.lock.flush()
        here = str(Path(__file__).parent.parent)
        with (self.folder / "trial.log").open("ab") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "training.sweep", str(self.folder), str(os.getpid())],
                stdout=output,
                stderr=output,
                pass_fds=[self.lock.fileno()],
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
            over = self.process.poll()  # before reading, so that nothing is missed
            lines = self._lines()
            self.names |= {name for line in lines for name in line}
            if told := [line for line in lines if _told(line, self.metric) is not None]:
                value = float(_told(told[-1], self.metric))  # type: ignore[arg-type]
                self.last = {"images": told[-1]["images"], "value": self._finite(value)}
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
        """End training after the step at hand, its state saved."""
        if self.process.poll() is None:
            self.process.send_signal(signal.SIGTERM)
            try:
                self.process.wait(60)
            except subprocess.TimeoutExpired:
                self.process.kill()
                self.process.wait()
        self.lock.close()

    def _finite(self, value: float) -> float:
        """Return `value`, or for what is no number one that no trial can be proud of."""
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
        return _parsed(content.decode(errors="replace"))


def _parsed(text: str) -> list[dict[str, Any]]:
    """Return the lines of a log, without those that a kill cut off."""
    lines = []
    for line in text.splitlines():
        with contextlib.suppress(ValueError):
            lines.append(json.loads(line))
    return lines


def results(out: Path) -> list[dict[str, Any]]:
    """Return a row a trial, best first: its values, pictures seen, the metric's last and best, how it ended."""
    asked = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    best = min if asked["mode"] == "min" else max
    varied = [_choices(text) for text in asked["vary"]]
    rows = []
    for name, config in trials(asked["preset"], asked["vary"]):
        curve = metric_curve(out / "trials" / name, asked["metric"])
        seen = curve[-1][0] if curve else 0
        row: dict[str, Any] = {"trial": name}
        row |= {path: functools.reduce(getattr, path.split("."), config) for path, values in varied if len(values) > 1}
        row |= {"images": seen, "of": config.loop.images}
        row["last"] = curve[-1][1] if curve else math.nan
        row["best"] = best((value for _, value in curve), default=math.nan)
        rows.append(row)
    sign = 1 if asked["mode"] == "min" else -1
    return sorted(rows, key=lambda row: (math.isnan(row["last"]), sign * row["last"]))


def metric_curve(folder: Path, metric: str) -> list[tuple[int, float]]:
    """Return (pictures seen, metric) of a run's log; lines of the past that a resumption wrote anew count once."""
    path = folder / "log.jsonl"
    lines = _parsed(path.read_text(encoding="utf-8", errors="replace")) if path.is_file() else []
    return sorted({line["images"]: float(v) for line in lines if (v := _told(line, metric)) is not None}.items())


def _told(line: dict[str, Any], metric: str) -> float | None:
    """Return what a line of a log says of a metric, None if nothing; figures may be called without their `figures/`."""
    return line.get(metric, line.get(f"figures/{metric}"))


def write_results(out: Path) -> str:
    """Write `results.csv`, `results.txt` and `results.png` of a sweep's folder; return the text."""
    asked = json.loads((out / "sweep.json").read_text(encoding="utf-8"))
    rows = results(out)
    buffer = io.StringIO()
    writer = csv.DictWriter(buffer, fieldnames=list(rows[0]))
    writer.writeheader()
    writer.writerows(rows)
    write_whole(out / "results.csv", buffer.getvalue().encode())
    columns = [name for name in rows[0] if name != "trial"]
    lines = [
        columns,
        *([f"{v:.5g}" if isinstance(v, float) else str(v) for v in map(row.get, columns)] for row in rows),
    ]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    text = "\n".join("  ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) for line in lines)
    text = f"{asked['preset']}, {asked['metric']} ({asked['mode']} is best)\n{text}\n"
    write_whole(out / "results.txt", text.encode())
    curves = {row["trial"]: metric_curve(out / "trials" / row["trial"], asked["metric"]) for row in rows}
    write_whole(out / "results.png", _plot(curves, asked["metric"]))
    return text


def _plot(curves: dict[str, list[tuple[int, float]]], metric: str) -> bytes:
    """Return one line a trial, the best first in the legend, as PNG."""
    from matplotlib.figure import Figure

    from training.metrics.report_plots import png

    figure = Figure(figsize=(8, 4.5), layout="constrained")
    axes = figure.add_subplot()
    for name, curve in curves.items():
        axes.plot([seen for seen, _ in curve], [value for _, value in curve], label=name, linewidth=1.2)
    axes.set_xlabel("pictures seen")
    axes.set_ylabel(metric)
    axes.legend(fontsize=8)
    return png(figure)


def main(folder: Path, parent: int) -> None:
    """Train the trial that `folder` describes: what `Watch` starts; it ends, saved, when that process dies."""
    ctypes.CDLL(None).prctl(1, signal.SIGTERM)  # PR_SET_PDEATHSIG: Linux sends it then, whatever the cause
    if os.getppid() != parent:
        return
    from training.loop.train import train

    job = json.loads((folder / "trial.json").read_text(encoding="utf-8"))
    config = TypeAdapter(type(preset(job["preset"]))).validate_python(job["config"])
    train(config, Path(job["data"]), folder, device=job["device"])


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
