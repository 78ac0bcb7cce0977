"""The published MixNMatch: its parts against plain versions of themselves, its losses against values worked by hand."""

import copy
import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from pydantic import TypeAdapter
from torch import Tensor, nn

from demo.models import Model
from mixnmatch.codes import Codes
from mixnmatch.paper import discriminators as critics_module
from mixnmatch.paper.config import GeneratorConfig, TrainConfig
from mixnmatch.paper.discriminators import BackgroundDiscriminator, ChildDiscriminator, PairCritics, ParentDiscriminator
from mixnmatch.paper.encoders import CODES
from mixnmatch.paper.feature_extractor import FeatureDiscriminator
from mixnmatch.paper.generator import Generator, tie
from mixnmatch.paper.layers import Halve, JointBlock, code_bias
from mixnmatch.paper.losses import (
    as_fake,
    as_real,
    background_cells,
    background_discriminator_loss,
    code_losses,
    gradient_penalty,
)
from mixnmatch.paper.presets import CARS, CUB, DOGS
from mixnmatch.paper.recipe import Recipe
from training.batched import fields_of
from training.checkpoint import load_generator, save_generator
from training.loop.step import train_step
from training.loop.train import train
from training.pictures import to_pil
from training.types import Batch, Image, Phase, Step, reads_outlines

TINY = GeneratorConfig(n_shapes=3, n_textures=6, n_backgrounds=6, z_dim=5, width=4, encoder_width=2, extractor_width=2)
TINY_RUN = replace(
    CUB,
    generator=TINY,
    discriminator_width=2,
    pair_width=1,
    feature_discriminator_width=2,
    first_stage=8,
    loop=replace(CUB.loop, batch=4, images=16, grid_every=16, save_every=8, log_every=1),
)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int = 4, seed: int = 0) -> Image:
    return torch.rand(n, 3, 128, 128, generator=seeded(seed)) * 2 - 1


def step_at(images: int, seed: int = 0) -> Step:
    return Step(index=images // 4, images=images, rng=seeded(seed))


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(TINY).eval()


@pytest.fixture
def recipe() -> Recipe:
    torch.manual_seed(0)
    return Recipe(TINY_RUN, torch.device("cpu"))


@pytest.fixture
def batch() -> Batch:
    box = torch.tensor([[0.2, 0.3, 0.6, 0.7], [0.5, 0.5, 0.9, 0.9], [0.0, 0.0, 1.0, 1.0], [0.4, 0.1, 0.5, 0.3]])
    return Batch(image=photos(seed=1), scene=photos(seed=2), box=box, scene_box=box)


def count(*networks: nn.Module) -> int:
    return sum(parameter.numel() for network in networks for parameter in network.parameters())


# Architecture


@pytest.mark.parametrize(
    ("preset", "millions"), [(CUB, 13.50), (DOGS, 12.01), (CARS, 13.43)], ids=["CUB", "Dogs", "Cars"]
)
def test_generators_have_the_published_number_of_parameters(preset: TrainConfig, millions: float):
    with torch.device("meta"):
        generator = Generator(preset.generator)
    assert round(count(generator.stages()) / 1e6, 2) == millions


def test_all_other_networks_have_the_published_number_of_parameters():
    with torch.device("meta"):
        generator = Generator(CUB.generator)
        D_b, D_p, D_c = BackgroundDiscriminator(64), ParentDiscriminator(32, 20), ChildDiscriminator(64, 200)
        pairs, D_f = PairCritics(CUB.generator, 16), FeatureDiscriminator(CUB.generator, 32)
    assert generator.extractor is not None
    assert count(generator.encoders) == 77_172_232
    assert round(count(generator.extractor) / 1e6, 1) == 39.1
    assert round(count(D_b) / 1e6, 3) == 0.667
    assert round(count(D_p) / 1e6, 1) == 3.0
    assert round(count(D_c) / 1e6, 1) == 13.3
    assert round(count(pairs) / 1e6, 2) == 17.75
    assert round(count(D_f) / 1e6, 2) == 0.17


@pytest.mark.parametrize(("h", "w"), [(1, 1), (1, 4), (2, 3), (5, 7), (16, 16)])
def test_code_bias_is_the_convolution_of_a_code_laid_out(h: int, w: int):
    code = torch.randn(2, 5, generator=seeded(), dtype=torch.float64)
    weight = torch.randn(4, 5, 3, 3, generator=seeded(1), dtype=torch.float64, requires_grad=True)
    ours = code_bias(code, weight, h, w)
    plain = F.conv2d(code[:, :, None, None].expand(-1, -1, h, w), weight, padding=1)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    up = torch.randn(ours.shape, generator=seeded(2), dtype=torch.float64)
    torch.testing.assert_close(torch.autograd.grad(ours, weight, up), torch.autograd.grad(plain, weight, up))


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize(("n", "h", "w"), [(1, 8, 8), (3, 4, 4), (2, 2, 6), (1, 16, 16)])
def test_halve_is_the_convolution(n: int, h: int, w: int, bias: bool):
    torch.manual_seed(0)
    layer = Halve(5, 7, bias=bias).double()
    x = torch.randn(n, 5, h, w, dtype=torch.float64, requires_grad=True)
    plain = F.conv2d(x, layer.weight, layer.bias, stride=2, padding=1)
    ours, up = layer(x), torch.randn_like(plain)
    torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)
    inputs = [x, *layer.parameters()]
    for a, b in zip(torch.autograd.grad(ours, inputs, up), torch.autograd.grad(plain, inputs, up), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize("code_first", [True, False])
def test_joint_block_is_the_block_on_the_joined_channels(code_first: bool):
    torch.manual_seed(0)
    block = JointBlock(3, 5, 4, code_first=code_first).double()
    x, code = torch.randn(2, 3, 6, 7, dtype=torch.float64), torch.randn(2, 5, dtype=torch.float64).softmax(1)
    wide = code[:, :, None, None].expand(-1, -1, 6, 7)
    plain = nn.Sequential(*block)(torch.cat([wide, x] if code_first else [x, wide], 1))
    torch.testing.assert_close(block(x, code), plain, rtol=1e-12, atol=1e-12)


def test_the_joint_convolution_does_a_small_share_of_the_plain_work():
    from torch.utils.flop_counter import FlopCounterMode

    block = JointBlock(16, 200, 32, code_first=True).eval()
    x, code = torch.zeros(1, 16, 128, 128), torch.zeros(1, 200)
    with FlopCounterMode(display=False) as ours:
        block(x, code)
    plain = 2 * 128 * 128 * 64 * 216 * 9
    assert ours.get_total_flops() < 0.09 * plain


def test_layers_are_composed_back_to_front(generator: Generator):
    with torch.no_grad():
        fake = generator.generate(generator.sample(2, seeded()))
    layers = fake.layers
    parent = fake.parent_foreground * layers.parent_mask + layers.background * (1 - layers.parent_mask)
    torch.testing.assert_close(layers.parent, parent)
    torch.testing.assert_close(
        layers.image, fake.child_foreground * layers.child_mask + layers.parent * (1 - layers.child_mask)
    )
    # what shows of the background is what neither layer covers
    torch.testing.assert_close(1 - layers.mask, (1 - layers.parent_mask) * (1 - layers.child_mask))
    assert layers.image.shape == (2, 3, 128, 128)
    assert layers.mask.shape == (2, 1, 128, 128)
    assert layers.image.abs().max() <= 1


def test_texture_and_background_leave_the_shape_alone(generator: Generator):
    codes, other = generator.sample(2, seeded()), generator.sample(2, seeded(1))
    with torch.no_grad():
        before = generator(codes)
        textured = generator(replace(codes, c=other.c))
        behind = generator(replace(codes, b=other.b, z_background=other.z))
    assert torch.equal(before.parent_mask, textured.parent_mask)
    assert torch.equal(before.parent, textured.parent)
    assert not torch.equal(before.image, textured.image)
    assert torch.equal(before.mask, behind.mask)
    assert not torch.equal(before.background, behind.background)


def test_without_a_background_layout_z_serves_for_both(generator: Generator):
    codes = generator.sample(2, seeded())
    with torch.no_grad():
        assert torch.equal(generator(codes).image, generator(replace(codes, z_background=None)).image)


def test_feature_mode_takes_pose_and_shape_from_the_feature(generator: Generator):
    codes, other = generator.sample(2, seeded()), generator.sample(2, seeded(1))
    with torch.no_grad():
        fake = generator.generate(codes)
        again = generator(replace(codes, z=other.z, p=other.p), feature=fake.feature)
    assert torch.equal(fake.layers.image, again.image)


# Codes


def test_tied_codes_group_neighbouring_textures():
    c = torch.tensor([0, 9, 10, 199])
    assert tie(c, 200, 20).tolist() == [0, 0, 1, 19]
    c = torch.tensor([0, 9, 10, 48, 49, 195])  # 9.8 textures a shape
    assert tie(c, 196, 20).tolist() == [0, 0, 1, 4, 5, 19]
    assert tie(torch.tensor([3, 119]), 120, 120).tolist() == [3, 119]


def test_samples_are_tied_as_in_the_paper_unless_asked(generator: Generator):
    codes = generator.sample(64, seeded())
    assert torch.equal(codes.b, codes.c)
    assert torch.equal(codes.p.argmax(1), codes.c.argmax(1) // 2)
    free = generator.sample(64, seeded(), tied=False)
    assert not torch.equal(free.b, free.c)
    assert not torch.equal(free.p.argmax(1), free.c.argmax(1) // 2)
    for code in (codes.b, codes.p, codes.c, free.b, free.p, free.c):
        assert torch.equal(code.sum(1), torch.ones(64))
        assert torch.equal(code.max(1).values, torch.ones(64))
    assert torch.equal(codes.z, generator.sample(64, seeded()).z)


def test_encoded_codes_have_the_ranges_of_the_prior(generator: Generator):
    codes = generator.encode(photos(2))
    for code in (codes.b, codes.p, codes.c):
        torch.testing.assert_close(code.sum(1), torch.ones(2))
        assert code.min() >= 0
    assert codes.z.abs().max() <= 4
    assert codes.z_background is not None
    assert torch.equal(codes.z, codes.z_background)


@pytest.mark.parametrize(
    ("factors", "read"),
    [
        (("z",), "z"),
        (("z", "b"), "zb"),
        (("background",), "zb"),
        (("pose",), "z"),
        (("shape",), "p"),
        (("texture",), "c"),
        (CODES, "zbpc"),
    ],
)
def test_only_the_factors_asked_for_are_read(generator: Generator, factors: tuple[str, ...], read: str):
    called = []
    for k in CODES:
        network = getattr(generator.encoders, f"model_{k}")
        network.register_forward_hook(lambda *_, k=k: called.append(k))
    whole, image = generator.encode(photos(1)), photos(1)
    called.clear()
    codes = generator.encode(image, factors)
    assert sorted(called) == sorted(read)
    for k in CODES:
        wanted = getattr(whole, k) if k in read else torch.zeros_like(getattr(whole, k))
        assert torch.equal(getattr(codes, k), wanted)


def test_each_knob_sets_its_own_codes_only(generator: Generator):
    codes = generator.sample(3, seeded())
    sets = {"background": {"b", "z_background"}, "pose": {"z"}, "shape": {"p"}, "texture": {"c"}}
    photo = photos(1, seed=5)
    encoded = generator.encode(photo)
    for name, fields in sets.items():
        for knob, value in ((name, photo), (f"{name}_seed", 12)):
            assert generator.knob(knob).kind == ("seed" if knob.endswith("_seed") else "picture")
            turned = generator.set(codes, knob, value)
            for field, code in fields_of(turned).items():
                assert torch.equal(code, fields_of(codes)[field]) == (field not in fields), (knob, field)
                if field in fields:
                    assert torch.equal(code[0], code[2])  # the same in every row
                    if knob == name:
                        torch.testing.assert_close(code[0], fields_of(encoded)[field][0])
            again = generator.set(codes, knob, value)
            assert all(torch.equal(code, fields_of(again)[field]) for field, code in fields_of(turned).items())


def test_seeds_can_differ_by_row(generator: Generator):
    codes = generator.sample(3, seeded())
    turned = generator.set(codes, "pose_seed", torch.tensor([4, 5, 4]))
    assert torch.equal(turned.z[0], generator.set(codes, "pose_seed", 4).z[1])
    assert torch.equal(turned.z[0], turned.z[2])
    assert not torch.equal(turned.z[0], turned.z[1])


def test_pose_leaves_the_background_where_codes_share_one_z(generator: Generator):
    codes = replace(generator.sample(2, seeded()), z_background=None)
    with torch.no_grad():
        before, after = generator(codes), generator(generator.set(codes, "pose_seed", 3))
    assert torch.equal(before.background, after.background)
    assert not torch.equal(before.parent_mask, after.parent_mask)


@pytest.mark.parametrize(
    ("name", "value", "says"),
    [
        ("colour", 1, "no knob 'colour'"),
        ("pose", 1, "takes a picture"),
        ("pose", torch.zeros(3, 3, 128, 128), "takes a picture"),
        ("pose", torch.zeros(1, 3, 64, 64), "3 x 128 x 128"),
        ("pose_seed", 0.5, "whole number"),
        ("pose_seed", "a", "whole number"),
        ("pose_seed", -1, "whole number"),
        ("pose_seed", torch.tensor([1, 2, 3]), "whole number"),
        ("pose_seed", torch.tensor([1.5, 2.0]), "whole number"),
        ("pose_seed", float("inf"), "whole number"),
    ],
)
def test_wrong_knob_values_are_named(generator: Generator, name: str, value: object, says: str):
    with pytest.raises(ValueError, match=says):
        generator.set(generator.sample(2, seeded()), name, value)


def test_wrong_calls_are_named(generator: Generator):
    codes = generator.sample(1, seeded())
    with pytest.raises(ValueError, match="lengths"):
        generator(replace(codes, c=torch.zeros(1, 7)))
    with pytest.raises(ValueError, match="unknown factor 'colour'"):
        generator.encode(photos(1), ("colour",))
    without = Generator(replace(TINY, feature_mode=False))
    with pytest.raises(ValueError, match="feature extractor"):
        without.shape_feature(photos(1))
    assert reads_outlines(Generator(TINY))
    assert not reads_outlines(without)  # so that pages and reports leave the mode out
    assert Model(name="m", generator=without).modes == ("code",)
    with pytest.raises(ValueError, match="n_shapes is 0"):
        replace(TINY, n_shapes=0)
    with pytest.raises(ValueError, match="width is 6"):
        replace(TINY, width=6)


def test_a_saved_generator_paints_the_same_picture(generator: Generator, tmp_path):
    path = tmp_path / "tiny.safetensors"
    save_generator(path, generator)
    again = load_generator(path)
    assert isinstance(again, Generator)
    codes, photo = generator.sample(2, seeded()), photos(1)
    with torch.no_grad():
        assert torch.equal(generator(codes).image, again(codes).image)
        assert torch.equal(generator.shape_feature(photo), again.shape_feature(photo))
        assert torch.equal(generator.encode(photo).c, again.encode(photo).c)
    assert again.config == generator.config


@pytest.mark.gpu
def test_cuda_paints_what_the_cpu_paints(generator: Generator):
    if not torch.cuda.is_available():
        pytest.skip("no CUDA device")
    codes = generator.sample(2, seeded())
    with torch.no_grad():
        here = generator(codes).image
        there = generator.cuda()(generator.sample(2, seeded())).image
    torch.testing.assert_close(there.cpu(), here, rtol=1e-2, atol=2e-3)  # convolutions in TF32


# Losses, by hand


def test_real_and_fake_are_cross_entropies():
    assert as_real(torch.zeros(2)).item() == pytest.approx(math.log(2))
    assert as_real(torch.tensor([math.log(3)])).item() == pytest.approx(-math.log(0.75))
    assert as_fake(torch.tensor([math.log(3)])).item() == pytest.approx(-math.log(0.25))
    logits = torch.tensor([0.3, -1.2, 2.0])
    assert as_real(logits).item() == pytest.approx(nn.BCELoss()(logits.sigmoid(), torch.ones(3)).item())
    assert as_fake(logits).item() == pytest.approx(nn.BCELoss()(logits.sigmoid(), torch.zeros(3)).item())
    assert as_real(torch.tensor([-200.0])).item() == 200  # no infinities, no clamp


def test_background_cells_are_those_whose_patch_misses_the_box():
    box = torch.tensor([[50, 0, 60, 126], [50, 90, 60, 126], [126 / 2, 0, 126 / 2, 126], [0, 0, 126, 126]]) / 126
    cells = background_cells(box)
    assert cells.shape == (4, 1, 24, 24)
    # columns k with 4k + 34 >= 50 and 4k <= 60 meet the box: 4 to 15
    column = torch.tensor([1.0] * 4 + [0.0] * 12 + [1.0] * 8)
    assert torch.equal(cells[0, 0], column.expand(24, 24))
    # rows k with 4k + 34 >= 90: 14 to 23
    row = torch.tensor([1.0] * 14 + [0.0] * 10)
    assert torch.equal(cells[1, 0], 1 - (1 - row[:, None]) * (1 - column))
    assert torch.equal(cells[2], torch.ones(1, 24, 24))  # no area, no object
    assert torch.equal(cells[3], torch.zeros(1, 24, 24))


def test_background_cells_where_boxes_are_unknown_are_the_border():
    cells = background_cells(torch.tensor([CUB.box_where_unknown]))[0, 0]
    assert torch.equal(cells[1:-1, 1:-1], torch.zeros(22, 22))
    assert cells.sum() == 24**2 - 22**2


def test_background_critic_counts_real_background_patches_only():
    cells = torch.zeros(2, 1, 24, 24)
    cells[0, 0, 0, :2] = 1
    real = torch.full((2, 1, 24, 24), 7.0)  # what it says of object patches must not matter
    real[0, 0, 0, 0], real[0, 0, 0, 1] = 0.0, math.log(3)
    fake, background = torch.zeros(2, 1, 24, 24), torch.zeros(2, 1, 24, 24)
    of_real, of_background = background_discriminator_loss(real, fake, background, cells)
    assert of_real.item() == pytest.approx((math.log(2) - math.log(0.75)) / 2 + math.log(2))
    assert of_background.item() == pytest.approx(math.log(2))
    background = torch.where(cells > 0, math.log(3), -math.log(3))  # right with 3 : 1 everywhere
    assert background_discriminator_loss(real, fake, background, cells)[1].item() == pytest.approx(-math.log(0.75))
    of_real, _ = background_discriminator_loss(real, fake, background, torch.zeros_like(cells))
    assert of_real.item() == pytest.approx(math.log(2))  # no background patch: only the fake term


def test_code_losses_by_hand():
    codes = Codes(
        z=torch.tensor([[1.0, -1.0]]),
        b=torch.tensor([[1.0, 0.0]]),
        p=torch.tensor([[0.0, 1.0]]),
        c=torch.tensor([[0.25, 0.75]]),
    )
    read = {
        "z": torch.tensor([[0.0, 1.0]]),
        "b": torch.tensor([[0.0, 0.0]]),
        "p": torch.tensor([[0.0, math.log(3)]]),
        "c": torch.tensor([[0.0, math.log(3)]]),
    }
    losses = code_losses(read, codes)
    assert losses["z"].item() == pytest.approx(1.5)
    assert losses["b"].item() == pytest.approx(math.log(2))
    assert losses["p"].item() == pytest.approx(-math.log(0.75))
    assert losses["c"].item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


class Linear(nn.Module):
    """A pair critic of known gradients: `slope` in one pixel and in one entry of the code."""

    def __init__(self, in_image: float, in_code: float) -> None:
        super().__init__()
        self.in_image, self.in_code = in_image, in_code

    def forward(self, image: Tensor, code: Tensor, rng: torch.Generator) -> Tensor:
        return self.in_image * image[:, 0, 0, 0] + self.in_code * code[:, 0]


def pairs(n: int = 3, seed: int = 0) -> tuple[Image, dict[str, Tensor]]:
    rng = seeded(seed)
    dims = (TINY.z_dim, TINY.n_backgrounds, TINY.n_shapes, TINY.n_textures)
    codes = {k: torch.randn(n, dim, generator=rng) for k, dim in zip(CODES, dims, strict=True)}
    return photos(n, seed), codes


def test_gradient_penalty_of_linear_critics_by_hand():
    critics = PairCritics(TINY, 1)
    for k, slopes in zip(CODES, [(1.0, 1.0), (3.0, 1.0), (1.0, 0.5), (0.0, 2.0)], strict=True):
        critics[k] = Linear(*slopes)
    penalty = gradient_penalty(critics, pairs(seed=1), pairs(seed=2), seeded())
    assert penalty.item() == pytest.approx(4 + 0.25 + (1 + 1), rel=1e-6)


def test_gradient_penalty_is_that_of_each_critic_and_input_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(critics_module.PairCritic, "NOISE", (0.0, 0.0, 0.0))
    torch.manual_seed(0)
    critics = PairCritics(TINY, 2)
    for parameter in critics.parameters():
        parameter.data.mul_(3)  # gradients away from 0
    real, fake = pairs(seed=1), pairs(seed=2)
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: (calls.append(1), grad(*args, **kwargs))[1])
    ours = gradient_penalty(critics, real, fake, seeded(7))
    assert len(calls) == 1

    rng = seeded(7)
    t = torch.rand(3, 1, 1, 1, generator=rng)
    image = (t * real[0] + (1 - t) * fake[0]).requires_grad_()
    mixed = {}
    for k in CODES:
        t = torch.rand(3, 1, generator=rng)
        mixed[k] = (t * real[1][k] + (1 - t) * fake[1][k]).requires_grad_()
    terms = []
    for k in CODES:
        for leaf in (image, mixed[k]):
            [gradient] = grad(critics[k](image, mixed[k], rng).sum(), leaf, create_graph=True)
            terms.append((gradient.flatten(1).norm(dim=1) - 1).square().mean())
    plain = torch.stack(terms).sum()
    assert plain.item() > 0.1
    torch.testing.assert_close(ours, plain)
    parameters = list(critics.parameters())
    ours_grads = grad(ours, parameters, allow_unused=True)
    for a, b in zip(ours_grads, grad(plain, parameters, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_pair_critics_add_noise_to_codes_from_the_given_source():
    torch.manual_seed(0)
    critics = PairCritics(TINY, 1).eval()
    image, codes = pairs()
    first, again, other = (critics(image, codes, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_patch_sees_its_own_pixels_only():
    torch.manual_seed(0)
    critic = BackgroundDiscriminator(2).double()
    scene = torch.zeros(1, 3, 126, 126, dtype=torch.float64, requires_grad=True)
    real, _ = critic(scene)
    assert real.shape == (1, 1, 24, 24)
    [gradient] = torch.autograd.grad(real[0, 0, 5, 7], scene)
    rows, columns = (gradient.abs().sum((0, 1)) > 0).nonzero().unbind(1)
    assert (rows.min().item(), rows.max().item()) == (20, 53)
    assert (columns.min().item(), columns.max().item()) == (28, 61)


# One step of the published recipe


def bce(probability: Tensor, target: float) -> Tensor:
    return nn.BCELoss()(probability, torch.full_like(probability, target))


def published_losses(recipe: Recipe, name: str, batch: Batch, rng: torch.Generator) -> dict[str, Tensor]:
    """The published sums, written out with sigmoids and binary cross entropies as the paper has them."""
    first, weights = recipe.first, recipe.config.losses
    y, x, G = first.codes, batch.image, recipe.generator
    layers = first.fake.layers
    D_b, D_c = recipe.background_discriminator, recipe.child_discriminator
    free = G.sample(len(x), rng, tied=False)  # used by the generator's losses only
    critics = recipe.pair_critics
    of_read = torch.stack([critics[k](x, first.read[k], rng).mean() for k in CODES]).sum()
    of_painted = torch.stack([critics[k](layers.image, getattr(y, k), rng).mean() for k in CODES]).sum()
    if name == "background_discriminator":
        assert batch.scene is not None and batch.scene_box is not None
        w = background_cells(batch.scene_box)
        rf, background = (logits.sigmoid() for logits in D_b(batch.scene))
        fake = D_b(layers.background)[0].sigmoid()
        real = (nn.BCELoss(reduction="none")(rf, torch.ones_like(rf)) * w).mean() * w.numel() / w.sum()
        return {"real": 10 * (real + bce(fake, 0)), "background": nn.BCELoss()(background, w)}
    if name == "child_discriminator":
        return {
            "real": bce(D_c.realness(x).sigmoid(), 1),
            "fake": bce(D_c.realness(layers.image).sigmoid(), 0),
        }
    if name == "pair_critics":
        return {"read": -of_read, "fake": of_painted}
    rf, background = (logits.sigmoid() for logits in D_b(layers.background))
    read = {k: G.encoders(G(free).image, k) for k in CODES}
    masked = first.fake.parent_foreground * layers.parent_mask, first.fake.child_foreground * layers.child_mask
    entropy = nn.CrossEntropyLoss()
    assert (weights.z, weights.b, weights.p, weights.c) == (5, 5, 10, 10)
    return {
        "shape": entropy(recipe.parent_discriminator(masked[0]), y.p.argmax(1)),
        "texture": entropy(D_c(masked[1]), y.c.argmax(1)),
        "background_real": 10 * bce(rf, 1),
        "background_class": bce(background, 1),
        "image_real": bce(D_c.realness(layers.image).sigmoid(), 1),
        "pairs_read": of_read,
        "pairs_fake": -of_painted,
        "code_z": 5 * nn.L1Loss()(read["z"], free.z),
        "code_b": 5 * entropy(read["b"], free.b.argmax(1)),
        "code_p": 10 * entropy(read["p"], free.p.argmax(1)),
        "code_c": 10 * entropy(read["c"], free.c.argmax(1)),
    }


LEARNING = {
    "background_discriminator": ("background_discriminator.",),
    "child_discriminator": ("child_discriminator.trunk", "child_discriminator.real"),
    "pair_critics": ("pair_critics.",),
    "generator": (
        *(f"generator.{part}" for part in ("background", "parent", "child", "encoders")),
        "parent_discriminator.",
        "child_discriminator.code",
    ),
    "feature_discriminator": ("feature_discriminator.",),
    "extractor": ("generator.extractor",),
}


def weights_of(recipe: Recipe) -> dict[str, Tensor]:
    return {name: parameter.detach().clone() for name, parameter in recipe.networks.named_parameters()}


def assert_only_its_network_learned(recipe: Recipe, phase: Phase, before: dict[str, Tensor]) -> None:
    after = weights_of(recipe)
    for name in before:
        if phase.name == "pair_critics" and name.endswith("joint.2.bias"):
            continue  # adds the same to both sides of a Wasserstein loss
        learns = name.startswith(LEARNING[phase.name])
        assert torch.equal(before[name], after[name]) != learns, f"{phase.name} and {name}"


def test_one_step_has_the_published_losses_and_each_phase_its_network(
    recipe: Recipe, batch: Batch, monkeypatch: pytest.MonkeyPatch
):
    monkeypatch.setattr(critics_module.PairCritic, "NOISE", (0.0, 0.0, 0.0))
    step = step_at(0)
    recipe.begin(batch, step)
    assert torch.equal(recipe.first.codes.b, recipe.first.codes.c)
    names = []
    for phase in recipe.phases():
        if not phase.due(step):
            continue
        names.append(phase.name)
        same = seeded()
        same.set_state(step.rng.get_state())
        with torch.no_grad():
            wanted = published_losses(recipe, phase.name, batch, same)
        before = weights_of(recipe)
        logged = train_step([phase], batch, step)
        for name, value in wanted.items():
            torch.testing.assert_close(logged[f"{phase.name}/{name}"], value, rtol=1e-4, atol=1e-5)
        assert set(logged) == {f"{phase.name}/{name}" for name in wanted} | (
            {"pair_critics/penalty"} if phase.name == "pair_critics" else set()
        )
        assert_only_its_network_learned(recipe, phase, before)
    assert names == ["background_discriminator", "child_discriminator", "pair_critics", "generator"]


def run_step(recipe: Recipe, batch: Batch, step: Step) -> dict[str, Tensor]:
    recipe.begin(batch, step)
    return train_step(recipe.phases(), batch, step)


def test_a_set_without_boxes_trains(recipe: Recipe):
    logged = run_step(recipe, Batch(image=photos()), step_at(0))
    assert all(bool(value.isfinite()) for value in logged.values())
    assert not any(name.endswith("skipped") for name in logged)
    assert "background_discriminator/real" in logged


def test_free_codes_take_part_after_the_warm_up_only(batch: Batch):
    config = replace(TINY_RUN, free_share=1.0, free_start=100, free_full=200, first_stage=1000)
    recipe = Recipe(config, torch.device("cpu"))
    published = Recipe(replace(config, free_share=0.0), torch.device("cpu"))

    def tied(recipe: Recipe, images: int) -> int:
        rows = 0
        for seed in range(16):
            codes = recipe._first_codes(4, step_at(images, seed))
            rows += int((codes.b == codes.c).all(1).sum())
        return rows

    assert tied(recipe, 100) == 64
    assert 20 < tied(recipe, 150) < 55  # half of the rows, and a sixth of the others by chance
    assert tied(recipe, 200) < 30
    assert tied(published, 500) == 64


def test_the_second_stage_learns_features_and_nothing_else(recipe: Recipe, batch: Batch):
    for seed in range(3):  # so that the norms have seen pictures
        run_step(recipe, batch, step_at(0, seed))
    step = step_at(8)
    names = []
    for phase in recipe.phases():
        if not phase.due(step):
            continue
        recipe.begin(batch, step)
        frozen = {name: tensor.clone() for name, tensor in recipe.generator.state_dict().items()}
        before = weights_of(recipe)
        second = recipe.second
        if phase.name == "feature_discriminator":
            wanted = {
                "fake": bce(recipe.feature_discriminator(second.feature).sigmoid(), 1),
                "read": bce(recipe.feature_discriminator(second.read).sigmoid(), 0),
            }
        else:
            assert recipe.generator.extractor is not None
            twin = copy.deepcopy(recipe.generator.extractor)
            wanted = {
                "real": bce(recipe.feature_discriminator(second.read).sigmoid(), 1),
                "feature": (twin(second.image) - second.feature).abs().mean(),
            }
        logged = train_step([phase], batch, step)
        names.append(phase.name)
        for name, value in wanted.items():
            torch.testing.assert_close(logged[f"{phase.name}/{name}"], value.detach(), rtol=1e-4, atol=1e-6)
        assert_only_its_network_learned(recipe, phase, before)
        for name, tensor in recipe.generator.state_dict().items():
            assert name.startswith("extractor.") or torch.equal(tensor, frozen[name]), name  # norms stand still too
    assert names == ["feature_discriminator", "extractor"]


def test_some_batches_of_the_second_stage_have_soft_shapes(recipe: Recipe):
    soft = [bool((recipe._second_codes(4, step_at(8, seed)).p.max(1).values < 1).all()) for seed in range(200)]
    assert 20 <= sum(soft) <= 60  # a fifth
    codes = recipe._second_codes(64, step_at(8, soft.index(True)))
    torch.testing.assert_close(codes.p.sum(1), torch.ones(64))
    assert not torch.equal(codes.b, codes.c)


def test_the_second_stage_goes_on_from_the_average(recipe: Recipe, batch: Batch):
    run_step(recipe, batch, step_at(0))
    recipe.average = copy.deepcopy(recipe.generator)
    for parameter in recipe.average.parameters():
        parameter.data.mul_(0.5)
    recipe.begin(batch, step_at(8))
    for ours, theirs in zip(recipe.generator.parameters(), recipe.average.parameters(), strict=True):
        assert torch.equal(ours, theirs)
    for parameter in recipe.average.parameters():
        parameter.data.mul_(0.5)
    recipe.begin(batch, step_at(12))  # only at its first step
    name = "encoders.model_z.4.weight"
    assert not torch.equal(recipe.generator.get_parameter(name), recipe.average.get_parameter(name))


def test_the_optimisers_are_the_published_ones(recipe: Recipe):
    for phase in recipe.phases():
        assert isinstance(phase.optimizer, torch.optim.Adam)
        assert phase.optimizer.defaults["betas"] == (0.5, 0.999)
        assert phase.optimizer.defaults["lr"] == (2e-5 if phase.name == "feature_discriminator" else 2e-4)
        learned = {id(p) for group in phase.optimizer.param_groups for p in group["params"]}
        assert learned == {id(p) for p in phase.network.parameters()}


def test_first_weights_are_orthogonal_but_for_the_pair_critics(recipe: Recipe):
    weight = recipe.generator.get_parameter("encoders.model_p.1.0.weight").flatten(1)
    torch.testing.assert_close(weight @ weight.T, torch.eye(len(weight)), rtol=1e-4, atol=1e-5)
    norms = torch.cat([m.weight for m in recipe.generator.modules() if isinstance(m, nn.BatchNorm1d)])
    assert 0.015 < norms.std().item() < 0.025
    weight = recipe.pair_critics.get_parameter("z.code.1.weight")
    assert (weight @ weight.T - torch.eye(len(weight))).abs().max() > 0.1


def test_the_extractor_learns_to_read_features(batch: Batch):
    torch.manual_seed(0)
    config = replace(TINY_RUN, generator=replace(TINY, extractor_width=4), learning_rate=5e-3)
    recipe = Recipe(config, torch.device("cpu"))
    losses = []
    for _ in range(6):
        losses.append(run_step(recipe, batch, step_at(8))["extractor/feature"].item())
    assert losses[-1] < 0.85 * losses[0]


def test_grids_are_rows_of_eight(recipe: Recipe, batch: Batch):
    for name, pictures in recipe.grids(recipe.generator.eval(), batch).items():
        assert pictures.shape[0] % 8 == 0, name
        assert pictures.shape[1:] == (3, 128, 128)


# Presets and the run as a whole


def test_presets_have_the_published_schedule():
    assert CUB.loop.batch == 12
    assert CUB.first_stage == 600 * 982 * 12
    assert CUB.loop.images == 1000 * 982 * 12
    assert 0.5 ** (12 / CUB.loop.half_life) == pytest.approx(0.999, abs=1e-6)
    assert (DOGS.generator.n_shapes, DOGS.generator.n_textures, DOGS.generator.n_backgrounds) == (12, 120, 120)
    assert (CARS.generator.n_shapes, CARS.generator.n_textures, CARS.generator.n_backgrounds) == (20, 196, 196)
    for preset in (CUB, DOGS, CARS):
        adapter = TypeAdapter(TrainConfig)
        assert adapter.validate_json(adapter.dump_json(preset)) == preset
        assert preset.free_share == 0


def test_wrong_settings_are_named():
    with pytest.raises(ValueError, match="free_share is 2"):
        replace(CUB, free_share=2)
    with pytest.raises(ValueError, match=r"data\.size is 64"):
        replace(CUB, data=replace(CUB.data, size=64))
    with pytest.raises(ValueError, match="box_where_unknown"):
        replace(CUB, box_where_unknown=(0.5, 0.5, 0.4, 0.6))


def prepared(folder, n: int = 5):
    (folder / "images").mkdir(parents=True)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    for i, picture in enumerate(to_pil(photos(n))):
        picture.save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,train,a,128,128,30,40,90,100")
    (folder / "index.csv").write_text("\n".join(lines))
    return folder


def test_a_run_over_both_stages_resumes_to_the_same_weights(tmp_path):
    data = prepared(tmp_path / "data")
    whole = load_generator(train(TINY_RUN, data, tmp_path / "whole", device="cpu"))
    for images in (8, 16):  # stops where the second stage begins
        part = replace(TINY_RUN, loop=replace(TINY_RUN.loop, images=images))
        path = train(part, data, tmp_path / "parts", device="cpu")
    resumed = load_generator(path)
    for (name, ours), theirs in zip(whole.state_dict().items(), resumed.state_dict().values(), strict=True):
        assert torch.equal(ours, theirs), name
    codes = resumed.sample(1, seeded())
    with torch.no_grad():
        assert torch.equal(whole(codes).image, resumed(codes).image)
