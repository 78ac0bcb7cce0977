"""Recipes: the few numbers that make a picture again, bit for bit on the same machine, as JSON and inside PNG files."""

import base64
import binascii
import hashlib
import io
import json
import zipfile
import zlib
from collections.abc import Mapping
from dataclasses import replace
from typing import Annotated, Any, Literal

import PIL.Image
import PIL.PngImagePlugin
import torch
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError
from torch import Tensor

from demo.models import Model
from demo.parts import pack, parts_of, unpack
from demo.payloads import MOST_PARTS, has_too_many_parts
from training.batched import fields_of
from training.codes_file import HasParts, with_share
from training.imaging.decoders import DECODERS
from training.imaging.read import Limits
from training.interpolation import are_shares
from training.knob_values import MAX_SEED, Between, Value, changed, codes_for, turnable
from training.pictures import from_pil, open_picture
from training.types import Generator, Image

KEY = "recipe"
"""Name of the text in a PNG file."""
PNG = b"\x89PNG\r\n\x1a\n"
ZIP = b"PK\x03\x04"
MOST_TEXT = 8_000_000
"""Bytes of a recipe in an OpenRaster file."""
OF_SLOTS = Limits(max_bytes=1_600_000, max_pixels=1 << 21, max_scans=8, seconds=2.0, memory=100_000_000)
"""What a photo in a recipe may cost, which is one that a generator saw: it is opened on the generators' thread."""
SIZES = (64, 128, 256, 512)
"""Sides in pixels that the page offers for files."""

DAMAGED_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, KeyError, OSError, RuntimeError, ValueError)
"""What the reader of archives raises for those that are damaged; NotImplementedError is a RuntimeError."""
RECIPE_IN_ORA = "recipe.json"
"""Name of the recipe in an OpenRaster file."""
COMPLAINTS = {
    "missing": "is missing",
    "extra_forbidden": "is not known here",
    "greater_than": "is too small",
    "less_than": "is too large",
    "finite_number": "is not a finite number",
    "int_": "is not a whole number",
    "float_": "is not a number",
    "bool_": "is neither true nor false",
    "string_too_long": "is too long",
    "string_": "is not a text",
    "too_long": "holds too much; at most {max_length} are taken",
    "literal_error": "is none of {expected}",
    "value_error": "holds neither one photo nor one seed",
    "list_": "is not a list",
    "dict_": "is not an object with names and values",
    "model_": "is not an object with names and values",
    "json_": "is not JSON",
}
"""What the checker's kinds of mistakes are called here, the longer beginnings first."""

MOST_NAMES = 200
"""Knobs, slots or codes in one object of a recipe."""


def _few(value: Any) -> Any:
    """Refuse an object of too many names before each of them is checked: every mistake costs an error of its own."""
    if isinstance(value, dict) and len(value) > MOST_NAMES:
        raise PydanticCustomError("too_long", "Too many names", {"max_length": MOST_NAMES})
    return value


Few = BeforeValidator(_few)
Number = Annotated[float, Field(allow_inf_nan=False)]
Seed = Annotated[int, Field(ge=0, le=MAX_SEED)]
Text = Annotated[str, Field(max_length=2_000_000)]
CodesOfKnob = Annotated[dict[str, Annotated[dict[str, Text], Few]], Few]
"""Knob -> field of the codes -> its row: float32, little-endian, base64."""


class Way(BaseModel):
    """A code between those of two seeds."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    start: Seed
    end: Seed
    at: Annotated[float, Field(ge=0, le=1)]


class Slot(BaseModel):
    """One photo, or one seed in place of it, and how much of it to take."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    picture: Text = ""
    """The photo as the generator saw it, a PNG file in base64."""
    seed: Seed | None = None
    """Draws the factor where there is no photo."""
    codes: CodesOfKnob = {}
    """What the generator read from the photo, for each of its slots; read again where it is missing."""
    strength: Annotated[float, Field(ge=0, le=1)] = 1.0
    """1 takes the factor from here, 0 from the photo that gives the pose, between them a mixture."""

    @model_validator(mode="after")
    def _one_source(self) -> "Slot":
        if bool(self.picture) == (self.seed is not None):
            raise ValueError("a slot holds either a photo or a seed")
        return self


class PictureRecipe(BaseModel):
    """Everything that one picture depends on."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    version: Literal[1] = 1
    checkpoint: Annotated[str, Field(max_length=200)]
    sha256: Annotated[str, Field(max_length=64)] = ""
    """Of the checkpoint file."""
    seed: Seed = 0
    """Draws what no knob sets."""
    knobs: Annotated[dict[str, Number | Way], Few] = {}
    slots: Annotated[dict[str, Slot], Few] = {}
    mode: Literal["code", "feature"] = "code"
    size: Annotated[int, Field(ge=16, le=SIZES[-1])] | None = None
    """Side of the picture in pixels; None is the checkpoint's own."""


def parse(data: Any) -> PictureRecipe:
    """Return a recipe from JSON text or the values in it.

    Raises: ValueError in one sentence that says what is wrong where.
    """
    if isinstance(data, str | bytes) and has_too_many_parts(data):
        more = f"it has more than {MOST_PARTS:,} parts"
        raise ValueError(f"this is not a recipe of this page: {more}; open a .json or .png file that was saved here")
    try:
        if isinstance(data, str | bytes):
            data = json.loads(data)
        return PictureRecipe.model_validate(data)
    except ValidationError as error:
        raise ValueError(f"this is not a recipe of this page: {complaint(error)}") from error
    except (ValueError, RecursionError) as error:
        raise ValueError("this is not a recipe of this page; open a .json or .png file that was saved here") from error


def complaint(error: ValidationError | RequestValidationError) -> str:
    """Return what is wrong with values that were sent, in plain words: where, and what was expected there."""
    if isinstance(error, ValidationError):
        first = error.errors(include_url=False, include_input=False)[0]  # what came may be large, and is not shown
    else:
        first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"] if part not in ("float", "Way"))[:80] or "it"
    kind, limits = str(first["type"]), first.get("ctx", {})
    for name, words in COMPLAINTS.items():
        if kind.startswith(name):
            return f"{where} {words.format(**{'expected': '', **limits})}".strip()
    return f"{where} holds a value of the wrong kind"


def resized(recipe: PictureRecipe, size: int | None) -> PictureRecipe:
    """Return a recipe with another size; ValueError for one that no recipe may have."""
    return parse(recipe.model_dump() | {"size": size})


def from_file(data: bytes, name: str = "") -> PictureRecipe:
    """Return the recipe in a file that this page saved: JSON, or a PNG or OpenRaster file with its recipe inside.

    Raises: ValueError (training.pictures.PictureError for a damaged picture) if there is none.
    """
    if data.startswith(ZIP):
        return parse(_in_open_raster(data, name))
    if not data.startswith(PNG):
        return parse(data)
    open_picture(data, name=name, keep_pixels=1_000_000)  # refuses what is too large or damaged
    text = text_in(data, KEY)
    if text is None:
        raise ValueError(f"{name or 'this picture'} holds no recipe; open a PNG that was saved on this page")
    return parse(text)


def _in_open_raster(data: bytes, name: str) -> bytes:
    """Return the recipe in an OpenRaster file; ValueError if there is none."""
    try:
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            if archive.getinfo(RECIPE_IN_ORA).compress_type not in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED):
                raise zipfile.BadZipFile("no OpenRaster file is packed so")
            with archive.open(RECIPE_IN_ORA) as file:
                text = file.read(MOST_TEXT + 1)  # no more is unpacked, whatever the file says of itself
    except DAMAGED_ZIP as error:
        raise ValueError(f"{name or 'this file'} holds no recipe; open a file that was saved on this page") from error
    if len(text) > MOST_TEXT:
        raise ValueError(f"the recipe in {name or 'this file'} is larger than {MOST_TEXT // 1_000_000} MB")
    return text


def text_in(data: bytes, key: str) -> str | None:
    """Return a PNG file's text of that name, as `png` writes it, plain; None if there is none. Decodes no pixels."""
    place = len(PNG)
    while place + 12 <= len(data):
        length = int.from_bytes(data[place : place + 4], "big")
        if data[place + 4 : place + 8] == b"iTXt":
            name, _, rest = data[place + 8 : place + 8 + length].partition(b"\0")
            if name == key.encode() and rest[:1] == b"\0":  # not compressed
                return rest[2:].split(b"\0", 2)[-1].decode("utf-8", "replace")
        place += 12 + length
    return None


def to_json(recipe: PictureRecipe) -> str:
    """Return a recipe as text, for files and PNG metadata."""
    return recipe.model_dump_json(exclude_defaults=False, indent=1)


def png(picture: PIL.Image.Image, recipe: PictureRecipe | None = None, texts: Mapping[str, str] | None = None) -> bytes:
    """Return a picture as a PNG file with its recipe, and other texts by name, inside."""
    info = PIL.PngImagePlugin.PngInfo()
    for key, text in (texts or {}).items():
        info.add_itxt(key, text)
    if recipe is not None:
        info.add_itxt(KEY, to_json(recipe))
    file = io.BytesIO()
    picture.save(file, "PNG", pnginfo=info)
    return file.getvalue()


def photo(slot: Slot, size: int) -> Image:
    """Return a slot's photo as the generator takes it; ValueError if it is damaged."""
    try:
        data = base64.b64decode(slot.picture, validate=True)
    except (ValueError, binascii.Error) as error:
        raise ValueError("a photo in this recipe is damaged; choose it again") from error
    picture = DECODERS.photo(data, "a photo in this recipe", OF_SLOTS).picture
    return from_pil(picture, None if picture.size == (size, size) else size)


def read(model: Model, image: Image) -> CodesOfKnob:
    """Return what a generator reads from one photo, by knob: the fields that setting the knob to the photo changes."""
    generator = model.generator
    blank = generator.sample(1, torch.Generator().manual_seed(0))
    image = image.to(generator.device)
    return {
        knob.name: {field: pack(row) for field, row in changed(blank, generator.set(blank, knob.name, image)).items()}
        for knob in generator.knobs
        if knob.kind == "picture"
    }


def values_of(recipe: PictureRecipe) -> dict[str, Value]:
    """Return the knobs of a recipe."""
    return {
        name: Between(start=value.start, end=value.end, at=value.at) if isinstance(value, Way) else value
        for name, value in recipe.knobs.items()
    }


def sealed(model: Model, recipe: PictureRecipe) -> PictureRecipe:
    """Return a recipe that depends on no default: every knob, the codes of every photo, the checkpoint's name here
    and its hash.

    Raises: ValueError if a photo in it is damaged.
    """
    size = model.photo_side
    knobs = {knob.name: knob.default for knob in turnable(model.generator)} | recipe.knobs
    slots = {
        name: slot
        if slot.codes or not slot.picture
        else slot.model_copy(update={"codes": read(model, photo(slot, size))})
        for name, slot in recipe.slots.items()
    }
    of = {"checkpoint": model.name, "sha256": model.sha256}
    return recipe.model_copy(update=of | {"knobs": knobs, "slots": slots})


def codes_of(model: Model, recipe: PictureRecipe) -> Any:
    """Return the codes of a recipe: its knobs, then its photos.

    The photo in the slot `pose` gives every factor whose own slot is empty or weaker than 1; its own strength leads
    from the average pose to its pose. Without a photo there, the knobs `<slot>_seed` draw those factors (0 where the
    recipe does not name them); `slots.<name>.seed` draws one as its photo would give it. Of a generator whose pictures
    have parts, a slot holds the codes of one, in place of the knob that draws it.

    Raises: ValueError for a knob or slot that the generator does not have, or codes that do not fit it.
    """
    generator = model.generator
    codes = codes_for(generator, recipe.seed, values_of(recipe))
    parts = parts_of(generator)
    names = [knob.name for knob in generator.knobs if knob.kind == "picture"] if parts is None else parts.parts
    for name in recipe.slots:
        if name not in names:
            raise ValueError(f"{model.name} has no slot {name[:40]!r}; it has {', '.join(names) or 'none'}")
    if parts is not None:
        return _with_parts(generator, parts, codes, recipe.slots)
    rows = {name: _rows(model, codes, name, slot) for name, slot in recipe.slots.items()}
    if "pose" in rows:
        for fields in rows["pose"].values():
            _must_fit(model, codes, fields)
            codes = replace(codes, **fields)
    for name, slot in recipe.slots.items():
        fields = rows[name].get(name)
        if fields is None:
            raise ValueError(f"the photo for {name} in this recipe holds no codes for it; choose it again")
        _must_fit(model, codes, fields)
        if slot.strength < 1:
            weaker = fields_of(codes) if name != "pose" else {key: _average(row) for key, row in fields.items()}
            fields = {
                key: row if (from_ := weaker[key]) is None else torch.lerp(from_, row, slot.strength)
                for key, row in fields.items()
            }
        codes = replace(codes, **fields)
    return codes


def _with_parts(generator: Generator, parts: HasParts, codes: Any, slots: Mapping[str, Slot]) -> Any:
    """Return `codes` with the parts that slots hold. Raises: ValueError for a photo without codes, or with others'."""
    for part, slot in slots.items():
        if slot.seed is not None:
            codes = generator.set(codes, part, slot.seed)
        elif part in slot.codes:
            fields = {name: unpack(text).to(generator.device) for name, text in slot.codes[part].items()}
            codes = with_share(parts, codes, part, fields, slot.strength)
        else:
            raise ValueError(f"the photo for {part} in this recipe holds no codes for it; choose it again")
    return codes


def layers_of(model: Model, recipe: PictureRecipe) -> Any:
    """Return the layers that a recipe makes, one row; ValueError if it does not fit the model."""
    model = model.at(recipe.size)
    codes = codes_of(model, recipe)
    if not keeps_outline(recipe):
        return model.generator(codes)
    if "feature" not in model.modes:
        raise ValueError(f"{model.name} cannot keep a photo's outline; use the mode 'code'")
    size, slot = model.photo_side, recipe.slots["shape"]
    key = hashlib.sha256(slot.picture.encode()).hexdigest()
    feature = model.feature(key, lambda: photo(slot, size).to(model.generator.device))
    return model.generator(codes, feature=feature)


def keeps_outline(recipe: PictureRecipe) -> bool:
    """Whether a photo's own outline and pose are drawn: then the codes of shape and pose are not, at any strength."""
    return recipe.mode == "feature" and "shape" in recipe.slots and bool(recipe.slots["shape"].picture)


def pose_shows(model: Model, recipe: PictureRecipe) -> bool:
    """Whether the slot `pose` has a part in the picture: its pose, or what no other slot gives in full."""
    others = {knob.name for knob in model.generator.knobs if knob.kind == "picture"} - {"pose", "shape"}
    full = {name for name, slot in recipe.slots.items() if slot.strength == 1}
    return not keeps_outline(recipe) or not others <= full


def _rows(model: Model, codes: Any, name: str, slot: Slot) -> dict[str, dict[str, Tensor]]:
    """Return a slot's codes by knob, on the generator's device: drawn, unpacked, or read where the recipe has none."""
    if slot.seed is not None:
        return {name: changed(codes, model.generator.set(codes, seed_knob(name), slot.seed))}
    packed = slot.codes or read(model, photo(slot, model.photo_side))
    device = model.generator.device
    return {knob: {field: unpack(text).to(device) for field, text in fields.items()} for knob, fields in packed.items()}


def seed_knob(slot: str) -> str:
    """Return the name of the knob that draws a slot's factor."""
    return f"{slot}_seed"


def _must_fit(model: Model, codes: Any, fields: Mapping[str, Tensor]) -> None:
    """Raise ValueError if `codes` have no place for one of the fields."""
    present = fields_of(codes)
    for name, row in fields.items():
        if name not in present or (present[name] is not None and present[name].shape != row.shape):
            raise ValueError(f"the codes in this recipe do not fit {model.name}; it was made with another checkpoint")


def _average(row: Tensor) -> Tensor:
    """Return the middle of the prior of a code: equal shares, or 0."""
    return torch.full_like(row, 1 / row.shape[-1]) if are_shares(row) else torch.zeros_like(row)
