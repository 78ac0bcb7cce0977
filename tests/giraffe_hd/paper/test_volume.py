"""Volume rendering of the published GIRAFFE HD, by hand and against plain PyTorch."""

import math
from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from giraffe_hd.codes import Codes
from giraffe_hd.paper import volume
from giraffe_hd.paper.config import FieldConfig, VolumeConfig
from giraffe_hd.paper.fields import FeatureField, positional_encoding
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.presets import COMPCAR_256
from tests.giraffe_hd.paper.tiny import TINY, make
from training.nn.camera import half_width


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
