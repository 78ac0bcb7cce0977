"""The fast MixNMatch: layers, codes, knobs, weights of a GIRAFFE HD."""

import math
from dataclasses import fields, replace

import pytest
import torch

from giraffe_hd.fast.presets import CARS_64 as GIRAFFE_CARS_64
from giraffe_hd.fast.recipe import Recipe as GiraffeRecipe
from mixnmatch.codes import Codes
from mixnmatch.fast.config import GeneratorConfig, PoseConfig
from mixnmatch.fast.generator import Generator
from mixnmatch.fast.pose import FOV, object_pose, placing, pose_features, uniform
from mixnmatch.fast.presets import CARS_64, CLOTHING_64
from mixnmatch.fast.recipe import Recipe
from mixnmatch.fast.stages import over
from tests.mixnmatch.fast.tiny import TURN, at, batch, other, tiny
from training.checkpoint import load_generator, save_generator
from training.loop.step import train_step
from training.nn.discriminator import Features
from training.warm_start import copy_matching


def test_over_by_hand():
    near, far = torch.ones(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    assert torch.equal(over(near, torch.ones(1, 1, 2, 2), far), near)
    assert torch.equal(over(near, torch.zeros(1, 1, 2, 2), far), far)
    torch.testing.assert_close(over(near, torch.full((1, 1, 2, 2), 0.25), far), torch.full((1, 3, 2, 2), 0.25))


def test_uniform_reaches_its_ends_and_middle():
    ends = uniform(torch.tensor([-9.0, 0.0, 9.0]), (10.0, 30.0))
    torch.testing.assert_close(ends, torch.tensor([10.0, 20.0, 30.0]))


def test_sizes_and_ranges(generator, codes):
    layers = generator(codes)
    side = generator.resolution
    for field in fields(layers):
        value = getattr(layers, field.name)
        assert value.shape == (4, 1 if "mask" in field.name else 3, side, side)
        assert value.min() >= (0 if "mask" in field.name else -1)
        assert value.max() <= 1
    assert (layers.child_mask <= layers.parent_mask).all()


def test_image_is_its_layers(generator, codes):
    layers = generator(codes)
    torch.testing.assert_close(layers.mask, 1 - (1 - layers.parent_mask) * (1 - layers.child_mask))
    bare = layers.parent_mask < 1e-3
    torch.testing.assert_close(
        layers.image[bare.expand(-1, 3, -1, -1)], layers.background[bare.expand(-1, 3, -1, -1)], atol=5e-3, rtol=0
    )


def test_a_new_background_leaves_the_object_alone(generator, codes):
    new = other(generator)
    one, two = generator(codes), generator(replace(codes, b=new.b, z_background=new.z_background))
    assert torch.equal(one.mask, two.mask)
    assert torch.equal(one.child_mask, two.child_mask)
    assert not torch.equal(one.background, two.background)
    solid = (one.mask > 0.999).expand(-1, 3, -1, -1)
    torch.testing.assert_close(one.image[solid], two.image[solid], atol=5e-3, rtol=0)


def test_z_background_moves_nothing_of_the_object(generator, codes):
    two = generator(replace(codes, z_background=other(generator).z_background))
    assert torch.equal(generator(codes).mask, two.mask)


def test_a_new_texture_leaves_the_shape_alone(generator, codes):
    one, two = generator(codes), generator(replace(codes, c=other(generator).c))
    assert torch.equal(one.parent_mask, two.parent_mask)
    assert torch.equal(one.parent, two.parent)
    assert not torch.equal(one.image, two.image)


@pytest.mark.parametrize("factor", ["z", "p"])
def test_pose_and_shape_leave_the_background_alone(generator, codes, factor):
    one, two = generator(codes), generator(replace(codes, **{factor: getattr(other(generator), factor)}))
    assert torch.equal(one.background, two.background)
    assert not torch.equal(one.parent_mask, two.parent_mask)


def test_the_object_s_pose_stands_in_for_the_background_s(generator, codes):
    one = generator(replace(codes, z_background=None))
    assert torch.equal(one.image, generator(replace(codes, z_background=codes.z)).image)


def test_placement_by_hand():
    """The middle of the ranges, a quarter turn, and the ends of place and size, in half pictures."""
    pose = PoseConfig(elevation=(10.0, 30.0), scale=(0.5, 0.7), shift_x=(-0.2, 0.4), shift_y=(-0.1, 0.1))
    z = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0, 0.0, 5.0], [1.0, 0.0, 0.0, 9.0, 9.0, 9.0, 5.0]])
    pose_of_object = object_pose(z, pose)
    half = 2.732 * math.tan(math.radians(FOV) / 2)
    torch.testing.assert_close(pose_of_object.rotation, torch.tensor([math.pi / 2, 0.0]))
    torch.testing.assert_close(pose_of_object.elevation, torch.full((2,), math.radians(20)))
    torch.testing.assert_close(pose_of_object.scale[0] / half, torch.tensor([0.6, 0.3, 0.3]))
    torch.testing.assert_close(pose_of_object.scale[1] / half, torch.tensor([0.7, 0.35, 0.35]))
    torch.testing.assert_close(pose_of_object.translation / half, torch.tensor([[0.0, 0.1, 0.0], [0.0, 0.4, -0.1]]))


@pytest.mark.parametrize(("number", "axis", "knob"), [(4, 0, "shift_x"), (5, 1, "shift_y")])
def test_a_shift_in_z_moves_the_mask_as_the_config_says(number, axis, knob):
    torch.manual_seed(0)
    config = replace(TURN, resolution=64, pose=PoseConfig(elevation=(0.0, 0.0)))
    generator = Generator(config).requires_grad_(False)
    still = generator.sample(1, torch.Generator().manual_seed(0))

    def centre(value: float) -> list[float]:
        z = still.z.clone()
        z[:, number] = value
        rough = generator.parent.feature(z, still.p)[0, 0]
        line = (torch.arange(32) + 0.5) / 32 * 2 - 1
        return [float((rough.sum(0) * line).sum() / rough.sum()), float((rough.sum(1) * line).sum() / rough.sum())]

    low, high = centre(-4.0), centre(4.0)
    ends = getattr(config.pose, knob)
    assert high[axis] - low[axis] == pytest.approx(ends[1] - ends[0], abs=0.02)
    assert high[1 - axis] - low[1 - axis] == pytest.approx(0, abs=0.01)


def test_a_half_turn_of_a_mirrored_solid_mirrors_its_side_view():
    torch.manual_seed(0)
    generator = Generator(TURN).requires_grad_(False)
    p = torch.eye(3)[:1]
    z = torch.zeros(2, TURN.z_dim)
    z[0, 1], z[1, 1] = 1.0, -1.0  # a quarter turn to either side
    seen = generator.parent.feature(z, p.expand(2, -1))
    torch.testing.assert_close(seen[0], seen[1].flip(-1), atol=1e-4, rtol=0)


def giraffe() -> GiraffeRecipe:
    """A GIRAFFE HD whose object is of the sizes that the cars' MixNMatch has."""
    torch.manual_seed(1)
    return GiraffeRecipe(replace(GIRAFFE_CARS_64, loop=replace(GIRAFFE_CARS_64.loop, bf16=False)), torch.device("cpu"))


def test_an_adopted_object_looks_as_where_it_came_from():
    theirs = giraffe()
    recipe = Recipe(replace(CARS_64, generator=replace(CARS_64.generator, n_shapes=1, n_textures=1)), theirs.device)
    taken, _ = copy_matching(recipe.networks, recipe.adapt_weights(dict(theirs.networks.state_dict())))
    assert taken > 2e6
    ours, other = recipe.generator.requires_grad_(False), theirs.generator.requires_grad_(False)
    codes = ours.sample(4, torch.Generator().manual_seed(2))
    pose_of_object = object_pose(codes.z, ours.config.pose)
    same = replace(other.sample(4, torch.Generator().manual_seed(3)), **pose_of_object._asdict())
    shape, look = ours.parent.embed.weight.T.expand(4, -1), ours.child.embed.weight.T.expand(4, -1)
    features, alpha, *_ = other.volume(same, shape)
    feature = ours.parent.feature(codes.z, codes.p)
    torch.testing.assert_close(feature, torch.cat([alpha, features], 1), atol=1e-5, rtol=1e-4)
    painted, mask = ours.child(feature, torch.ones(4, 1, 64, 64), codes.c)
    torch.testing.assert_close(painted, other.object(features, shape, look, 0), atol=1e-4, rtol=1e-3)
    assert (mask > 0.9).all()  # the texture covers the shape


def test_an_object_of_another_painter_is_refused():
    theirs = dict(giraffe().networks.state_dict())
    single = {k: v for k, v in theirs.items() if not k.startswith("generator.object.blocks.")}
    recipe = Recipe(CARS_64, torch.device("cpu"))
    with pytest.raises(ValueError, match="renderer has 0 blocks"):
        recipe.adapt_weights(single)
    half = {k.replace("map_look", "map_appearance"): v for k, v in theirs.items()}
    with pytest.raises(ValueError, match=r"in part: generator.map_look is missing"):
        recipe.adapt_weights(half)
    wider = replace(CARS_64, generator=replace(CARS_64.generator, field_dim=32))
    with pytest.raises(ValueError, match=r"layers.0.weight is \(27, 64\), expected \(27, 32\)"):
        Recipe(wider, torch.device("cpu")).adapt_weights(theirs)


def test_an_adopted_critic_reads_the_same_pose_in_our_order():
    theirs = giraffe()
    recipe = Recipe(CARS_64, theirs.device)
    copy_matching(recipe.networks, recipe.adapt_weights(dict(theirs.networks.state_dict())))
    image = torch.rand(4, 3, 64, 64) * 2 - 1
    (score, pose), (logit, read) = theirs.discriminator(image, 1.0), recipe.networks["image_discriminator"](image, 1.0)
    sin, cos, elevation, size, right, up = pose.unbind(1)
    torch.testing.assert_close(read, torch.stack([cos, sin, elevation, size, right, -up], 1))
    torch.testing.assert_close(logit, score, atol=1e-5, rtol=1e-4)


def test_weights_of_our_own_are_adopted_as_they_are():
    recipe = Recipe(replace(tiny(TURN), generator=replace(TURN, encoder_channels=(16, 16, 16))), torch.device("cpu"))
    own = dict(recipe.networks.state_dict())
    assert recipe.adapt_weights(own) == own


def test_encoders_without_weights_begin_as_the_critic():
    recipe = Recipe(CARS_64, torch.device("cpu"))
    theirs = {k: v for k, v in recipe.networks.state_dict().items() if not k.startswith("generator.encoders")}
    copy_matching(recipe.networks, recipe.adapt_weights(theirs))
    image = (torch.rand(1, 3, 64, 64) * 2 - 1).expand(
        4, -1, -1, -1
    )  # alike: nothing for the critic to see between them
    encoder, critic = recipe.generator.encoders.trunk, recipe.networks["image_discriminator"]
    assert isinstance(encoder, Features)
    assert isinstance(critic, Features)
    torch.testing.assert_close(encoder.vector(image), critic.vector(image), atol=1e-3, rtol=1e-2)


def test_an_adopted_object_waits():
    recipe = Recipe(replace(tiny(TURN), object_since=4), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases, child = recipe.phases(), recipe.generator.child.embed.weight
    for index, moved in ((0, False), (0, False), (1, True)):
        before = child.clone()
        optimizer = next(phase.optimizer for phase in phases if phase.name == "generator")
        optimizer.load_state_dict(optimizer.state_dict())  # as a resumed run does
        recipe.begin(batch(), at(index))
        train_step(phases, batch(), at(index))
        assert torch.equal(child, before) != moved


def test_the_length_of_a_direction_says_nothing():
    z = torch.randn(3, 8)
    longer = z.clone()
    longer[:, :2] *= 5
    torch.testing.assert_close(pose_features(z, PoseConfig()), pose_features(longer, PoseConfig()))


def test_placing_by_hand():
    z = torch.tensor([[3.0, 4.0, 0.0, 100.0, -100.0, 0.0, 7.0, 7.0]])
    torch.testing.assert_close(placing(z, PoseConfig()), torch.tensor([[0.6, 0.8, 0.0, 1.0, -1.0, 0.0]]))
    flat = placing(z, PoseConfig(kind="plane"))
    assert flat.shape == (1, 5)
    torch.testing.assert_close(flat[0, 2:], torch.tensor([0.0, 1.0, -1.0]))


def test_sample_repeats_and_ties(generator):
    one, two = (generator.sample(64, torch.Generator().manual_seed(3), tied=True) for _ in range(2))
    assert torch.equal(one.z, two.z)
    ratio = generator.config.n_textures // generator.config.n_shapes
    assert torch.equal(one.p.argmax(1), one.c.argmax(1) // ratio)
    free = generator.sample(64, torch.Generator().manual_seed(3))
    assert not torch.equal(free.p.argmax(1), free.c.argmax(1) // ratio)


def test_encode_gives_shares_and_reads_one_factor_on_request(generator):
    side = generator.resolution
    image = torch.rand(3, 3, side, side) * 2 - 1
    codes = generator.encode(image)
    for name in "bpc":
        torch.testing.assert_close(getattr(codes, name).sum(1), torch.ones(3))
    assert codes.z.abs().max() <= 4
    shape = generator.encode(image, factors=("shape",))
    assert torch.equal(shape.p, codes.p)
    assert not shape.z.any()
    with pytest.raises(ValueError, match="unknown factor 'colour'"):
        generator.encode(image, factors=("colour",))
    for wrong in (image[..., :-2], image.repeat(1, 1, 2, 2)):
        for read in (generator.encode, generator.shape_feature):
            with pytest.raises(ValueError, match="got pictures of shape"):
                read(wrong)
    with pytest.raises(ValueError, match="takes a whole number"):
        generator.set(codes, "texture_seed", math.inf)


def test_a_photo_is_one_shape_where_told():
    torch.manual_seed(0)
    generator = Generator(replace(TURN, one_shape=True)).requires_grad_(False)
    image = torch.rand(5, 3, 32, 32) * 2 - 1
    shares = generator.encoders.codes(image).p
    p = generator.encode(image).p
    assert torch.equal(p.sum(1), torch.ones(5))
    assert torch.equal(p.argmax(1), shares.argmax(1))
    assert set(p.unique().tolist()) == {0.0, 1.0}
    assert not generator.encode(image, factors=("pose",)).p.any()


def test_textures_are_read_nearer_to_one_where_told():
    torch.manual_seed(0)
    generator = Generator(replace(TURN, texture_power=2.0)).requires_grad_(False)
    image = torch.rand(5, 3, 32, 32) * 2 - 1
    shares, codes = generator.encoders.codes(image), generator.encode(image)
    assert torch.allclose(codes.c, shares.c.square() / shares.c.square().sum(1, keepdim=True))
    assert torch.equal(codes.b, shares.b)
    assert not generator.encode(image, factors=("pose",)).c.any()
    with pytest.raises(ValueError, match=r"texture_power 0\.0 must be above 0"):
        replace(TURN, texture_power=0.0)


def test_feature_mode_takes_pose_and_shape_from_the_feature(generator, codes):
    feature = generator.parent.feature(codes.z, codes.p)
    assert torch.equal(generator(codes, feature=feature).image, generator(codes).image)
    new = other(generator)
    assert torch.equal(generator(replace(codes, z=new.z, p=new.p), feature=feature).mask, generator(codes).mask)
    side = generator.resolution
    read = generator.shape_feature(torch.rand(4, 3, side, side) * 2 - 1)
    assert read.shape == feature.shape


def test_picture_knobs_set_their_codes_only(generator, codes):
    side = generator.resolution
    photo = torch.rand(1, 3, side, side) * 2 - 1
    for name, touched in {"background": {"b", "z_background"}, "pose": {"z"}, "shape": {"p"}, "texture": {"c"}}.items():
        after = generator.set(codes, name, photo)
        changed = {k for k in Codes.__dataclass_fields__ if not torch.equal(getattr(after, k), getattr(codes, k))}
        assert changed == touched
        assert after.z.shape == codes.z.shape


def test_seed_knobs_draw_the_same_code_into_every_row(generator, codes):
    after = generator.set(codes, "texture_seed", 5)
    assert (after.c == after.c[:1]).all()
    assert torch.equal(after.z, codes.z)
    rows = generator.set(codes, "pose_seed", torch.arange(4))
    assert len(rows.z.unique(dim=0)) == 4


def test_a_turn_leaves_the_background_alone_where_it_shares_z(generator, codes):
    shared = replace(codes, z_background=None)
    before, after = generator(shared), generator(generator.set(shared, "pose_seed", 3))
    assert torch.equal(before.background, after.background)
    assert not torch.equal(before.mask, after.mask)
    photo = torch.rand(1, 3, 32, 32) * 2 - 1
    of_doubles = generator.set(codes, "shape", photo.double())
    assert torch.equal(of_doubles.p, generator.set(codes, "shape", photo).p)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("colour", 1, "no knob 'colour'"),
        ("shape", 3, "takes pictures"),
        ("shape", torch.zeros(1, 3, 8, 8), "takes pictures"),
        ("shape", torch.zeros(1, 3, 32, 32, dtype=torch.uint8), "got whole numbers"),
        ("shape_seed", 1.5, "whole number"),
        ("shape_seed", "x", "whole number"),
    ],
)
def test_wrong_knob_values_are_refused(generator, codes, name, value, message):
    with pytest.raises(ValueError, match=message):
        generator.set(codes, name, value)


def test_wrong_configs_are_refused():
    with pytest.raises(ValueError, match="multiple"):
        GeneratorConfig(n_shapes=3, n_textures=10)
    with pytest.raises(ValueError, match="lower end"):
        PoseConfig(scale=(0.5, 0.4))
    with pytest.raises(ValueError, match="z_dim"):
        GeneratorConfig(z_dim=6)


def test_saved_and_loaded_it_paints_the_same(tmp_path, generator, codes):
    save_generator(tmp_path / "g.safetensors", generator)
    again = load_generator(tmp_path / "g.safetensors")
    assert torch.equal(again(codes).image, generator(codes).image)


@pytest.mark.parametrize("preset", [CARS_64, CLOTHING_64], ids=["cars", "clothing"])
def test_presets_fit_in_a_bundle(preset):
    generator = Generator(preset.generator)
    assert 2 * sum(p.numel() for p in generator.parameters()) < 20e6  # bytes in bfloat16
    assert generator.resolution == preset.data.size
