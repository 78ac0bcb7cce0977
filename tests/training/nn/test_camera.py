"""The scene's conventions, by points whose place is known."""

import math

import pytest
import torch

from training.nn.camera import box_points, half_width, look_at, pixel_plane, project, world_points


def test_camera_on_the_x_side_sees_y_to_the_right_and_z_up():
    right, up, back = look_at(torch.zeros(1), torch.zeros(1))[0].T
    torch.testing.assert_close(right, torch.tensor([0.0, 1, 0]))
    torch.testing.assert_close(up, torch.tensor([0.0, 0, 1]))
    torch.testing.assert_close(back, torch.tensor([1.0, 0, 0]))


def test_look_at_is_a_rotation(rng):
    R = look_at(torch.randn(9, generator=rng), torch.randn(9, generator=rng))
    torch.testing.assert_close(R @ R.transpose(1, 2), torch.eye(3).expand(9, 3, 3), atol=1e-6, rtol=0)
    torch.testing.assert_close(torch.linalg.det(R), torch.ones(9))


def test_point_at_half_width_falls_on_the_edge_of_the_picture():
    half = half_width(2.0, 30.0)
    assert half == pytest.approx(2 * math.tan(math.radians(15)))
    point = torch.tensor([[[0.0, half, 0.0], [0.0, 0.0, -half]]])
    plane, depth = project(point, torch.zeros(1), torch.zeros(1), torch.full((1,), 2.0), 30.0)
    torch.testing.assert_close(plane, torch.tensor([[[1.0, 0.0], [0.0, -1.0]]]))
    torch.testing.assert_close(depth, torch.full((1, 2), 2.0))


def test_elevation_raises_the_camera():
    back = look_at(torch.zeros(1), torch.full((1,), math.pi / 6))[0, :, 2]
    torch.testing.assert_close(back, torch.tensor([math.cos(math.pi / 6), 0, 0.5]))


def test_box_and_world_are_inverse(rng):
    points = torch.randn(4, 7, 3, generator=rng)
    pose = (torch.rand(4, 3, generator=rng) + 0.1, torch.randn(4, 3, generator=rng), torch.randn(4, generator=rng))
    torch.testing.assert_close(box_points(world_points(points, *pose), *pose), points, atol=1e-5, rtol=0)


def test_quarter_turn_takes_the_front_to_the_left():
    """p_box = Rz(90 deg) p_world: the front (+x of the box) is at -y of the world, left in the picture."""
    front = torch.tensor([[[1.0, 0, 0]]])
    world = world_points(front, torch.ones(1, 3), torch.zeros(1, 3), torch.full((1,), math.pi / 2))
    torch.testing.assert_close(world[0, 0], torch.tensor([0.0, -1.0, 0.0]))


def test_pixel_plane_has_centres_or_corners():
    x, y = pixel_plane(2)
    torch.testing.assert_close(x, torch.tensor([[-0.5, 0.5], [-0.5, 0.5]]))
    torch.testing.assert_close(y, torch.tensor([[0.5, 0.5], [-0.5, -0.5]]))
    assert pixel_plane(2, corners=True)[0].min() == -1
