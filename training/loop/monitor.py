"""Progress of a run: log, TensorBoard, grids of pictures, mask checks, figures, and the best generator so far."""

import contextlib
import errno
import io
import json
import logging
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from tqdm import tqdm

from training.checkpoint import read_card, save_generator
from training.data.folder import PictureSet
from training.files import append_line, write_whole
from training.loop.mask_check import WHEN, check_masks
from training.loop.run import Run
from training.loop.step import step_rng, to_device
from training.pictures import tile
from training.runtime.distributed import mean_of, rank
from training.types import Batch, Generator

log = logging.getLogger(__name__)


class Monitor:
    """Writes a run's log, TensorBoard events, progress bar, grids, mask checks and figures, in the first process
    only."""

    def __init__(self, run: Run, pictures: Any) -> None:
        """Raises: ValueError for figures that these pictures are too few for."""
        self.run, loop = run, run.config.loop
        fixed = pictures.batch(list(range(min(16, len(pictures)))), step_rng(loop.seed, -1))
        self.fixed = to_device(fixed, run.device)
        self.compared = _compared(pictures) if loop.figures_every else pictures
        self.distance = _distance(run, self.compared) if loop.figures_distance else None
        self.board: Board | None = None
        self.restart()

    def __enter__(self) -> "Monitor":
        loop, first = self.run.config.loop, rank() == 0
        self.board = Board(self.run) if first else None
        self.bar = tqdm(
            total=loop.images, initial=self.run.images, unit="img", smoothing=0.05, disable=not first, file=_Unread()
        )
        return self

    def __exit__(self, *_: object) -> None:
        self.bar.close()
        if self.board is not None:
            self.board.close()

    def restart(self) -> None:
        """Discard the values since the last line of the log, as after a rollback."""
        self.sums: dict[str, list[Tensor]] = {}
        self.since, self.seen = time.monotonic(), self.run.images
        if self.board is not None:
            self.bar.n = self.run.images

    def show(self, logged: dict[str, Tensor]) -> None:
        """Collect a step's values and write what is due; training continues where a disk is full."""
        run, loop = self.run, self.run.config.loop
        for name, value in logged.items():
            self.sums.setdefault(name, []).append(value)
        self.bar.update(loop.batch)
        if run.index % loop.log_every == 0:
            self._log()
        due = bool(loop.figures_every) and crossed(run.images, loop.batch, loop.figures_every)
        far = {"fd": self.distance()} if due and self.distance is not None else {}  # by all processes together
        if self.board is not None:
            with unless_full("pictures and figures", run):
                _show_pictures(run, self.fixed, self.board)
                if due:
                    _write_figures(run, self.compared, self.board, far)

    def _log(self) -> None:
        """Write the means since the last line."""
        means = mean_of({name: torch.stack(values).float().mean().item() for name, values in self.sums.items()})
        means["images_per_second"] = (self.run.images - self.seen) / (time.monotonic() - self.since)
        self.sums, self.since, self.seen = {}, time.monotonic(), self.run.images
        if self.board is not None:
            with unless_full("the log", self.run):
                _write_log(self.run, means, self.board)


class Board:
    """A run's TensorBoard file. After a failed write, such as on a full disk, the next one starts a new file, because
    the old writer would keep failing."""

    def __init__(self, run: Run) -> None:
        from torch.utils.tensorboard import SummaryWriter  # slow to import, and only training needs it

        self.run, self.since, self.make = run, run.images, SummaryWriter
        self.writer: Any = None

    def add(self, kind: str, name: str, value: Any) -> None:
        """Write a `scalar` or `images`. Raises: OSError."""
        try:
            if self.writer is None:
                self.writer = self.make(str(self.run.out), purge_step=self.since or None)
            getattr(self.writer, f"add_{kind}")(name, value, self.run.images)
        except OSError:
            self.writer, self.since = None, self.run.images
            raise

    def close(self) -> None:
        """Flush and close the file; errors are ignored."""
        if self.writer is not None:
            with contextlib.suppress(OSError):
                self.writer.close()


class _Unread:
    """Standard error for the progress bar that ignores a closed pipe, as after `2>&1 | head`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> None:
        """Write `text`, unless the pipe is closed."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush, unless the pipe is closed."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


@contextlib.contextmanager
def unless_full(what: str, run: Run) -> Iterator[None]:
    """Log errors of a full or missing disk as warnings; older files remain, and later writes are tried again."""
    try:
        yield
    except OSError as error:
        log.warning("could not write %s at %d pictures (%s); training continues", what, run.images, error)


def _show_pictures(run: Run, fixed: Batch, board: Board) -> None:
    """Write the grids and the mask check that are due."""
    loop = run.config.loop
    if crossed(run.images, loop.batch, loop.grid_every) or run.images >= loop.images:
        _write_grids(run, fixed, board)
    if isinstance(run.average, Generator) and any(run.images - loop.batch < at <= run.images for at in WHEN):
        box = fixed.box
        area = None if box is None else float(((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).mean())
        options = getattr(run.recipe, "mask_advice", None)
        if (found := check_masks(run.average, box=area, options=options)) is not None:
            log.log(logging.INFO if found.settled else logging.WARNING, "%d pictures, %s", run.images, found)
            with (run.out / "masks.txt").open("a", encoding="utf-8") as file:
                file.write(f"{run.images} pictures, {found}\n")


def check_figures(run: Run) -> None:
    """Raises: ValueError for figures of what draws no pictures."""
    if run.config.loop.figures_every and not isinstance(run.average, Generator):
        raise ValueError(
            f"figures are for generators, and this preset trains a {run.config.family}; leave out --loop.figures-every"
        )


def _compared(pictures: PictureSet) -> PictureSet:
    """Return the pictures for figures: the held-out ones, if there are any."""
    from training.metrics.report import held_out

    config = replace(pictures.config, flip=False)
    aside = held_out(pictures.path, config)
    return PictureSet(pictures.path, config, memory=0) if aside is None else aside[0]


def _distance(run: Run, compared: PictureSet) -> Callable[[], float]:
    """Return a function for the Frechet distance of the averaged generator's samples to real pictures.

    Raises: ValueError for too few pictures, before training.
    """
    from training.metrics.features import load_features
    from training.metrics.fid import distances, drawn, real_statistics, statistics

    loop = run.config.loop
    features = load_features(features=loop.figures_features, device=run.device)
    n = loop.figures_distance
    if n > len(compared):
        raise ValueError(f"loop.figures_distance is {n}, and {len(compared)} pictures are there to compare with")
    real = real_statistics(compared, n, features)

    def measure() -> float:
        ours = statistics(drawn(run.average, n), n, features, what="samples")
        return distances(real, ours, features, frechet=True, kernel=False)[features.frechet_name]

    return measure


def _write_figures(run: Run, compared: PictureSet, board: Board, far: dict[str, float]) -> None:
    """Write the averaged generator's figures, `far` among them; save it as `best.safetensors` if it is the best so
    far."""
    from training.metrics.figures import better
    from training.metrics.report import quick_figures

    loop = run.config.loop
    found = quick_figures(run.average, compared, n=loop.figures_n) | far
    _write_log(run, {f"figures/{name}": value for name, value in found.items()}, board)
    if loop.best_by is None:
        return
    if loop.best_by not in found:
        names = ", ".join(sorted(found))
        log.warning("no best kept: loop.best_by is %r, this generator's figures are %s", loop.best_by, names)
        return
    path = run.out / "best.safetensors"
    so_far = _best_so_far(path, loop.best_by)
    if so_far is None or better(loop.best_by, found[loop.best_by], so_far):
        save_generator(path, run.average, card=run.card() | {"figures": found})


def _best_so_far(path: Path, figure: str) -> float | None:
    """Return the figure of the saved best generator; None if there is none."""
    if not path.is_file() or path.is_symlink():
        return None
    try:
        value = read_card(path, beside=False).get("figures", {}).get(figure)
    except ValueError as error:
        log.warning("%s is replaced: %s", path.name, error)
        return None
    return value if isinstance(value, int | float) else None


def _write_log(run: Run, means: dict[str, float], board: Board) -> None:
    line = json.dumps({"images": run.images, **{k: float(f"{v:.5g}") for k, v in means.items()}})
    append_line(run.out / "log.jsonl", line)
    for name, value in means.items():
        board.add("scalar", name, value)


def crossed(images: int, batch: int, every: int) -> bool:
    """Whether the last batch passed a multiple of `every`."""
    return images // every != (images - batch) // every


@torch.no_grad()
def _write_grids(run: Run, fixed: Batch, board: Board) -> None:
    for name, pictures in run.recipe.grids(run.average, fixed).items():
        picture = tile(pictures, 8)
        content = io.BytesIO()
        picture.save(content, "PNG")
        folder = run.out / "grids"
        if folder.is_symlink():
            raise OSError(errno.ELOOP, "it is a link, which is not followed", str(folder))
        write_whole(folder / f"{run.images:09d}-{name}.png", content.getvalue())
        board.add("images", name, (pictures.detach().float().cpu().clamp(-1, 1) + 1) / 2)
