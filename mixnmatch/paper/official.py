"""The authors' checkpoints of MixNMatch, `G.pth`, `E.pth` and `EX.pth`, as a generator of the `paper` family.

They are state dicts of the generator, the encoders and the feature extractor, with `module.` before each key. All sizes
are read from the shapes of the weights, as the files do not name the set they were trained on.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.generator import Generator
from training.foreign import tables
from training.official import read_plain


@dataclass(frozen=True, slots=True)
class _Kind:
    mark: str
    """A key that only this file has."""
    prefix: str
    """Prefix of our keys before the authors'."""


_KINDS = {
    "G": _Kind("background_stage.fc.0.weight", ""),
    "E": _Kind("model_z.4.weight", "encoders."),
    "EX": _Kind("first.0.0.weight", "extractor."),
}
_FILES = "MixNMatch's G.pth, E.pth and EX.pth"


def read(*paths: Path) -> Generator:
    """Return the generator that the files hold, in any order; without `EX.pth`, one without feature mode.

    Raises: ValueError for a file that is damaged or of another kind, for a duplicate or missing file, or for files of
    different models.
    """
    found: dict[str, dict[str, Tensor]] = {}
    for path in paths:
        parts = [(kind, state) for state in _state_dicts(path) for kind, k in _KINDS.items() if k.mark in state]
        if not parts:
            raise ValueError(f"{path.name} holds none of MixNMatch's networks; expected {_FILES}")
        for kind, state in parts:
            if kind in found:
                raise ValueError(f"two of the files hold MixNMatch's {kind}; give one each of {_FILES}")
            found[kind] = state
    for kind in ("G", "E"):
        if kind not in found:
            raise ValueError(f"{kind}.pth is missing; give {_FILES} (EX.pth may be left out: then no feature mode)")
    config = _config(found)
    state = {_KINDS[kind].prefix + key: tensor for kind, part in found.items() for key, tensor in part.items()}
    state = _checked(state, config)
    generator = Generator(config)
    generator.load_state_dict(state)
    return generator.requires_grad_(False).eval()


def _state_dicts(path: Path) -> list[dict[str, Tensor]]:
    """Return the state dicts in a file: the file itself, or an entry such as `state_dict`."""
    found = [
        {str(key): tensor for key, tensor in table.items()}
        for _, table in tables(read_plain(path))
        if table and all(isinstance(tensor, Tensor) for tensor in table.values())
    ]
    if not found:
        raise ValueError(f"{path.name} is no state dict; expected {_FILES}")
    return found


def _config(found: Mapping[str, Mapping[str, Tensor]]) -> GeneratorConfig:
    """Return the sizes that the weights were made with."""

    def size(kind: str, key: str, axis: int) -> int:
        tensor = found[kind].get(key)
        if tensor is None or tensor.ndim <= axis:
            raise ValueError(f"MixNMatch's {kind} has no proper {key!r}: the file is incomplete; download it again")
        return tensor.shape[axis]

    feature = size("G", "parent_image.img.0.weight", 1)
    n_shapes = size("G", "parent_stage.jointConv.0.weight", 1) - feature
    z_dim = size("G", "parent_stage.fc.0.weight", 1) - n_shapes
    return GeneratorConfig(
        n_shapes=n_shapes,
        n_textures=size("G", "child_stage.jointConv.0.weight", 1) - feature,
        n_backgrounds=size("G", "background_stage.fc.0.weight", 1) - z_dim,
        z_dim=z_dim,
        width=4 * feature,
        encoder_width=size("E", "model_z.0.0.weight", 0),
        extractor_width=size("EX", "first.0.0.weight", 0) // 2 if "EX" in found else 32,
        feature_mode="EX" in found,
    )


def _checked(state: dict[str, Tensor], config: GeneratorConfig) -> dict[str, Tensor]:
    """Return `state` in float32. Raises: ValueError unless it is exactly what a generator of this config needs."""
    with torch.device("meta"):  # shapes only: no memory is allocated for a file that does not fit
        wanted = Generator(config).state_dict()
    for key in wanted.keys() - state.keys():
        if key.endswith("num_batches_tracked"):  # PyTorch before 0.4.1 did not store it; evaluation does not use it
            state[key] = torch.zeros((), dtype=torch.long)
    missing, surplus = wanted.keys() - state.keys(), state.keys() - wanted.keys()
    if missing or surplus:
        what = f"lack {min(missing)!r}" if missing else f"hold {min(surplus)!r} besides"
        raise ValueError(f"these are not whole files of MixNMatch: they {what}; expected {_FILES}")
    for key, tensor in state.items():
        if tensor.shape != wanted[key].shape:
            came, fits = tuple(tensor.shape), tuple(wanted[key].shape)
            raise ValueError(f"{key!r} is of shape {came}, the rest needs {fits}: the files do not belong together")
        if tensor.is_floating_point() != wanted[key].is_floating_point() or not torch.isfinite(tensor).all():
            raise ValueError(f"{key!r} holds values that are no finite weights: the file is damaged; download it again")
    return {key: tensor.float() if tensor.is_floating_point() else tensor for key, tensor in state.items()}
