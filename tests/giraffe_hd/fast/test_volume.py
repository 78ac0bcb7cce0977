"""Volume rendering of the fast configs: hand-worked rays, clipping, gradients."""

import math

import pytest
import torch

from training.nn.ops.field import ray_weights, stratified_depths
from training.nn.volume import ObjectPose, box_rays, pick, scatter_rays


def one_object(
    n: int = 1, *, scale: float = 0.3, y: float = 0.0, rotation: float = 0.0, elevation: float = 0.0
) -> ObjectPose:
    row = torch.full((n,), 1.0)
    return ObjectPose(
        azimuth=0 * row, elevation=elevation * row, radius=2.732 * row, scale=scale * torch.ones(n, 3),
        translation=torch.tensor([0.0, y, 0.0]).expand(n, 3), rotation=rotation * row,
    )  # fmt: skip


def test_ray_weights_of_three_rays_by_hand():
    """Clear; one half-opaque sample after another; a wall that hides what is behind it."""
    half = math.log(2.0)  # exp(-ln 2) = 1/2
    sigma = torch.tensor([[0.0, 0.0, 0.0], [half, half, half], [0.0, 1e4, half]])
    wanted = torch.tensor([[0.0, 0.0, 0.0], [1 / 2, 1 / 4, 1 / 8], [0.0, 1.0, 0.0]])
    torch.testing.assert_close(ray_weights(sigma, torch.ones_like(sigma)), wanted)


def test_ray_weights_gradients():
    sigma = torch.rand(4, 5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: ray_weights(s, torch.full_like(s, 0.3)), (sigma,))


def test_rays_are_as_exact_in_bfloat16():
    """Half a pixel is 0.05 of the box: rays rounded to bfloat16 would miss by that much."""
    placed = one_object(3, y=0.05, rotation=0.7, elevation=0.4)
    with torch.autocast("cpu", torch.bfloat16):
        rays = box_rays(placed, 16, 20.0)
    for value, wanted in zip(rays, box_rays(placed, 16, 20.0), strict=True):
        assert torch.equal(value, wanted)


def test_rays_enter_and_leave_the_box_on_its_faces():
    rays = box_rays(one_object(3, y=0.05, rotation=0.7, elevation=0.4), 16, 20.0)
    for t in (rays.near, rays.far):
        p = rays.origin + t[..., None] * rays.direction
        on_face = p[rays.hit].abs().amax(-1)
        torch.testing.assert_close(on_face, torch.ones_like(on_face), atol=1e-4, rtol=0)
    middle = rays.origin + ((rays.near + rays.far) / 2)[..., None] * rays.direction
    assert (middle[rays.hit].abs() <= 1).all()


def test_no_point_of_a_missing_ray_lies_in_the_box():
    rays = box_rays(one_object(rotation=0.3, elevation=0.3), 24, 20.0)
    t = torch.linspace(0, 6, 400)
    p = rays.origin[:, :, None] + t[:, None] * rays.direction[:, :, None]
    inside = (p.abs() <= 1).all(-1).any(-1)
    assert not (inside & ~rays.hit).any()
    assert 0.1 < rays.hit.float().mean() < 0.9


def test_box_behind_the_camera_is_not_hit():
    behind = one_object()._replace(translation=torch.tensor([[9.0, 0, 0]]))
    assert not box_rays(behind, 8, 20.0).hit.any()


def test_picked_rays_come_back_in_their_places():
    rays = box_rays(one_object(2, y=0.1), 12, 20.0)
    index, real = pick(rays)
    values = torch.arange(144.0).expand(2, 144).gather(1, index)[..., None] + 1
    image = scatter_rays(values, index, real, 12)
    wanted = (torch.arange(144.0) + 1).view(12, 12) * rays.hit.view(2, 1, 12, 12)
    torch.testing.assert_close(image, wanted)


def test_depths_are_in_order_and_inside():
    near, far = torch.rand(2, 5), torch.rand(2, 5) + 1
    for jitter in (None, torch.rand(2, 5, 7)):
        t, _ = stratified_depths(near, far, torch.ones_like(near), 7, jitter)
        assert (t.diff(dim=-1) > 0).all()
        assert (t > near[..., None]).all()
        assert (t < far[..., None]).all()


@pytest.mark.parametrize("size", [7, 16])
def test_object_to_the_right_is_hit_on_the_right(size):
    hit = box_rays(one_object(scale=0.1, y=0.3), size, 20.0).hit.view(size, size)
    assert hit.any()
    assert not hit[:, : size // 2].any()
