"""Properties of the fast GIRAFFE HD: which code moves which layer, where the object stands, what knobs do."""

import copy
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch

from giraffe_hd.fast.config import DiscriminatorConfig, GeneratorConfig, PoseConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.presets import CARS_64
from giraffe_hd.fast.prior import pose_knobs, pose_targets
from training.batched import fields_of, rows
from training.checkpoint import CheckpointError, load_generator, read_card, save_generator
from training.config import DataConfig
from training.nn.camera import half_width


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(GeneratorConfig()).eval().requires_grad_(False)


def draw(generator, n=2, seed=1):
    return generator.sample(n, torch.Generator().manual_seed(seed))


def test_layers_compose_to_the_picture_and_stay_in_range(generator):
    layers = generator(draw(generator))
    torch.testing.assert_close(layers.image, layers.mask * layers.foreground + (1 - layers.mask) * layers.background)
    assert layers.image.abs().max() <= 1
    assert 0 <= layers.mask.min() <= layers.mask.max() <= 1
    assert layers.image.shape == (2, 3, 64, 64)


def test_background_codes_touch_the_background_alone(generator):
    a = draw(generator)
    other = draw(generator, seed=2)
    b = replace(a, z_s_bg=other.z_s_bg, z_a_bg=other.z_a_bg)
    one, two = generator(a), generator(b)
    for name in ("foreground", "mask", "alpha", "depth"):
        assert torch.equal(getattr(one, name), getattr(two, name)), name
    assert not torch.equal(one.background, two.background)


def test_object_codes_and_pose_leave_the_background_alone(generator):
    a, other = draw(generator), draw(generator, seed=2)
    b = replace(other, z_s_bg=a.z_s_bg, z_a_bg=a.z_a_bg, elevation=a.elevation)
    one, two = generator(a), generator(b)
    assert torch.equal(one.background, two.background)
    untouched = (one.mask == 0) & (two.mask == 0)
    assert untouched.float().mean() > 0.2
    assert torch.equal(one.image[untouched.expand_as(one.image)], two.image[untouched.expand_as(two.image)])


def test_look_leaves_shape_alone(generator):
    a = draw(generator)
    b = replace(a, z_a_fg=draw(generator, seed=2).z_a_fg)
    one, two = generator(a), generator(b)
    assert torch.equal(one.mask, two.mask)
    assert torch.equal(one.depth, two.depth)
    assert not torch.equal(one.foreground, two.foreground)


def test_styles_of_the_shape_reach_the_layers_before_inject_index(generator):
    a = draw(generator)
    b = replace(a, z_a_fg=draw(generator, seed=2).z_a_fg)
    everything_by_shape = generator.object.n_layers
    one, two = (generator(codes, inject_index=everything_by_shape) for codes in (a, b))
    body = generator.object.n_layers - 1
    assert not torch.equal(one.foreground, two.foreground)  # the last 1 x 1 is the look's
    assert not torch.equal(generator(a, inject_index=body).foreground, generator(a, inject_index=0).foreground)


def test_untrained_object_is_an_ellipsoid_where_its_code_says(generator):
    """The centroid of opacity follows the translation in the picture's own units; the size follows the scale."""
    half = half_width(generator.config.pose.radius, generator.config.pose.fov)
    codes = draw(generator, 8)
    codes = replace(codes, elevation=torch.zeros(8), rotation=torch.full((8,), math.pi / 2))
    alpha = generator(codes).alpha[:, 0]
    line = torch.linspace(-1 + 1 / 32, 1 - 1 / 32, 32)
    mass = alpha.sum((1, 2))
    x = (alpha.sum(1) * line).sum(1) / mass
    y = -(alpha.sum(2) * line).sum(1) / mass
    torch.testing.assert_close(x, codes.translation[:, 1] / half, atol=0.03, rtol=0)
    torch.testing.assert_close(y, codes.translation[:, 2] / half, atol=0.03, rtol=0)
    size = mass.sqrt() / codes.scale[:, 0]
    assert size.std() / size.mean() < 0.08  # shape codes differ a little from the start


def test_depth_is_that_of_the_object(generator):
    codes = replace(draw(generator), elevation=torch.zeros(2), translation=torch.zeros(2, 3))
    layers = generator(codes)
    centre = layers.depth[:, 0, 15:17, 15:17].mean((1, 2))
    nearest = codes.radius - codes.scale.amax(1)
    assert (centre > nearest).all()
    assert (centre < codes.radius).all()
    assert torch.equal(layers.depth > 0, layers.alpha > 0.5)  # a haze has no depth
    assert ((layers.alpha > 0.01) & (layers.alpha < 0.5)).any()


def test_mirrored_object_turned_the_other_way_is_the_mirrored_picture(generator):
    a = draw(generator, 2)
    a = replace(a, translation=a.translation * torch.tensor([1.0, 0.0, 1.0]))
    b = replace(a, rotation=-a.rotation)
    torch.testing.assert_close(generator(a).alpha, generator(b).alpha.flip(-1), atol=1e-4, rtol=1e-4)


def test_same_codes_same_picture_and_batch_does_not_matter(generator):
    codes = draw(generator, 3)
    whole = generator(codes).image
    assert torch.equal(whole, generator(codes).image)
    torch.testing.assert_close(generator(rows(codes, 1)).image, whole[1:2], atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("name", ["rotation", "elevation", "scale", "x", "y"])
def test_each_pose_knob_reaches_its_code_alone(generator, name):
    codes = draw(generator, 3)
    low, high = (generator.set(codes, name, value) for value in (generator.knob(name).low, generator.knob(name).high))
    changed = {
        f for f, value in fields_of(low).items() if value is not None and not torch.equal(value, getattr(high, f))
    }
    field = {"x": "translation", "y": "translation"}.get(name, name)
    assert changed == {field}
    targets = pose_targets(high, generator.config.pose)
    column = {"elevation": 2, "scale": 3, "x": 4, "y": 5}.get(name)
    if column:
        torch.testing.assert_close(targets[:, column], torch.ones(3), atol=1e-4, rtol=0)


def test_knobs_take_one_value_a_row(generator):
    codes = generator.set(draw(generator, 2), "rotation", torch.tensor([0.0, 180.0]))
    torch.testing.assert_close(codes.rotation, torch.tensor([0.0, math.pi]))


def test_seed_knob_draws_the_same_code_again_and_in_every_row(generator):
    codes = draw(generator, 2)
    one, two, three = (generator.set(codes, "look", seed) for seed in (5, 5, 6))
    assert torch.equal(one.z_a_fg, two.z_a_fg)
    assert torch.equal(one.z_a_fg[0], one.z_a_fg[1])
    assert not torch.equal(one.z_a_fg, three.z_a_fg)
    assert torch.equal(one.z_s_fg, codes.z_s_fg)
    both = generator.set(one, "shape", 5)
    assert not torch.equal(both.z_s_fg, both.z_a_fg)


def test_a_seed_a_row_and_numbers_of_numpy(generator):
    codes = generator.sample(2, torch.Generator().manual_seed(0))
    both = generator.set(codes, "look", torch.tensor([3, 4]))
    for row, seed in enumerate((3, np.int64(4))):
        alone = generator.set(codes, "look", seed)
        assert torch.equal(both.z_a_fg[row], alone.z_a_fg[row])
    assert torch.equal(both.z_s_fg, codes.z_s_fg)
    turned = generator.set(codes, "rotation", np.array([90.0, 180.0]))
    torch.testing.assert_close(turned.rotation, torch.tensor([math.pi / 2, math.pi]))


def test_wrong_knobs_are_refused(generator):
    with pytest.raises(ValueError, match=r"no knob 'colour'.*rotation"):
        generator.set(draw(generator), "colour", 1)
    with pytest.raises(ValueError, match="whole number"):
        generator.set(draw(generator), "look", 0.5)
    for name in ("rotation", "x"):
        for value in ("30", None, True, math.nan, math.inf, torch.zeros(5)):
            with pytest.raises(ValueError, match=f"knob '{name}' takes"):
                generator.set(draw(generator), name, value)
    for seed in (None, math.inf, "3", torch.arange(5)):
        with pytest.raises(ValueError, match="knob 'look' takes a whole number"):
            generator.set(draw(generator), "look", seed)
    for size in (0, -1.5, torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match=r"size (0|-1\.5) cannot be drawn; expected a number above 0"):
            generator.set(draw(generator), "scale", size)


@pytest.mark.parametrize(
    ("span", "default"), [((0.0, 360.0), 45), ((-12.0, 12.0), 0), ((-40.0, 40.0), 0), ((90.0, 180.0), 135)]
)
def test_the_rotation_begins_inside_its_trained_range(span, default):
    assert pose_knobs(PoseConfig(rotation=span))[0].default == default


def test_generator_file_gives_the_same_picture(generator, tmp_path):
    path = tmp_path / "g.safetensors"
    save_generator(path, generator, card={"images_seen": 3})
    codes = draw(generator)
    assert torch.equal(load_generator(path)(codes).image, generator(codes).image)
    assert read_card(path)["images_seen"] == 3
    save_generator(path, generator, dtype=torch.bfloat16)
    difference = load_generator(path)(codes).image - generator(codes).image
    assert difference.abs().mean() < 0.02


def test_damaged_generator_files_are_refused(generator, tmp_path):
    path = tmp_path / "g.safetensors"
    save_generator(path, generator)
    content = path.read_bytes()
    path.write_bytes(content[: len(content) // 2])
    with pytest.raises(CheckpointError, match="not a whole safetensors file"):
        load_generator(path)
    flipped = bytearray(content)
    flipped[-5] ^= 1
    path.write_bytes(bytes(flipped))
    with pytest.raises(CheckpointError, match="damaged"):
        load_generator(path)
    with pytest.raises(CheckpointError, match="no checkpoint"):
        load_generator(tmp_path / "none.safetensors")
    path.write_bytes(b"not a checkpoint")
    with pytest.raises(CheckpointError):
        load_generator(path)


def test_config_with_sizes_that_do_not_fit_is_refused():
    with pytest.raises(ValueError, match="do not make"):
        replace(GeneratorConfig(), rays=16)
    with pytest.raises(ValueError, match="do not make"):
        replace(GeneratorConfig(), rays=128)


def test_as_many_rays_as_pixels_draw_the_same_object_finer():
    torch.manual_seed(0)
    coarse = Generator(GeneratorConfig()).requires_grad_(False)
    fine = Generator(replace(coarse.config, rays=64)).requires_grad_(False)
    fine.load_state_dict(coarse.state_dict())  # no weight more or less
    codes = draw(coarse, n=4)
    a, b = coarse(codes), fine(codes)
    assert b.alpha.shape == b.mask.shape == a.mask.shape
    assert b.image.shape == a.image.shape
    both = (a.mask > 0.5) & (b.mask > 0.5)
    assert both.sum() > 0.9 * ((a.mask > 0.5) | (b.mask > 0.5)).sum()
    halved = torch.nn.functional.avg_pool2d(b.alpha, 2)
    assert (halved - a.alpha).abs().mean() < 0.01


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"data": DataConfig(size=128)}, r"data.size is 128 and generator.resolution 64; give both the same"),
        ({"discriminator": DiscriminatorConfig(channels=(8, 8, 8))}, r"discriminator.channels has 3 levels.* need 4"),
    ],
)
def test_train_configs_whose_sizes_do_not_fit_are_refused(changed, message):
    with pytest.raises(ValueError, match=message):
        replace(CARS_64, **changed)


def test_a_card_of_other_weights_is_passed_over_and_a_broken_one_named(generator, tmp_path, caplog):
    path = tmp_path / "g.safetensors"
    save_generator(path, generator, card={"title": "inside"})
    beside = path.with_suffix(".json")
    beside.write_text(json.dumps({"title": "beside", "sha256": read_card(path)["sha256"]}))
    assert read_card(path)["title"] == "beside"
    beside.write_text(json.dumps({"title": "of another", "sha256": "0" * 64}))
    assert read_card(path)["title"] == "inside"
    assert "g.json is the card of other weights than g.safetensors" in caplog.text
    for broken in ('{"title": "cut', "null", "[1]"):
        beside.write_text(broken)
        with pytest.raises(CheckpointError, match=r"g\.json is no.* card"):
            read_card(path)


def test_what_the_mask_hides_need_not_be_drawn(generator):
    """Without gradients the renderer sees only the rays around the object; the picture is that of all rays."""
    generator = copy.deepcopy(generator)
    generator.object.to_rgb.bias.data.fill_(0.5)
    codes = generator.set(generator.sample(2, torch.Generator().manual_seed(0)), "scale", 0.6)
    whole = generator(codes)  # with gradients
    with torch.inference_mode():
        seen = generator(codes)
    for name in ("image", "mask", "alpha", "depth", "background"):
        torch.testing.assert_close(getattr(seen, name), getattr(whole, name).detach(), atol=2e-6, rtol=0)
    torch.testing.assert_close(seen.mask * seen.foreground, (whole.mask * whole.foreground).detach(), atol=2e-6, rtol=0)
    assert (seen.foreground[:, :, 0, 0] == 0).all()  # a corner far from the object
    assert (whole.foreground[:, :, 0, 0] != 0).all()
