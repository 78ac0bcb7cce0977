"""What the leading numbers of z mean: where the object stands, how it is turned and how large it is."""

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
    """Return standard normal numbers as uniform ones between `ends`, through their distribution function."""
    low, high = ends
    return low + (high - low) * torch.special.ndtr(z)


def object_pose(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> ObjectPose:
    """Return camera and box of z = (direction x, direction y, elevation, scale, shift x, shift y, ...).

    Ranges of size and place are shares of half the picture's width, measured in the plane through the origin.
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
    """Return what of z can be seen: the direction of (z0, z1) without its length under a `turn`, all else as it is.

    A direction is scaled to length sqrt(2), so that every entry has unit variance.
    """
    if pose.kind == "plane":
        return z
    turn = F.normalize(z[:, :2], dim=1) * math.sqrt(2)
    return torch.cat([turn, z[:, 2:]], 1)


def placing(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> Float[Tensor, "n placed"]:
    """Return the numbers of z that place the object, each in [-1, 1]: a direction as cosine and sine, the others by
    their distribution function."""
    if pose.kind == "plane":
        return 2 * torch.special.ndtr(z[:, : pose.n_placing]) - 1
    return torch.cat([F.normalize(z[:, :2], dim=1), 2 * torch.special.ndtr(z[:, 2 : pose.n_placing]) - 1], 1)
