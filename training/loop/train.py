"""The training loop: steps until the run has seen its pictures, with logging and saving in between.

A run folder holds `config.json`, `data.json`, the last resume states, `generator.safetensors` (the average),
`log.jsonl`, grids and TensorBoard events. The loop knows phases, not models.
"""

import contextlib
import logging
import signal
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import Any

from training.checkpoint import load_model
from training.data.folder import PictureSet
from training.devices import has_bfloat16
from training.loop.monitor import Monitor, check_figures, crossed, unless_full
from training.loop.run import Run, check_data, folder_of_run, keep_config, keep_data
from training.runtime.distributed import any_of, from_first, joined, rank, share_of
from training.runtime.malloc import keep_memory
from training.types import AdaptsWeights
from training.warm_start import ChecksSource, copy_matching, load_weights

log = logging.getLogger(__name__)


def train(
    config: Any, data: Path, out: Path, *, device: str | None = None, start_from: Path | Sequence[Path] | None = None
) -> Path:
    """Train the preset `config` on the prepared set `data` in the run folder `out`; return the generator file.

    An existing run in the folder is resumed. A new one is initialised from `start_from`, run folders or generator
    files, wherever shapes match, later ones over earlier ones. SIGINT, SIGTERM or SIGHUP ends the run after the current
    step and saves its state. Training continues where a disk is full. Non-finite losses roll the run back to its last
    state, at half the learning rate. Under torchrun each process takes its share of `loop.batch`, and only the first
    one reads and writes the run folder.

    Raises: ValueError for a run of other pictures or networks, or a `start_from` of none of these networks;
    NonFiniteError if losses are not finite for the third time without a saved state in between.
    """
    keep_memory()
    with joined(device) as where, folder_of_run(out):
        share_of(config.loop.batch, config.loop.accumulate)
        if rank() > 0:
            logging.getLogger("training.loop").setLevel(logging.ERROR)  # only the first process logs
        pictures = config.data.open(data) if hasattr(config.data, "open") else PictureSet(data, config.data)
        if config.loop.bf16 and not has_bfloat16(where):
            log.info("this CPU has no bfloat16 instructions, so float32 is used, which is faster here")
        run = Run(config, out, where)
        check_figures(run)
        if rank() == 0:
            check_data(pictures, out)
        if run.resume():
            _check_source(run, out)
            _say_resumed(run, start_from)
        else:
            _warm_start(run, [start_from] if isinstance(start_from, Path) else start_from or ())
        if rank() == 0:  # not before: a start that fails leaves no folder that seems to hold a run
            keep_data(pictures, out)
            keep_config(config, out)
        _steps(run, pictures)
    return out / "generator.safetensors"


def _steps(run: Run, pictures: Any) -> None:
    """Take steps until the run has seen its pictures or is stopped, then save its state."""
    loop = run.config.loop
    monitor = Monitor(run, pictures)
    if run.index == 0:
        run.save()  # an unwritable folder fails now, and there is a state to roll back to
    with monitor, _stop_signals() as stopped:
        while run.images < loop.images and not any_of(bool(stopped)):
            logged = run.step(pictures)
            if any(name.endswith("/skipped") for name in logged):
                run.roll_back()
                monitor.restart()
                continue
            monitor.show(logged)
            if crossed(run.images, loop.batch, loop.save_every):
                with unless_full("the state", run):
                    run.save()
        run.save()
    if run.images < loop.images:
        log.warning("stopped at %d pictures, saved; the same command resumes the run", run.images)


def _say_resumed(run: Run, start_from: Path | Sequence[Path] | None) -> None:
    if start_from:
        log.warning("--start-from is ignored: %s holds a run already, which is resumed", run.out)
    if run.images >= run.config.loop.images:
        log.warning("%s has seen its %d pictures; give a larger --loop.images to continue", run.out, run.images)
    else:
        log.info("resuming at %d of %d pictures in %s", run.images, run.config.loop.images, run.out)


def _check_source(run: Run, source: Path) -> None:
    """Ask the recipe whether weights of a run folder or a generator file fit. Raises: ValueError where they do not."""
    file = source / "generator.safetensors" if source.is_dir() else source
    if rank() == 0 and isinstance(run.recipe, ChecksSource) and file.is_file():
        run.recipe.check_source(load_model(file).config, str(source))


def _warm_start(run: Run, sources: Sequence[Path]) -> None:
    """Copy the weights of `sources` wherever shapes match, later ones over earlier ones."""
    for source in sources:
        _check_source(run, source)
        theirs = from_first(load_weights(source) if rank() == 0 else None)
        if isinstance(run.recipe, AdaptsWeights):
            theirs = run.recipe.adapt_weights(theirs)
        taken, numbers = copy_matching(run.recipe.networks, theirs)
        if taken == 0:
            raise ValueError(
                f"{source} has no weights of the shapes of this preset's networks, a {run.config.family}; give a run "
                f"or a generator file of the same family to start from"
            )
        log.info("began with %d of %d weights from %s", taken, numbers, source)
    run.average.load_state_dict(run.recipe.generator.state_dict())


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect SIGINT, SIGTERM and SIGHUP in a list inside the block, so that the current step is completed.

    Under `nohup` SIGHUP stays ignored.
    """
    received: list[int] = []

    def note(number: int, frame: FrameType | None) -> None:
        received.append(number)

    numbers = [signal.SIGINT, signal.SIGTERM]
    if signal.getsignal(signal.SIGHUP) is not signal.SIG_IGN:
        numbers.append(signal.SIGHUP)
    before = {number: signal.signal(number, note) for number in numbers}
    try:
        yield received
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
