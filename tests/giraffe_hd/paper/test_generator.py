"""The published GIRAFFE HD: layers, priors, knobs, scenes of several objects."""

import math
from dataclasses import replace

import pytest
import torch
from torch import nn

from giraffe_hd.giraffe2021 import generator as giraffe
from giraffe_hd.giraffe2021.config import GeneratorConfig as GiraffeConfig
from giraffe_hd.giraffe2021.discriminator import DCDiscriminator
from giraffe_hd.giraffe2021.presets import CHAIRS_64, CHURCH_64, CLEVR2345_256
from giraffe_hd.paper import prior
from giraffe_hd.paper.config import GeneratorConfig, PriorConfig, VolumeConfig
from giraffe_hd.paper.discriminator import Discriminator
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.presets import AFHQ_512, COMPCAR_256, FFHQ_1024
from tests.giraffe_hd.paper.tiny import TINY, TINY_GIRAFFE, make
from training.batched import rows
from training.checkpoint import load_generator, save_generator
from training.config import DataConfig, LoopConfig
from training.nn.camera import half_width


def make_giraffe(config: GiraffeConfig = TINY_GIRAFFE) -> giraffe.Generator:
    torch.manual_seed(0)
    generator = giraffe.Generator(config).eval().requires_grad_(False)
    with torch.no_grad():
        generator.object_field.sigma_out.weight *= 100
    return generator


# -- the generator -----------------------------------------------------------------------------------------------------


def test_networks_have_the_published_sizes():
    with torch.device("meta"):
        generator = Generator(COMPCAR_256.generator)
        discriminator = Discriminator(256)
        large = [Generator(FFHQ_1024.generator), Generator(AFHQ_512.generator)]
        small = giraffe.Generator(CHAIRS_64.generator)

    def count(network: nn.Module) -> int:
        return sum(parameter.numel() for parameter in network.parameters())

    assert (count(generator), count(discriminator)) == (12_666_492, 28_864_129)
    assert count(generator.object_field) == 282_753
    assert count(generator.background_field) == 71_745
    assert [round(count(network) / 1e6, 2) for network in large] == [12.79, 12.75]
    assert count(small) == 411_595
    assert count(DCDiscriminator(64)) == 3 * 64 * 16 + 16 * (64 * 128 + 128 * 256 + 256 * 512) + 512 * 16


def test_layers_compose_the_picture(generator, codes):
    layers = generator(codes)
    assert layers.image.shape == (3, 3, 16, 16)
    assert layers.alpha.shape == layers.depth.shape == (3, 1, 8, 8)
    torch.testing.assert_close(layers.image, layers.mask * layers.foreground + (1 - layers.mask) * layers.background)
    assert 0 <= float(layers.alpha.min()) < 0.1 < float(layers.alpha.max()) <= 1
    seen = layers.alpha > 0.5
    middle = 2.732 - codes.translation[:, 0].mean()
    assert abs(float(layers.depth[seen].mean()) - float(middle)) < 0.25
    assert float(layers.depth[layers.alpha == 0].abs().sum()) == 0


def test_pictures_are_the_same_every_time_outside_training(generator, codes, rng):
    assert torch.equal(generator(codes).image, generator(codes).image)
    alone = generator(rows(codes, 1)).image
    torch.testing.assert_close(generator(codes).image[1:2], alone, atol=1e-4, rtol=0)  # whatever stands beside it
    generator.train()
    try:
        first = generator(codes, rng=torch.Generator().manual_seed(1)).image
        again = generator(codes, rng=torch.Generator().manual_seed(1)).image
        other = generator(codes, rng=torch.Generator().manual_seed(2)).image
    finally:
        generator.eval()
    assert torch.equal(first, again)
    assert float((first - other).abs().mean()) > 1e-4


def test_style_injection(generator, codes):
    """Shape styles the layers before the index, appearance the rest; the volume knows shape alone."""
    other = replace(codes, z_a_fg=codes.z_a_fg.flip(0))
    every = TINY.n_latent
    assert every == 4
    assert torch.equal(generator(codes, inject_index=every).image, generator(other, inject_index=every).image)
    for index in (0, 2, None):
        assert not torch.equal(generator(codes, index).foreground, generator(other, index).foreground)
    assert torch.equal(generator(codes).foreground, generator(codes, TINY.default_inject_index).foreground)
    assert torch.equal(generator(codes, 0).alpha, generator(other, 0).alpha)


def test_style_mixing_in_training():
    generator = make(replace(TINY, mix_prob=0.25))
    rng = torch.Generator().manual_seed(0)
    drawn = torch.tensor([generator._mixed_index(rng) for _ in range(2000)])
    shape_alone = float((drawn == TINY.n_latent).float().mean())
    assert abs(shape_alone - 0.75) < 0.04
    assert set(drawn.tolist()) == {0, 1, 2, 3, 4}


def test_the_background_ignores_the_object():
    generator = make(replace(TINY, pos_share=False))
    codes = generator.sample(2, torch.Generator().manual_seed(0))
    moved = codes
    for name, value in {"shape": 3, "look": 4, "rotation": 77.0, "scale": 0.9, "x": 20.0, "y": 9.0}.items():
        moved = generator.set(moved, name, value)
    assert torch.equal(generator(codes).background, generator(moved).background)
    assert not torch.equal(generator(codes).foreground, generator(moved).foreground)
    shared = make(TINY)
    assert torch.equal(shared(codes).background, shared(generator.set(codes, "x", 20.0)).background)
    assert not torch.equal(shared(codes).background, shared(generator.set(codes, "y", 9.0)).background)


@pytest.mark.parametrize(
    "changes",
    [
        {"use_viewdirs": True},
        {"grf_use_z_app": True},
        {"grf_use_mlp": False},
        {"fg_gen_mask": False},
        {"refine_n_styledconv": 0},
        {"refine_kernel_size": 1, "channel_multiplier": 1},
    ],
    ids=str,
)
def test_options(changes, rng, tmp_path):
    generator = make(replace(TINY, **changes))
    codes = generator.sample(2, rng)
    layers = generator(codes)
    save_generator(tmp_path / "some.safetensors", generator)
    assert torch.equal(load_generator(tmp_path / "some.safetensors")(codes).image, layers.image)
    other = generator(replace(codes, z_a_fg=codes.z_a_fg.flip(0)), inject_index=TINY.n_latent)
    assert torch.equal(other.image, layers.image) is False or not changes.get("grf_use_z_app", False)
    turned = generator(replace(codes, z_a_bg=codes.z_a_bg.flip(0)))
    leaks = not torch.equal(turned.mask, layers.mask)
    assert leaks == (not generator.config.fg_gen_mask)  # a mask from the refinement follows the background's look


def test_view_directions_matter():
    generator = make(replace(TINY, use_viewdirs=True))
    codes = generator.sample(1, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = generator.object_features(codes, generator.styles(codes))
        generator.object_field.fc_view.weight.mul_(2)
        after = generator.object_features(codes, generator.styles(codes))
    assert torch.equal(before.alpha, after.alpha)
    assert not torch.equal(before.features, after.features)


def test_joint_cameras_shrink_the_lower_view():
    """What the authors' program does to a batch; alone, a picture is as without it."""
    generator, joint = make(TINY), make(replace(TINY, joint_cameras=True))
    codes = generator.sample(2, torch.Generator().manual_seed(0))
    codes = replace(codes, elevation=torch.tensor([0.0, 0.5]))
    own, both = generator.box_silhouette(codes), joint.box_silhouette(codes)
    assert torch.equal(own[0], both[0])
    assert float(both[1].sum()) > float(own[1].sum())
    assert torch.equal(joint.box_silhouette(rows(codes, 1)), own[1:])


def test_density_outside_its_box_is_nothing(generator, codes):
    points = torch.tensor([[0.0, 0.0, 0.0], [0.5, -0.9, 1.05], [0.0, 1.2, 0.0]]).expand(3, -1, -1)
    density = generator.density(codes, points)
    assert density.shape == (3, 3)
    assert bool((density[:, 2] == 0).all())
    assert bool((density[:, :2] > 0).any())


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_a_gpu_draws_the_same(generator, codes):
    there = replace(codes, **{k: getattr(codes, k).cuda() for k in codes.__dataclass_fields__ if k != "presence"})
    layers = make(TINY).cuda()(there)
    torch.testing.assert_close(layers.image.cpu(), generator(codes).image, atol=2e-2, rtol=0)
    torch.testing.assert_close(layers.alpha.cpu(), generator(codes).alpha, atol=2e-2, rtol=0)


# -- priors and knobs --------------------------------------------------------------------------------------------------


def test_elevation_of_the_authors_v():
    v = torch.tensor([0.5, 0.25, 0.0])
    torch.testing.assert_close(prior.elevation_of(v), torch.tensor([0.0, math.pi / 6, math.pi / 2]))


def test_samples_fill_the_prior(generator, rng):
    codes = generator.sample(4000, rng)
    p = TINY.prior
    assert torch.all(codes.azimuth == 0) and torch.all(codes.radius == 2.732)
    assert 0 <= float(codes.elevation.min()) < 0.005
    assert abs(math.degrees(float(codes.elevation.max())) - 9.594) < 0.1
    for found, low, high in (
        (codes.scale, p.scale_min, p.scale_max),
        (codes.translation, p.translation_min, p.translation_max),
    ):
        torch.testing.assert_close(found.amin(0), torch.tensor(low), atol=1e-3, rtol=0)
        torch.testing.assert_close(found.amax(0), torch.tensor(high), atol=1e-3, rtol=0)
    ratio = (codes.scale - torch.tensor(p.scale_min)) / (torch.tensor(p.scale_max) - torch.tensor(p.scale_min))
    torch.testing.assert_close(ratio[:, 0], ratio[:, 1], atol=1e-4, rtol=0)  # one draw for all axes
    assert abs(float(codes.rotation.mean()) - math.pi) < 0.1
    assert abs(float(codes.z_s_fg.std()) - 1) < 0.02


def test_knobs_that_training_held_still_can_still_be_turned(generator, codes):
    assert [knob.name for knob in generator.knobs] == [
        "rotation", "scale", "x", "y", "depth", "shape", "look", "elevation", "background_shape", "background_look",
    ]  # fmt: skip
    assert generator.knob("rotation").high == 360
    assert generator.set(codes, "azimuth", 90.0).azimuth.tolist() == pytest.approx([math.pi / 2] * 3)
    assert generator.set(codes, "radius", 3.0).radius.tolist() == [3.0] * 3


def test_each_knob_sets_one_thing(generator, codes):
    half = half_width(2.732, 10.0)
    assert generator.set(codes, "rotation", 90).rotation.tolist() == pytest.approx([math.pi / 2] * 3)
    assert generator.set(codes, "elevation", 5.0).elevation.tolist() == pytest.approx([math.radians(5)] * 3)
    for name, axis in (("depth", 0), ("x", 1), ("y", 2)):
        moved = generator.set(codes, name, torch.tensor([10.0, 0.0, -10.0])).translation
        torch.testing.assert_close(moved[:, axis], torch.tensor([0.1, 0.0, -0.1]) * half)
        others = [i for i in range(3) if i != axis]
        assert torch.equal(moved[:, others], codes.translation[:, others])
    sized = generator.set(codes, "scale", 1.0).scale
    torch.testing.assert_close(sized[:, 0], torch.full((3,), 0.225))
    torch.testing.assert_close(sized[:, 1] / sized[:, 0], codes.scale[:, 1] / codes.scale[:, 0])
    for name, field in {
        "shape": "z_s_fg", "look": "z_a_fg", "background_shape": "z_s_bg", "background_look": "z_a_bg"
    }.items():  # fmt: skip
        drawn = getattr(generator.set(codes, name, 5), field)
        assert torch.equal(drawn[0], drawn[2])
        assert torch.equal(drawn, getattr(generator.set(codes, name, 5.0), field))
        assert not torch.equal(drawn, getattr(generator.set(codes, name, 6), field))
        assert generator.set(codes, name, 5).scale is codes.scale
    shape, look = generator.set(codes, "shape", 5).z_s_fg, generator.set(codes, "look", 5).z_a_fg
    assert not torch.equal(shape, look)


@pytest.mark.parametrize(
    ("name", "value", "message"),
    [
        ("size", 1.0, "no knob 'size'; this generator has rotation, scale"),
        ("rotation", "left", "takes a number or a tensor of 3 numbers, not 'left'"),
        ("rotation", torch.zeros(2), "takes one number or 3, not a tensor of shape"),
        ("shape", 1.5, "takes a whole number from 0, not 1.5"),
        ("shape", -1, "takes a whole number from 0, not -1"),
    ],
)
def test_wrong_values_are_refused(generator, codes, name, value, message):
    with pytest.raises(ValueError, match=message):
        generator.set(codes, name, value)


def test_a_full_turn_is_no_turn(generator, codes):
    once = generator(generator.set(codes, "rotation", 30.0)).image
    torch.testing.assert_close(generator(generator.set(codes, "rotation", 390.0)).image, once, atol=2e-2, rtol=0)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        (lambda: PriorConfig(scale_min=(0.6, 0.5, 0.5)), r"prior\.scale_min is .* above prior\.scale_max"),
        (lambda: PriorConfig(v=(0.5, 0.1)), "give the lower number first"),
        (lambda: PriorConfig(v=(0.5, 1.1)), "overhead"),
        (lambda: PriorConfig(n_objects=2, n_present=(1.0,)), "give one each"),
        (lambda: GeneratorConfig(resolution=100), "expected powers of two"),
        (lambda: GeneratorConfig(mix_prob=1.5), r"generator\.mix_prob is 1\.5; expected 0 to 1"),
        (lambda: GeneratorConfig(prior=PriorConfig(n_objects=2)), "renders one object, not 2"),
        (lambda: VolumeConfig(near=6.0), "0 < near < far"),
        (lambda: replace(COMPCAR_256, data=DataConfig(size=128)), "give both the same value"),
        (lambda: replace(COMPCAR_256, loop=LoopConfig(batch=6)), "groups of 4"),
    ],
)
def test_impossible_configs_are_refused(config, message):
    with pytest.raises(ValueError, match=message):
        config()


# -- several objects ---------------------------------------------------------------------------------------------------


def test_clevr_scenes(rng):
    prior_config = CLEVR2345_256.generator.prior
    codes = prior.sample(prior_config, 4, 4, 500, rng, torch.device("cpu"))
    assert codes.translation.shape == (500, 5, 3)
    assert codes.presence is not None
    counts = codes.presence.sum(1)
    shares = [float((counts == k).float().mean()) for k in range(1, 6)]
    assert shares == pytest.approx(list(prior_config.n_present), abs=0.06)
    assert 0.55 < float(codes.presence.mean(0).min()) < float(codes.presence.mean(0).max()) < 0.85
    torch.testing.assert_close(codes.translation[..., 2], torch.full((500, 5), 0.1665))
    distance = (codes.translation[:, :, None] - codes.translation[:, None])[..., :2].abs().amax(-1)
    distance = distance + 9 * torch.eye(5)
    assert float(distance.min()) >= 2 * 0.17 + 0.1 - 1e-6


def test_boxes_that_cannot_fit_are_refused(rng):
    crowded = replace(CLEVR2345_256.generator.prior, translation_min=(0.0, 0.0, 0.0), translation_max=(0.1, 0.1, 0.0))
    with pytest.raises(ValueError, match="do not fit"):
        prior.sample(crowded, 4, 4, 2, rng, torch.device("cpu"))


def test_objects_of_a_scene_are_alike_and_apart(rng):
    generator = make_giraffe()
    codes = generator.sample(2, rng)
    codes = replace(codes, presence=torch.ones(2, 3))
    scene = generator(codes)
    order = [2, 0, 1]
    fields = ("z_s_fg", "z_a_fg", "scale", "translation", "rotation")
    swapped = generator(replace(codes, **{name: getattr(codes, name)[:, order] for name in fields}))
    torch.testing.assert_close(swapped.image, scene.image, atol=1e-5, rtol=0)
    torch.testing.assert_close(swapped.alpha, scene.alpha[:, order], atol=1e-6, rtol=0)

    gone = generator(replace(codes, presence=torch.tensor([1.0, 1.0, 0.0]).expand(2, 3)))
    assert float(gone.alpha[:, 2].abs().max()) == 0 < float(scene.alpha[:, 2].max())
    away = generator(replace(codes, translation=codes.translation + torch.tensor([0.0, 0.0, 99.0])))
    nothing = generator(replace(codes, presence=torch.zeros(2, 3)))
    torch.testing.assert_close(away.image, nothing.image)
    assert float(nothing.mask.max()) == 0 == float(nothing.depth.max())


def test_nearer_objects_hide_farther_ones():
    generator = make_giraffe(replace(TINY_GIRAFFE, prior=replace(TINY_GIRAFFE.prior, n_objects=2, n_present=())))
    with torch.no_grad():
        generator.object_field.sigma_out.bias.add_(500)
    codes = generator.sample(1, torch.Generator().manual_seed(0))
    codes = replace(codes, elevation=torch.zeros(1), translation=torch.tensor([[[0.5, 0.0, 0.0], [-0.5, 0.0, 0.0]]]))
    front, back = generator(codes).alpha[0].sum((1, 2))
    assert float(front) > 3.5 > 20 * float(back)


def test_one_object_has_no_axis_of_objects(rng):
    generator = make_giraffe(replace(TINY_GIRAFFE, prior=CHURCH_64.generator.prior))
    codes = generator.sample(2, rng)
    assert codes.scale.shape == (2, 3) and codes.rotation.shape == (2,)
    scene = generator(codes)
    assert scene.image.shape == (2, 3, 16, 16) and scene.alpha.shape == (2, 1, 8, 8)
    assert float(scene.image.abs().max()) <= 1
    assert generator.density(codes, torch.zeros(2, 1, 3)).shape == (2, 1)


def test_knobs_of_several_objects_bear_numbers(rng, tmp_path):
    generator = make_giraffe()
    codes = generator.sample(2, rng)
    names = [knob.name for knob in generator.knobs]
    assert {"x_1", "x_3", "look_2", "background_look"} <= set(names) and "x" not in names
    moved = generator.set(codes, "x_2", 10.0).translation
    assert torch.equal(moved[:, [0, 2]], codes.translation[:, [0, 2]])
    assert torch.equal(moved[:, 1, [0, 2]], codes.translation[:, 1, [0, 2]])
    torch.testing.assert_close(moved[:, 1, 1], torch.full((2,), 0.1 * half_width(2.732, 49.13)))
    assert torch.equal(generator.set(codes, "look_3", 1).z_a_fg[:, :2], codes.z_a_fg[:, :2])
    save_generator(tmp_path / "some.safetensors", generator)
    assert torch.equal(load_generator(tmp_path / "some.safetensors")(codes).image, generator(codes).image)
