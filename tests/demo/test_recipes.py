"""Recipes: the same picture again bit for bit, through JSON and PNG; what is not a recipe is said in one sentence."""

import base64
import io
import json
import zipfile
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
from pydantic import ValidationError

from demo import recipes
from demo.export import open_raster
from demo.models import Model
from demo.recipes import PictureRecipe, Slot, Way, codes_of, layers_of, parse, sealed
from tests.toys import Blocks, Patches
from training.pictures import to_pil, to_uint8

BLOCKS = Model(name="blocks", generator=Blocks().eval(), sha256="b" * 64)
READER = Patches().eval()
PATCHES = Model(name="patches", generator=READER)


def slot(seed: int, **more) -> Slot:
    """Return a slot with a photo of noise in one colour."""
    rng = np.random.default_rng(seed)
    pixels = np.clip(rng.integers(0, 255, 3) + rng.integers(-30, 30, (64, 64, 3)), 0, 255).astype(np.uint8)
    return Slot(picture=base64.b64encode(recipes.png(PIL.Image.fromarray(pixels))).decode(), **more)


def mixed(**strengths: float) -> PictureRecipe:
    slots = {name: slot(i) for i, name in enumerate(("background", "pose", "shape", "texture"))}
    slots |= {name: slot(list(slots).index(name), strength=value) for name, value in strengths.items()}
    return PictureRecipe(checkpoint="patches", slots=slots)


def test_a_saved_png_makes_the_same_picture_bit_for_bit():
    recipe = PictureRecipe(checkpoint="blocks", knobs={"rotation": 77.7, "look": Way(start=3, end=8, at=0.3)})
    first = to_pil(layers_of(BLOCKS, recipe).image)[0]
    again = recipes.from_file(recipes.png(first, sealed(BLOCKS, recipe)))
    assert np.array_equal(np.asarray(first), np.asarray(to_pil(layers_of(BLOCKS, again).image)[0]))
    assert again.sha256 == BLOCKS.sha256
    assert again.knobs.keys() == {knob.name for knob in BLOCKS.generator.knobs}


@pytest.mark.parametrize("mode", ["code", "feature"])
def test_a_saved_mix_needs_no_photos_to_be_read_again(mode):
    recipe = mixed(texture=0.4).model_copy(update={"mode": mode})
    known = parse(recipes.to_json(sealed(PATCHES, recipe)))
    assert all(slot.codes for slot in known.slots.values())
    assert torch.equal(layers_of(PATCHES, recipe).image, layers_of(PATCHES, known).image)


def test_a_mix_takes_each_factor_from_its_photo():
    codes = codes_of(PATCHES, mixed())
    read = [READER.encode(recipes.photo(slot(i), 64)) for i in range(4)]
    assert torch.equal(codes.b, read[0].b) and codes.z_background.equal(read[0].z_background)
    assert torch.equal(codes.z, read[1].z)
    assert torch.equal(codes.p, read[2].p)
    assert torch.equal(codes.c, read[3].c)


def test_no_strength_leaves_the_factor_to_the_photo_of_the_pose():
    codes = codes_of(PATCHES, mixed(texture=0.0, background=0.5))
    pose, background = (READER.encode(recipes.photo(slot(i), 64)) for i in (1, 0))
    assert torch.equal(codes.c, pose.c)
    assert torch.allclose(codes.b, (pose.b + background.b) / 2)


def test_a_pose_without_strength_is_the_average_pose():
    assert codes_of(PATCHES, mixed(pose=0.0)).z.abs().max() == 0


def test_a_seed_may_stand_in_for_a_photo():
    recipe = mixed().model_copy(update={"slots": mixed().slots | {"texture": Slot(seed=9)}})
    codes = codes_of(PATCHES, parse(recipes.to_json(sealed(PATCHES, recipe))))
    drawn = READER.set(codes_of(PATCHES, mixed()), "texture_seed", 9)
    assert torch.equal(codes.c, drawn.c)
    assert torch.equal(codes.b, codes_of(PATCHES, mixed()).b)
    with pytest.raises(ValueError, match="either a photo or a seed"):
        Slot()


def test_the_knobs_that_end_in_seed_draw_what_no_photo_gives():
    plain, other = PictureRecipe(checkpoint="patches"), PictureRecipe(checkpoint="patches", seed=5)
    thrown = plain.model_copy(update={"knobs": {"texture_seed": 5}})
    assert torch.equal(codes_of(PATCHES, plain).c, codes_of(PATCHES, other).c)
    assert not torch.equal(codes_of(PATCHES, plain).c, codes_of(PATCHES, thrown).c)


def test_an_empty_recipe_still_makes_a_picture():
    assert to_uint8(layers_of(PATCHES, PictureRecipe(checkpoint="patches", seed=5)).image).float().std() > 0


@pytest.mark.parametrize(
    "data",
    [
        "no json",
        b"\xff\xfe",
        "[]",
        "{}",
        '{"checkpoint": "blocks", "knobs": {"rotation": "much"}}',
        '{"checkpoint": "blocks", "knobs": {"rotation": NaN}}',
        '{"checkpoint": "blocks", "seed": -1}',
        '{"checkpoint": "blocks", "surprise": 1}',
        '{"checkpoint": "blocks", "knobs": {"look": {"start": 1, "end": 2, "at": 7}}}',
        "[" * 100_000,
    ],
)
def test_what_is_no_recipe_gets_one_sentence(data):
    with pytest.raises(ValueError, match="not a recipe of this page") as error:
        parse(data)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("strength", [1.0, 0.5])
@pytest.mark.parametrize("field", ["p", "not_ours"])
def test_a_recipe_of_another_model_is_refused_in_words(strength, field):
    known = sealed(PATCHES, mixed(shape=strength))
    data = json.loads(recipes.to_json(known))
    data["slots"]["shape"]["codes"]["shape"] = {field: recipes.pack(torch.zeros(1, 7))}
    with pytest.raises(ValueError, match="made with another checkpoint"):
        codes_of(PATCHES, parse(data))
    with pytest.raises(ValueError, match="no knob 'background_seed'"):
        codes_of(BLOCKS, known)


@pytest.mark.parametrize(
    "text", ["", "%%%", base64.b64encode(b"abc").decode(), recipes.pack(torch.tensor([torch.nan]))]
)
def test_damaged_codes_are_refused(text):
    with pytest.raises(ValueError, match="damaged"):
        recipes.unpack(text)


def test_codes_survive_as_text():
    row = torch.randn(1, 33, generator=torch.Generator().manual_seed(1))
    assert torch.equal(recipes.unpack(recipes.pack(row)), row)


def test_a_png_without_a_recipe_says_so():
    file = io.BytesIO()
    PIL.Image.new("RGB", (8, 8)).save(file, "PNG")
    with pytest.raises(ValueError, match=r"holiday\.png holds no recipe"):
        recipes.from_file(file.getvalue(), "holiday.png")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"knobs": {"rotation": "much"}}, "knobs.rotation is not a number"),
        ({"seed": -5}, "seed is too small"),
        ({"seed": 1.5}, "seed is not a whole number"),
        ({"size": 1000}, "size is too large"),
        ({"mode": "dream"}, "mode is none of 'code' or 'feature'"),
        ({"nose": 1}, "nose is not known here"),
        ({"slots": {"pose": {}}}, "slots.pose holds neither one photo nor one seed"),
        ({"slots": [1]}, "slots is not an object with names and values"),
    ],
)
def test_mistakes_in_recipes_are_said_in_plain_words(given, said):
    with pytest.raises(ValueError, match="this is not a recipe of this page: ") as error:
        parse({"checkpoint": "blocks"} | given)
    assert str(error.value).endswith(said)


MANY = {str(i): "" for i in range(recipes.MOST_NAMES + 1)}


@pytest.mark.parametrize(
    ("given", "where"),
    [
        ({"knobs": MANY}, "knobs"),
        ({"slots": MANY}, "slots"),
        ({"slots": {"pose": {"seed": 1, "codes": MANY}}}, "slots.pose.codes"),
        ({"slots": {"pose": {"seed": 1, "codes": {"pose": MANY}}}}, "slots.pose.codes.pose"),
    ],
)
def test_of_too_many_names_none_is_looked_at(given: dict[str, Any], where):
    with pytest.raises(ValidationError) as found:
        PictureRecipe.model_validate({"checkpoint": "blocks"} | given)
    assert found.value.error_count() == 1
    with pytest.raises(ValueError, match=f": {where} holds too much; at most 200 are taken$"):
        parse({"checkpoint": "blocks"} | given)


@pytest.mark.parametrize("sent", ['{"a": "' + "," * 30_000 + '"}', b"[" * 30_000, "é:" * 30_000, b"\xff,{" * 30_000])
def test_a_text_of_too_many_parts_is_not_read(sent, monkeypatch):
    monkeypatch.setattr(json, "loads", lambda text: pytest.fail("it was read"))
    with pytest.raises(ValueError, match=r"not a recipe of this page: it has more than 20,000 parts; open a \.json"):
        parse(sent)


def test_a_large_recipe_of_few_parts_is_read():
    parse(json.dumps({"checkpoint": "blocks", "slots": {"pose": {"picture": "A" * 1_900_000}}}))


@pytest.mark.parametrize("kind", [zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_damaged_archive_gets_one_sentence(kind):
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", kind) as archive:
        archive.writestr(recipes.RECIPE_IN_ORA, b'{"checkpoint": "blocks"}' * 100)
    for place in range(30, len(file.getvalue())):
        damaged = bytearray(file.getvalue())
        damaged[place] ^= 0xFF
        with pytest.raises(ValueError, match=r"^(x\.ora holds no recipe; open a file|this is not a recipe of)"):
            recipes.from_file(bytes(damaged), "x.ora")


def test_a_saved_open_raster_file_is_opened_and_no_other_zip(tmp_path):
    recipe = PictureRecipe(checkpoint="blocks", knobs={"rotation": 12})
    with torch.inference_mode():
        saved = open_raster(layers_of(BLOCKS, recipe), recipe)
    assert recipes.from_file(saved, "car.ora") == recipe
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("stack.xml", "<image/>")
    large = io.BytesIO()
    with zipfile.ZipFile(large, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr(recipes.RECIPE_IN_ORA, b" " * (recipes.MOST_TEXT + 1))
    for data, said in (
        (packed.getvalue(), "holds no recipe"),
        (saved[:300], "no recipe"),
        (large.getvalue(), "larger"),
    ):
        with pytest.raises(ValueError, match=said):
            recipes.from_file(data, "x.ora")
