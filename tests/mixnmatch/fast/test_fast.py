"""The fast MixNMatch: what each code may move, how photos become codes, and that its recipe learns."""

import math
from dataclasses import fields, replace

import pytest
import torch

from giraffe_hd.fast.presets import CARS_64 as GIRAFFE_CARS_64
from giraffe_hd.fast.recipe import Recipe as GiraffeRecipe
from mixnmatch.codes import Codes
from mixnmatch.fast.config import GeneratorConfig, PoseConfig, TrainConfig
from mixnmatch.fast.generator import Generator
from mixnmatch.fast.pose import FOV, object_pose, placing, pose_features, uniform
from mixnmatch.fast.presets import CARS_64, CLOTHING_64
from mixnmatch.fast.recipe import Recipe
from mixnmatch.fast.split_shape import style_changes, two_means
from mixnmatch.fast.stages import over
from training.batched import rows
from training.checkpoint import load_generator, save_generator
from training.loop.step import train_step
from training.nn.discriminator import Features
from training.runtime.sharded_random import sharded_generator
from training.types import Batch, Step
from training.warm_start import copy_matching

TURN = GeneratorConfig(
    resolution=32,
    n_backgrounds=4,
    n_shapes=3,
    n_textures=6,
    field_dim=16,
    samples=4,
    volume=(1, 8, 8),
    volume_dim=7,
    shape_dim=16,
    feature_dim=8,
    texture_dim=16,
    background_dim=16,
    style_dim=16,
    encoder_dim=16,
)
PLANE = replace(TURN, pose=PoseConfig(kind="plane"), mirror=False)


@pytest.fixture(params=[TURN, PLANE], ids=["turn", "plane"])
def generator(request):
    torch.manual_seed(0)
    return Generator(request.param).eval().requires_grad_(False)


@pytest.fixture
def codes(generator) -> Codes:
    return generator.sample(4, torch.Generator().manual_seed(1))


def other(generator) -> Codes:
    return generator.sample(4, torch.Generator().manual_seed(2))


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
    features, alpha, _, _ = other.volume(same, shape)
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


def tiny(pose: GeneratorConfig) -> TrainConfig:
    loop = replace(CARS_64.loop, batch=4, images=64, bf16=False)
    losses = replace(CARS_64.losses, pair_ramp=(0, 1), condition_ramp=(0, 1), r1_every=2, augment=0.5)
    return replace(
        CARS_64,
        loop=loop,
        data=replace(CARS_64.data, size=pose.resolution),
        generator=pose,
        losses=losses,
        discriminator_channels=(16, 16, 16),
        patch_dim=8,
        feature_since=0,
    )


def batch(side: int = 32) -> Batch:
    rng = torch.Generator().manual_seed(0)
    image = torch.rand(4, 3, side, side, generator=rng) * 2 - 1
    return Batch(image=image, box=torch.tensor([[0.3, 0.3, 0.7, 0.7]]).expand(4, 4), index=(0, 1, 2, 3))


def at(index: int) -> Step:
    return Step(index=index, images=4 * index, rng=torch.Generator().manual_seed(index))


@pytest.mark.parametrize("pose", [TURN, PLANE], ids=["turn", "plane"])
def test_every_network_learns_and_every_loss_is_finite(pose):
    torch.manual_seed(0)
    recipe = Recipe(tiny(pose), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases, before = recipe.phases(), {k: v.clone() for k, v in recipe.networks.state_dict().items()}
    for index in range(2):
        recipe.begin(batch(), at(index))
        logged = train_step(phases, batch(), at(index))
        assert all(torch.isfinite(value) for value in logged.values()), logged
        assert not any(name.endswith("skipped") for name in logged)
    names = {name for name, _ in recipe.networks.named_parameters()}
    still = {k for k, v in recipe.networks.state_dict().items() if k in names and torch.equal(v, before[k])}
    assert not still


def test_objects_alone_stand_on_one_colour_each():
    recipe = Recipe(tiny(TURN), torch.device("cpu"))
    codes = recipe.generator.sample(8, torch.Generator().manual_seed(3))
    layers = recipe.generator(codes)
    object_only = torch.zeros_like(layers.mask)
    object_only[:, :, 8:20, 8:24] = 1
    layers = replace(layers, mask=object_only, image=torch.where(object_only > 0, layers.image, layers.background))
    alone = recipe.on_flat_background(layers, at(0))
    assert len(alone) == 2  # a quarter
    torch.testing.assert_close(alone[:, :, 8:20, 8:24], layers.image[:2, :, 8:20, 8:24])
    behind = alone[:, :, 20:]
    torch.testing.assert_close(behind, behind[:, :, :1, :1].expand_as(behind))
    assert not torch.allclose(alone[0, :, 0, 0], alone[1, :, 0, 0])


def test_no_pose_is_read_where_none_is_asked():
    config = tiny(TURN)
    recipe = Recipe(replace(config, losses=replace(config.losses, pose=(0.0, 0.0))), torch.device("cpu"))
    recipe.begin(batch(), at(1))
    logged = recipe.image_discriminator(batch(), at(1))
    assert set(logged) == {"loss"}


def test_weights_settle_by_hand():
    recipe = Recipe(tiny(TURN), torch.device("cpu"))
    start, end = recipe.losses.annealing_ramp
    weights = [recipe.annealed((3.0, 1.0), replace(at(0), images=n)) for n in (0, (start + end) // 2, end + 9)]
    assert weights == [3.0, 2.0, 1.0]


def test_the_critic_compares_pictures_of_like_pose_when_told():
    recipe = Recipe(tiny(TURN), torch.device("cpu"))
    critic, image = recipe.networks["image_discriminator"], batch().image
    (alone, pose), (given, same) = critic(image), critic(image, 1.0)
    assert pose.shape == (4, TURN.pose.n_placing)
    torch.testing.assert_close(pose, same)
    assert not torch.allclose(alone, given)


def test_a_few_steps_lower_the_code_losses():
    torch.manual_seed(0)
    recipe = Recipe(tiny(TURN), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases, seen = recipe.phases(), []
    for index in range(40):
        recipe.begin(batch(), at(index))
        logged = train_step(phases, batch(), at(index))
        seen.append(float(logged["generator/texture_classification"] + logged["generator/background_classification"]))
    assert sum(seen[-8:]) < 0.9 * sum(seen[:8])


def test_the_first_stage_stands_still_when_it_is_over():
    recipe = Recipe(replace(tiny(TURN), first_stage_until=4), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases = recipe.phases()
    before = {k: v.clone() for k, v in recipe.generator.state_dict().items()}
    recipe.begin(batch(), at(2))
    logged = train_step(phases, batch(), at(2))
    moved = {k for k, v in recipe.generator.state_dict().items() if not torch.equal(v, before[k])}
    assert moved
    assert all(name.startswith("extractor.") for name in moved)
    assert not any(name.startswith("generator/") for name in logged)


def test_a_set_without_boxes_is_refused():
    recipe = Recipe(tiny(TURN), torch.device("cpu"))
    with pytest.raises(ValueError, match="boxes"):
        recipe.scene(replace(batch(), box=None))


def test_grids_are_rows_of_eight():
    config = replace(tiny(TURN), generator=replace(TURN, n_shapes=8, n_textures=8))
    recipe = Recipe(config, torch.device("cpu"))
    many = Batch(image=batch().image.repeat(4, 1, 1, 1))
    for pictures in recipe.grids(recipe.generator.eval(), many).values():
        assert pictures.shape[0] % 8 == 0
    few = recipe.grids(recipe.generator.eval(), batch())  # of a set of four pictures
    assert few["photos"].shape[0] == 8 * 4


def test_one_shape_has_no_rival():
    config = tiny(replace(TURN, n_shapes=1, n_textures=2, one_shape=True))
    recipe = Recipe(config, torch.device("cpu"))
    recipe.begin(batch(), at(3))
    terms = recipe.reconstruction(batch(), at(3))
    assert "shape_assignment" not in terms
    assert all(term.isfinite() for term in terms.values())
    with pytest.raises(ValueError, match="n_shapes and n_textures must each be at least 1"):
        replace(TURN, n_shapes=0)


def test_a_part_without_free_codes_names_the_same_losses():
    """With one picture a part, only the last parts of a batch are painted from free codes."""
    config = tiny(TURN)
    recipe = Recipe(replace(config, losses=replace(config.losses, free_share=(0.5, 0.5))), torch.device("cpu"))
    found = []
    for part in (0, 3):
        one = rows(batch(), slice(part, part + 1))
        step = Step(index=3, images=12, rng=sharded_generator(5, part, 4))
        recipe.begin(one, step)
        found.append(recipe.code_losses(step))
    assert list(found[0]) == list(found[1])
    assert all(term == 0 for term in found[0].values())
    assert all(term > 0 for term in found[1].values())


@pytest.mark.parametrize("share", [0.0, 1.0])
def test_pixels_pull_at_the_pose_as_far_as_told(share):
    config = tiny(TURN)
    recipe = Recipe(replace(config, losses=replace(config.losses, reconstruction_to_pose=share)), torch.device("cpu"))
    recipe.begin(batch(), at(3))
    encoders = recipe.generator.encoders.requires_grad_(True)
    recipe.shared = replace(recipe.now, encoded=encoders(batch().image))
    torch.stack(list(recipe.reconstruction(batch(), at(3)).values())).sum().backward()
    pose, texture = (dict(encoders.named_parameters())[f"heads.{name}.weight"].grad for name in "zc")
    assert pose is not None
    assert texture is not None
    assert texture.abs().max() > 0
    assert (pose.abs().max() > 0) == (share > 0)


def test_of_two_shapes_the_one_that_rebuilds_the_photo_is_likelier():
    torch.manual_seed(0)
    recipe = Recipe(tiny(replace(TURN, one_shape=True)), torch.device("cpu"))
    codes = recipe.generator.sample(12, torch.Generator().manual_seed(1))
    photos = recipe.generator(codes).image
    true = codes.p.argmax(1)
    other = (true + 1) % TURN.n_shapes
    between = (codes.p + torch.nn.functional.one_hot(other, TURN.n_shapes)) / 2
    better, worse = recipe.best_shape(recipe.discriminator_features(photos), replace(codes, p=between), at(0))
    assert torch.equal(better, true)
    assert torch.equal(worse, other)


def test_photos_are_shared_out_evenly():
    """Of two shapes as good as each other the one that photos are seldom read as is likelier, and no other."""
    torch.manual_seed(0)
    recipe = Recipe(tiny(replace(TURN, one_shape=True)), torch.device("cpu"))
    usage = recipe.usage
    assert usage is not None
    assert usage.excess.abs().max() == 0
    for _ in range(300):
        usage.update(torch.tensor([[0.9, 0.1, 0.0], [0.6, 0.4, 0.0], [0.4, 0.6, 0.0]]))
    torch.testing.assert_close(usage.shares, torch.tensor([2 / 3, 1 / 3, 0.0]), atol=0.05, rtol=0)
    torch.testing.assert_close(usage.excess[2], torch.tensor(0.1).log())  # a tenth of an equal share at least
    weight = recipe.generator.parent.embed.weight
    weight.requires_grad_(False)[:, 1] = weight[:, 0]
    weight[:, 1] += 1e-3 * torch.randn(len(weight))  # as good as the first, but for a trifle
    codes = recipe.generator.sample(32, torch.Generator().manual_seed(1))
    codes = replace(codes, p=torch.tensor([[0.5, 0.5, 0.0]]).repeat(32, 1))
    photos = recipe.discriminator_features(recipe.generator(codes).image)
    better, worse = recipe.best_shape(photos, codes, at(0))
    even = replace(recipe.losses, usage_balance=0.0)
    recipe.losses = even
    plain, _ = recipe.best_shape(photos, codes, at(0))
    assert (better == 1).sum() > (plain == 1).sum()
    assert torch.equal(better + worse, torch.ones(32, dtype=torch.long))


def test_encoders_come_to_prefer_the_better_shape(monkeypatch):
    recipe = Recipe(tiny(replace(TURN, one_shape=True)), torch.device("cpu"))
    recipe.begin(batch(), at(3))
    logits = torch.tensor([[2.0, 0.0, -1.0]]).repeat(4, 1)
    assert recipe.now.encoded is not None
    recipe.shared = replace(recipe.now, encoded=recipe.now.encoded | {"p": logits})
    zero, one = torch.zeros(2, dtype=torch.long), torch.ones(2, dtype=torch.long)
    for better, worse, expected in ((zero, one, math.log1p(math.exp(-2))), (one, zero, math.log1p(math.exp(2)))):
        monkeypatch.setattr(recipe, "best_shape", lambda *_, pair=(better, worse): pair)
        term = recipe.reconstruction(batch(), at(3))["shape_assignment"]
        assert term.item() == pytest.approx(recipe.losses.shape_assignment * expected, rel=1e-5)


def test_the_critic_tells_the_encoders_the_pose_of_photos():
    recipe = Recipe(tiny(TURN), torch.device("cpu"))
    recipe.begin(batch(), at(3))
    assert recipe.now.encoded is not None
    z = torch.zeros(4, TURN.z_dim)
    z[:, 0] = 3  # facing along the first axis, all else in the middle
    told = torch.tensor([[0.0, 2.0, 0.0, 0.0, 0.0, 7.0]]).repeat(4, 1)  # along the second, the last number at its end
    recipe.shared = replace(recipe.now, encoded=recipe.now.encoded | {"z": z}, photo_pose=told)
    term = recipe.pose_distillation(batch(), at(3))["pose_distillation"]
    assert term.item() == pytest.approx(recipe.losses.pose_distillation * 3 / 6)
    recipe.shared = replace(recipe.now, photo_pose=None)  # with accumulation, the critic looks in another pass
    read = recipe.discriminate(batch().image, at(9))[1]
    recipe.shared = replace(recipe.now, photo_pose=read)
    expected = recipe.pose_distillation(batch(), at(9))["pose_distillation"]
    recipe.shared = replace(recipe.now, photo_pose=None)
    torch.testing.assert_close(recipe.pose_distillation(batch(), at(9))["pose_distillation"], expected)


def test_photos_teach_the_background_nothing_inside_their_boxes():
    recipe = Recipe(tiny(replace(TURN, one_shape=True)), torch.device("cpu"))
    for box, learns in ((torch.tensor([[0.0, 0.0, 1.0, 1.0]]).expand(4, 4), False), (batch().box, True)):
        recipe.begin(batch(), at(3))
        recipe.generator.requires_grad_(True)
        terms = recipe.reconstruction(replace(batch(), box=box), at(3))
        assert {"reconstruction", "feature_matching", "shape_assignment", "box_projection"} <= terms.keys()
        (terms["reconstruction"] + terms["feature_matching"]).backward()
        found = recipe.generator.background.start.grad
        assert found is not None
        assert (found.abs().max() > 1e-6) == learns  # what is left is rounding
        recipe.generator.zero_grad()


def test_two_means_by_hand():
    points = torch.tensor([[0.0, 0.0], [0.0, 1.0], [9.0, 0.0], [9.0, 1.0], [9.0, 5.0]])
    means, which = two_means(points)
    order = means[:, 0].argsort()
    torch.testing.assert_close(means[order], torch.tensor([[0.0, 0.5], [9.0, 2.0]]))
    assert which[:2].unique().tolist() == [int(order[0])]
    assert which[2:].unique().tolist() == [int(order[1])]


def test_photos_wish_their_shape_towards_what_they_show(monkeypatch):
    """Photos of two shapes, read as what lies midway: the moves lead apart, and make the pictures more alike."""
    torch.manual_seed(0)
    recipe = Recipe(tiny(replace(TURN, one_shape=True)), torch.device("cpu"))
    painter = recipe.generator.requires_grad_(False)
    painter.parent.embed.weight.mul_(3)
    codes = painter.sample(24, torch.Generator().manual_seed(1))
    codes = replace(codes, p=torch.eye(3)[torch.arange(24) % 2])
    photos = painter(codes).image
    monkeypatch.setattr(painter, "encode", lambda *_: codes)
    ends = painter.parent.embed.weight[:, :2].clone()
    painter.parent.embed.weight[:, :2] = ends.mean(1, keepdim=True)
    moves = style_changes(recipe, photos, steps=10)
    second = torch.arange(24) % 2 == 1
    along = moves @ (ends[:, 1] - ends[:, 0])
    assert ((along > 0) == second).sum() >= 22  # from some sides two shapes look alike
    _, which = two_means(moves)
    same = int(((which == 1) == second).sum())
    assert max(same, 24 - same) >= 22
