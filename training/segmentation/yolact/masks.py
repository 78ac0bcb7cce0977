"""From prototypes and coefficients to masks at the photo's size (YOLACT Sec. 3.3), pasted box by box."""

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import scipy.ndimage
import torch
from jaxtyping import Float
from torch import Tensor

from training.segmentation.yolact.photos import Placement
from training.types import Boxes


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskConfig:
    """How masks are cropped to boxes; the defaults are the published program's."""

    cut: bool = True
    """Crop masks to their boxes."""
    sharp: bool = False
    """Crop after enlarging, to the box grown by `margin`; otherwise before it, to the box and one prototype pixel."""
    margin: float = 0.05
    """Share of the box's sides that a sharp crop leaves around it."""
    smallest_part: float = 0.0
    """Drop parts of a mask that are smaller than this share of its largest."""

    def __post_init__(self) -> None:
        if not (0 <= self.margin <= 10 and 0 <= self.smallest_part <= 1):
            raise ValueError(
                f"margin {self.margin} and smallest_part {self.smallest_part} are shares; expected 0 to 10 and 0 to 1"
            )


def assemble(prototypes: Float[Tensor, "h w k"], coefficients: Float[Tensor, "n k"]) -> Float[Tensor, "n h w"]:
    """Return each object's soft mask over the whole input."""
    return torch.sigmoid(coefficients @ prototypes.flatten(0, 1).T).unflatten(1, prototypes.shape[:2])


def crop(masks: Float[Tensor, "n h w"], boxes: Boxes, pad: float = 1.0) -> Float[Tensor, "n h w"]:
    """Return masks with everything outside their boxes, and `pad` of their pixels around these, at zero."""
    height, width = masks.shape[1:]
    size = torch.tensor([width, height], device=boxes.device, dtype=boxes.dtype)
    points = boxes.reshape(-1, 2, 2) * size
    low = (points.amin(1) - pad).clamp(min=0)
    high = (points.amax(1) + pad).clamp(max=size)
    x, y = (torch.arange(n, device=masks.device, dtype=boxes.dtype) for n in (width, height))
    columns = (x >= low[:, :1]) & (x < high[:, :1])
    rows = (y >= low[:, 1:]) & (y < high[:, 1:])
    return masks * (rows[:, :, None] & columns[:, None, :])


@dataclass(frozen=True, slots=True)
class Patch:
    """A soft mask in a part of a photo; it is zero elsewhere."""

    top: int
    left: int
    values: Float[np.ndarray, "patch_h patch_w"]

    def paste(self, height: int, width: int) -> Float[np.ndarray, "h w"]:
        """Return the mask of the whole photo."""
        whole = np.zeros((height, width), np.float32)
        h, w = self.values.shape
        whole[self.top : self.top + h, self.left : self.left + w] = self.values
        return whole


def patches(
    prototypes: Float[Tensor, "h w k"],
    coefficients: Float[Tensor, "n k"],
    boxes: Boxes,
    placement: Placement,
    config: MaskConfig,
) -> Iterator[Patch]:
    """Yield each object's soft mask at the photo's size, enlarged bilinearly inside its box only."""
    masks = assemble(prototypes, coefficients)
    cut = masks if config.sharp or not config.cut else crop(masks, boxes)
    around = placement.to_photo(boxes)
    for mask, box in zip(cut.cpu().numpy(), around.tolist(), strict=True):
        if config.smallest_part > 0:
            mask = _large_parts(mask, config.smallest_part)
        yield _sharp(mask, box, placement, config.margin) if config.sharp and config.cut else _enlarged(mask, placement)


def _large_parts(mask: Float[np.ndarray, "h w"], share: float) -> Float[np.ndarray, "h w"]:
    """Return a mask without its small parts and the soft edges of these."""
    labels = np.zeros(mask.shape, np.int32)
    scipy.ndimage.label(mask > 0.5, output=labels)
    if labels.max() < 2:
        return mask
    sizes = np.bincount(labels.ravel())[1:]
    small = np.isin(labels, 1 + np.flatnonzero(sizes < share * sizes.max()))
    near_small = scipy.ndimage.binary_dilation(small, iterations=2)
    near_large = scipy.ndimage.binary_dilation((labels > 0) & np.logical_not(small), iterations=1)
    return np.where(near_small > near_large, np.float32(0), mask)


def _enlarged(mask: Float[np.ndarray, "h w"], placement: Placement) -> Patch:
    """Return the whole mask, cut to where it is not zero, at the photo's size."""
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    if not len(rows):
        return Patch(0, 0, np.zeros((0, 0), np.float32))
    per_row = placement.height / (placement.share_y * mask.shape[0])
    per_column = placement.width / (placement.share_x * mask.shape[1])
    top, bottom = (rows[0] - 0.5) * per_row - 0.5, (rows[-1] + 1.5) * per_row - 0.5
    left, right = (columns[0] - 0.5) * per_column - 0.5, (columns[-1] + 1.5) * per_column - 0.5
    return _sampled(mask, (top, bottom, left, right), placement)


def _sharp(mask: Float[np.ndarray, "h w"], box: list[float], placement: Placement, margin: float) -> Patch:
    """Return the mask inside the grown box, at the photo's size."""
    x0, y0, x1, y1 = box
    more_x, more_y = margin * (x1 - x0), margin * (y1 - y0)
    return _sampled(mask, (y0 - more_y, y1 + more_y - 1, x0 - more_x, x1 + more_x - 1), placement)


def _sampled(mask: Float[np.ndarray, "h w"], region: tuple[float, ...], placement: Placement) -> Patch:
    """Return a mask's part between the photo's rows and columns `region` (top, bottom, left, right, inclusive)."""
    top, bottom = max(0, int(np.floor(region[0]))), min(placement.height - 1, int(np.ceil(region[1])))
    left, right = max(0, int(np.floor(region[2]))), min(placement.width - 1, int(np.ceil(region[3])))
    if bottom < top or right < left:
        return Patch(0, 0, np.zeros((0, 0), np.float32))
    rows = _bilinear(mask.shape[0], placement.height / placement.share_y, top, bottom)
    columns = _bilinear(mask.shape[1], placement.width / placement.share_x, left, right)
    across = mask[:, columns[0]] * (1 - columns[2]) + mask[:, columns[1]] * columns[2]
    return Patch(top, left, across[rows[0]] * (1 - rows[2][:, None]) + across[rows[1]] * rows[2][:, None])


def _bilinear(n: int, pixels: float, first: int, last: int) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return, for pixels `first` to `last` of `pixels` that `n` cells cover, the two nearest cells and the weight of
    the second (half-pixel centres, as torch's bilinear interpolation)."""
    at = np.clip((np.arange(first, last + 1) + 0.5) * n / pixels - 0.5, 0, n - 1)
    low = np.floor(at).astype(np.int64)
    return low, np.minimum(low + 1, n - 1), (at - low).astype(np.float32)
