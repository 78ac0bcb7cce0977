"""GIRAFFE HD's fast losses by hand."""

import math
from dataclasses import replace

import pytest
import torch

from giraffe_hd.fast.config import DiscriminatorConfig, GeneratorConfig
from giraffe_hd.fast.losses import binarisation, coverage, pose_error, surface_spread
from giraffe_hd.fast.presets import CARS_64
from giraffe_hd.fast.prior import pose_targets
from giraffe_hd.fast.recipe import Recipe
from training.nn.fields import ObjectField
from training.nn.gan import discriminator_loss, generator_loss, learning, r1_penalty
from training.nn.volume import BoxRays, render_rays
from training.types import Batch, Step


def test_adversarial_losses_by_hand():
    zero = torch.zeros(3)
    assert generator_loss(zero).item() == pytest.approx(math.log(2))
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert discriminator_loss(torch.tensor([1.0]), torch.tensor([-2.0])).item() == pytest.approx(
        math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))
    )


def test_r1_of_a_linear_critic_is_its_squared_slope():
    image = torch.rand(2, 3, 4, 4, requires_grad=True)
    slope = torch.randn(3, 4, 4)
    logit = (image * slope).sum((1, 2, 3))
    torch.testing.assert_close(r1_penalty(logit, image), slope.square().sum())


def test_pose_error_by_hand():
    true = torch.zeros(1, 6)
    read = torch.tensor([[1.0, 0, 0, 0, 0, 2.0]])
    assert pose_error(read, true, (2.0, 2.0, 1.0, 1.0, 1.0, 0.5)).item() == pytest.approx((2 * 1 + 0.5 * 4) / 6)


def test_coverage_is_per_picture():
    """One picture full, one empty: the mean over the batch is right, each picture is wrong."""
    hit = torch.ones(2, 1, 4, 4)
    alpha = torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)])
    assert coverage(alpha, hit, (0.4, 0.8)).item() == pytest.approx((0.2 + 0.4) / 2)
    assert coverage(torch.full((2, 1, 4, 4), 0.5), hit, (0.4, 0.8)).item() == 0


def test_binarisation_by_hand():
    assert binarisation(torch.tensor([[[[0.0, 1.0], [0.5, 0.2]]]])).item() == pytest.approx((0.5 + 0.2) / 4)


class Evenly(ObjectField):
    """A field of the same density everywhere in its box."""

    def __init__(self, density: float) -> None:
        super().__init__(4, 1, 1, 1, mirror=False, density=density)

    def at(self, p, weights, noise=None):
        return torch.full(p.shape[:2], self.density), torch.ones(*p.shape[:2], 4)


def test_spread_of_haze_and_of_a_wall_by_hand():
    """Four samples at depths 1.25, 1.75, 2.25, 2.75, all of one weight: variance .3125, over .5 squared."""
    line = torch.tensor([[[0.0, 0.0, 1.0]]]).expand(1, 8, 3)
    rays = BoxRays(torch.zeros(1, 1, 3), line, torch.ones(1, 8), torch.full((1, 8), 3.0), torch.ones(8))
    rays = rays._replace(far=torch.tensor([[3.0, 3, 3, 3, 3, 3, 3, 0]]))  # the last one misses
    length, w = torch.tensor([[0.5]]), torch.zeros(1, 1)
    haze = render_rays(Evenly(1e-5), rays, length, w, 4)
    torch.testing.assert_close(haze.spread[haze.real], torch.full((7,), 0.3125), rtol=1e-3, atol=0)
    assert haze.depth[0, 0].item() == pytest.approx(2.0, abs=1e-3)
    thin = surface_spread(haze.real * haze.opacity, haze.spread, length)
    assert thin.item() == pytest.approx(1.25 * haze.opacity[haze.real].sum().item(), rel=1e-3)  # haze hardly counts
    denser, wall = (render_rays(Evenly(density), rays, length, w, 4) for density in (2.0, 1e4))
    assert surface_spread(denser.real * denser.opacity, denser.spread, length).item() > 0.05
    assert surface_spread(wall.real * wall.opacity, wall.spread, length).item() == pytest.approx(0, abs=1e-6)


def test_hard_surfaces_are_asked_of_the_field_alone():
    recipe = Recipe(replace(TINY, surface_weight=2.0), torch.device("cpu"))
    batch = Batch(image=torch.rand(4, 3, 16, 16))
    step = Step(index=0, images=0, rng=torch.Generator().manual_seed(0))
    recipe.begin(batch, step)
    with learning(recipe.generator.parameters()):
        loss = recipe.generator_losses(batch, step)["surface"]
        loss.backward()
    learns = {name.split(".")[0] for name, p in recipe.generator.named_parameters() if p.grad is not None}
    assert learns == {"field", "map_shape"}
    recipe.fake = replace(
        recipe.fake, spread=None
    )  # as of rays that do not tell it: fewer rays are drawn for it, without noise
    assert recipe.softness().item() == pytest.approx(loss.item() / 2, rel=0.5)
    recipe.generator.field.density = 1e4
    assert recipe.softness() < loss / 8
    recipe.begin(batch, step)
    assert recipe.softness() < loss / 8


TINY = replace(
    CARS_64,
    loop=replace(CARS_64.loop, bf16=False),
    data=replace(CARS_64.data, size=16),
    generator=GeneratorConfig(
        resolution=16, rays=8, object_channels=(8, 6), background_channels=(8, 6, 4), field_dim=8, features=8
    ),
    discriminator=DiscriminatorConfig(channels=(8, 10)),
)


def test_cutouts_compare_the_object_alone_and_the_place_alone():
    recipe = Recipe(replace(TINY, cutouts=1.0), torch.device("cpu"))
    mask = torch.zeros(8, 1, 16, 16)
    mask[:, :, 5:9, 6:10] = 1
    photos = torch.rand(8, 3, 16, 16)
    step = Step(index=0, images=0, rng=torch.Generator().manual_seed(0))
    recipe.begin(Batch(image=photos, mask=mask), step)
    place = recipe.real_places[0]
    assert torch.equal(place[:, :3], photos[-len(recipe.real_places), :, :3])
    covered = place[:, 3:11, 4:12].flatten(1)  # two pixels around the mask too
    torch.testing.assert_close(covered, covered[:, :1].expand_as(covered))
    losses = recipe.generator_losses(Batch(image=photos, mask=mask), step)
    parts = {"cutouts": recipe.generator.object, "places": recipe.generator.background}
    for name in parts:
        recipe.generator.zero_grad()
        with learning(recipe.generator.parameters()):
            losses[name].backward(retain_graph=True)
        learns = {part for part, net in parts.items() if any(p.grad is not None for p in net.parameters())}
        assert learns == {name}


def test_the_elevation_weighs_more_once_bodies_are_cars():
    """At the ramp's middle the weights are halfway, and three eighths of the batch are also read alone."""
    config = replace(TINY, pose_ramp=(100, 200))
    recipe = Recipe(config, torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    batch = Batch(image=torch.zeros(8, 3, 16, 16))
    for images, alone, elevation in ((0, 2, 1.0), (150, 3, 2.5), (10_000, 4, 4.0)):
        step = Step(index=0, images=images, rng=torch.Generator().manual_seed(0))
        recipe.begin(batch, step)
        assert len(recipe.on_flat_background) == alone
        true = pose_targets(recipe.codes, config.generator.pose)
        wrong = true.clone()
        wrong[:, 2] += 1  # off by one in the elevation only: the mean over six readings is its weight over six
        error = recipe.pose_losses(wrong, wrong[:1], step)["pose"]
        assert error.item() == pytest.approx(config.pose_weight * elevation / 6, rel=1e-5)
