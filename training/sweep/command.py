"""`python -m training sweep`: the trials of a grid on Ray Tune."""

import json
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro
from pydantic import TypeAdapter

from training.files import check_folder, locked, read_plain_file, write_whole
from training.sweep.grid import trials
from training.sweep.results import write_results
from training.sweep.trial import Watch

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Sweep:
    """Train a preset with every combination of values, stop bad trials early, write a table and a plot.

    The same command resumes an interrupted sweep; its trials resume from their last saved states.
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
    """Share of a trial before which it is never stopped early."""
    cpus_per_trial: float = 1.0
    """Processor cores that a trial takes; fewer run more trials at once."""
    gpus_per_trial: float | None = None
    """0.25 puts four trials on one GPU; by default a GPU each where there is one now."""
    address: str = "local"
    """`auto` on a machine of a running Ray cluster, or its address; by default this machine alone."""
    retries: int = 3
    """Restarts of a trial whose process was lost."""

    def run(self) -> None:
        """Train all, then print the folder's table.

        Raises: ValueError for an unknown field, a value that does not fit, a folder of another sweep, no Ray.
        """
        if not 0 < self.grace <= 1:
            raise ValueError(f"--grace is {self.grace}; expected a share of a trial, above 0 and at most 1")
        grid = trials(self.preset, self.vary, self.data)
        check_folder(self.out)
        with locked(self.out, "sweep.lock", "`sweep`"):
            _keep_request(self, [name for name, _ in grid])
            _tune(self, grid)
            print(write_results(self.out))


def _keep_request(sweep: Sweep, names: list[str]) -> None:
    """Write the sweep's options to its folder. Raises: ValueError for the folder of another sweep."""
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
                f"options to resume it, or another --out"
            )
    if not sweep.data.is_dir():
        raise ValueError(f"there is no prepared set at {sweep.data}; make one with `python -m training prepare`")
    write_whole(path, json.dumps(asked, indent=1).encode())


def _tune(sweep: Sweep, grid: list[tuple[str, Any]]) -> None:
    """Run or resume all trials on Ray Tune. Raises: ValueError if none was completed."""
    ray = _ray()
    alone = sweep.address == "local"
    _start(ray, sweep.address)
    try:
        gpus = _gpus_of_a_trial(sweep, ray.cluster_resources())
        if alone:  # a cluster may yet grow
            _check_resources(ray.cluster_resources(), sweep.cpus_per_trial, gpus)
        errors = [str(error).strip().splitlines()[-1] for error in _tuner(sweep, grid, gpus).fit().errors]
        for error in sorted(set(errors)):
            log.error("%d of %d trials failed: %s", errors.count(error), len(grid), error)
        if len(errors) == len(grid):
            raise ValueError(f"no trial was completed: {errors[0]}")
    finally:
        ray.shutdown()


def _start(ray: Any, address: str, attempts: int = 3) -> None:
    """Start or join Ray; again where a busy machine takes longer to start it than Ray waits. Raises: ValueError."""
    board = False if address == "local" else None
    for attempt in range(1, attempts + 1):
        try:
            ray.init(address, include_dashboard=board, log_to_driver=False, logging_level=logging.ERROR)
            return
        except Exception as error:  # Ray raises no narrower class
            ray.shutdown()
            if attempt == attempts or "timed out" not in str(error):
                raise ValueError(f"Ray does not start at {address}: {str(error).splitlines()[0]}") from error
            log.warning("Ray took too long to start on this machine; once more")


def _ray() -> Any:
    """Return Ray, quiet. Raises: ValueError where it is not installed."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("TUNE_DISABLE_AUTO_CALLBACK_LOGGERS", "1")
    os.environ.setdefault("RAY_AIR_NEW_OUTPUT", "0")
    try:
        import ray
        import ray.tune
    except ImportError as error:
        raise ValueError(f"a sweep needs Ray ({error}); install it with: pip install '.[sweep]'") from error
    return ray


def _gpus_of_a_trial(sweep: Sweep, there: Mapping[str, float]) -> float:
    """Return the GPUs that a trial takes: those asked for, or one where there is one now."""
    if sweep.gpus_per_trial is not None:
        return sweep.gpus_per_trial
    gpus = 1.0 if there.get("GPU", 0) > 0 else 0.0
    if sweep.address != "local" and not gpus:
        log.warning("no machine of the cluster has a GPU now: trials train on CPUs; or give --gpus-per-trial 1")
    return gpus


def _tuner(sweep: Sweep, grid: list[tuple[str, Any]], gpus: float) -> Any:
    """Return Ray's tuner of all trials, restored where the folder holds one."""
    from ray import tune

    folder = sweep.out.absolute()
    trainable = tune.with_resources(_trainable(), {"cpu": sweep.cpus_per_trial, "gpu": gpus})
    space = {"job": tune.grid_search(_jobs(sweep, grid, gpus))}
    kept = folder / "ray" / "sweep"
    if kept.is_dir() and tune.Tuner.can_restore(str(kept)):
        log.info("resuming the sweep in %s", folder)
        return tune.Tuner.restore(str(kept), trainable, resume_errored=True, param_space=space)
    return tune.Tuner(
        trainable,
        param_space=space,
        tune_config=tune.TuneConfig(
            metric="value",
            mode=sweep.mode,
            scheduler=_scheduler(sweep, grid),
            trial_dirname_creator=lambda trial: trial.trial_id,
        ),
        run_config=tune.RunConfig(
            name="sweep",
            storage_path=str(folder / "ray"),
            failure_config=tune.FailureConfig(max_failures=sweep.retries),
            verbose=0,
        ),
    )


def _scheduler(sweep: Sweep, grid: list[tuple[str, Any]]) -> Any:
    """Return the scheduler that stops bad trials early; None without `early_stop`."""
    from ray.tune.schedulers import ASHAScheduler, FIFOScheduler

    if not sweep.early_stop or len(grid) == 1:
        return FIFOScheduler()
    longest = max(config.loop.images for _, config in grid)
    grace = max(1, round(sweep.grace * longest))
    return ASHAScheduler(time_attr="images", max_t=longest + 1, grace_period=grace, reduction_factor=3)


def _jobs(sweep: Sweep, grid: list[tuple[str, Any]], gpus: float) -> list[dict[str, Any]]:
    """Return what each trial's `Watch` is made from."""
    return [
        {
            "folder": str(sweep.out.absolute() / "trials" / name),
            "preset": sweep.preset,
            "config": TypeAdapter(type(config)).dump_json(config).decode(),
            "data": str(sweep.data.absolute()),
            "device": None if gpus else "cpu",
            "metric": sweep.metric,
            "mode": sweep.mode,
        }
        for name, config in grid
    ]


def _check_resources(there: Mapping[str, float], cpus: float, gpus: float) -> None:
    """Raise ValueError if the resources do not suffice for a single trial."""
    for name, wanted in (("CPU", cpus), ("GPU", gpus)):
        if wanted > there.get(name, 0):
            raise ValueError(
                f"a trial asks for {wanted:g} {name}, this machine has {there.get(name, 0):g}; lower "
                f"--{name.lower()}s-per-trial"
            )


def _trainable() -> Any:
    """Return Ray's trainable class, which supervises one training process a trial."""
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
