"""Files of inverted photos: recipes as the page saves them, which commands read too.

A recipe names the checkpoint, the knobs that are numbers, and for each part a slot that holds the photo and its codes:
field -> float32, little-endian, base64. Weights of a sharpened photo lie beside it, as safetensors.
"""

import base64
import binascii
import io
import json
import logging
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.files import file_sha256, read_plain_file, write_whole
from training.interpolation import interpolate
from training.knob_values import MAX_SEED, Between, Value, codes_for
from training.pictures import to_pil
from training.types import Generator, Image

log = logging.getLogger(__name__)

MOST_BYTES = 20_000_000
"""Largest file of codes that is read."""


@runtime_checkable
class HasParts(Protocol):
    """A generator whose pictures have parts, each with codes of its own."""

    @property
    def parts(self) -> tuple[str, ...]:
        """Names of the parts, which are knobs too."""
        ...

    def part_codes(self, codes: Any, part: str) -> dict[str, Tensor]:
        """Return the fields of a part, rows of numbers."""
        ...

    def with_part(self, codes: Any, part: str, fields: dict[str, Tensor]) -> Any:
        """Return `codes` with a part's fields. Raises: ValueError if they do not fit."""
        ...

    def knob_values(self, codes: Any) -> dict[str, Tensor]:
        """Return where the knobs that are numbers stand, in their units."""
        ...


def write_codes(
    path: Path, generator: Generator, checkpoint: Path, codes: Any, photos: Image, weights: Mapping[str, Tensor] = {}
) -> dict[str, Any]:
    """Write the codes of photos of one object, each file atomically; return the files and the knobs.

    The first goes to `path`, the others to names with -2, -3 and so on; `weights`, if there are any, beside `path`.
    """
    if not isinstance(generator, HasParts):
        raise ValueError(f"a generator of the family {generator.family} has no parts to write")
    knobs = {name: [round(v, 6) for v in values.tolist()] for name, values in generator.knob_values(codes).items()}
    parts = {part: generator.part_codes(codes, part) for part in generator.parts}
    sha256 = file_sha256(checkpoint)
    files = []
    for i, picture in enumerate(to_pil(photos)):
        png = io.BytesIO()
        picture.save(png, "PNG")
        text = base64.b64encode(png.getvalue()).decode()
        slots = {
            part: {"picture": text, "codes": {part: {name: _text(row[i]) for name, row in fields.items()}}}
            for part, fields in parts.items()
        }
        recipe: dict[str, Any] = {"version": 1, "checkpoint": model_name(checkpoint), "sha256": sha256, "seed": 0}
        recipe |= {"knobs": {name: values[i] for name, values in knobs.items()}, "slots": slots}
        files.append(path if i == 0 else path.with_name(f"{path.stem}-{i + 1}{path.suffix}"))
        write_whole(files[-1], (json.dumps(recipe, indent=1) + "\n").encode())
    beside = weights_path(path)
    if weights:
        write_whole(beside, save({name: w.cpu().bfloat16().contiguous() for name, w in weights.items()}))
    else:
        beside.unlink(missing_ok=True)
    return {"files": [str(file) for file in files], "knobs": knobs}


def read_codes(path: Path, generator: Generator, checkpoint: Path | None = None) -> Any:
    """Return the codes, one row, of a recipe: the same that the page draws it from.

    Knobs that it does not name are at their defaults; parts without codes are those of its seeds.
    Raises: ValueError for a file that is no recipe, or of another generator.
    """
    if not isinstance(generator, HasParts):
        raise ValueError(f"a generator of the family {generator.family} takes no codes of photos")
    recipe = _recipe(path)
    known = {knob.name for knob in (*generator.knobs, *generator.fixed_knobs)}
    for name in recipe.get("knobs", {}):
        if name not in known:
            raise ValueError(f"{path.name} sets the knob {name[:40]!r}, which this generator does not have")
    if checkpoint is not None:
        _compare(recipe, path, checkpoint)
    values = {name: _value(value, name, path) for name, value in recipe.get("knobs", {}).items()}
    codes = codes_for(generator, recipe.get("seed", 0), values)
    for part, slot in recipe.get("slots", {}).items():
        if part not in generator.parts:
            raise ValueError(f"{path.name} gives a part {part[:40]!r}; this generator has {', '.join(generator.parts)}")
        fields = slot.get("codes", {}).get(part, {})
        if slot.get("seed") is not None:
            codes = generator.set(codes, part, _whole(slot["seed"], f"the seed of {part}", path))
        elif fields:
            rows = {name: _row(text, path).to(generator.device) for name, text in fields.items()}
            codes = with_share(generator, codes, part, rows, _number(slot.get("strength", 1.0), part, path))
    return codes


def model_name(path: Path) -> str:
    """Return what a generator file is called in recipes and on the page: its stem, and for those that all runs have,
    generator and best, the run's folder before it."""
    return f"{path.resolve().parent.name}-{path.stem}" if path.stem in ("generator", "best") else path.stem


def _compare(recipe: dict[str, Any], path: Path, checkpoint: Path) -> None:
    """Warn if a recipe is of another generator file."""
    of, named = recipe.get("sha256", ""), recipe.get("checkpoint", "")
    if of == file_sha256(checkpoint) or (not of and named in ("", model_name(checkpoint), checkpoint.stem)):
        return
    if named in (model_name(checkpoint), checkpoint.stem):
        log.warning("%s was made with another version of %s, so the picture may differ", path.name, checkpoint.stem)
    else:
        log.warning("%s is of the checkpoint %s, not %s", path.name, named[:80], model_name(checkpoint))


def _number(value: Any, name: str, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{path.name} gives {name[:40]} {str(value)[:40]!r}; expected a finite number")
    return value


def _whole(value: Any, name: str, path: Path) -> int:
    if isinstance(value, bool) or not isinstance(value, int) or not 0 <= value <= MAX_SEED:
        raise ValueError(f"{path.name} gives {name[:40]} {str(value)[:40]!r}; expected a whole number to {MAX_SEED}")
    return value


def _value(value: Any, name: str, path: Path) -> Value:
    """Return a knob's number, or the way between two seeds. Raises: ValueError for anything else."""
    if not isinstance(value, dict):
        return _number(value, name, path)
    if value.keys() != {"start", "end", "at"}:
        raise ValueError(f"{path.name} gives {name[:40]} no number and no way of start, end and at")
    start, end = (_whole(value[key], f"{name} {key}", path) for key in ("start", "end"))
    at = _number(value["at"], f"{name} at", path)
    if not 0 <= at <= 1:
        raise ValueError(f"{path.name} gives {name[:40]} at {at}; expected a number from 0 to 1")
    return Between(start=start, end=end, at=at)


def with_share(generator: HasParts, codes: Any, part: str, fields: dict[str, Tensor], share: float) -> Any:
    """Return `codes` with so much of a part's fields: 1 takes them as they are, 0 leaves the part as it is.

    Raises: ValueError if they do not fit.
    """
    present = generator.part_codes(codes, part)
    codes = generator.with_part(codes, part, fields)
    if share == 1:
        return codes
    taken = generator.part_codes(codes, part)
    before = {name: present.get(name, torch.zeros_like(row)) for name, row in taken.items()}
    return generator.with_part(codes, part, interpolate(before, taken, share))


def read_weights(path: Path) -> dict[str, Tensor]:
    """Return the weights that sharpening changed, for the recipe at `path`; empty where it was not sharpened.

    Raises: ValueError for a damaged file.
    """
    beside = weights_path(path)
    if not beside.is_file():
        return {}
    try:
        found = load(read_plain_file(beside))
    except (SafetensorError, OSError) as error:
        raise ValueError(f"{beside.name} is damaged ({error}); invert the photo again") from error
    return {name: weight.float() for name, weight in found.items()}


def weights_path(path: Path) -> Path:
    """Return where the weights of a sharpened photo lie beside its recipe."""
    return path.with_suffix(".weights.safetensors")


def _recipe(path: Path) -> dict[str, Any]:
    try:
        if path.stat().st_size > MOST_BYTES:
            raise ValueError(f"it has more than {MOST_BYTES // 1_000_000} MB")
        recipe = json.loads(path.read_text(encoding="utf-8"))
        groups = [recipe, recipe.get("knobs", {}), slots := recipe.get("slots", {})]
        texts = (recipe.get("checkpoint", ""), recipe.get("sha256", ""))
        groups += [part for slot in slots.values() for part in (slot, slot.get("codes", {}))]
        groups += [fields for slot in slots.values() for fields in slot.get("codes", {}).values()]
        if not all(isinstance(group, dict) for group in groups) or recipe.get("version") != 1:
            raise ValueError("it is no recipe of this version")
        if not all(isinstance(text, str) for text in texts):
            raise ValueError("its checkpoint or sha256 is no text")
        _whole(recipe.get("seed", 0), "the seed", path)
    except (OSError, ValueError, AttributeError, RecursionError) as error:
        raise ValueError(f"{path} holds no codes ({error}); give a file that `invert` or the page wrote") from error
    return recipe


def _text(row: Tensor) -> str:
    return base64.b64encode(row.detach().float().cpu().numpy().astype("<f4").tobytes()).decode()


def _row(text: Any, path: Path) -> Tensor:
    """Return one row of numbers. Raises: ValueError for what is none."""
    try:
        numbers = np.frombuffer(base64.b64decode(text, validate=True), "<f4").astype(np.float32)
    except (binascii.Error, ValueError, TypeError) as error:
        raise ValueError(f"{path.name} holds codes that cannot be read ({error})") from error
    if not np.isfinite(numbers).all():
        raise ValueError(f"{path.name} holds codes that are not finite numbers")
    return torch.from_numpy(numbers)[None]
