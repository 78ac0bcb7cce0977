"""The pose that the leading numbers of z encode: the object's place, rotation and size."""

import math

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mixnmatch.fast.config import PoseConfig
from training.nn.camera import half_width
from training.nn.volume import ObjectPose

RADIUS, FOV = 2.732, 20.0
"""The camera: its distance in world units and its field of view in degrees, those of the rendered cars."""


def uniform(z: Float[Tensor, "*n"], ends: tuple[float, float]) -> Float[Tensor, "*n"]:
    """Return low + (high - low) Phi(z): standard normal numbers mapped to uniform ones between `ends`."""
    low, high = ends
    return low + (high - low) * torch.special.ndtr(z)


def object_pose(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> ObjectPose:
    """Return camera and box (radians, world units) of z = (direction x, direction y, elevation, scale, shift x, shift
    y, ...).

    Sizes and places in `pose` are shares of half the picture's width, measured in the plane through the origin.
    """
    half, still = half_width(RADIUS, FOV), torch.zeros_like(z[:, 0])
    across, down = uniform(z[:, 4], pose.shift_x), uniform(z[:, 5], pose.shift_y)
    return ObjectPose(
        azimuth=still,
        elevation=uniform(z[:, 2], pose.elevation).deg2rad(),
        radius=still + RADIUS,
        scale=half * uniform(z[:, 3], pose.scale)[:, None] * z.new_tensor(pose.proportions),
        translation=half * torch.stack([still, across, -down], 1),
        rotation=torch.atan2(z[:, 1], z[:, 0]),
    )


def pose_features(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> Float[Tensor, "n z_dim"]:
    """Return the part of z that changes the picture: with `turn`, (z0, z1) normalised, as their length has no effect.

    The direction is scaled to length sqrt(2), so that every entry has unit variance.
    """
    if pose.kind == "plane":
        return z
    turn = F.normalize(z[:, :2], dim=1) * math.sqrt(2)
    return torch.cat([turn, z[:, 2:]], 1)


def placing(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> Float[Tensor, "n placed"]:
    """Return the pose in z as numbers in [-1, 1]: the direction as cosine and sine, the others as 2 Phi(z) - 1."""
    if pose.kind == "plane":
        return 2 * torch.special.ndtr(z[:, : pose.n_placing]) - 1
    return torch.cat([F.normalize(z[:, :2], dim=1), 2 * torch.special.ndtr(z[:, 2 : pose.n_placing]) - 1], 1)
