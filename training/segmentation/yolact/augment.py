"""Augmentation of training pictures (SSD Sec. 2.2, as in YOLACT): colours, a larger canvas, crops, mirroring.

Each picture has its own NumPy generator.
"""

from dataclasses import dataclass, replace

import numpy as np
import torch
from jaxtyping import Bool, Float
from torch import Tensor

Region = tuple[int, int, int, int]
"""x0, y0, x1, y1 in pixels of the picture; it may reach out of it."""
Colours = Float[Tensor, "3 h w"]
"""RGB, 0 to 255; augmented values may exceed the range and are not clipped."""
MODES = ("whole", "overlap", "overlap", "overlap", "overlap", "free")
"""How a picture is cropped. The published minimum overlaps of .1, .3, .7 and .9 never reject a crop (their test
requires that two bounds are violated at once); with a corrected test the authors lost half of their AP. So these crops
stay free."""
TRIES = 50


@dataclass(frozen=True, kw_only=True, slots=True)
class AugmentConfig:
    """Augmentations; the defaults are the published ones."""

    colours: bool = True
    """Vary brightness, contrast, saturation and hue, each in half of the pictures."""
    expand: float = 4.0
    """Half of the pictures are put on a canvas up to this many times as wide and high; 1 for none."""
    cut: bool = True
    """Crop pictures at random."""
    mirror: bool = True
    """Mirror half of the pictures left to right."""
    smallest: float = 4 / 550
    """Objects with a side of fewer pixels of the input are left out."""  # paper: 4 px meant, 4/550 px done
    negatives: bool = False
    """Keep pictures without objects, or whose crop has none; otherwise another picture is taken."""

    def __post_init__(self) -> None:
        if not (1 <= self.expand <= 16 and self.smallest >= 0):
            raise ValueError(f"expand is {self.expand} and smallest {self.smallest}; expected 1 to 16, and at least 0")


def vary_colours(picture: Colours, rng: np.random.Generator) -> Colours:
    """Return a picture with its brightness, contrast, saturation and hue changed, each with a probability of one half.

    Contrast comes before or after the others, which work on hue, saturation and value.
    """
    if rng.random() < 0.5:
        picture = picture + rng.uniform(-32, 32)
    contrast = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    saturation = rng.uniform(0.5, 1.5) if rng.random() < 0.5 else 1.0
    hue = rng.uniform(-18, 18) if rng.random() < 0.5 else 0.0
    first = rng.random() < 0.5
    if first:
        picture = picture * contrast
    if saturation != 1 or hue != 0:
        picture = _turn_hue(picture, saturation, hue)
    return picture if first else picture * contrast


def _turn_hue(picture: Colours, saturation: float, degrees: float) -> Colours:
    """Return a picture with its HSV saturation multiplied and its hue turned."""
    value, most = picture.max(0)
    spread = value - picture.amin(0)
    safe = spread.clamp(min=1e-6)
    r, g, b = picture
    sector = torch.stack([(g - b) / safe, (b - r) / safe + 2, (r - g) / safe + 4])
    hue = torch.where(spread > 0, sector.gather(0, most[None])[0], 0.0) + degrees / 60
    spread = spread * saturation
    channels = []
    for offset in (5, 3, 1):  # value - spread * max(0, min(k, 4 - k, 1)), k = (offset + hue) mod 6
        k = (offset + hue) % 6
        channels.append(value - spread * torch.minimum(k, 4 - k).clamp(0, 1))
    return torch.stack(channels)


def choose_region(
    width: int, height: int, boxes: Float[np.ndarray, "n 4"], config: AugmentConfig, rng: np.random.Generator
) -> Region:
    """Return the region of a picture, and the canvas around it, that is shown; a crop contains the centre of a box.

    `boxes` are of the objects that count, in pixels; where there are none any cut will do.
    """
    x, y, w, h = 0, 0, width, height
    if config.expand > 1 and rng.random() < 0.5:
        ratio = rng.uniform(1, config.expand)
        w, h = int(width * ratio), int(height * ratio)
        x, y = -int(rng.uniform(0, w - width)), -int(rng.uniform(0, h - height))
    if not config.cut:
        return x, y, x + w, y + h
    centres = (boxes[:, :2] + boxes[:, 2:]) / 2
    while True:
        if MODES[rng.integers(len(MODES))] == "whole":
            return x, y, x + w, y + h
        for _ in range(TRIES):
            cut_w, cut_h = rng.uniform(0.3 * w, w), rng.uniform(0.3 * h, h)
            if not 0.5 <= cut_h / cut_w <= 2:
                continue
            left, top = x + rng.uniform(0, w - cut_w), y + rng.uniform(0, h - cut_h)
            region = int(np.floor(left)), int(np.floor(top)), int(np.floor(left + cut_w)), int(np.floor(top + cut_h))
            if region[2] > region[0] and region[3] > region[1] and (not len(boxes) or inside(centres, region).any()):
                return region


def inside(centres: Float[np.ndarray, "n 2"], region: Region) -> Bool[np.ndarray, " n"]:
    """Return which points lie in a region."""
    return (
        (centres[:, 0] > region[0])
        & (centres[:, 1] > region[1])
        & (centres[:, 0] < region[2])
        & (centres[:, 1] < region[3])
    )


def still(config: AugmentConfig) -> AugmentConfig:
    """Return the config without augmentation."""
    return replace(config, colours=False, expand=1.0, cut=False, mirror=False)
