"""A run folder: its networks, optimisers and progress, and how they are saved and resumed."""

import contextlib
import copy
import hashlib
import json
import logging
from collections.abc import Iterable, Iterator
from dataclasses import asdict, is_dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from torch import Tensor

from training.batched import fields_of
from training.checkpoint import newest_state, save_generator, save_state
from training.devices import out_of_memory
from training.files import check_folder, locked, read_plain_file, write_whole
from training.loop.step import accumulated, batch_indices, step_rng, to_device, train_step, update_average, whole
from training.registry import family_of, resolve
from training.runtime.distributed import any_of, from_first, rank, size
from training.runtime.sharded_random import local_rows
from training.types import Recipe, Step, TrainingSet
from training.upgrade import upgraded, upgraded_names

log = logging.getLogger(__name__)

PROJECTED = "projected."
"""Names of the weights of the projected discriminator, which a run lacks whose pretrained network could not be
downloaded."""


class NonFiniteError(ArithmeticError):
    """The loss was NaN or infinite three times since the last checkpoint."""


class Run:
    """The state of one run folder: networks, optimisers, progress."""

    def __init__(self, config: Any, out: Path, device: torch.device) -> None:
        self.config, self.out, self.device = config, out, device
        torch.manual_seed(config.loop.seed)  # initial weights
        self.recipe: Recipe = resolve(family_of(config.family).recipe)(config, device)
        self.recipe.networks.requires_grad_(False)
        self.phases = self.recipe.phases()
        self.average = self.recipe.average = copy.deepcopy(self.recipe.generator).eval()
        self.index = self.images = 0
        self.lr_factor = 1.0
        """Factor of every learning rate: halved at each rollback after non-finite losses."""
        self.failures = 0
        """Rollbacks since the last state was saved."""

    def state(self) -> dict[str, Any]:
        """Return the resume state, tensors and plain values, from which training continues exactly."""
        return {
            "index": self.index,
            "images": self.images,
            "lr_factor": self.lr_factor,
            "networks": self.recipe.networks.state_dict(),
            "average": self.average.state_dict(),
            "optimizers": {name: optimizer.state_dict() for name, optimizer in self.optimizers().items()},
        }

    def optimizers(self) -> dict[str, torch.optim.Optimizer]:
        """Return each optimiser once, by the name of the first phase that uses it; phases may share one."""
        first: dict[int, tuple[str, torch.optim.Optimizer]] = {}
        for phase in self.phases:
            first.setdefault(id(phase.optimizer), (phase.name, phase.optimizer))
        return dict(first.values())

    def resume(self) -> bool:
        """Load the folder's newest intact state; return whether there was one."""
        found = from_first(newest_state(self.out) if rank() == 0 else None)
        elsewhere = any_of(found is None and rank() > 0 and any(self.out.glob("state-*.pt")))
        if found is None and elsewhere:
            raise ValueError(
                f"the first process sees no run in {self.out}, but another machine has one there; copy it to the first "
                f"machine, or give a folder that all share, to resume it"
            )
        if found is None:
            return False
        state, _ = found
        if _has_projected(state.get("networks", {})) and "projected" not in self.recipe.networks:
            raise ValueError(
                f"the run in {self.out} has a projected discriminator, and this start has none; give "
                f"--projected.backbone FILE where its pretrained network cannot be downloaded, or another folder, with "
                f"this one as --start-from, to go on without"
            )
        try:
            self._take(state)
        except (RuntimeError, LookupError, ValueError, TypeError, AttributeError) as error:
            if out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
            raise ValueError(
                f"the run in {self.out} has other networks than asked for ({reason}); give its own "
                f"options to resume it, or another folder, with this one as --start-from, to begin from its weights"
            ) from error
        self.index, self.images = state["index"], state["images"]
        self.lr_factor = state.get("lr_factor", 1.0)
        return True

    def _take(self, state: dict[str, Any]) -> None:
        """Load networks, average and the optimisers' moments; learning rates and betas stay those of the config."""
        networks, optimizers = (upgraded_names(state[name]) for name in ("networks", "optimizers"))
        off = self.recipe.networks.load_state_dict(networks, strict=False)
        begins = "projected" in self.recipe.networks and not _has_projected(networks)
        may_differ = ("augment.", PROJECTED) if begins else ("augment.",)
        if strange := [n for n in (*off.missing_keys, *off.unexpected_keys) if not n.startswith(may_differ)]:
            raise ValueError(f"state dict mismatch: {strange[0]} is missing or unexpected")
        if begins:
            log.warning("the run had no projected discriminator so far; one begins now")
        self.average.load_state_dict(state["average"])
        for name, optimizer in self.optimizers().items():
            if begins and name == "projected":
                continue
            ours = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
            optimizer.load_state_dict(optimizers[name])
            for parameter, moments in optimizer.state.items():
                if any(isinstance(m, Tensor) and m.ndim and m.shape != parameter.shape for m in moments.values()):
                    raise ValueError(f"the moments of the optimiser of {name} are of other shapes than its weights")
            for group, own_values in zip(optimizer.param_groups, ours, strict=True):
                group.update(own_values)

    def roll_back(self) -> None:
        """Load the newest saved state and halve the learning rates.

        Raises: NonFiniteError at the third rollback without a saved state in between.
        """
        self.failures += 1
        if self.failures == 3:
            raise NonFiniteError(
                f"the losses were not finite three times near {self.images} pictures, at ever lower learning rates; "
                f"the last saved state is untouched: turn bf16 off or change the losses' weights, and start the same "
                f"command again"
            )
        factor, seen = self.lr_factor / 2, self.images
        self.resume()
        self.lr_factor = factor
        log.warning("losses not finite at %d pictures: back to %d, learning rates x %g", seen, self.images, factor)

    def save(self) -> None:
        """Write the resume state, then the averaged generator, in the first process only."""
        if rank() == 0:
            save_state(self.out, self.images, self.state(), keep=self.config.loop.keep)
            save_generator(self.out / "generator.safetensors", self.average, card=self.card())
        self.failures = 0

    def card(self) -> dict[str, Any]:
        """Return the card of a generator file of this run."""
        return {
            "images_seen": self.images,
            "family": self.config.family,
            "config": _plain(_without_folders(self.config)),
        }

    def step(self, data: TrainingSet) -> dict[str, Tensor]:
        """Train on one batch: the phases that are due, then the averaged generator."""
        loop = self.config.loop
        indices = batch_indices(len(data), loop.batch, self.images, loop.seed)
        parts = []
        for i in range(loop.accumulate):
            rng = step_rng(loop.seed, self.index, i * size() + rank(), loop.accumulate * size())
            step = Step(index=self.index, images=self.images, rng=rng)
            parts.append((to_device(data.batch(local_rows(indices, rng), rng), self.device), step))
        if loop.accumulate == 1:
            self.recipe.begin(*parts[0])
        gradients = whole(*parts[0]) if loop.accumulate == 1 else accumulated(parts, self.recipe.begin)
        logged = train_step(self.phases, *parts[0], gradients=gradients, lr_factor=self.lr_factor)
        logged |= getattr(self.recipe, "scalars", {})
        self.index, self.images = self.index + 1, self.images + loop.batch
        half_life = min(loop.half_life, max(1.0, self.images * loop.ema_warm_up))
        update_average(self.average, self.recipe.generator, 0.5 ** (loop.batch / half_life))
        return logged


def _has_projected(networks: Iterable[str]) -> bool:
    """Return whether a state's weights have a projected discriminator among them."""
    return any(name.startswith(PROJECTED) for name in networks)


@contextlib.contextmanager
def folder_of_run(out: Path) -> Iterator[None]:
    """Lock the run folder inside the block, in the first process.

    Raises: ValueError, before any work, for a folder that another `train` uses, that is not writable, or that holds a
    generator but no resume state.
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
                f"{out} holds {made.name} but no resume state, and training would replace it; give "
                f"another --out, with --start-from {made} to begin from its weights"
            )
        yield


@contextlib.contextmanager
def _unless_empty(out: Path, new: bool) -> Iterator[None]:
    """Remove a `new` folder if nothing was written to it inside the block, as after an error in other options."""
    try:
        yield
    finally:
        if new:
            with contextlib.suppress(OSError):
                out.rmdir()


def _plain(config: Any) -> dict[str, Any]:
    return TypeAdapter(type(config)).dump_python(config, mode="json")


def _without_folders(config: Any) -> Any:
    """Return a config whose paths are reduced to file names, because folders differ between machines."""
    values = fields_of(config)
    changed = {name: Path(value.name) for name, value in values.items() if isinstance(value, Path)}
    changed |= {name: _without_folders(value) for name, value in values.items() if is_dataclass(value)}
    return replace(config, **changed)


def check_data(pictures: TrainingSet, out: Path) -> None:
    """Compare the set with that of the folder's run; warn if its pictures have changed.

    Raises: ValueError if the run was trained on another set at another path.
    """
    path, ours = out / "data.json", _identity(pictures)
    if not path.is_file() or not any(out.glob("state-*.pt")):
        return
    before = _learns_from(path)
    if before["index_sha256"] == ours["index_sha256"]:
        return
    if before["path"] != ours["path"]:
        raise ValueError(
            f"the run in {out} learns from {before['path']}, not from {pictures.path}; give another --out, with "
            f"--start-from {out} to begin from its weights"
        )
    log.warning("%s has changed since the run began; training continues with its present content", pictures.path)


def keep_data(pictures: TrainingSet, out: Path) -> None:
    """Write the run's data set to `data.json`."""
    out.mkdir(parents=True, exist_ok=True)
    write_whole(out / "data.json", json.dumps(_identity(pictures), indent=1).encode())


def _identity(pictures: TrainingSet) -> dict[str, str]:
    """Return where a set is and the SHA-256 of its list of pictures."""
    index = hashlib.sha256(_index(pictures).read_bytes()).hexdigest()
    return {"path": str(pictures.path.absolute()), "index_sha256": index}


def _index(pictures: TrainingSet) -> Path:
    """Return the file that lists a set's pictures."""
    return getattr(pictures, "index", pictures.path / "index.csv")


def _learns_from(path: Path) -> dict[str, str]:
    """Return the content of a run's `data.json`. Raises: ValueError if it cannot be read."""
    try:
        said = json.loads(read_plain_file(path, 2**20))
        if isinstance(said, dict) and all(isinstance(said.get(name), str) for name in ("path", "index_sha256")):
            return said
        reason = "path and index_sha256 are not in it"
    except (OSError, ValueError, RecursionError) as error:
        reason = str(error)
    raise ValueError(f"{path} does not say which set the run learns from ({reason}); remove it if --data is that set")


def keep_config(config: Any, out: Path) -> None:
    """Write the run's config; log the fields that differ from an earlier one in the folder."""
    path, ours = out / "config.json", asdict(config)
    if path.is_file():
        try:
            before = _flat(upgraded(json.loads(read_plain_file(path, 2**20)), type(config)))
            now = _flat(ours)
        except (OSError, ValueError, RecursionError) as error:
            log.warning("%s cannot be read and is replaced (%s)", path, error)
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
