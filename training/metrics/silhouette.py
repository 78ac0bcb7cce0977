"""Measurements of an object by its mask and the pixels in it, without labels."""

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn.functional import grid_sample, pad

from training.metrics.masks import CLEAR, core, iou, look_histogram, read_masks
from training.types import Image, Mask


def orientation(mask: Mask) -> Float[Tensor, " n"]:
    """Return the direction of the mask's long axis in degrees, [-90, 90), counter-clockwise from the right."""
    return _frame(mask)[1].rad2deg()


def _frame(mask: Mask) -> tuple[Float[Tensor, "n 2"], Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return centroid (right, up, in half widths), angle of the long axis in radians, and root of the area."""
    where = read_masks(torch.zeros_like(mask).expand(-1, 3, -1, -1), mask)
    x, y = where["x"] / 100, where["y"] / 100
    height, width = mask.shape[2:]
    share = mask[:, 0].double()
    share = share / share.sum((1, 2), keepdim=True).clamp_min(1e-9)
    across = (torch.arange(width, device=mask.device) + 0.5) * 2 / width - 1 - x[:, None]
    up = height / width - (torch.arange(height, device=mask.device) + 0.5) * 2 / width - y[:, None]
    xx = (share.sum(1) * across**2).sum(1)
    yy = (share.sum(2) * up**2).sum(1)
    xy = (share * across[:, None] * up[:, :, None]).sum((1, 2))
    return torch.stack([x, y], 1), torch.atan2(2 * xy, xx - yy) / 2, where["scale"]


def centred(mask: Mask, *, level: bool, side: int = 48) -> Float[Tensor, "n 1 side side"]:
    """Return masks moved to the middle and brought to one area; with `level`, turned until the long axis is level."""
    centre, angle, size = _frame(mask)
    angle = angle * level
    line = (torch.arange(side, device=mask.device, dtype=torch.float64) + 0.5) * 2 / side - 1
    reach = 3 * size.view(-1, 1, 1)  # half the frame, of which the object then fills a ninth
    u, v = line.view(1, 1, -1) * reach, -line.view(1, -1, 1) * reach
    cos, sin = angle.cos().view(-1, 1, 1), angle.sin().view(-1, 1, 1)
    x = centre[:, 0].view(-1, 1, 1) + u * cos - v * sin
    y = centre[:, 1].view(-1, 1, 1) + u * sin + v * cos
    ratio = mask.shape[3] / mask.shape[2]
    return grid_sample(mask.double(), torch.stack([x, -y * ratio], -1), align_corners=False).float()


def outline_change(a: Mask, b: Mask) -> Float[Tensor, " n"]:
    """Return 1 - IoU of the outlines after normalising centre and area, and rotation where that gives a larger IoU.

    Outlines are compared unrotated, with level long axes, and turned by 180 degrees; round ones have no long axis.
    """
    level_a, level_b = centred(a, level=True), centred(b, level=True)
    standing = iou(centred(a, level=False), centred(b, level=False))
    return 1 - torch.stack([standing, iou(level_a, level_b), iou(level_a, level_b.flip(2, 3))]).amax(0)


def grain_histogram(image: Image, mask: Mask, bins: int = 8) -> Float[Tensor, "n bins"]:
    """Return the histogram of the brightness gradient inside the mask, a measure of its texture."""
    grey = image.mean(1, keepdim=True)
    grey = pad(grey, (0, 1, 0, 1), mode="replicate")
    right, down = grey[:, :, :-1, 1:] - grey[:, :, :-1, :-1], grey[:, :, 1:, :-1] - grey[:, :, :-1, :-1]
    steep = torch.hypot(right, down).clamp(max=1 - 1e-6)
    # bins of equal width in the root: most pixels are nearly flat
    index = (steep.sqrt() * bins).long().flatten(1)
    return image.new_zeros(len(image), bins).scatter_add_(1, index, core(mask))


def changes(image_0: Image, mask_0: Mask, image_1: Image, mask_1: Mask) -> dict[str, Float[Tensor, " n"]]:
    """Return the differences of two pictures with masks; 0 means equal.

    `background`: mean change outside both masks, of 255, nan where there is no such pixel. `place`: distance of the
    centroids, percent of half the width. `orientation`: of the long axes, degrees. `overlap`: 1 - IoU. `outline`: the
    same with poses taken away. `colours`, `grain`: distance of the histograms inside, 0 to 1.
    """
    outside = ((mask_0 < CLEAR) & (mask_1 < CLEAR)).float()
    background = (image_1 - image_0).abs().mean(1, keepdim=True) * outside
    count = outside.sum((1, 2, 3))
    before, after = read_masks(image_0, mask_0), read_masks(image_1, mask_1)
    turn = (orientation(mask_1) - orientation(mask_0)).abs()
    return {
        "background": torch.where(count > 0, background.sum((1, 2, 3)) * 127.5 / count.clamp_min(1), torch.nan),
        "place": torch.hypot(after["x"] - before["x"], after["y"] - before["y"]),
        "orientation": torch.minimum(turn, 180 - turn),
        "overlap": 1 - iou(mask_0, mask_1),
        "outline": outline_change(mask_0, mask_1),
        "colours": (look_histogram(image_0, mask_0) - look_histogram(image_1, mask_1)).abs().sum(1) / 2,
        "grain": (grain_histogram(image_0, mask_0) - grain_histogram(image_1, mask_1)).abs().sum(1) / 2,
    }
