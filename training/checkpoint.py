"""Generator files and resume states: written atomically, verified when read, without running pickled code.

A generator file is safetensors: metadata holds `family`, `config` and `card` as JSON, `sha256` of its tensors, and
`checksum`, which covers the other four.
"""

import hashlib
import io
import json
import logging
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from pydantic import TypeAdapter, ValidationError
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from training.bounded import Bounded, check_numbers
from training.devices import out_of_memory
from training.files import read_plain_file, write_whole
from training.foreign import read_state
from training.registry import FAMILIES, family_of, resolve
from training.types import Generator, Model
from training.upgrade import upgraded

log = logging.getLogger(__name__)

SUMMED = ("family", "config", "card", "sha256")
"""Fields of a file's metadata that its `checksum` covers."""
MOST_CARD = 2**20
"""Bytes of a card, at most."""


class CheckpointError(ValueError):
    """A checkpoint that cannot be read; the message says what to do, in one sentence."""


def tensor_hash(tensors: Mapping[str, Tensor]) -> str:
    """Return the SHA-256 of names, types, shapes and values, in the order of the names."""
    digest = hashlib.sha256()
    for name in sorted(tensors):
        tensor = tensors[name].detach().cpu().contiguous()
        digest.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        digest.update(tensor.reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def checksum(metadata: Mapping[str, str]) -> str:
    """Return the SHA-256 of a generator file's metadata, which includes the hash of its tensors."""
    return hashlib.sha256(json.dumps([metadata.get(name, "") for name in SUMMED]).encode()).hexdigest()


def save_generator(
    path: Path, generator: Model, *, card: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
) -> None:
    """Write `generator` to `path`; `dtype` stores its floating-point weights in that type (read back as float32).

    `card` describes the model for its users: preset, data, images seen, figures, licence, command.
    """
    write_whole(Path(path), generator_file(generator, card=card, dtype=dtype))


def generator_file(
    generator: Model, *, card: Mapping[str, Any] | None = None, dtype: torch.dtype | None = None
) -> bytes:
    """Return the content of a generator file, as `save_generator` writes it."""
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
    return save(state, metadata | {"checksum": checksum(metadata)})


def tensors_sha256(content: bytes) -> str:
    """Return the hash of the tensors that `generator_file` stored."""
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")])  # safetensors' own
    return header["__metadata__"]["sha256"]


def load_model(path: str | Path, device: str | torch.device = "cpu") -> Model:
    """Return the model that a file holds, in evaluation mode on `device`, weights in float32.

    No memory is allocated for a config that needs far more than the file's weights.

    Raises: CheckpointError for a file that is missing, truncated, damaged, of an unknown family, that needs a newer
    version, or whose weights are not finite.
    """
    path = Path(path)
    with _open(path) as file:
        metadata = _metadata(file, path)
        if "family" not in metadata or "config" not in metadata:
            raise CheckpointError(
                f"{path.name} is not a generator file of this toolkit: it names no family and no config"
            )
        shapes = {name: tuple(file.get_slice(name).get_shape()) for name in file.keys()}  # noqa: SIM118 (not a dict)
        try:
            generator = _built(metadata, shapes)
        except (ValueError, RuntimeError, TypeError, RecursionError) as error:
            if out_of_memory(error):
                raise
            raise _does_not_fit(path, metadata, error) from error
        state = {name: file.get_tensor(name) for name in shapes}
    if "sha256" in metadata and tensor_hash(state) != metadata["sha256"]:
        raise CheckpointError(f"{path.name} is damaged: its weights do not match its checksum; copy or train it again")
    state = {name: t.float() if t.is_floating_point() else t for name, t in state.items()}
    if bad := [name for name, t in state.items() if not bool(torch.isfinite(t).all())]:
        raise CheckpointError(
            f"{path.name} holds weights that are not finite numbers, first in {bad[0]}; copy or train it again"
        )
    generator.load_state_dict(state)
    generator.source = path
    return generator.requires_grad_(False).eval().to(device)


def load_generator(path: str | Path, device: str | torch.device = "cpu") -> Generator:
    """Return the generator that a file holds, as `load_model` does.

    Raises: CheckpointError as `load_model` does, and for a model that is not a generator.
    """
    model = load_model(path, device)
    if not isinstance(model, Generator):
        raise CheckpointError(
            f"{Path(path).name} holds a {model.family}, which makes no pictures; give a generator file (finders "
            "of objects are for `python -m training segment`)"
        )
    return model


def _does_not_fit(path: Path, metadata: Mapping[str, str], error: Exception) -> CheckpointError:
    lines = str(error).strip().splitlines() or [type(error).__name__]
    reason = lines[0]
    if isinstance(error, ValidationError):
        first = error.errors()[0]
        reason = f"its config's {'.'.join(map(str, first['loc'])) or 'fields'}: {first['msg']}"
    return CheckpointError(f"{path.name} does not fit this version's {metadata['family'][:80]}: {reason[:400]}")


def _built(metadata: Mapping[str, str], shapes: Mapping[str, tuple[int, ...]]) -> Model:
    """Return the model of a file's config, its weights not yet loaded.

    Raises: ValueError, RuntimeError or TypeError if `shapes` are not those of its weights, before memory is allocated
    for many more.
    """
    family = family_of(metadata["family"])
    config_class = resolve(family.config)
    adapter = TypeAdapter(config_class)
    said = upgraded(json.loads(metadata["config"], parse_constant=_no_number), config_class)
    check_numbers(said, shapes)
    config = adapter.validate_python(said)
    if strange := _unknown(said, adapter.dump_python(config, mode="json")):
        raise ValueError(f"its config has the unknown field {strange[0]!r}; a newer version may know it")
    with Bounded(shapes):
        generator = resolve(family.model)(config)
    wanted = {name: tuple(tensor.shape) for name, tensor in generator.state_dict().items()}
    for name in sorted(wanted.keys() | shapes.keys()):
        if wanted.get(name) != shapes.get(name):
            came, asked = (str(x[name]) if name in x else "none" for x in (shapes, wanted))
            raise ValueError(f"of the shape of {name}, its config asks for {asked} and the file has {came}")
    return generator


def _no_number(name: str) -> float:
    raise ValueError(f"its config holds {name}, which is no number")


def _unknown(said: Any, known: Any, prefix: str = "") -> list[str]:
    """Return the names in a config's JSON that the config class does not have."""
    if isinstance(said, dict) and isinstance(known, dict):
        strange = [f"{prefix}{name}" for name in said if name not in known]
        return strange + [x for n in said if n in known for x in _unknown(said[n], known[n], f"{prefix}{n}.")]
    if isinstance(said, list) and isinstance(known, list):
        return [x for i, (a, b) in enumerate(zip(said, known, strict=False)) for x in _unknown(a, b, f"{prefix}{i}.")]
    return []


def makes_pictures(path: str | Path) -> bool:
    """Whether a model file holds a generator; only its header is read.

    A file that cannot be read, or is of an unknown family, counts as one, so that loading it reports the error.
    """
    try:
        with _open(Path(path)) as file:
            family = _metadata(file, Path(path), warn=False).get("family", "")
        return family not in FAMILIES or FAMILIES[family].makes_pictures
    except CheckpointError:
        return True


def read_card(path: str | Path, *, beside: bool = True) -> dict[str, Any]:
    """Return a generator file's card: with `beside`, values of the .json of the same stem replace those inside the
    file.

    A .json that belongs to other weights is skipped, with a warning. Raises: CheckpointError for a missing or damaged
    file, or an invalid card.
    """
    path = Path(path)
    with _open(path) as file:
        metadata = _metadata(file, path, warn=False)
    card = _card_of(metadata.get("card", "{}"), f"the card inside {path.name}", path.name)
    other = path.with_suffix(".json")
    if beside and other.is_file():
        theirs = read_card_beside(path)
        if theirs.get("sha256", metadata.get("sha256")) == metadata.get("sha256"):
            card |= theirs
        else:
            log.warning("%s is the card of other weights than %s and was skipped", other.name, path.name)
    return card | {"family": metadata.get("family", ""), "sha256": metadata.get("sha256", "")}


def read_card_beside(path: Path) -> dict[str, Any]:
    """Return the card beside a generator file (same stem, .json), without checking which weights it belongs to.

    Raises: CheckpointError for an invalid card.
    """
    other = path.with_suffix(".json")
    try:
        if not other.is_file() or other.stat().st_size > MOST_CARD:
            raise CheckpointError(f"{other} is not the card of {path.name} (no file of up to 1 MB); move it")
        return _card_of(other.read_bytes(), str(other), path.name)
    except OSError as error:
        raise CheckpointError(f"{other} is not the card of {path.name} ({error}); write it anew, or move it") from error


def _card_of(text: str | bytes, where: str, name: str) -> dict[str, Any]:
    """Return the card in a JSON text: an object whose groups of values are objects too."""
    try:
        card = json.loads(text)
        if not isinstance(card, dict):
            raise ValueError(f"it holds {type(card).__name__}, not an object")
        for path in (("config",), ("config", "data"), ("figures",), ("start",), ("measured_on",), ("data",)):
            group: Any = card
            for part in path:
                group = group.get(part, {}) if group is not None else {}
            if not isinstance(group, dict) and path != ("data",):
                raise ValueError(f"its {'.'.join(path)} is {type(group).__name__}, not an object")
    except (ValueError, RecursionError) as error:
        raise CheckpointError(f"{where} is not the card of {name} ({error}); write it anew, or move it") from error
    return card


def _open(path: Path) -> Any:
    if path.is_dir():
        raise CheckpointError(f"{path} is a folder; give the path of a .safetensors file, such as one in it")
    if not path.is_file():
        raise CheckpointError(f"there is no checkpoint at {path}; give the path of a .safetensors file")
    try:
        return safe_open(path, framework="pt")
    except (SafetensorError, OSError) as error:
        raise CheckpointError(
            f"{path.name} is not a whole safetensors file ({error}); copy or train it again"
        ) from error


def _metadata(file: Any, path: Path, *, warn: bool = True) -> dict[str, str]:
    """Return an open file's metadata, its checksum verified; files of earlier versions have no checksum."""
    metadata = file.metadata() or {}
    if "checksum" in metadata:
        if metadata["checksum"] != checksum(metadata):
            raise CheckpointError(
                f"{path.name} is damaged: its family, config or card do not match its checksum; copy or train it again"
            )
    elif warn and "config" in metadata:
        log.warning("%s was written by an earlier version: no checksum covers its config", path.name)
    return metadata


def save_state(folder: Path, images: int, state: dict[str, Any], *, keep: int = 3) -> Path:
    """Write a resume state (tensors and plain values) named by images and checksum; keep it and the newest others."""
    buffer = io.BytesIO()
    torch.save(state, buffer)
    content = buffer.getvalue()
    path = folder / f"state-{images:010d}-{hashlib.sha256(content).hexdigest()[:16]}.pt"
    for left in folder.glob(".state-*.part"):
        left.unlink()  # left by a killed process; no other process writes here
    write_whole(path, content)
    others = sorted(other for other in folder.glob("state-*.pt") if other != path)
    for old in others[: max(0, len(others) - keep + 1)]:
        old.unlink()
    return path


def newest_state(folder: Path) -> tuple[dict[str, Any], list[str]] | None:
    """Return the newest resume state in `folder` that can be read, and the names of newer ones that cannot.

    A warning says why those are skipped: a wrong checksum, a compressed archive, a link, or anything but a run's state.
    None where there is no state at all. Raises: CheckpointError if there are states and none can be read.
    """
    damaged: list[str] = []
    for path in sorted(folder.glob("state-*.pt"), reverse=True):
        try:
            content = read_plain_file(path)
            if hashlib.sha256(content).hexdigest()[:16] != path.stem.rsplit("-", 1)[-1]:
                raise ValueError("its checksum is wrong")
            return _checked(read_state(content)), damaged
        except (OSError, ValueError) as error:
            reason = error.strerror if isinstance(error, OSError) else error
            log.warning("%s cannot be used and was skipped: %s", path.name, reason)
            damaged.append(path.name)
    if damaged:
        raise CheckpointError(f"no resume state in {folder} is whole ({', '.join(damaged)}); start in a new folder")
    return None


def _checked(state: Any) -> dict[str, Any]:
    """Return `state`. Raises: ValueError unless it has the form of a run's state."""
    if not isinstance(state, dict):
        raise ValueError(f"it holds {type(state).__name__}, not a run's state")
    for name, kind in (("index", int), ("images", int), ("networks", dict), ("average", dict), ("optimizers", dict)):
        if not isinstance(state.get(name), kind) or isinstance(state.get(name), bool):
            raise ValueError(f"it is no run's state: its {name!r} is {type(state.get(name)).__name__}")
    factor = state.get("lr_factor", 1.0)
    if not isinstance(factor, int | float) or not 0 < factor <= 1:
        raise ValueError(f"it is no run's state: its 'lr_factor' is {factor!r:.40}")
    if not 0 <= state["index"] <= state["images"] < 2**53:
        raise ValueError(f"it is no run's state: {state['images']} pictures in {state['index']} steps")
    for name, tensor in [*state["networks"].items(), *state["average"].items()]:
        if not isinstance(name, str) or not isinstance(tensor, Tensor):
            raise ValueError(f"it is no run's state: {name!r:.80} is no tensor")
    for name, tensor in state["average"].items():
        if not bool(torch.isfinite(tensor).all()):
            raise ValueError(f"its {name} is not finite")
    return state
