"""The training loop: phases in order, an average of the generator, a run folder that can always be gone on from.

A run folder holds `config.json`, `data.json`, the last resume states, `generator.safetensors` (the average),
`log.jsonl`, grids and TensorBoard events. It knows phases, not models.
"""

import contextlib
import copy
import errno
import hashlib
import io
import json
import logging
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from types import FrameType
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor, nn
from tqdm import tqdm

from training.batched import fields_of
from training.checkpoint import newest_state, read_card, save_generator, save_state
from training.data.folder import PictureSet
from training.devices import out_of_memory
from training.early import WHEN, look
from training.files import append_line, check_folder, locked, read_plain_file, write_whole
from training.nn.gan import learning
from training.pictures import tile
from training.registry import family_of, resolve
from training.runtime.distributed import any_of, backward_together, from_first, joined, mean_of, rank, share_of, size
from training.runtime.malloc import keep_memory
from training.runtime.sharded_random import Draws, draws, own
from training.types import Adopts, Batch, Generator, Phase, Recipe, Step, TrainingSet
from training.warm_start import learnt, take_over

log = logging.getLogger(__name__)


class NonFiniteError(ArithmeticError):
    """Training met losses that are not numbers three times without getting further."""


def train_step(
    phases: Sequence[Phase],
    batch: Batch,
    step: Step,
    *,
    rest: Sequence[tuple[Batch, Step]] = (),
    begin: Callable[[Batch, Step], None] | None = None,
    lr_factor: float = 1.0,
) -> dict[str, Tensor]:
    """Run the phases due at `step`; return each loss term, detached, as 'phase/term'.

    Where several processes train, `batch` is this one's share and gradients are averaged over all. A phase whose loss
    or gradient is not finite leaves its network as it was and logs 'phase/skipped'.

    With a `rest`, the step is taken in parts: gradients of all are summed before each update, and `begin` is called for
    each part in each phase, so that no more than one part is in memory. Learning rates count `lr_factor` times.
    """
    logged: dict[str, Tensor] = {}
    parts = [(batch, step), *rest]
    start = [part.rng.get_state() for _, part in parts]
    reached: list[Tensor] = []  # by each part's random source, after the phases so far
    for phase in phases:
        if not phase.due(step):
            continue
        phase.optimizer.zero_grad(set_to_none=True)
        total, sums = torch.zeros(()), dict[str, Tensor]()
        for i, (pictures, part) in enumerate(parts):
            if rest and begin is not None:
                part.rng.set_state(start[i])
                begin(pictures, part)
                if reached:
                    part.rng.set_state(reached[i])
            with learning(phase.network):
                terms = phase.losses(pictures, part)  # named scalars, already weighted
                whole = torch.stack([term.float() for term in terms.values()]).sum()
                loss = phase.every * whole / (len(parts) * size())
                total = total.to(loss) + loss.detach()
                if i + 1 < len(parts):
                    loss.backward()
                else:
                    total = backward_together(loss, total, phase.optimizer)
            sums = {name: sums.get(name, 0.0) + term.detach() / len(parts) for name, term in terms.items()}
        reached = [part.rng.get_state() for _, part in parts]
        parameters = [p for group in phase.optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])
        if bool(torch.isfinite(norm + total)):
            if phase.max_norm is not None:
                torch.nn.utils.clip_grads_with_norm_(parameters, phase.max_norm, norm)
            with _slower(phase.optimizer, lr_factor):
                phase.optimizer.step()
        else:
            logged[f"{phase.name}/skipped"] = torch.ones(())
        phase.optimizer.zero_grad(set_to_none=True)
        logged |= {f"{phase.name}/{name}": value for name, value in sums.items()}
    return logged


@contextlib.contextmanager
def _slower(optimizer: torch.optim.Optimizer, factor: float) -> Iterator[None]:
    """Let learning rates count `factor` times inside the block; a recipe's own schedule stays as it is."""
    rates = [group["lr"] for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        group["lr"] *= factor
    yield
    for group, rate in zip(optimizer.param_groups, rates, strict=True):
        group["lr"] = rate


@torch.no_grad()
def update_average(average: nn.Module, network: nn.Module, decay: float) -> None:
    """Move `average` towards `network`: w_avg = decay * w_avg + (1 - decay) * w; buffers are copied."""
    ours: list[Tensor] = list(average.parameters())
    theirs: list[Tensor] = list(network.parameters())
    torch._foreach_lerp_(ours, theirs, 1 - decay)  # pyright: ignore[reportPrivateImportUsage]
    for buffer, source in zip(average.buffers(), network.buffers(), strict=True):
        buffer.copy_(source)


def batch_indices(n: int, batch: int, images: int, seed: int) -> list[int]:
    """Return which pictures come after `images` seen: shuffled epochs end to end, the same however often resumed."""
    picks: list[int] = []
    while len(picks) < batch:
        epoch, start = divmod(images + len(picks), n)
        order = torch.randperm(n, generator=torch.Generator().manual_seed(seed * 1_000_003 + epoch))
        picks += order[start : start + batch - len(picks)].tolist()
    return picks


def step_rng(seed: int, index: int, part: int = 0, parts: int = 1) -> Draws:
    """Return the random source of one step, for a share of its batch: it depends on the run's seed and the step."""
    return draws((seed * 2_654_435_761 + index * 40_503 + 12_345) % 2**63, part, parts)


class Run:
    """One run folder: what is trained in it, and how far it has come."""

    def __init__(self, config: Any, out: Path, device: torch.device) -> None:
        self.config, self.out, self.device = config, out, device
        torch.manual_seed(config.loop.seed)  # initial weights
        self.recipe: Recipe = resolve(family_of(config.family).recipe)(config, device)
        self.recipe.networks.requires_grad_(False)
        self.phases = self.recipe.phases()
        self.average = self.recipe.average = copy.deepcopy(self.recipe.generator).eval()
        self.index = self.images = 0
        self.lr_factor = 1.0
        """Of every learning rate: halved each time the losses were not finite."""

    def state(self) -> dict[str, Any]:
        """Return all that a later run needs to go on exactly: tensors and plain values."""
        return {
            "index": self.index,
            "images": self.images,
            "lr_factor": self.lr_factor,
            "networks": self.recipe.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()},
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return each optimiser once, by the name of the first phase that uses it: phases may share one."""
        first: dict[int, tuple[str, torch.optim.Optimizer]] = {}
        for phase in self.phases:
            first.setdefault(id(phase.optimizer), (phase.name, phase.optimizer))
        return dict(first.values())

    def resume(self) -> bool:
        """Go on from the folder's newest whole state; return whether there was one."""
        found = from_first(newest_state(self.out) if rank() == 0 else None)
        elsewhere = any_of(found is None and rank() > 0 and any(self.out.glob("state-*.pt")))
        if found is None and elsewhere:
            raise ValueError(
                f"the first process sees no run in {self.out}, but another machine has one there; copy it to the first "
                f"machine, or give a folder that all share, to go on with it"
            )
        if found is None:
            return False
        state, _ = found
        try:
            self._take(state)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            if out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"the run in {self.out} has other networks than asked for ({reason}); give its own "
                f"options to go on with it, or another folder, and this one as --start-from, to begin from it"
            ) from error
        self.index, self.images = state["index"], state["images"]
        self.lr_factor = state.get("lr_factor", 1.0)
        return True

    def _take(self, state: dict[str, Any]) -> None:
        """Take over networks, average and what the optimisers know; rates and the like stay those of the config."""
        off = self.recipe.networks.load_state_dict(state["networks"], strict=False)
        if strange := [n for n in (*off.missing_keys, *off.unexpected_keys) if not n.startswith("augment.")]:
            raise ValueError(f"of one of them alone is {strange[0]}")
        self.average.load_state_dict(state["average"])
        for name, optimizer in self.optimizers().items():
            ours = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(state["optimizers"][name])
            for parameter, moments in optimizer.state.items():
                if any(isinstance(m, Tensor) and m.ndim and m.shape != parameter.shape for m in moments.values()):
                    raise ValueError(f"the moments of the optimiser of {name} are of other shapes than its weights")
            for group, own_values in zip(optimizer.param_groups, ours, strict=True):
                group.update(own_values)

    def roll_back(self) -> None:
        """Return to the newest saved state, learning at half of the rate from here."""
        factor, seen = self.lr_factor / 2, self.images
        self.resume()
        self.lr_factor = factor
        log.warning("losses not finite at %d pictures: back to %d, learning rates x %g", seen, self.images, factor)

    def save(self) -> None:
        """Write the resume state, then the average generator; of several processes the first one does."""
        if rank() > 0:
            return
        save_state(self.out, self.images, self.state(), keep=self.config.loop.keep)
        save_generator(self.out / "generator.safetensors", self.average, card=self.card())

    def card(self) -> dict[str, Any]:
        """Return what a generator file of this run says of itself."""
        return {
            "images_seen": self.images,
            "family": self.config.family,
            "config": _plain(_without_folders(self.config)),
        }

    def step(self, data: TrainingSet) -> dict[str, Tensor]:
        """See one batch: every phase due, then the average."""
        loop = self.config.loop
        indices = batch_indices(len(data), loop.batch, self.images, loop.seed)
        parts = []
        for i in range(loop.accumulate):
            rng = step_rng(loop.seed, self.index, i * size() + rank(), loop.accumulate * size())
            step = Step(index=self.index, images=self.images, rng=rng)
            parts.append((to_device(data.batch(own(indices, rng), rng), self.device), step))
        if loop.accumulate == 1:
            self.recipe.begin(*parts[0])
        logged = train_step(self.phases, *parts[0], rest=parts[1:], begin=self.recipe.begin, lr_factor=self.lr_factor)
        logged |= getattr(self.recipe, "gauges", {})
        self.index, self.images = self.index + 1, self.images + loop.batch
        half_life = min(loop.half_life, max(1.0, self.images * loop.ema_warm_up))
        update_average(self.average, self.recipe.generator, 0.5 ** (loop.batch / half_life))
        return logged


def to_device(batch: Batch, device: torch.device) -> Batch:
    """Return `batch` with its tensors on `device`."""
    tensors = {name: value for name, value in fields_of(batch).items() if isinstance(value, Tensor)}
    return replace(batch, **{name: value.to(device, non_blocking=True) for name, value in tensors.items()})


def train(
    config: Any, data: Path, out: Path, *, device: str | None = None, start_from: Path | Sequence[Path] | None = None
) -> Path:
    """Train the preset `config` on the prepared set `data` in the run folder `out`; return the generator file.

    A folder that holds a run is gone on with. A new one begins with the weights of `start_from`, run folders or
    generator files, wherever their shapes fit, those of later ones over those of earlier ones. SIGINT, SIGTERM or
    SIGHUP ends the run after the step at hand, its state saved; a full disk stops the writing only; losses that are not
    finite take the run back to its last state, at half the learning rate. Under torchrun each process takes its share
    of `loop.batch`; the first one alone reads and writes the run folder.

    Raises: NonFiniteError when losses are not finite for the third time without a state saved in between.
    """
    keep_memory()
    with joined(device) as where, _folder_of_run(out):
        share_of(config.loop.batch, config.loop.accumulate)
        if rank() > 0:
            log.setLevel(logging.ERROR)  # one voice
        pictures = config.data.open(data) if hasattr(config.data, "open") else PictureSet(data, config.data)
        run = Run(config, out, where)
        if rank() == 0:
            _keep_data(pictures, out)
        resumed = run.resume()
        if rank() == 0:
            _keep_config(config, out)
        if resumed and start_from:
            log.warning("--start-from is left out: %s holds a run already, which goes on", out)
        if resumed and run.images >= config.loop.images:
            log.warning("%s has seen its %d pictures; give more --loop.images to go on", out, run.images)
        elif resumed:
            log.info("going on at %d of %d pictures in %s", run.images, config.loop.images, out)
        else:
            for source in [start_from] if isinstance(start_from, Path) else start_from or ():
                theirs = from_first(learnt(source) if rank() == 0 else None)
                if isinstance(run.recipe, Adopts):
                    theirs = run.recipe.adopt(theirs)
                taken, numbers = take_over(run.recipe.networks, theirs)
                log.info("began with %d of %d weights from %s", taken, numbers, source)
            run.average.load_state_dict(run.recipe.generator.state_dict())
        _train(run, pictures)
    return out / "generator.safetensors"


@contextlib.contextmanager
def _folder_of_run(out: Path) -> Iterator[None]:
    """Keep the run folder to this command inside the block; of several processes the first one does.

    Raises: ValueError, before any work, for a folder that another `train` has, that cannot be written to, or that holds
    a generator and no state to go on from.
    """
    if rank() > 0:
        yield
        return
    new = not out.exists()
    check_folder(out)
    with _unless_empty(out, new), locked(out, "train.lock", "`train`"):
        made = next(iter(sorted(out.glob("*.safetensors"))), None)
        if made is not None and not any(out.glob("state-*.pt")):
            raise ValueError(
                f"{out} holds {made.name} but no resume state to go on from, and training would replace it; give "
                f"another --out, with --start-from {made} to begin from its weights"
            )
        yield


@contextlib.contextmanager
def _unless_empty(out: Path, new: bool) -> Iterator[None]:
    """Remove a `new` folder in which nothing was written inside the block, as after a mistake in other options."""
    try:
        yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                out.rmdir()


def _train(run: Run, pictures: Any) -> None:
    loop = run.config.loop
    fixed = to_device(pictures.batch(list(range(min(16, len(pictures)))), step_rng(loop.seed, -1)), run.device)
    bad, since, seen, first = 0, time.monotonic(), run.images, rank() == 0
    compared = _compared(pictures) if loop.figures_every else pictures
    distance = _distance(run, compared) if loop.figures_distance else None
    if run.index == 0:
        run.save()  # what cannot be written fails now, and there is a state to roll back to
    with (
        contextlib.closing(Board(run)) if first else contextlib.nullcontext() as board,
        _stop_signals() as stopped,
        tqdm(
            total=loop.images, initial=run.images, unit="img", smoothing=0.05, disable=not first, file=_Unread()
        ) as bar,
    ):
        sums: dict[str, list[Tensor]] = {}
        while run.images < loop.images and not any_of(bool(stopped)):
            logged = run.step(pictures)
            if any(name.endswith("/skipped") for name in logged):
                bad += 1
                if bad == 3:
                    raise NonFiniteError(
                        f"the losses were not finite three times near {run.images} pictures, at ever lower learning "
                        f"rates; the last saved state is untouched: turn bf16 off or change the losses' weights, and "
                        f"start the same command again"
                    )
                run.roll_back()
                bar.n, sums, since, seen = run.images, {}, time.monotonic(), run.images
                continue
            for name, value in logged.items():
                sums.setdefault(name, []).append(value)
            bar.update(loop.batch)
            if run.index % loop.log_every == 0:
                means = mean_of({name: torch.stack(values).float().mean().item() for name, values in sums.items()})
                means["images_per_second"] = (run.images - seen) / (time.monotonic() - since)
                sums, since, seen = {}, time.monotonic(), run.images
                if board is not None:
                    with _unless_full("the log", run):
                        _write_log(run, means, board)
            due = bool(loop.figures_every) and _crossed(run.images, loop.batch, loop.figures_every)
            far = {"fd": distance()} if due and distance is not None else {}  # by all processes together
            if board is not None:
                with _unless_full("pictures and figures", run):
                    _look(run, fixed, board)
                    if due:
                        _write_figures(run, compared, board, far)
            if _crossed(run.images, loop.batch, loop.save_every):
                with _unless_full("the state", run):
                    run.save()
                    bad = 0
        run.save()
    if run.images < loop.images:
        log.warning("stopped at %d pictures, saved; the same command goes on from here", run.images)


class Board:
    """A run's TensorBoard file. After a failed write, such as on a full disk, the next one begins a new file: the old
    writer would fail for ever."""

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
        """Write what is waiting, if it can be."""
        if self.writer is not None:
            with contextlib.suppress(OSError):
                self.writer.close()


class _Unread:
    """Standard error for the progress bar: training goes on where nobody reads it any more, as after `2>&1 | head`."""

    def __getattr__(self, name: str) -> Any:
        return getattr(sys.stderr, name)

    def write(self, text: str) -> None:
        """Write `text` if somebody reads."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.write(text)

    def flush(self) -> None:
        """Flush if somebody reads."""
        with contextlib.suppress(OSError, ValueError):
            sys.stderr.flush()


@contextlib.contextmanager
def _unless_full(what: str, run: Run) -> Iterator[None]:
    """Go on training where a disk is full or gone for a while: older files stand, the next ones are tried again."""
    try:
        yield
    except OSError as error:
        log.warning("could not write %s at %d pictures (%s); training goes on", what, run.images, error)


def _look(run: Run, fixed: Batch, board: Board) -> None:
    """Write what is due: grids and a word on the masks."""
    loop = run.config.loop
    if _crossed(run.images, loop.batch, loop.grid_every) or run.images >= loop.images:
        _write_grids(run, fixed, board)
    if isinstance(run.average, Generator) and any(run.images - loop.batch < at <= run.images for at in WHEN):
        box = fixed.box
        area = None if box is None else float(((box[:, 2] - box[:, 0]) * (box[:, 3] - box[:, 1])).mean())
        options = getattr(run.recipe, "mask_options", None)
        if (found := look(run.average, box=area, options=options)) is not None:
            log.log(logging.INFO if found.settled else logging.WARNING, "%d pictures, %s", run.images, found)
            with (run.out / "masks.txt").open("a", encoding="utf-8") as file:
                file.write(f"{run.images} pictures, {found}\n")


def _compared(pictures: PictureSet) -> PictureSet:
    """Return the pictures that figures are taken with: those held out, if there are any."""
    from training.metrics.report import held_out

    config = replace(pictures.config, flip=False)
    aside = held_out(pictures.path, config)
    return PictureSet(pictures.path, config, memory=0) if aside is None else aside[0]


def _distance(run: Run, compared: PictureSet) -> Callable[[], float]:
    """Return what measures how far the average generator's samples are from real pictures.

    Raises: ValueError for too few pictures, before anything is trained.
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
    """Measure the average generator's knobs, beside `far`; keep it as `best.safetensors` if none was better so far."""
    from training.metrics.report import better, quick_figures

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
    """Return the figure of the best generator kept; None if there is none that can be read."""
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


def _crossed(images: int, batch: int, every: int) -> bool:
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


@contextlib.contextmanager
def _stop_signals() -> Iterator[list[int]]:
    """Collect Ctrl-C, SIGTERM and a closed terminal's SIGHUP in a list, so that the step at hand ends whole.

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


def _plain(config: Any) -> dict[str, Any]:
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def _without_folders(config: Any) -> Any:
    """Return a config whose paths are file names: the folders of one machine say nothing on another."""
    values = fields_of(config)
    changed = {name: Path(value.name) for name, value in values.items() if isinstance(value, Path)}
    changed |= {name: _without_folders(value) for name, value in values.items() if is_dataclass(value)}
    return replace(config, **changed)


def _keep_data(pictures: TrainingSet, out: Path) -> None:
    """Note which set the run learns from.

    Raises: ValueError if the folder's run has learnt from another set at another place.
    """
    path, index = out / "data.json", hashlib.sha256(_index(pictures).read_bytes()).hexdigest()
    ours = {"path": str(pictures.path.absolute()), "index_sha256": index}
    if path.is_file():
        before = _learns_from(path)
        if before["index_sha256"] != index and before["path"] != ours["path"]:
            raise ValueError(
                f"the run in {out} learns from {before['path']}, not from {pictures.path}; give another --out, with "
                f"--start-from {out} to begin from what it knows"
            )
        if before["index_sha256"] != index:
            log.warning(
                "%s is not the set it was when the run began; the run goes on with what is there", pictures.path
            )
    out.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(ours, indent=1).encode())


def _index(pictures: TrainingSet) -> Path:
    """Return the file that lists a set's pictures."""
    return getattr(pictures, "index", pictures.path / "index.csv")


def _learns_from(path: Path) -> dict[str, str]:
    """Return what a run's `data.json` says of its set; ValueError if that cannot be read."""
    try:
        said = json.loads(read_plain_file(path, 2**20))
        if isinstance(said, dict) and all(isinstance(said.get(name), str) for name in ("path", "index_sha256")):
            return said
        reason = "path and index_sha256 are not in it"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"{path} does not say which set the run learns from ({reason}); remove it if --data is that set")


def _keep_config(config: Any, out: Path) -> None:
    """Write the run's config; where the folder's run had another, say which fields changed."""
    path, ours = out / "config.json", asdict(config)
    if path.is_file():
        try:
            before, now = _flat(json.loads(read_plain_file(path, 2**20))), _flat(ours)
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s cannot be read and is written anew (%s)", path, error)
            before = now = {}
        for name in sorted(before.keys() | now.keys()):
            if before.get(name) != now.get(name):
                was, is_ = before.get(name, "not there"), now.get(name, "not there")
                log.warning("config differs from the run's so far: %s was %s, is %s", name, was, is_)
    write_whole(path, json.dumps(_plain(config), indent=1).encode())


def _flat(values: Any, prefix: str = "") -> dict[str, str]:
    if isinstance(values, dict):
        return {k: v for name, value in values.items() for k, v in _flat(value, f"{prefix}{name}.").items()}
    return {prefix[:-1]: json.dumps(values, default=str)}
