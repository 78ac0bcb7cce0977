"""The scene's conventions, shared by the renderer of training cars and by GIRAFFE HD (GIRAFFE Sec. 3; GRAF Sec. 3.1).

World: right-handed, z up. The camera is on a sphere around the origin and looks at it, without roll: at azimuth 0 it
is on the +x side, so image right is +y and image up is +z. Object: p_box = Rz(rotation) (p - translation) / scale, and
the object fills the box |p_box| <= 1. Angles in radians; elevation 0 is the horizon.
"""

import math

import torch
from jaxtyping import Float
from torch import Tensor


def look_at(azimuth: Float[Tensor, " n"], elevation: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """Return rotations camera -> world; columns are image right, image up and the direction to the camera."""
    ca, sa, ce, se = azimuth.cos(), azimuth.sin(), elevation.cos(), elevation.sin()
    zero = torch.zeros_like(ca)
    right = torch.stack([-sa, ca, zero], -1)
    up = torch.stack([-se * ca, -se * sa, ce], -1)
    back = torch.stack([ce * ca, ce * sa, se], -1)
    return torch.stack([right, up, back], -1)


def rotation_z(angle: Float[Tensor, " n"]) -> Float[Tensor, "n 3 3"]:
    """Return Rz(angle), counter-clockwise seen from above."""
    c, s = angle.cos(), angle.sin()
    zero, one = torch.zeros_like(c), torch.ones_like(c)
    return torch.stack([c, -s, zero, s, c, zero, zero, zero, one], -1).reshape(-1, 3, 3)


def half_width(radius: float, fov: float) -> float:
    """Return half the picture's width in world units, measured in the plane through the origin; `fov` in degrees."""
    return radius * math.tan(math.radians(fov) / 2)


def pixel_plane(
    size: int, *, corners: bool = False, device: torch.device | None = None
) -> tuple[Float[Tensor, "h w"], Float[Tensor, "h w"]]:
    """Return x (right) and y (up) of each pixel in [-1, 1]: at pixel centres, or with the outer pixels on the edge."""
    edge = 1.0 if corners else 1 - 1 / size
    line = torch.linspace(-edge, edge, size, device=device)
    y, x = torch.meshgrid(-line, line, indexing="ij")
    return x, y


def box_points(
    world: Float[Tensor, "n points 3"],
    scale: Float[Tensor, "n 3"],
    translation: Float[Tensor, "n 3"],
    rotation: Float[Tensor, " n"],
) -> Float[Tensor, "n points 3"]:
    """Return world points in the object's box: Rz(rotation) (p - t) / s  (GIRAFFE Sec. 3.2)."""
    return (world - translation[:, None]) @ rotation_z(rotation).transpose(1, 2) / scale[:, None]


def world_points(
    box: Float[Tensor, "n points 3"],
    scale: Float[Tensor, "n 3"],
    translation: Float[Tensor, "n 3"],
    rotation: Float[Tensor, " n"],
) -> Float[Tensor, "n points 3"]:
    """Return points of the object's box in the world; the inverse of `box_points`."""
    return (box * scale[:, None]) @ rotation_z(rotation) + translation[:, None]


def project(
    world: Float[Tensor, "n points 3"],
    azimuth: Float[Tensor, " n"],
    elevation: Float[Tensor, " n"],
    radius: Float[Tensor, " n"],
    fov: float,
) -> tuple[Float[Tensor, "n points 2"], Float[Tensor, "n points"]]:
    """Return the projection of points (x right, y up, [-1, 1] in view) and their depth from the camera."""
    camera = look_at(azimuth, elevation)
    local = world @ camera  # right, up, back
    depth = radius[:, None] - local[..., 2]
    focal = 1 / math.tan(math.radians(fov) / 2)
    return focal * local[..., :2] / depth[..., None], depth
