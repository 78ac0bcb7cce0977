"""Generator files and resume states: written whole or not at all, verified when read, no pickled code ever run.

A generator file is safetensors: metadata holds `family`, `config` and `card` as JSON and the SHA-256 of its tensors.
"""

import hashlib
import io
import json
import logging
import os
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training.registry import FAMILIES, look_up, resolve
from training.types import Generator, Model

log = logging.getLogger(__name__)


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, in one sentence a person can act on."""


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` so that a reader, or a crash at any moment, sees the old file or the new one."""
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.name}.{os.getpid()}.part")
    try:
        with part.open("wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        part.replace(path)
    finally:
        part.unlink(missing_ok=True)


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def save_generator(
    path: Path, generator: Model, *, card: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write `generator` to `path`; `dtype` stores its floating-point weights in that type (read back as float32).

    `card` is what a person should know of the model: preset, data, images seen, figures, licence, command.
    """
    state = {name: tensor.detach().cpu() for name, tensor in generator.state_dict().items()}
    if dtype is not None:
        state = {name: t.to(dtype) if t.is_floating_point() else t for name, t in state.items()}
    state = {name: tensor.contiguous().clone() for name, tensor in state.items()}  # safetensors refuses shared storage
    metadata = {
        "family": generator.family,
        "config": json.dumps(asdict(generator.config)),
        "card": json.dumps(dict(card or {})),
        "sha256": tensor_hash(state),
    }
    write_whole(Path(path), save(state, metadata))


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Return the model that a file holds, in evaluation mode on `device`, weights in float32.

    Raises: CheckpointError for a file that is missing, cut short, damaged, or of an unknown family.
    """
    path = Path(path)
    metadata, state = _read(path)
    if "family" not in metadata or "config" not in metadata:
        raise CheckpointError(f"{path.name} is not a generator file of this toolkit: it names no family and no config")
    try:
        generator_name, config_name = look_up(FAMILIES, metadata["family"], "generator family")
        config = TypeAdapter(resolve(config_name)).validate_json(metadata["config"])
        generator = resolve(generator_name)(config)
        state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
        generator.load_state_dict(state)
    except (ValueError, RuntimeError) as error:
        first = str(error).strip().splitlines()[0]
        raise CheckpointError(f"{path.name} does not fit this version's {metadata['family']}: {first}") from error
    return generator.requires_grad_(False).eval().to(device)


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """Return the generator that a file holds, as `load_model` does.

    Raises: CheckpointError besides for a model that is no generator.
    """
    model = load_model(path, device)
    if not isinstance(model, Generator):
        raise CheckpointError(
            f"{Path(path).name} holds a {model.family}, which makes no pictures; give a generator file"
        )
    return model


def read_card(path: str | Path, *, beside: bool = True) -> dict[str, Any]:
    """Return what a generator file says of itself: the card beside it (same stem, .json), if any and if `beside`, over
    the one inside it. A card of other weights is passed over.

    Raises: CheckpointError for a missing or damaged file, or a card that is none.
    """
    path = Path(path)
    with _open(path) as file:
        metadata = file.metadata() or {}
    card = json.loads(metadata.get("card", "{}"))
    other = path.with_suffix(".json")
    if beside and other.is_file():
        try:
            theirs = dict(json.loads(other.read_text(encoding="utf-8")))
        except (ValueError, TypeError) as error:
            raise CheckpointError(
                f"{other} is not the card of {path.name} ({error}); write it anew, or move it"
            ) from error
        if theirs.get("sha256", metadata.get("sha256")) == metadata.get("sha256"):
            card |= theirs
        else:
            log.warning("%s is the card of other weights than %s and was passed over", other.name, path.name)
    return card | {"family": metadata.get("family", ""), "sha256": metadata.get("sha256", "")}


def _open(path: Path) -> Any:
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; give the path of a .safetensors file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a whole safetensors file ({error}); copy or train it again"
        ) from error


def _read(path: Path) -> tuple[dict[str, str], dict[str, Tensor]]:
    with _open(path) as file:
        metadata = file.metadata() or {}
        state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
    if "sha256" in metadata and tensor_hash(state) != metadata["sha256"]:
        raise CheckpointError(f"{path.name} is damaged: its weights do not match its checksum; copy or train it again")
    return metadata, state


def save_state(folder: Path, images: int, state: dict[str, Any], *, keep: int = 3) -> Path:
    """Write a resume state (tensors and plain values) named by images and checksum; keep it and the newest others."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"state-{images:010d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    for left in folder.glob(".state-*.part"):
        left.unlink()  # what a kill has cut off; no one else writes here
    write_whole(path, content)
    others = sorted(other for other in folder.glob("state-*.pt") if other != path)
    for old in others[: max(0, len(others) - keep + 1)]:
        old.unlink()
    return path


def newest_state(folder: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Return the newest resume state in `folder` whose checksum holds, and the names of newer ones that were damaged.

    None where there is no state at all. Raises: CheckpointError if there are states and none is whole.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob("state-*.pt"), reverse=True):
        content = path.read_bytes()
        if hashlib.sha256(content).hexdigest()[:16] == path.stem.rsplit("-", 1)[-1]:
            return torch.load(io.BytesIO(content), weights_only=True, map_location="cpu"), damaged
        damaged.append(path.name)
    if damaged:
        raise CheckpointError(f"no resume state in {folder} is whole ({', '.join(damaged)}); start in a new folder")
    return None
