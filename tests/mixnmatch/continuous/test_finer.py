"""MixNMatch with continuous codes: background codes of more cells and outlines drawn with more of them."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from mixnmatch.continuous.encoders import BackgroundEncoder, Outline, ShapeEncoder, within
from mixnmatch.continuous.frame import pose_of_boxes
from mixnmatch.continuous.generator import Generator
from mixnmatch.continuous.presets import CLOTHING_64, CLOTHING_128, PETS_64, PETS_128
from mixnmatch.continuous.recipe import Recipe
from mixnmatch.continuous.stages import BackgroundStage, ShapeStage, unfolded
from mixnmatch.fast.losses import binary
from tests.mixnmatch.continuous.test_continuous import TINY, photos, tiny
from training.imaging.fill import mirror_filled, smoothly_filled
from training.loop.step import step_rng, train_step
from training.types import Batch, Step
from training.warm_start import copy_matching


def test_sixteen_cells_keep_a_pattern_that_eight_cannot_hold() -> None:
    config = replace(TINY, background_cells=16, background_widths=(16, 16, 12))
    torch.manual_seed(0)
    encoder, decoder = BackgroundEncoder(config), BackgroundStage(config)
    optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2, betas=(0.5, 0.99))
    nowhere, rng, found, averaged = torch.zeros(4, 1, 64, 64), torch.Generator().manual_seed(1), [], []
    for _ in range(50):
        greys = torch.rand(4, 1, 16, 16, generator=rng) * 1.6 - 0.8
        image = F.interpolate(greys, size=(64, 64), mode="nearest").expand(-1, 3, -1, -1)
        loss = (decoder(encoder(image, nowhere)) - image).abs().mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        found.append(float(loss.detach()))
        averaged.append(float((F.interpolate(F.avg_pool2d(image, 8), scale_factor=8) - image).abs().mean()))
    assert sum(found[-10:]) < 0.6 * sum(averaged[-10:])  # 8 x 8 cells hold one mean colour each


def test_a_map_in_the_shape_code_keeps_an_outline_that_a_vector_cannot_hold() -> None:
    nothing, rng = torch.zeros(4, 4), torch.Generator().manual_seed(1)
    nothing[:, 2:] = math.log(0.9)
    errors = []
    for channels in (0, 4):
        torch.manual_seed(0)
        config, found = replace(TINY, shape_map_channels=channels), []
        encoder, decoder = ShapeEncoder(config), ShapeStage(config)
        optimizer = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-2, betas=(0.5, 0.99))
        for _ in range(60):
            mask = F.interpolate((torch.rand(4, 1, 8, 8, generator=rng) < 0.5).float(), size=(64, 64))
            drawn = unfolded(decoder.feature(nothing, encoder(mask.expand(-1, 3, -1, -1) * 2 - 1, mask, nothing)))
            inside = slice(4, 60)  # the frame
            loss = (drawn - mask)[..., inside, inside].abs().mean()
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            found.append(float(loss.detach()))
        errors.append(sum(found[-10:]) / 10)
    assert errors[1] < 0.6 * errors[0]


def test_shading_of_clean_outlines_sees_the_object_alone() -> None:
    image, mask, _ = photos()
    before = [torch.where(mask > 0.5, image, level) for level in (-1.0, 1.0)]
    dark, bright = (within(shown, mask > 0.5) for shown in before)
    torch.testing.assert_close(dark, bright)
    core = F.max_pool2d(1 - mask, 3, stride=1, padding=1) == 0
    assert core.any() and torch.equal(dark[core.expand_as(dark)], image[core.expand_as(image)])


@pytest.mark.parametrize("stage", ["outline", "code"])
def test_masks_of_clean_outlines_cover_the_same_with_steeper_edges(stage: str) -> None:
    torch.manual_seed(0)
    masks, (image, _, boxes) = [], photos()
    p = torch.randn(4, TINY.shape_dim)
    for clean in (False, True):
        torch.manual_seed(0)
        config = replace(TINY, clean_outlines=clean)
        net = Outline(config) if stage == "outline" else ShapeStage(config)
        net.requires_grad_(False)
        if isinstance(net, Outline):
            net.edge.weight.mul_(3)
            masks.append(unfolded(net(image)[0]))
        else:
            masks.append(unfolded(net.feature(pose_of_boxes(boxes), p)))
    assert torch.equal(*(mask > 0.5 for mask in masks)) and 0.02 < float((masks[0] > 0.5).float().mean()) < 0.98
    assert float(binary(masks[1])) < 0.7 * float(binary(masks[0]))


def test_a_code_of_sixteen_cells_sees_no_object() -> None:
    encoder = BackgroundEncoder(replace(TINY, background_cells=16))
    image, mask, _ = photos()
    with torch.no_grad():
        code, again = encoder(image, mask), encoder(image + mask * 0.7, mask)
        elsewhere = encoder(image + (1 - mask) * 0.2, mask)
    assert code.shape == (4, TINY.background_channels * 16**2)
    assert torch.equal(code, again)
    assert not torch.equal(code, elsewhere)


@pytest.fixture
def outlines() -> tuple[ShapeStage, ShapeStage, Tensor, Tensor]:
    """Return shape stages of 32 and of 64 cells with the same weights, poses and shape codes."""
    torch.manual_seed(0)
    coarse = ShapeStage(replace(TINY, resolution=128))
    fine = ShapeStage(replace(TINY, resolution=128, shape_channels=(16, 12, 8, 8, 6)))
    with torch.no_grad():
        copy_matching(fine, coarse.state_dict())
    return coarse, fine, pose_of_boxes(photos()[2]), torch.randn(4, TINY.shape_dim)


def test_details_of_the_outline_begin_as_nothing_and_are_learnt(
    outlines: tuple[ShapeStage, ShapeStage, Tensor, Tensor],
) -> None:
    coarse, fine, z, p = outlines
    drawn, again = coarse.feature(z, p), fine.feature(z, p)
    assert float((again - drawn).abs().mean().detach()) < 0.02 * float(drawn.std().detach())  # resampled once more
    again.square().mean().backward()
    for weight in fine.details.parameters():
        assert weight.grad is not None
        assert float(weight.grad.abs().max()) > 0


def test_details_of_sixty_four_cells_reach_the_mask(outlines: tuple[ShapeStage, ShapeStage, Tensor, Tensor]) -> None:
    _, fine, _, p = outlines
    whole = pose_of_boxes(torch.tensor([[0.0, 0, 1, 1]])).expand(4, -1)
    chequers = (torch.arange(64)[:, None] + torch.arange(64)[None, :]) % 2 * 2.0 - 1

    def roughness() -> Tensor:
        mask = fine(fine.feature(whole, p))[1].detach()
        return mask[:, :, 60:68, 60:68].std((2, 3))  # in eight pixels, where 32 cells draw nearly one grey

    before = roughness()
    fine.finer[0].register_forward_hook(lambda *_: chequers.expand(4, 6, -1, -1))
    torch.nn.init.ones_(next(fine.details.parameters()))
    assert bool((roughness() > 5 * before).all())


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"background_cells": 12}, "background_cells is 12; expected 8 or 16"),
        ({"background_cells": 16, "background_channels": 2}, "background_channels is 2; expected at least 3"),
        ({"texture_colours": True, "texture_channels": 2}, "texture_channels is 2; expected at least 3"),
        ({"shape_channels": (8, 8, 8)}, "shape_channels has 3 numbers; expected 4 or 5"),
    ],
)
def test_sizes_that_cannot_be_drawn_are_refused(change: dict, said: str) -> None:
    with pytest.raises(ValueError, match=said):
        replace(TINY, **change)


def test_presets_of_photos_read_backgrounds_finely() -> None:
    assert all(preset.generator.background_cells == 16 for preset in (CLOTHING_64, CLOTHING_128, PETS_64, PETS_128))
    assert len(CLOTHING_128.generator.shape_channels) == 5


def test_discriminators_and_reconstructions_train_backgrounds_only_where_the_photo_shows_them() -> None:
    """An object's rim is covered by no soft mask: a background that reconstructs it draws an outline there."""
    torch.manual_seed(0)
    recipe, drawn = Recipe(tiny(), torch.device("cpu")), []
    recipe.generator.background.register_forward_hook(lambda *call: drawn.append(call[2]))
    image, mask, boxes = photos()
    recipe.begin(Batch(image=image, box=boxes, mask=mask), Step(index=0, images=0, rng=step_rng(0, 0)))
    rim = F.max_pool2d(mask, 5, stride=1, padding=2).expand_as(image) > 0.3
    photo, mixed = recipe.shared.reconstruction.image, recipe.shared.mixes.image
    (trained,) = torch.autograd.grad(photo.square().sum(), drawn[0], retain_graph=True)
    assert not trained[rim].any()
    assert float((trained[~rim] != 0).float().mean()) > 0.9
    (trained,) = torch.autograd.grad(mixed.square().sum(), drawn[0])
    assert not trained[rim].any() and trained[~rim].any()


def softness_after(steps: int, weight: float) -> float:
    """Train on four photos; return the mean distance of masks by codes from 0 or 1."""
    torch.manual_seed(0)
    config = tiny()
    recipe = Recipe(replace(config, losses=replace(config.losses, binary=weight)), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    image, mask, boxes = photos()
    batch, phases = Batch(image=image, box=boxes, mask=mask), recipe.phases()
    for index in range(steps):
        step = Step(index=index, images=4 * index, rng=step_rng(0, index))
        recipe.begin(batch, step)
        train_step(phases, batch, step)
    by_code = recipe.shared.by_code
    return float(torch.minimum(by_code, 1 - by_code).mean().detach())


def test_masks_by_codes_can_be_kept_from_being_half_transparent() -> None:
    assert softness_after(12, weight=20.0) < 0.65 * softness_after(12, weight=0.0)


def test_behind_an_object_the_pattern_beside_it_goes_on_mirrored() -> None:
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 20:] = 1  # the right: what is seen ends at column 19
    stripes = (torch.arange(64) // 2 % 2 * 0.4 - 0.2).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    filled = mirror_filled(torch.where(hole > 0, 9.0, stripes), hole)
    torch.testing.assert_close(filled[..., :20], stripes[..., :20])
    torch.testing.assert_close(filled[..., 20:37], stripes[..., 2:19].flip(3), atol=0.05, rtol=0)
    assert float(mirror_filled(stripes, torch.ones_like(hole)).abs().max()) == 0  # nothing is seen


def test_what_comes_from_two_sides_is_not_divided_by_a_seam() -> None:
    hole = torch.zeros(1, 1, 64, 64)
    hole[..., 16:48] = 1
    ramp = (torch.arange(64.0) / 32 - 1).view(1, 1, 1, 64).expand(1, 3, 64, 64)  # dark on the left, light on the right
    filled = mirror_filled(torch.where(hole > 0, 9.0, ramp), hole)
    assert float(filled.diff(dim=3).abs().max()) < 0.4  # copied alone, colours step by 1.9 in the middle


@pytest.mark.parametrize("share", [-0.1, 1.0])
def test_backgrounds_cannot_be_learnt_first_for_the_whole_run(share: float) -> None:
    with pytest.raises(ValueError, match="expected a share of the run"):
        replace(tiny(), background_first=share)


def test_backgrounds_can_be_learnt_first_and_alone() -> None:
    torch.manual_seed(0)
    recipe = Recipe(replace(tiny(), background_first=0.125), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    image, mask, boxes = photos()
    batch, phases = Batch(image=image, box=boxes, mask=mask), recipe.phases()

    def changed(index: int) -> set[str]:
        before = {name: weight.clone() for name, weight in recipe.networks.named_parameters()}
        step = Step(index=index, images=4 * index, rng=step_rng(0, index))
        recipe.begin(batch, step)
        logged = train_step(phases, batch, step)
        assert all(bool(term.isfinite()) for term in logged.values())
        moved = (name for name, weight in recipe.networks.named_parameters() if not torch.equal(weight, before[name]))
        return {".".join(name.split(".")[:2]) for name in moved}

    with pytest.raises(ValueError, match="needs the objects' masks"):
        recipe.begin(replace(batch, mask=None), Step(index=0, images=0, rng=step_rng(0, 0)))
    for index in (0, 1):
        assert changed(index) == {"generator.background", "generator.background_encoder"}
    both = changed(2)
    assert {"generator.shape", "generator.background"} <= both
    assert any(name.startswith("discriminator.") for name in both)


def test_mean_colours_of_cells_are_drawn_before_anything_is_learnt() -> None:
    torch.manual_seed(0)
    config = replace(TINY, background_cells=16)
    encoder, decoder = BackgroundEncoder(config), BackgroundStage(config)
    greys = torch.rand(2, 3, 16, 16, generator=torch.Generator().manual_seed(1)) * 1.6 - 0.8
    image = F.interpolate(greys, size=(64, 64), mode="nearest")
    with torch.no_grad():
        drawn = decoder(encoder(image, torch.zeros(2, 1, 64, 64)))
    smooth = F.interpolate(greys, size=(64, 64), mode="bilinear")
    assert float((drawn - smooth).abs().max()) < 0.2  # the mean of two colours' atanh is not that of the colours


def test_objects_begin_with_their_own_colours() -> None:
    torch.manual_seed(0)
    generator = Generator(replace(TINY, texture_colours=True)).requires_grad_(False)
    image, mask, boxes = photos()
    z = pose_of_boxes(boxes)
    code = generator.texture_encoder(image, mask, z)
    drawn = generator.texture(generator.extractor(image)[0], z, code)
    inside = F.max_pool2d(1 - mask, 9, stride=1, padding=4) == 0
    assert float(((drawn - image).abs() * inside).max()) < 0.05
    other = generator.texture_encoder(image + (1 - mask) * 0.7, mask, z)
    torch.testing.assert_close(other, code, atol=1e-2, rtol=0)  # as ever, of the object alone


def test_colours_go_on_smoothly_behind_an_object() -> None:
    ramp = (torch.arange(64.0) / 32 - 1).view(1, 1, 1, 64).expand(1, 3, 64, 64)
    seen = torch.ones(1, 1, 64, 64)
    seen[:, :, 8:56, 8:56] = 0
    cells = smoothly_filled(torch.where(seen > 0, ramp, 9.0), seen, 16)
    true = F.avg_pool2d(ramp, 4)
    torch.testing.assert_close(cells[:, :, :2], true[:, :, :2], atol=0.05, rtol=0)  # what is seen stays
    assert float(cells.abs().max()) < 1  # nothing of the object
    assert float(cells.diff(dim=3).abs().max()) < 0.5  # from one cell to the next; -1 to 1 from side to side
    assert float(smoothly_filled(ramp, torch.zeros_like(seen), 16).abs().max()) == 0


def test_a_background_of_other_cells_begins_anew() -> None:
    torch.manual_seed(0)
    eight, sixteen = (
        Recipe(replace(tiny(), generator=replace(TINY, background_cells=n)), torch.device("cpu")) for n in (8, 16)
    )
    torch.nn.init.ones_(eight.generator.background.to_rgb.weight)
    copy_matching(sixteen.networks, sixteen.adapt_weights(eight.networks.state_dict()))
    assert not bool(sixteen.generator.background.to_rgb.weight.detach().any())
    shapes = (recipe.generator.shape.start.weight for recipe in (eight, sixteen))
    assert torch.equal(*shapes)
