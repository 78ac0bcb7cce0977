"""Training the fast MixNMatch: losses, phases, reconstruction, shapes split in two."""

import math
from dataclasses import replace

import pytest
import torch

from mixnmatch.fast.recipe import Recipe
from mixnmatch.fast.split_shape import style_changes, two_means
from tests.mixnmatch.fast.tiny import PLANE, TURN, at, batch, tiny
from training.batched import rows
from training.loop.step import train_step
from training.runtime.sharded_random import sharded_generator
from training.types import Batch, Step


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
    recipe = Recipe(replace(tiny(TURN), learning_rate=8e-3), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases, seen = recipe.phases(), []
    for index in range(16):
        recipe.begin(batch(), at(index))
        logged = train_step(phases, batch(), at(index))
        seen.append(float(logged["generator/texture_classification"] + logged["generator/background_classification"]))
    assert sum(seen[-4:]) < 0.9 * sum(seen[:4])


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
