"""Anchors, the code of boxes against them, and overlaps of boxes. Boxes are fractions of the square input."""

from collections.abc import Sequence

import torch
from jaxtyping import Float
from torch import Tensor

from training.segmentation.yolact.config import NetworkConfig
from training.types import Boxes

VARIANCES = (0.1, 0.2)
"""By which SSD divides offsets of centres and logarithms of sizes."""


def make_anchors(config: NetworkConfig, sides: Sequence[tuple[int, int]] | None = None) -> Float[Tensor, "anchors 4"]:
    """Return every anchor as centre x, centre y, width, height: level by level, row by row, scale, then ratio.

    `sides` are the levels' heights and widths, by default those for the config's own input size.
    """
    sides = sides or [(side, side) for side in config.map_sides]
    if len(sides) != len(config.scales):
        raise ValueError(f"got {len(sides)} pyramid levels, the config has {len(config.scales)} scales; give one each")
    levels = []
    for scale, (height, width) in zip(config.scales, sides, strict=True):
        shapes = []
        for octave in config.octaves:
            for ratio in config.ratios:
                w = scale * octave * ratio**0.5 / config.size
                h = w if config.square_anchors else scale * octave / ratio**0.5 / config.size
                shapes.append((w, h))
        y, x = torch.meshgrid(
            (torch.arange(height, dtype=torch.float64) + 0.5) / height,
            (torch.arange(width, dtype=torch.float64) + 0.5) / width,
            indexing="ij",
        )
        centres = torch.stack([x, y], -1).reshape(-1, 1, 2).expand(-1, len(shapes), 2)
        sizes = torch.tensor(shapes, dtype=torch.float64).expand(len(centres), -1, 2)
        levels.append(torch.cat([centres, sizes], 2).reshape(-1, 4))
    return torch.cat(levels).float()


def corners(centred: Float[Tensor, "n 4"]) -> Boxes:
    """Return boxes given by centre and size as x0 y0 x1 y1."""
    half = centred[:, 2:] / 2
    return torch.cat([centred[:, :2] - half, centred[:, :2] + half], 1)


def decode(code: Float[Tensor, "n 4"], anchors: Float[Tensor, "n 4"]) -> Boxes:
    """Return the boxes that the network's codes describe."""
    centre = anchors[:, :2] + VARIANCES[0] * code[:, :2] * anchors[:, 2:]
    return corners(torch.cat([centre, anchors[:, 2:] * torch.exp(VARIANCES[1] * code[:, 2:])], 1))


def encode(boxes: Boxes, anchors: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
    """Return the code of each box against the anchor in its row: the inverse of `decode`."""
    centre, size = (boxes[:, :2] + boxes[:, 2:]) / 2, boxes[:, 2:] - boxes[:, :2]
    offset = (centre - anchors[:, :2]) / (VARIANCES[0] * anchors[:, 2:])
    return torch.cat([offset, torch.log(size / anchors[:, 2:]) / VARIANCES[1]], 1)


def intersection(a: Float[Tensor, "*batch n 4"], b: Float[Tensor, "*batch m 4"]) -> Float[Tensor, "*batch n m"]:
    """Return the area that each box of `a` shares with each of `b`."""
    low = torch.maximum(a[..., :, None, :2], b[..., None, :, :2])
    high = torch.minimum(a[..., :, None, 2:], b[..., None, :, 2:])
    return (high - low).clamp(min=0).prod(-1)


def area(boxes: Float[Tensor, "*batch 4"]) -> Float[Tensor, "*batch"]:
    """Return the boxes' areas."""
    return (boxes[..., 2] - boxes[..., 0]) * (boxes[..., 3] - boxes[..., 1])


def overlap(a: Float[Tensor, "*batch n 4"], b: Float[Tensor, "*batch m 4"]) -> Float[Tensor, "*batch n m"]:
    """Return the intersection over union of each box of `a` with each of `b`."""
    shared = intersection(a, b)
    return shared / (area(a)[..., :, None] + area(b)[..., None, :] - shared)
