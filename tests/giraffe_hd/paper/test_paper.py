"""Published GIRAFFE HD and GIRAFFE: exact volume rendering, priors and knobs, losses worked by hand, learning."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from giraffe_hd.codes import Codes
from giraffe_hd.giraffe2021 import generator as giraffe
from giraffe_hd.giraffe2021.config import GeneratorConfig as GiraffeConfig
from giraffe_hd.giraffe2021.config import TrainConfig as GiraffeTrainConfig
from giraffe_hd.giraffe2021.discriminator import DCDiscriminator
from giraffe_hd.giraffe2021.presets import CHAIRS_64, CHURCH_64, CLEVR2_256, CLEVR2345_256
from giraffe_hd.giraffe2021.recipe import Recipe as GiraffeRecipe
from giraffe_hd.paper import prior, volume
from giraffe_hd.paper.config import FieldConfig, GeneratorConfig, PriorConfig, TrainConfig, VolumeConfig
from giraffe_hd.paper.discriminator import Discriminator
from giraffe_hd.paper.fields import FeatureField, positional_encoding
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.losses import bbox_containment, coverage
from giraffe_hd.paper.presets import AFHQ_512, CELEBA_256, COMPCAR_256, FFHQ_1024, SETS, SIZES, train_config
from giraffe_hd.paper.recipe import Recipe
from training.batched import rows
from training.checkpoint import load_generator, save_generator
from training.config import DataConfig, LoopConfig
from training.loop.step import train_step
from training.nn.camera import half_width
from training.registry import preset, presets
from training.types import Batch, Step

SMALL = VolumeConfig(resolution=8, n_samples=32)
TINY = GeneratorConfig(
    resolution=16,
    volume=SMALL,
    z_dim=8,
    z_dim_bg=6,
    feat_dim=12,
    n_mlp=2,
    prior=COMPCAR_256.generator.prior,
    fg_gen_mask=True,
    pos_share=True,
)
TINY_GIRAFFE = GiraffeConfig(
    resolution=16,
    volume=SMALL,
    z_dim=8,
    z_dim_bg=6,
    width=16,
    width_bg=8,
    feat_dim=32,
    prior=replace(CLEVR2_256.generator.prior, n_objects=3, n_present=(0.0, 0.5, 0.5)),
)


def make(config: GeneratorConfig) -> Generator:
    torch.manual_seed(0)
    generator = Generator(config).eval().requires_grad_(False)
    with torch.no_grad():  # densities of some weight, noise that can be seen
        generator.object_field.sigma_out.weight *= 100
        for name, parameter in generator.named_parameters():
            if name.endswith("noise.weight"):
                parameter.fill_(0.1)
    return generator


def make_giraffe(config: GiraffeConfig = TINY_GIRAFFE) -> giraffe.Generator:
    torch.manual_seed(0)
    generator = giraffe.Generator(config).eval().requires_grad_(False)
    with torch.no_grad():
        generator.object_field.sigma_out.weight *= 100
    return generator


@pytest.fixture(scope="module")
def generator() -> Generator:
    return make(TINY)


@pytest.fixture
def codes(generator, rng) -> Codes:
    return generator.sample(3, rng)


def in_double(codes: Codes) -> Codes:
    return replace(codes, **{k: v.double() for k in codes.__dataclass_fields__ if (v := getattr(codes, k)) is not None})


# -- volume rendering --------------------------------------------------------------------------------------------------


def test_ray_weights_of_three_rays_by_hand():
    half = math.log(2)  # a density-times-step of ln 2 lets half of the light through
    sigma = torch.tensor([[[half, half, half], [0.0, 0.0, 0.0], [0.0, 1e9, 5.0]]])
    delta = torch.tensor([1.0, 1.0, volume.BEHIND]).expand(1, 3, 3)
    wanted = torch.tensor([[[0.5, 0.25, 0.25], [0.0, 0.0, 0.0], [0.0, 1.0, 0.0]]])
    torch.testing.assert_close(volume.ray_weights(sigma, delta), wanted)


def test_ray_weights_have_the_right_gradient():
    torch.manual_seed(0)
    sigma, delta = torch.rand(1, 2, 5, dtype=torch.double), torch.rand(1, 2, 5, dtype=torch.double)
    assert torch.autograd.gradcheck(volume.ray_weights, (sigma.requires_grad_(), delta))
    assert torch.autograd.gradgradcheck(volume.ray_weights, (sigma, delta))


def test_overlapping_parts_share_by_density():
    sigma = torch.tensor([[[[1.0, 0.0]], [[3.0, 0.0]]]])  # two parts, one ray, two samples
    delta = torch.full((1, 1, 2), math.log(2) / 4)
    wanted = torch.tensor([[[[0.125, 0.0]], [[0.375, 0.0]]]])
    torch.testing.assert_close(volume.shares(sigma, delta), wanted)


def test_slab_test_by_hand():
    """Rays along +x from x = -3: through the middle, along a face's inside, past the cube, and off at an angle."""
    camera = torch.tensor([[[-3.0, 0.0, 0.0]]])
    pixel = camera + torch.tensor([[[1.0, 0.0, 0.0], [1.0, 0.25, 0.0], [1.0, 2.0, 0.0], [-1.0, 0.0, 0.0]]])
    enter, leave = volume.slab(volume.Rays(camera, pixel), 1.0)
    torch.testing.assert_close(enter[0, :2], torch.tensor([2.0, 2.0]))
    torch.testing.assert_close(leave[0, :2], torch.tensor([4.0, 4.0]))
    assert leave[0, 2] < enter[0, 2]
    assert leave[0, 3] < 0  # behind the camera: no sample has a negative depth
    t = torch.tensor([[[1.99, 2.0, 3.0, 4.01]]]).expand(1, 4, 4)
    within = volume.inside(volume.Rays(camera, pixel), t, 1.0)
    assert within[0].tolist() == [[False, True, True, False]] * 2 + [[False] * 4] * 2


def test_depths_are_the_published_ones(rng):
    config, rays = VolumeConfig(), volume.Rays(torch.zeros(2, 1, 3), torch.zeros(2, 5, 3))
    t = volume.depths(config, rays)
    assert t.shape == (2, 5, 64)
    torch.testing.assert_close(t[1, 4, [0, 1, 63]], torch.tensor([0.5, 0.5 + 5.5 / 63, 6.0]))
    jittered = volume.depths(config, rays, rng)
    low = torch.cat([t[..., :1], (t[..., 1:] + t[..., :-1]) / 2], -1)
    high = torch.cat([(t[..., 1:] + t[..., :-1]) / 2, t[..., -1:]], -1)
    assert bool(((jittered >= low) & (jittered <= high)).all())
    assert float((jittered - t).std()) > 0.01


def unclipped(field: FeatureField, condition, rays: volume.Rays, t: Tensor, world: volume.Rays) -> tuple[Tensor, ...]:
    """The published way: every sample of every ray through the whole field, masked outside the box afterwards."""
    direction = rays.pixel - rays.camera
    p = rays.camera[:, :, None] + t[..., None] * direction[:, :, None]
    n, r, s, _ = p.shape
    view = field.view(direction)
    view = None if view is None else view.repeat_interleave(s, 1)
    raw, hidden = field(p.flatten(1, 2), condition.along(), view)
    every = field.head(hidden, torch.ones_like(raw), condition).view(n, r, s, -1)
    within = (p.abs() <= 1.1).all(-1)
    delta = torch.cat([t[..., 1:] - t[..., :-1], torch.full_like(t[..., :1], 1e10)], -1)
    alpha = 1 - torch.exp(-F.relu(raw.view(n, r, s)) * within * delta * world.length[..., None])
    light = torch.cat([torch.ones_like(alpha[..., :1]), 1 - alpha + 1e-10], -1).cumprod(-1)[..., :-1]
    weights = alpha * light
    return (weights[..., None] * every).sum(2), weights.sum(2)


@pytest.mark.parametrize("use_viewdirs", [False, True])
def test_clipped_equals_unclipped(use_viewdirs):
    """Values, and gradients of every parameter, in float64."""
    config = replace(TINY, use_viewdirs=use_viewdirs, grf_use_z_app=True)
    generator = make(config).double()
    field = generator.object_field.requires_grad_(True)
    codes = in_double(generator.sample(3, torch.Generator().manual_seed(3)))
    condition = field.condition(codes.z_s_fg, codes.z_a_fg)
    world = volume.cast(codes, config.prior.fov, config.volume.resolution)
    t = volume.depths(config.volume, world)
    rays = world.in_boxes(codes.scale, codes.translation, codes.rotation)
    clipped = volume.render_objects(field, condition, rays, t)
    weights = volume.ray_weights(clipped.sigma, volume.steps(t, world.length))
    ours = (field.head(clipped.composite(weights), weights.sum(-1), condition), weights.sum(-1))
    theirs = unclipped(field, condition, rays, t, world)
    assert 0.02 < float(theirs[1].detach().mean()) < 0.98  # there is something to see, and to see through
    assert clipped.hidden.shape[0] < 0.2 * t.numel()
    used = [p for name, p in field.named_parameters() if use_viewdirs or not name.startswith("fc_view")]
    torch.manual_seed(1)
    gradients = [torch.randn_like(output) for output in ours]
    for a, b in zip(ours, theirs, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-7, atol=1e-9)
    ours_grad = torch.autograd.grad(ours, used, gradients, retain_graph=True)
    for a, b in zip(ours_grad, torch.autograd.grad(theirs, used, gradients), strict=True):
        torch.testing.assert_close(a, b, rtol=1e-6, atol=1e-8)


def test_gradients_of_the_clipped_field_are_right():
    torch.manual_seed(0)
    config = FieldConfig(
        z_dim=3, width=4, n_layers=3, skip=1, extent=2.0, feat_dim=2, use_viewdirs=False, use_z_app=False, n_octaves=2
    )
    field = FeatureField(config).double()
    camera = torch.tensor([[[-3.0, 0.1, 0.2]]], dtype=torch.double)
    rays = volume.Rays(camera, camera + torch.tensor([[[1.0, 0.1, 0.0], [1.0, 3.0, 0.0]]], dtype=torch.double))
    t = torch.linspace(1.5, 5.0, 8, dtype=torch.double).expand(1, 2, -1)

    def features(z: Tensor) -> Tensor:
        condition = field.condition(z, z)
        clipped = volume.render_objects(field, condition, rays, t)
        weights = volume.ray_weights(clipped.sigma + 0.1, volume.steps(t, rays.length))
        return field.head(clipped.composite(weights), weights.sum(-1), condition)

    assert torch.autograd.gradcheck(features, torch.randn(1, 3, dtype=torch.double, requires_grad=True))


def test_positional_encoding_by_hand():
    p = torch.tensor([[0.5, 0.25, 0.0]])
    s = math.sqrt(0.5)
    wanted = [1, s, 0, 0, s, 1, 0, 1, 0, -1, 0, 1]  # sin xyz, cos xyz of pi p, then of 2 pi p
    torch.testing.assert_close(positional_encoding(p, 2), torch.tensor([wanted]), atol=1e-6, rtol=0)


def test_volume_stage_takes_under_a_gigaflop():
    """CompCar at 16 x 16 rays of 64 samples; the authors' program takes 7.08 GFLOP a picture."""
    torch.manual_seed(0)
    config = COMPCAR_256.generator
    generator = Generator(replace(config, resolution=16)).eval()  # its renderers take no part here
    n = 8
    codes = generator.sample(n, torch.Generator().manual_seed(0))
    w = generator.styles(codes)
    with torch.no_grad(), FlopCounterMode(display=False) as counter:
        generator.object_features(codes, w)
        generator.background_features(codes, w)
    a_picture = counter.get_total_flops() / n
    assert 0.5e9 < a_picture <= 0.9e9


def test_silhouette_of_a_box_by_hand(generator):
    """A box turned towards the camera at the horizon covers the rays that pass its front or its back."""
    codes = generator.sample(1, torch.Generator().manual_seed(0))
    codes = replace(
        codes,
        elevation=torch.zeros(1),
        rotation=torch.zeros(1),
        scale=torch.tensor([[0.1, 0.1, 0.05]]),
        translation=torch.tensor([[0.0, 0.05, 0.0]]),
    )
    rays = volume.cast(codes, 10.0, 16)
    shape = volume.box_silhouette(codes, rays, 16, config=VolumeConfig(n_samples=512), pad=0.0)[0, 0]
    half = half_width(2.732, 10.0)
    y, z = torch.linspace(-half, half, 16), torch.linspace(half, -half, 16)
    nearer = 2.732 / 2.632  # the front is a little larger than the middle
    across = ((y - 0.05 * nearer).abs() <= 0.1 * nearer).float()
    upright = (z.abs() <= 0.05 * nearer).float()
    torch.testing.assert_close(shape, upright[:, None] * across[None], atol=1e-3, rtol=0)
    assert float(generator.box_silhouette(codes, pad=0.3).mean()) > float(generator.box_silhouette(codes).mean())


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


# -- losses and learning -----------------------------------------------------------------------------------------------


def test_losses_by_hand():
    mask = torch.tensor([[[[0.0, 0.5], [1.0, 0.1]]]])
    box = torch.tensor([[[[1.0, 0.5], [0.0, 0.0]]]])
    assert float(bbox_containment(mask, box)) == pytest.approx((0 + 0.25 + 1 + 0.1) / 4)
    assert float(coverage(mask, 0.3)) == 0
    assert float(coverage(mask, 0.5)) == pytest.approx(0.1)
    both = torch.cat([torch.zeros(1, 1, 2, 2), torch.ones(1, 1, 2, 2)])
    assert float(coverage(both, 0.5)) == 0  # over the batch: one full picture makes up for an empty one


TRAIN = TrainConfig(
    generator=replace(TINY, resolution=8, volume=VolumeConfig(resolution=4, n_samples=32)),
    data=DataConfig(size=8),
    loop=LoopConfig(batch=4, bf16=False),
    bbox=2.0,
    cvg=3.0,
    min_ratio=0.9,
    bin=5.0,
)


def a_step(index: int = 0, images: int = 0) -> Step:
    return Step(index=index, images=images, rng=torch.Generator().manual_seed(7))


@pytest.fixture(scope="module")
def batch() -> Batch:
    return Batch(image=torch.rand(4, 3, 8, 8, generator=torch.Generator().manual_seed(0)) * 2 - 1)


@pytest.mark.parametrize("images", [0, 80_000, 500_000])
def test_one_step_gives_the_published_losses(batch, images):
    """Each term on fixed inputs and weights, from the formulas of the paper."""
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    generator, discriminator = recipe.generator, recipe.discriminator
    terms = recipe.generator_losses(batch, a_step(images=images))
    step = a_step(images=images)
    codes = generator.sample(4, step.rng)
    layers = generator(codes, rng=step.rng)
    m = layers.mask
    B = generator.box_silhouette(codes, pad=0.1 * min(1.0, images / 160_000))
    wanted = {
        "adversarial": torch.log1p(torch.exp(-discriminator(layers.image))).mean(),
        "bbox": 2 * ((1 - B) * m).mean(),
        "cvg": 3 * (0.9 - m.mean()).clamp_min(0),
        "bin": 5 * torch.minimum(m, 1 - m).mean(),
    }
    for name, value in wanted.items():
        torch.testing.assert_close(terms[name], value)

    terms = recipe.discriminator_losses(batch, a_step(images=images))
    real, fake = discriminator(batch.image), discriminator(layers.image)
    torch.testing.assert_close(
        terms["adversarial"], torch.log1p(torch.exp(-real)).mean() + torch.log1p(torch.exp(fake)).mean()
    )
    image = batch.image.clone().requires_grad_()
    (gradient,) = torch.autograd.grad(discriminator(image).sum(), image)
    penalty = gradient.square().sum((1, 2, 3)).mean()
    torch.testing.assert_close(recipe.r1_losses(batch, a_step())["r1"], 10 / 2 * penalty)


def test_phases_are_the_published_schedule():
    recipe = Recipe(TRAIN, torch.device("cpu"))
    d, r1, g = recipe.phases()
    assert (d.name, r1.name, g.name, r1.every) == ("D", "R1", "G", 16)
    assert r1.optimizer is d.optimizer
    assert r1.due(a_step(0)) and not r1.due(a_step(1)) and r1.due(a_step(16))
    for phase in (d, g):
        group = phase.optimizer.param_groups[0]
        assert (group["lr"], group["betas"]) == (5e-4, (0.0, 0.99))


def test_training_moves_both_networks(batch):
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    phases = recipe.phases()
    before = {name: p.clone() for name, p in recipe.networks.named_parameters()}
    logged = train_step(phases, batch, a_step())
    assert set(logged) == {"D/adversarial", "R1/r1", "G/adversarial", "G/bbox", "G/cvg", "G/bin"}
    assert all(bool(torch.isfinite(value)) for value in logged.values())
    still = {name for name, p in recipe.networks.named_parameters() if torch.equal(before[name], p)}
    unused = {f"generator.{f}_field.fc_view.{p}" for f in ("object", "background") for p in ("weight", "bias")}
    assert unused <= still  # view directions are off
    assert len(still) < 0.2 * len(before), still
    shown = recipe.grids(recipe.generator.eval(), batch)
    assert {name: len(pictures) % 8 for name, pictures in shown.items()} == {"samples": 0, "turn": 0, "layers": 0}


def test_the_discriminator_learns_four_pictures(batch):
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    recipe.networks.requires_grad_(False)
    d = recipe.phases()[:1]
    losses = [float(train_step(d, batch, a_step(i + 1))["D/adversarial"]) for i in range(6)]
    assert losses[-1] < 0.6 * losses[0]


def test_bfloat16_stays_near_float32(batch):
    torch.manual_seed(0)
    recipe = Recipe(TRAIN, torch.device("cpu"))
    exact = {name: value.detach() for name, value in recipe.generator_losses(batch, a_step()).items()}
    recipe.config = replace(TRAIN, loop=LoopConfig(batch=4, bf16=True))
    recipe.generator.precision = torch.bfloat16
    for name, value in recipe.generator_losses(batch, a_step()).items():
        assert value.dtype == torch.float32
        assert float(value.detach()) == pytest.approx(float(exact[name]), rel=0.05, abs=0.02)


def test_giraffe_learns_by_its_own_rules():
    torch.manual_seed(0)
    config = GiraffeTrainConfig(
        generator=replace(TINY_GIRAFFE, resolution=32),
        data=DataConfig(size=32),
        loop=LoopConfig(batch=3, bf16=False),
    )
    batch = Batch(image=torch.rand(3, 3, 32, 32) * 2 - 1)
    recipe = GiraffeRecipe(config, torch.device("cpu"))
    terms = recipe.discriminator_losses(batch, a_step())
    unit = ((batch.image + 1) / 2).requires_grad_()  # the authors' pictures lie in [0, 1]
    (gradient,) = torch.autograd.grad(recipe.discriminator(2 * unit - 1).sum(), unit)
    torch.testing.assert_close(terms["r1"], 10 * gradient.square().sum((1, 2, 3)).mean())
    recipe.networks.requires_grad_(False)
    logged = train_step(recipe.phases(), batch, a_step())
    assert list(logged) == ["G/adversarial", "D/adversarial", "D/r1"]
    assert all(bool(torch.isfinite(value)) for value in logged.values())
    assert len(recipe.grids(recipe.generator.eval(), batch)["samples"]) == 32


# -- presets -----------------------------------------------------------------------------------------------------------


def test_sets_are_the_published_ones():
    weights = {name: (c.cvg, c.bbox, c.bin, c.min_ratio) for name, c in SETS.items()}
    assert weights == {name: (14, 12 if name == "afhq" else 14, 4, 0.3) for name in SETS}
    mixing = {name: c.generator.mix_prob for name, c in SETS.items()}
    assert mixing == {"compcar": 0.5, "ffhq": 0.8, "afhq": 0.2, "cats": 0.2, "celeba": 0.8}
    assert [c.generator.pos_share for c in SETS.values()] == [True, False, False, False, False]
    assert [c.generator.fg_gen_mask for c in SETS.values()] == [True, False, False, False, False]
    assert CELEBA_256.generator.prior.rotation == (0.375, 0.625)
    assert not any(c.generator.use_viewdirs or c.generator.grf_use_z_app for c in SETS.values())
    latents = {size: train_config("ffhq", size).generator.n_latent for size in SIZES}
    assert latents == {64: 6, 128: 8, 256: 10, 512: 12, 1024: 14}
    inject = {size: train_config("ffhq", size).generator.default_inject_index for size in SIZES}
    assert inject == {64: 2, 128: 2, 256: 2, 512: 4, 1024: 4}
    with pytest.raises(ValueError, match="unknown set 'dogs'; known: compcar"):
        train_config("dogs", 256)
    with pytest.raises(ValueError, match="no GIRAFFE HD of 300 px"):
        train_config("ffhq", 300)


def test_the_average_decays_as_the_authors():
    """0.5^(32 / 10000) a step of 16 pictures; 0.999 a step of GIRAFFE's 32."""
    for config, decay in ((COMPCAR_256, 0.5 ** (32 / 10_000)), (CHAIRS_64, 0.999)):
        loop = config.loop
        half_life = min(loop.half_life, loop.batch * loop.ema_warm_up)
        assert 0.5 ** (loop.batch / half_life) == pytest.approx(decay, rel=1e-6)


@pytest.mark.parametrize("name", [name for name in presets() if name.startswith(("giraffe-hd-paper", "giraffe-2021"))])
def test_presets_resolve(name):
    config = preset(name)
    assert config.family in ("giraffe_hd_paper", "giraffe")
    assert name.endswith(str(config.generator.resolution))


def test_every_set_has_presets():
    names = {f"giraffe-hd-paper-{name}-{size}" for name in SETS for size in SIZES}
    names |= {
        f"giraffe-2021-{name}" for name in ("chairs-64", "church-64", "church-256", "clevr2-256", "clevr2345-256")
    }
    assert names <= set(presets())
