"""The object's frame: coordinates in which its box, enlarged by `WIDENED`, is [-1, 1]^2.

The pose is that box: z = (centre x, centre y, log half width, log half height), in half widths of the picture.
"""

import math
from typing import Literal

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.types import Boxes, Image, Mask

WIDENED = 1.12
"""Side of the frame over that of the box, so that soft outlines fit in."""
SMALLEST = 0.08
"""Smallest half side of a box, in half pictures."""

BOX_SHARE = 1.35
"""Side of the pose's box over that of a box which holds only a part of the object."""

Pose = Float[Tensor, "n 4"]


def pose_of_boxes(boxes: Boxes) -> Pose:
    """Return the pose of boxes x0 y0 x1 y1, fractions of the picture."""
    centre = boxes[:, :2] + boxes[:, 2:] - 1
    half = (boxes[:, 2:] - boxes[:, :2]).clamp(min=SMALLEST)
    return torch.cat([centre, half.log()], 1)


def pose_of_parts(boxes: Boxes) -> Pose:
    """Return the pose of boxes that hold only a part of the object, such as heads: `BOX_SHARE` times as large."""
    z = pose_of_boxes(boxes)
    return torch.cat([z[:, :2], z[:, 2:] + math.log(BOX_SHARE)], 1)


def pose_of_masks(mask: Mask, threshold: float = 0.5) -> Pose:
    """Return the pose of the box around each mask.

    The box spans the rows and columns in which at least 1/30 of the side is object; without any it is the whole
    picture.
    """
    solid = (mask[:, 0] > threshold).float()
    least = max(1.0, mask.shape[-1] / 30)
    sides = []
    for dim in (1, 2):  # columns, then rows
        line = solid.sum(dim) >= least
        line = line | ~line.any(1, keepdim=True)
        n = line.shape[1]
        first = line.float().argmax(1)
        last = n - 1 - line.flip(1).float().argmax(1)
        sides.append((first / n, (last + 1) / n))
    (x0, x1), (y0, y1) = sides
    return pose_of_boxes(torch.stack([x0, y0, x1, y1], 1))


def _half(z: Pose) -> Float[Tensor, "n 2"]:
    return z[:, 2:].clamp(-3, 0.7).exp() * WIDENED


def _lines(side: int, like: Tensor) -> Float[Tensor, " side"]:
    return (torch.arange(side, device=like.device, dtype=torch.float32) + 0.5) * 2 / side - 1


Outside = Literal["zeros", "border", "reflection"]
"""What stands outside a frame: nothing, what is at its edge, or what is inside, mirrored at its edge."""


def placed(
    map: Float[Tensor, "n c h w"], z: Pose, side: int, *, outside: Outside = "zeros"
) -> Float[Tensor, "n c side side"]:
    """Return a map of the object's frame resampled into the picture of `side`."""
    z, line = z.float(), _lines(side, z)
    half = _half(z)
    x = (line[None, :] - z[:, :1]) / half[:, :1]
    y = (line[None, :] - z[:, 1:2]) / half[:, 1:]
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    return F.grid_sample(map.float(), grid, padding_mode=outside, align_corners=False)


def cropped(image: Float[Tensor, "n c h w"], z: Pose, side: int) -> Float[Tensor, "n c side side"]:
    """Return the object's frame cropped from a picture, at `side` x `side`; edges are repeated."""
    z, line = z.float(), _lines(side, z)
    half = _half(z)
    x = z[:, :1] + line[None, :] * half[:, :1]
    y = z[:, 1:2] + line[None, :] * half[:, 1:]
    grid = torch.stack(torch.broadcast_tensors(x[:, None, :], y[:, :, None]), -1)
    return F.grid_sample(image.float(), grid, padding_mode="border", align_corners=False)


def dilated(mask: Mask, by: int = 2) -> Mask:
    """Return masks enlarged by so many 64ths of the picture's side; the side is 64 pixels or a multiple."""
    reach = by * mask.shape[-1] // 64
    return F.max_pool2d(mask, 2 * reach + 1, stride=1, padding=reach)


def hidden(mask: Mask) -> Mask:
    """Return 1 where an object may hide the background, within two 64ths of the side of its soft mask, and 0
    elsewhere."""
    return (dilated(mask) > 0.3).float()


def filled(image: Image, mask: Mask) -> Image:
    """Return pictures whose pixels outside the mask are replaced by averages of the nearest ones inside."""
    result = image * mask
    weight = mask
    for cells in (8, 2, 1):  # from fine to coarse: pixels that are still empty take the coarser average
        side = image.shape[-1]
        pooled = F.adaptive_avg_pool2d(image * mask, cells)
        share = F.adaptive_avg_pool2d(mask, cells)
        near = F.interpolate(pooled / share.clamp(min=1e-4), size=(side, side), mode="nearest")
        there = F.interpolate((share > 0.02).float(), size=(side, side), mode="nearest")
        add = (1 - weight) * there
        result = result + near * add
        weight = weight + add
    return result
