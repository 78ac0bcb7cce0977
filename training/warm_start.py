"""Initialisation from the weights of another run, possibly of another size or on other pictures."""

import re
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn

from training.checkpoint import load_model, newest_state
from training.upgrade import upgraded_names

_ITEM = re.compile(r"^(.*?\.)(\d+)(\..*)$")


def load_weights(source: Path) -> dict[str, Tensor]:
    """Return the tensors of a run folder's newest state, discriminators included, or of a generator file.

    Names are those of a recipe's networks. Raises: CheckpointError if it is neither, or damaged.
    """
    if source.is_dir():
        found = newest_state(source)
        if found is None:
            raise ValueError(f"{source} holds no resume state; give a run folder or a generator file to start from")
        state, _ = found
        averaged = {f"generator.{name}": tensor for name, tensor in state["average"].items()}
        return upgraded_names(state["networks"]) | averaged
    return {f"generator.{name}": tensor for name, tensor in load_model(source).state_dict().items()}


@runtime_checkable
class ChecksSource(Protocol):
    """A recipe to which weights may fit by their shapes alone."""

    def check_source(self, theirs: Any, name: str) -> None:
        """Check whether weights of a generator with the config `theirs`, called `name`, fit. Raises: ValueError."""
        ...


@torch.no_grad()
def copy_matching(network: nn.Module, theirs: Mapping[str, Tensor]) -> tuple[int, int]:
    """Copy each tensor of `theirs` that fits into `network`; return how many of its parameters were copied, and how
    many it has.

    A list of layers longer or shorter than theirs is matched from the end at which more of its tensors have the same
    shape: generators grow at the last layer, discriminators at the first (progressive growing, Karras et al. 2018).
    """
    ours = network.state_dict()
    lists: dict[str, set[int]] = defaultdict(set)
    for name in theirs:
        if found := _ITEM.match(name):
            lists[found[1]].add(int(found[2]))
    shifts: dict[str, int] = {}
    for prefix, places in lists.items():
        mine = {int(found[2]) for name in ours if (found := _ITEM.match(name)) and found[1] == prefix}
        later = max(mine, default=0) - max(places)
        shifts[prefix] = max((0, later), key=lambda shift: _fitting(ours, theirs, prefix, shift))
    taken = 0
    for name, tensor in ours.items():
        source = theirs.get(_moved(name, shifts))
        if source is not None and source.shape == tensor.shape:
            tensor.copy_(source)
            taken += tensor.numel()
    return taken, sum(tensor.numel() for tensor in ours.values())


def _moved(name: str, shifts: Mapping[str, int]) -> str:
    """Return where the counterpart of our layer `name` stands among theirs."""
    found = _ITEM.match(name)
    return f"{found[1]}{int(found[2]) - shifts.get(found[1], 0)}{found[3]}" if found else name


def _fitting(ours: Mapping[str, Tensor], theirs: Mapping[str, Tensor], prefix: str, shift: int) -> int:
    """Return how many tensors of a list have the same shape if it is moved by `shift` places."""
    names = [name for name in ours if name.startswith(prefix)]
    moved = {name: theirs.get(_moved(name, {prefix: shift})) for name in names}
    return sum(source is not None and source.shape == ours[name].shape for name, source in moved.items())
