"""The published MixNMatch: networks, layers, codes and knobs."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from demo.models import Model
from mixnmatch.paper.config import TrainConfig
from mixnmatch.paper.discriminators import BackgroundDiscriminator, ChildDiscriminator, PairCritics, ParentDiscriminator
from mixnmatch.paper.encoders import CODES
from mixnmatch.paper.feature_extractor import FeatureDiscriminator
from mixnmatch.paper.generator import Generator, tie
from mixnmatch.paper.layers import Halve, JointBlock, code_bias
from mixnmatch.paper.presets import CARS, CUB, DOGS
from tests.mixnmatch.paper.tiny import TINY, photos, seeded
from training.batched import fields_of
from training.checkpoint import load_generator, save_generator
from training.types import reads_outlines


@pytest.fixture
def generator() -> Generator:
    torch.manual_seed(0)
    return Generator(TINY).eval()


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
