"""MixNMatch with continuous codes: the object's frame, what each encoder can see, what each code can change, a step."""

from dataclasses import replace
from pathlib import Path
from typing import cast

import pytest
import torch
from torch import Tensor

from mixnmatch.continuous.config import GeneratorConfig, LossConfig, TrainConfig
from mixnmatch.continuous.discriminators import PATCH, patches
from mixnmatch.continuous.encoders import grey
from mixnmatch.continuous.frame import BOX_SHARE, WIDENED, cropped, filled, hidden, placed, pose_of_boxes, pose_of_masks
from mixnmatch.continuous.generator import Generator
from mixnmatch.continuous.presets import CLOTHING_64
from mixnmatch.continuous.recipe import Recipe
from training.checkpoint import load_generator, save_generator
from training.loop.step import step_rng, train_step
from training.nn.layers import EqualConv2d
from training.nn.projected_discriminator import ProjectedConfig
from training.types import Batch, Step
from training.warm_start import copy_matching

TINY = GeneratorConfig(
    shape_dim=8,
    texture_dim=8,
    texture_channels=4,
    background_channels=4,
    feature_dim=7,
    shape_channels=(16, 12, 8, 8),
    texture_widths=(12, 8),
    background_widths=(12, 8, 8, 8),
    style_dim=8,
    encoder_widths=(8, 8, 12),
    bank=8,
)
CODES = ("z", "b", "p", "c")


@pytest.fixture(scope="module")
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(TINY).eval().requires_grad_(False)


def photos(n: int = 4) -> tuple[Tensor, Tensor, Tensor]:
    """Return pictures of one coloured box each on a striped place, their masks and boxes."""
    rng = torch.Generator().manual_seed(3)
    stripes = (torch.arange(64) % 8 < 4).float() * 2 - 1
    image = torch.rand(n, 3, 1, 1, generator=rng) * stripes.view(1, 1, 1, 64).expand(n, 3, 64, 64) * 0.8
    mask, boxes = torch.zeros(n, 1, 64, 64), torch.zeros(n, 4)
    for i in range(n):
        x0, y0, x1, y1 = 12 + 2 * i, 10, 44 + 2 * i, 50 - 2 * i
        mask[i, :, y0:y1, x0:x1] = 1
        boxes[i] = torch.tensor([x0, y0, x1, y1]) / 64
    colour = torch.rand(n, 3, 1, 1, generator=rng) * 1.6 - 0.8
    return mask * colour + (1 - mask) * image, mask, boxes


def test_pose_of_a_box_by_hand() -> None:
    z = pose_of_boxes(torch.tensor([[0.25, 0.5, 0.75, 1.0]]))
    assert z[0].tolist() == pytest.approx([0.0, 0.5, torch.tensor(0.5).log().item(), torch.tensor(0.5).log().item()])


def test_pose_of_a_mask_is_that_of_its_box_and_specks_do_not_count() -> None:
    _, mask, boxes = photos()
    mask[:, :, 0, 0] = 1
    torch.testing.assert_close(pose_of_masks(mask), pose_of_boxes(boxes))


def test_an_empty_mask_counts_as_the_whole_picture() -> None:
    whole = torch.tensor([[0.0, 0, 1, 1]])
    torch.testing.assert_close(pose_of_masks(torch.zeros(1, 1, 32, 32)), pose_of_boxes(whole))


def test_what_is_placed_is_found_again_in_the_objects_frame() -> None:
    z = torch.tensor([[0.1, -0.2, -0.5, -0.3]])
    line = torch.linspace(-0.9, 0.9, 24)
    map = (line[None, :] * 2 + line[:, None]).view(1, 1, 24, 24)
    again = cropped(placed(map, z, 128), z, 24)
    torch.testing.assert_close(again[:, :, 2:-2, 2:-2], map[:, :, 2:-2, 2:-2], atol=0.05, rtol=0)


def test_the_frame_is_the_box_a_little_widened() -> None:
    _, _, boxes = photos(1)
    seen = placed(torch.ones(1, 1, 8, 8), pose_of_boxes(boxes), 64)
    width = (boxes[0, 2] - boxes[0, 0]) * 64
    assert float(seen[0, 0, 30].sum()) == pytest.approx(float(width) * WIDENED, abs=2)


def test_filling_keeps_the_inside_and_hides_the_outline() -> None:
    image, mask, _ = photos()
    result = filled(image, mask)
    assert torch.equal(result * mask, image * mask)
    assert float(result.std((2, 3)).max()) < 0.02  # one colour inside: one colour everywhere


def test_the_background_code_sees_no_object(generator: Generator) -> None:
    image, mask, _ = photos()
    other = image + mask * 0.7
    assert torch.equal(generator.background_encoder(image, mask), generator.background_encoder(other, mask))


def test_the_texture_code_sees_the_object_alone(generator: Generator) -> None:
    image, mask, boxes = photos()
    other = image + (1 - mask) * 0.7
    z = pose_of_boxes(boxes)
    torch.testing.assert_close(
        generator.texture_encoder(image, mask, z), generator.texture_encoder(other, mask, z), atol=1e-2, rtol=0
    )
    assert (
        float((generator.texture_encoder(image + 0.5, mask, z) - generator.texture_encoder(image, mask, z)).abs().max())
        > 0.05
    )


def test_the_shape_code_sees_no_colour_and_no_contrast(generator: Generator) -> None:
    image, mask, boxes = photos()
    z = pose_of_boxes(boxes)
    swapped = 0.8 * image.flip(1) + 0.1
    torch.testing.assert_close(
        generator.shape_encoder(image, mask, z), generator.shape_encoder(swapped, mask, z), atol=0.08, rtol=0
    )
    assert float(grey(image).mean((1, 2, 3)).abs().max()) < 1e-4


@pytest.mark.parametrize(
    ("code", "stays"), [("c", ("mask", "background")), ("b", ("mask",)), ("p", ("background",)), ("z", ("background",))]
)
def test_each_code_changes_its_own_layers_alone(generator: Generator, code: str, stays: tuple[str, ...]) -> None:
    one, other = generator.encode(photos()[0]), generator.sample(4, torch.Generator().manual_seed(5))
    before, after = generator(one), generator(replace(one, **{code: getattr(other, code)}))
    for layer in stays:
        assert torch.equal(getattr(before, layer), getattr(after, layer))
    assert not torch.equal(before.image, after.image)


def test_an_outline_takes_the_place_of_pose_and_shape(generator: Generator) -> None:
    image, *_ = photos()
    codes, other = generator.encode(image), generator.sample(4, torch.Generator().manual_seed(5))
    feature = generator.shape_feature(image)
    one, two = generator(codes, feature), generator(replace(codes, z=other.z, p=other.p), feature)
    assert torch.equal(one.image, two.image)


def test_factors_not_asked_for_are_zeros(generator: Generator) -> None:
    image, *_ = photos()
    whole, part = generator.encode(image), generator.encode(image, factors=("texture",))
    assert torch.equal(whole.c, part.c)
    assert all(float(getattr(part, name).abs().max()) == 0 for name in ("z", "b", "p"))
    with pytest.raises(ValueError, match="unknown factor 'colour'"):
        generator.encode(image, factors=("colour",))


def test_a_knob_sets_one_code_from_a_photo_and_a_seed_draws_it_anew(generator: Generator) -> None:
    image, *_ = photos()
    codes = generator.encode(image)
    changed = generator.set(codes, "texture", image[:1])
    torch.testing.assert_close(changed.c, codes.c[:1].expand_as(codes.c))
    assert all(torch.equal(getattr(changed, name), getattr(codes, name)) for name in ("z", "b", "p"))
    seeded = generator.set(codes, "background_seed", 3)
    assert not torch.equal(seeded.b, codes.b)
    assert torch.equal(seeded.c, codes.c)


def test_free_samples_take_each_factor_from_a_photo_kept() -> None:
    torch.manual_seed(0)
    generator = Generator(TINY).requires_grad_(False)
    first, second = (generator.sample(6, torch.Generator().manual_seed(seed)) for seed in (1, 2))
    generator.keep(first)
    generator.keep(second)  # 12 into a bank of 8: the four oldest are gone
    free = generator.sample(64, torch.Generator().manual_seed(9))
    for name in CODES:
        kept = torch.cat([getattr(first, name)[4:], getattr(second, name)]).half().float()
        found = (getattr(free, name)[:, None] == kept[None]).all(2)
        assert bool(found.any(1).all())
        assert bool(found.any(0).all())


def test_a_file_draws_the_same_bytes(tmp_path: Path, generator: Generator) -> None:
    save_generator(tmp_path / "made.safetensors", generator)
    again = load_generator(tmp_path / "made.safetensors")
    assert isinstance(again, Generator)
    image, *_ = photos()
    assert torch.equal(again(again.encode(image)).image, generator(generator.encode(image)).image)


def test_patches_are_cut_inside_the_object(rng: torch.Generator) -> None:
    image = torch.full((2, 3, 64, 64), -1.0)
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 20:44, 20:44] = 1
    image = torch.where(mask > 0, torch.ones(()), image).requires_grad_()
    cut = patches(image, mask, 5, rng)
    assert cut.shape == (2, 5, 3, PATCH, PATCH)
    middle = cut[..., PATCH // 2 - 1 : PATCH // 2 + 1, PATCH // 2 - 1 : PATCH // 2 + 1]
    assert float(middle.detach().min()) > 0.999
    cut.sum().backward()
    assert image.grad is not None


def tiny(augment: float = 0.0) -> TrainConfig:
    return TrainConfig(
        loop=replace(CLOTHING_64.loop, batch=4, images=64, bf16=False),
        data=CLOTHING_64.data,
        generator=TINY,
        losses=LossConfig(perceptual=0.0, r1_every=2, augment=augment),
        projected=ProjectedConfig(weight=0.0),
        discriminator_channels=(8, 8, 8, 8),
    )


def at(index: int) -> Step:
    return Step(index=index, images=4 * index, rng=step_rng(0, index))


def test_a_few_steps_bring_reconstructions_and_masks_nearer() -> None:
    torch.manual_seed(0)
    recipe = Recipe(tiny(augment=0.5), torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases, (image, mask, boxes) = recipe.phases(), photos()
    batch = Batch(image=image, box=boxes, mask=mask)
    logged = []
    for i in range(12):
        recipe.begin(batch, at(i))
        logged.append(train_step(phases, batch, at(i)))
    assert all(bool(value.isfinite()) for terms in logged for value in terms.values())
    for name in ("generator/pixels", "generator/mask", "generator/pose"):
        assert float(logged[-1][name]) < 0.9 * float(logged[0][name]), name
    recipe.average, twice = recipe.generator, Batch(image=image.repeat(2, 1, 1, 1))
    assert {len(x) % 8 for x in recipe.grids(recipe.generator, twice).values()} == {0}


def test_a_pose_is_the_box_around_the_mask_whatever_the_set_s_box() -> None:
    recipe = Recipe(tiny(), torch.device("cpu"))
    image, mask, boxes = photos()
    recipe.begin(Batch(image=image, box=boxes / 2, mask=mask), at(0))  # such as a head's
    torch.testing.assert_close(recipe.shared.codes.z, pose_of_boxes(boxes))


def test_a_frame_by_boxes_is_that_of_the_set_and_feature_mode_reads_it() -> None:
    config = replace(tiny(), generator=replace(TINY, frame="box"))
    recipe = Recipe(config, torch.device("cpu"))
    image, mask, boxes = photos()
    heads = torch.cat([boxes[:, :3], boxes.mean(1, keepdim=True)], 1)
    recipe.begin(Batch(image=image, box=heads, mask=mask), at(0))
    centre, half = heads[:, :2] + heads[:, 2:] - 1, (heads[:, 2:] - heads[:, :2]) * BOX_SHARE
    torch.testing.assert_close(recipe.shared.codes.z, torch.cat([centre, half.log()], 1))
    with pytest.raises(ValueError, match=r"--generator\.frame mask"):
        recipe.begin(Batch(image=image, mask=mask), at(0))
    generator = recipe.generator.requires_grad_(False)
    codes, feature = generator.encode(image), generator.shape_feature(image)
    own, z = generator.extractor(image)
    behind = generator.background(codes.b)
    torch.testing.assert_close(generator(codes, feature).image, generator.composed(behind, own, z, codes.c).image)


def test_bodies_go_on_below_the_frame_of_a_head() -> None:
    frame = torch.zeros(1, 1, 4, 4)
    frame[..., 2:, 1:3] = 1
    z = pose_of_boxes(torch.tensor([[0.25, 0.1025, 0.75, 0.4775]]))  # a frame that ends between rows 15 and 16
    ends, goes_on, mirrored = (
        placed(frame, z, 32, outside=outside)[0, 0] for outside in ("zeros", "border", "reflection")
    )
    assert float(ends[-1].max()) == 0
    assert float(goes_on[-1, 16]) == pytest.approx(1, abs=1e-5)
    assert float(goes_on[-1, 0]) == float(goes_on[0].max()) == 0  # not above it, nor at its sides
    torch.testing.assert_close(mirrored[16:24], mirrored[8:16].flip(0), atol=1e-5, rtol=0)


def test_a_texture_of_few_cells_cannot_say_where_eyes_are(generator: Generator) -> None:
    """Two maps whose quarters have the same means draw the same; one whose quarters differ does not."""
    few = Generator(replace(TINY, texture_cells=2)).eval()
    few.load_state_dict(generator.state_dict())
    image, _, _ = photos(1)
    codes = generator.encode(image)
    map = codes.c[:, TINY.texture_dim :].view(1, -1, 8, 8)
    eyes = map.clone()
    eyes[:, :, 1, 1], eyes[:, :, 2, 2] = map[:, :, 1, 1] + 3, map[:, :, 2, 2] - 3
    darker = map.clone()
    darker[:, :, :4, :4] -= 3
    with_map = {name: replace(codes, c=torch.cat([codes.c[:, : TINY.texture_dim], x.flatten(1)], 1))
                for name, x in (("eyes", eyes), ("darker", darker))}  # fmt: skip
    with torch.no_grad():
        drawn, all_drawn = few(codes).image, generator(codes).image
        torch.testing.assert_close(few(with_map["eyes"]).image, drawn)
        assert (few(with_map["darker"]).image - drawn).abs().max() > 0.01
        assert (generator(with_map["eyes"]).image - all_drawn).abs().max() > 0.01
    with pytest.raises(ValueError, match="texture_cells is 9; expected from 1 to 8"):
        replace(TINY, texture_cells=9)


@pytest.mark.parametrize(
    "before, more",
    [
        ({}, {"shape_dim": 12}),
        ({}, {"shape_map_channels": 2}),
        ({}, {"shape_dim": 12, "shape_map_channels": 2}),
        ({"shape_map_channels": 2}, {"detail_channels": 2}),
    ],
)
def test_a_longer_shape_code_draws_the_same_at_first_and_is_learnt(
    before: dict[str, int], more: dict[str, int]
) -> None:
    torch.manual_seed(0)
    configs = replace(TINY, **before), replace(TINY, **before, **more)
    short, long = (Recipe(replace(tiny(), generator=config), torch.device("cpu")) for config in configs)
    short.networks.requires_grad_(False)
    image, mask, boxes = photos()
    batch = Batch(image=image, box=boxes, mask=mask)
    short.begin(batch, at(0))  # its bank holds codes
    taken, numbers = copy_matching(long.networks, long.adapt_weights(short.networks.state_dict()))
    parts = long.generator.shape, long.generator.shape_encoder
    added = ("details.", "folds.") if before else ("local.", "map.")
    new = [n for part in parts for name, n in part.named_parameters() if name.startswith(added)]
    assert taken == numbers - sum(each.numel() for each in new)
    drawn, again = (net.generator(net.generator.encode(image)).image for net in (short, long))
    torch.testing.assert_close(again, drawn)
    samples = (net.generator(net.generator.sample(2, torch.Generator().manual_seed(0))).image for net in (short, long))
    torch.testing.assert_close(*samples)
    long.networks.requires_grad_(False)
    shape = long.generator.shape
    phases, start = long.phases(), shape.start.weight.clone()
    for i in range(2):
        long.begin(batch, at(i))
        train_step(phases, batch, at(i))
    if "shape_dim" in more:
        assert (shape.start.weight - start)[:, 8:].abs().mean() > 0
    if "shape_map_channels" in more:
        assert shape.local is not None and shape.local.weight.abs().mean() > 0
    if "detail_channels" in more:
        assert cast(EqualConv2d, shape.folds[-1]).weight.abs().mean() > 0


def take_steps(recipe: Recipe, batch: Batch, n: int) -> None:
    recipe.networks.requires_grad_(False)
    phases = recipe.phases()
    for i in range(n):
        recipe.begin(batch, at(i))
        train_step(phases, batch, at(i))


def test_no_loss_draws_backgrounds_behind_objects() -> None:
    image, mask, boxes = photos()
    batch, behind = Batch(image=image, box=boxes, mask=mask), (hidden(mask) > 0).expand_as(image)
    recipe, drawn = Recipe(tiny(), torch.device("cpu")), []
    recipe.generator.background.register_forward_hook(lambda *call: drawn.append(call[2]))
    recipe.begin(batch, at(0))
    loss = sum(recipe.generator_losses(batch, at(0)).values(), torch.zeros(()))
    (gradient,) = torch.autograd.grad(loss, drawn[0])
    assert gradient[~behind].abs().mean() > 0
    assert not gradient[behind].any()


def test_the_shading_by_codes_follows_that_by_outline() -> None:
    image, mask, boxes = photos()
    batch, found = Batch(image=image, box=boxes, mask=mask), []
    for weight in (0.0, 10.0):
        torch.manual_seed(0)
        config = tiny()
        details, losses = replace(config.generator, detail_channels=4), replace(config.losses, feature=weight)
        recipe = Recipe(replace(config, generator=details, losses=losses), torch.device("cpu"))
        take_steps(recipe, batch, 25)
        found.append(float(recipe.feature(mask).detach()))
    assert found[1] < 0.9 * found[0]


def test_a_set_without_masks_is_refused() -> None:
    recipe = Recipe(tiny(), torch.device("cpu"))
    image, _, boxes = photos()
    with pytest.raises(ValueError, match="needs the objects' masks"):
        recipe.begin(Batch(image=image, box=boxes), at(0))


def test_a_perceptual_loss_without_its_network_is_refused() -> None:
    with pytest.raises(ValueError, match=r"losses\.perceptual"):
        TrainConfig(data=CLOTHING_64.data, projected=ProjectedConfig(weight=0.0))
