"""Knob values to codes: defaults, ways between seeds, what a pull across the picture turns."""

import math
from dataclasses import fields

import pytest
import torch

from demo.describe import about, describe, described, figures_of, mark_of, start_of
from demo.knobs import drag_axes, group_of, reach_of
from demo.models import Model
from demo.recipes import PictureRecipe, layers_of
from giraffe_hd.fast import config as configs
from giraffe_hd.fast import generator
from tests.toys import Blocks, Patches, scenes
from training.interpolation import are_shares, interpolate
from training.knob_values import Between, changed, codes_for
from training.nn.camera import project
from training.types import Knob


def test_unset_knobs_stand_at_their_defaults():
    blocks = Blocks()
    bare, spelled = codes_for(blocks, 0, {}), codes_for(blocks, 0, {k.name: k.default for k in blocks.knobs})
    for field in fields(bare):
        assert torch.equal(getattr(bare, field.name), getattr(spelled, field.name))


def test_angles_are_degrees_at_the_knob():
    codes = codes_for(Blocks(), 0, {"rotation": 90, "elevation": 20})
    assert codes.rotation.item() == pytest.approx(math.pi / 2)
    assert codes.elevation.item() == pytest.approx(math.radians(20))


def test_beyond_the_trained_range_is_not_refused():
    assert codes_for(Blocks(), 0, {"translation_y": 0.4}).translation[0, 1].item() == pytest.approx(0.4)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("nothing", 1.0, "no knob 'nothing'"),
        ("rotation", math.nan, "Rotation is nan"),
        ("shape", 1.5, "whole number"),
        ("shape", -1, "whole number"),
        ("rotation", Between(start=1, end=2, at=0.5), "give one number"),
    ],
)
def test_a_wrong_value_gets_one_sentence(name, value, says):
    with pytest.raises(ValueError, match=says):
        codes_for(Blocks(), 0, {name: value})


def test_a_photo_s_knob_is_not_set_by_a_number():
    with pytest.raises(ValueError, match=r"texture takes a photo, not a number; .* turn texture_seed"):
        codes_for(Patches(), 0, {"texture": 5})


def test_the_ends_of_a_way_between_seeds_are_the_seeds():
    blocks = Blocks()
    for at, seed in ((0.0, 4), (1.0, 9)):
        way = codes_for(blocks, 0, {"look": Between(start=4, end=9, at=at)})
        assert torch.equal(way.z_a_fg, codes_for(blocks, 0, {"look": seed}).z_a_fg)


def test_the_middle_of_two_normal_codes_is_as_long_as_they_are():
    a, b = torch.randn(2, 1, 20_000, generator=torch.Generator().manual_seed(0))
    middle = interpolate({"z": a}, {"z": b}, 0.5)["z"]
    assert middle.std().item() == pytest.approx(1, abs=0.02)


def test_a_way_between_equal_codes_stays_where_it_is():
    a = torch.randn(1, 50, generator=torch.Generator().manual_seed(0))
    for b in (a, 2 * a):
        assert torch.allclose(interpolate({"z": a}, {"z": b}, 0.5)["z"], (a + b) / 2)
    assert interpolate({"z": a}, {"z": -a}, 0.25)["z"].isfinite().all()


def test_shares_between_shares_still_sum_to_one():
    a, b = torch.eye(3)[:1], torch.eye(3)[2:]
    assert torch.allclose(interpolate({"b": a}, {"b": b}, 0.25)["b"], torch.tensor([[0.75, 0.0, 0.25]]))
    assert are_shares(a) and not are_shares(torch.tensor([[0.5, -0.5]]))


def test_a_knob_changes_only_its_own_fields():
    blocks = Blocks()
    codes = codes_for(blocks, 0, {})
    assert changed(codes, blocks.set(codes, "background", 7)).keys() == {"z_s_bg", "z_a_bg"}


@pytest.mark.parametrize(("azimuth", "elevation"), [(0, 20), (0, 35), (90, 20)])
def test_a_pull_moves_the_object_as_far_as_the_hand(azimuth, elevation):
    blocks = Blocks()
    values = {"azimuth": azimuth, "elevation": elevation}
    codes = codes_for(blocks, 0, values)
    right, up = (0.05, 0.04) if azimuth == 0 else (0.0, 0.04)
    knobs = {k: r * right + u * up for k, (r, u) in drag_axes(blocks, codes).items()}

    def seen(codes):
        world = codes.translation[:, None]
        return project(world, codes.azimuth, codes.elevation, codes.radius, 20.0)[0][0, 0]

    moved = seen(codes_for(blocks, 0, values | knobs)) - seen(codes)
    assert moved.tolist() == pytest.approx([right, up], abs=0.002)


def test_a_generator_without_a_camera_cannot_be_pulled():
    patches = Patches()
    assert drag_axes(patches, patches.sample(1, torch.Generator())) == {}


@pytest.mark.parametrize(
    ("knob", "reach"),
    [
        (Knob(name="x", label="X", kind="range", low=-1, high=1), (-1.5, 1.5)),
        (Knob(name="s", label="S", kind="range", low=0.1, high=0.5), (0.025, 0.6)),
        (Knob(name="a", label="A", kind="angle", low=0, high=360), (0, 360)),
        (Knob(name="e", label="E", kind="angle", low=10, high=30), (5, 35)),
    ],
)
def test_how_far_the_page_lets_a_knob_go(knob, reach):
    assert reach_of(knob) == pytest.approx(reach)


def test_knobs_stand_under_three_headings():
    assert {group_of(knob) for knob in Blocks().knobs} == {"Object", "Camera", "Seeds"}


def test_a_knob_shows_what_its_card_has_measured():
    rotation, look = Blocks().knob("rotation"), Blocks().knob("look")
    figures = {"rotation_slope": 0.97, "rotation_error": 4.04, "rotation_flips": 0.021, "look_mask_iou": 0.99}
    figures |= {"look_background_changed": 0.002}
    for card in ({"figures": figures}, {"figures": {"figures": figures, "n": 600}}):
        assert plainly(figures_of(card, rotation)) == ["follows at 97 %", "usually within 4°", "backwards in 2 %"]
        assert plainly(figures_of(card, look)) == ["keeps 99 % of the outline", "background changes under 1 %"]
    assert figures_of({}, rotation) == []
    assert described(Model(name="m", generator=Blocks()), rotation)["figures"] == ["not measured"]


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (120.4, ["usually within 120°"]),
        (99.5, ["usually within 100°"]),
        (0.123, ["usually within 0.12°"]),
        (math.nan, []),
    ],
)
def test_figures_are_said_as_people_write_them_or_left_out(error, said):
    figures = {"rotation_error": error, "rotation_slope": math.nan}
    assert figures_of({"figures": figures}, Blocks().knob("rotation")) == said


def plainly(phrases: list[str]) -> list[str]:
    return [phrase.replace("\N{NO-BREAK SPACE}", " ") for phrase in phrases]


def test_slots_and_mixes_show_what_their_card_has_measured():
    figures = {"swap_diagonal": 0.871, "swap_leakage": 0.3, "mix_rotation_error": 80.5, "given_mask_iou_feature": 0.82}
    figures |= {"texture_follows": 0.9, "texture_leaks": 0.2}
    told = describe(Model(name="m", generator=Patches(), card={"figures": figures}))
    assert plainly(told["mixing"]) == ["a photo changes 87 % of what its slot names", "30 % of anything else"]
    assert {mode: plainly([said])[0] for mode, said in told["outlines"].items()} == {
        "code": "",
        "feature": "outlines overlap by 82 %",
    }
    said = {slot["name"]: plainly(slot["figures"]) for slot in told["slots"]}
    assert said["pose"] == ["rotation usually off by 80°, by chance 90°"]
    assert said["texture"] == ["changes 90 % of what it names", "at most 20 % of anything else"]
    assert said["shape"] == []
    assert describe(Model(name="m", generator=Patches()))["mixing"] == ["not measured"]


def test_a_card_cannot_put_markup_on_the_page():
    card = {"title": "<script>", "notes": "a <b> & c", "data": {"name": "<img>"}}
    told = about(Model(name="m", generator=Blocks(), card=card))
    assert "<script>" not in told and "<img>" not in told and "a &lt;b&gt; &amp; c" in told


def test_the_page_begins_where_the_card_says():
    assert start_of(Model(name="m", generator=Blocks(), card={"start": {"rotation": 200, "odd": 1}}))["rotation"] == 200


@torch.inference_mode()
def test_what_training_held_still_can_be_turned():
    torch.manual_seed(0)
    fast = generator.Generator(configs.GeneratorConfig()).eval()
    model = Model(name="fast", generator=fast)
    told = {knob["name"]: knob for knob in describe(model)["knobs"]}
    for name in ("azimuth", "radius"):
        assert told[name]["low"] == told[name]["high"] == told[name]["default"]
        assert told[name]["reachLow"] < told[name]["low"] < told[name]["reachHigh"]
        assert told[name]["group"] == "Camera"
        assert told[name]["figures"] == ["held still in training: experimental", "not measured"]
    plain = layers_of(model, PictureRecipe(checkpoint="fast"))
    same = layers_of(
        model, PictureRecipe(checkpoint="fast", knobs={"radius": told["radius"]["default"], "azimuth": 0.0})
    )
    assert torch.equal(plain.image, same.image)
    near = layers_of(model, PictureRecipe(checkpoint="fast", knobs={"radius": told["radius"]["reachLow"]}))
    assert near.mask.mean() > 1.2 * plain.mask.mean()
    assert torch.equal(near.background, plain.background)
    around = layers_of(model, PictureRecipe(checkpoint="fast", knobs={"azimuth": 90.0}))
    assert not torch.equal(around.mask, plain.mask)
    assert torch.equal(around.background, plain.background)


@torch.inference_mode()
def test_scenes_of_several_objects_have_knobs_for_each():
    model = Model(name="scenes", generator=scenes())
    told = describe(model)
    labels = {knob["name"]: knob["label"] for knob in told["knobs"]}
    assert labels["x_1"] == "Move across 1"
    assert labels["look_2"] == "Colours 2"
    plain = layers_of(model, PictureRecipe(checkpoint="scenes", knobs=told["start"]))
    start = codes_for(model.generator, 0, told["start"])
    for name, other in (("x_1", 1), ("x_2", 0)):
        moved = layers_of(model, PictureRecipe(checkpoint="scenes", knobs=told["start"] | {name: 20.0}))
        codes = codes_for(model.generator, 0, told["start"] | {name: 20.0})
        assert torch.equal(codes.translation[:, other], start.translation[:, other])
        assert not torch.equal(moved.image, plain.image)


@pytest.mark.parametrize("size", [0.0, -2.0])
def test_a_scene_without_size_is_refused_in_words(size):
    with pytest.raises(ValueError, match=f"size {size:g} cannot be drawn; expected a number above 0"):
        codes_for(scenes(), 0, {"scale_2": size})


@pytest.mark.parametrize("held", [0, 1])
def test_of_several_objects_the_one_under_the_hand_is_pulled(held):
    two = scenes()

    def seen(values: dict[str, float]) -> torch.Tensor:
        codes = codes_for(two, 0, values)
        fov = two.config.prior.fov
        return project(codes.translation, codes.azimuth, codes.elevation, codes.radius, fov)[0][0]

    apart = {"x_1": -40.0, "x_2": 40.0}
    before = seen(apart)
    axes = drag_axes(two, codes_for(two, 0, apart), at=(float(before[held, 0]), float(before[held, 1])))
    assert axes.keys() and all(name.endswith(f"_{held + 1}") for name in axes)
    moved = seen(apart | {k: apart.get(k, two.knob(k).default) + 0.05 * r for k, (r, _) in axes.items()}) - before
    assert moved[held].tolist() == pytest.approx([0.05, 0.0], abs=0.01)
    assert moved[1 - held].tolist() == [0.0, 0.0]


@pytest.mark.parametrize(
    ("name", "figures", "mark"),
    [
        ("rotation", {}, "untested"),
        ("rotation", {"slope": 0.99, "error": 1.3, "flips": 0.001, "background_changed": 0.003}, "reliable"),
        ("rotation", {"slope": -0.99, "error": 1.3}, "reliable"),  # which way round is each run's own choice
        ("rotation", {"slope": 0.99, "error": 1.3, "flips": 0.2}, "approximate"),
        ("rotation", {"slope": 0.6, "error": 1.3}, "approximate"),
        ("scale", {"slope": 1.0, "error": 0.02}, "approximate"),  # a fifth of its range
        ("elevation", {"slope": 0.97, "error": 1.0, "ground_changed": 1.3}, "approximate"),
        ("elevation", {"slope": 1, "error": 1, "ground_changed": 1.3, "holds_from": 15, "holds_to": 29}, "reliable"),
        ("look", {"background_changed": 0.002, "mask_iou": 1.0}, "reliable"),
        ("look", {"background_changed": 0.002, "mask_iou": 0.8}, "approximate"),
    ],
)  # fmt: skip
def test_each_knob_has_one_plain_mark(name, figures, mark):
    card = {"figures": {f"{name}_{figure}": value for figure, value in figures.items()}}
    assert mark_of(card, Blocks().knob(name)) == mark


def test_turns_stand_for_the_rotation_of_photos():
    rotation = Blocks().knob("rotation")
    assert mark_of({"figures": {"turn_slope": 0.97, "turn_error": 4.0}}, rotation) == "reliable"
    assert mark_of({"figures": {"turn_slope": 0.63, "turn_error": 9.0}}, rotation) == "approximate"
    assert "follows at 63\xa0%" in figures_of({"figures": {"turn_slope": 0.63}}, rotation)
    assert mark_of({"figures": {"turn_slope": 0.97, "rotation_slope": 0.6}}, rotation) == "approximate"


def test_photos_have_a_mark_too():
    pose, texture = (Patches().knob(name) for name in ("pose", "texture"))
    figures = {"texture_follows": 0.99, "texture_leaks": 0.1, "pose_follows": 0.9, "pose_leaks": 0.1}
    assert mark_of({"figures": figures}, texture) == "reliable"
    assert mark_of({"figures": figures | {"texture_leaks": 0.7}}, texture) == "approximate"
    assert mark_of({"figures": figures | {"mix_rotation_error": 80.0}}, pose) == "approximate"
    assert mark_of({}, pose) == "untested"


def test_the_slider_ends_where_the_place_was_measured_to_hold():
    card = {"figures": {"elevation_holds_from": 15.05, "elevation_holds_to": 29.2, "elevation_ground_changed": 1.3}}
    model = Model(name="m", generator=Blocks().eval(), card=card)
    told = described(model, model.generator.knob("elevation"))
    assert (told["reachLow"], told["reachHigh"], told["low"], told["high"]) == (16, 29, 16, 29)
    assert told["label"] == "Camera height"
    assert "from 16° to 29°" in plainly(told["figures"])[0]
