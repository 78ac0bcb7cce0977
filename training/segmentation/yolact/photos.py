"""Photos as the network's input, and places in the input as places in the photo."""

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from training.types import Image

Photo = UInt8[Tensor, "photo_h photo_w 3"]
"""RGB, as decoded."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Placement:
    """Where a photo lies in the square input: its top left corner is the input's."""

    height: int
    width: int
    """Of the photo, pixels."""
    share_x: float = 1.0
    share_y: float = 1.0
    """How much of the input's width and height it covers."""
    smooth: bool = False
    """Whether it is smoothed before it is made smaller; the published weights expect that it is not."""

    def to_photo(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Return boxes of the input (fractions) in pixels of the photo: edges in order, inside the photo."""
        size = torch.tensor([self.width / self.share_x, self.height / self.share_y], device=boxes.device)
        points = boxes.reshape(-1, 2, 2) * size
        most = torch.tensor([self.width, self.height], device=boxes.device, dtype=points.dtype)
        low, high = points.amin(1), points.amax(1)
        return torch.cat([low.clamp(min=0).minimum(most), high.clamp(min=0).minimum(most)], 1)

    def to_input(self, boxes: Float[Tensor, "n 4"]) -> Float[Tensor, "n 4"]:
        """Return boxes in pixels of the photo as fractions of the input."""
        x, y = self.share_x / self.width, self.share_y / self.height
        return boxes * torch.tensor([x, y, x, y], device=boxes.device)


def place(height: int, width: int, size: int, *, letterbox: bool) -> Placement:
    """Return where a photo of `height` x `width` lies in an input of `size`."""
    if not letterbox:
        return Placement(height=height, width=width)
    scale = size / max(height, width)
    inner_h, inner_w = (max(1, round(side * scale)) for side in (height, width))
    return Placement(height=height, width=width, share_x=inner_w / size, share_y=inner_h / size, smooth=True)


def fit(x: Float[Tensor, "n c _ _"], placement: Placement, size: int, pad: float = 0.0) -> Float[Tensor, "n c _ _"]:
    """Return pictures or masks brought into the square of `size`, bilinear; what they leave free is `pad`."""
    inner = round(placement.share_y * size), round(placement.share_x * size)
    if x.shape[2:] != inner:
        x = F.interpolate(x, size=inner, mode="bilinear", align_corners=False, antialias=placement.smooth)
    return F.pad(x, (0, size - inner[1], 0, size - inner[0]), value=pad)


def prepare(photo: Photo, size: int, *, letterbox: bool) -> tuple[Image, Placement]:
    """Return a photo as the network's input, a batch of one, and where it lies in it; padding is grey."""
    if photo.shape[0] < 1 or photo.shape[1] < 1:
        raise ValueError(f"got a photo of {photo.shape[1]} x {photo.shape[0]} pixels, expected at least one")
    placement = place(photo.shape[0], photo.shape[1], size, letterbox=letterbox)
    return fit(photo.permute(2, 0, 1)[None].float().div(127.5).sub(1), placement, size), placement
