"""Files of inverted photos: recipes as the page saves them, which commands read too.

A recipe names the checkpoint, the knobs that are numbers, and for each part a slot that holds the photo and its codes:
field -> float32, little-endian, base64. Weights of a sharpened photo lie beside it, as safetensors.
"""

import base64
import binascii
import hashlib
import io
import json
import logging
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol, runtime_checkable

import numpy as np
import torch
from safetensors import SafetensorError
from safetensors.torch import load, save
from torch import Tensor

from training.files import read_plain_file, write_whole
from training.interpolation import interpolate
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
    sha256 = hashlib.sha256(checkpoint.read_bytes()).hexdigest()
    files = []
    for i, picture in enumerate(to_pil(photos)):
        png = io.BytesIO()
        picture.save(png, "PNG")
        text = base64.b64encode(png.getvalue()).decode()
        slots = {
            part: {"picture": text, "codes": {part: {name: _text(row[i]) for name, row in fields.items()}}}
            for part, fields in parts.items()
        }
        recipe: dict[str, Any] = {"version": 1, "checkpoint": checkpoint.stem, "sha256": sha256, "seed": 0}
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
    """Return the codes, one row, of a recipe; parts without codes are those of its seeds.

    Raises: ValueError for a file that is no recipe, or of another generator.
    """
    if not isinstance(generator, HasParts):
        raise ValueError(f"a generator of the family {generator.family} takes no codes of photos")
    recipe = _recipe(path)
    known = {knob.name: knob for knob in (*generator.knobs, *generator.fixed_knobs)}
    codes = generator.sample(1, torch.Generator().manual_seed(int(recipe.get("seed", 0))))
    for name, value in recipe.get("knobs", {}).items():
        if name not in known:
            raise ValueError(f"{path.name} sets the knob {name[:40]!r}, which this generator does not have")
        if isinstance(value, int | float):
            codes = generator.set(codes, name, value)
    if checkpoint is not None and recipe.get("checkpoint", "") not in ("", checkpoint.stem):
        log.warning("%s is of the checkpoint %s, not %s", path.name, recipe["checkpoint"][:80], checkpoint.stem)
    for part, slot in recipe.get("slots", {}).items():
        if part not in generator.parts:
            raise ValueError(f"{path.name} gives a part {part[:40]!r}; this generator has {', '.join(generator.parts)}")
        fields = slot.get("codes", {}).get(part, {})
        if fields:
            rows = {name: _row(text, path).to(generator.device) for name, text in fields.items()}
            share = slot.get("strength", 1.0)
            codes = with_share(generator, codes, part, rows, share if isinstance(share, int | float) else 1.0)
        elif slot.get("seed") is not None:
            codes = generator.set(codes, part, slot["seed"])
    return codes


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
        groups += [part for slot in slots.values() for part in (slot, slot.get("codes", {}))]
        groups += [fields for slot in slots.values() for fields in slot.get("codes", {}).values()]
        if not all(isinstance(group, dict) for group in groups) or recipe.get("version") != 1:
            raise ValueError("it is no recipe of this version")
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
