"""Segmentation of a photo's object by colour, without a network, and the crop margin of a generator."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import PIL.Image
import scipy.ndimage
from jaxtyping import Bool, Float

from training.pictures import Box

SIDE = 96
"""Longer side in pixels to which photos are reduced."""
RIM = 3
"""Width in pixels of the rim, which is assumed to be background."""
NOISE = 25.0
"""Smallest variance of a colour channel: a standard deviation of 5 grey levels."""
SURE = 0.6
"""Confidence from which a box is reliable; 90 % of the clothing photos reach it."""
LOOSE = 1.7
"""Side of the crop around a given box, over the box, for generators trained on whole pictures."""
WIDE: Box = (0.05, 0.05, 0.95, 0.95)
"""The box if no object is found."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Found:
    """An object that differs in colour from the photo's rim."""

    box: Box
    confidence: float
    """0 to 1: separation of the two groups of colours, times the agreement of two segmentations, less the share that
    touches the rim."""
    mask: Bool[np.ndarray, "h w"]
    """The object in the reduced photo, whose longer side is at most `SIDE`."""


def segment_foreground(picture: PIL.Image.Image) -> Found | None:
    """Return the one object in front of a plain background; None if nothing stands out.

    The rim's colours are modelled as one normal distribution; pixels far from it (Mahalanobis distance, threshold by
    Otsu's method) are a first mask. Inside and outside are then each modelled by a mixture of three normal
    distributions, and a pixel is object if it is more likely inside, given its neighbours (mean field of a Potts
    model): GrabCut (Rother et al. 2004) without the graph cut.
    """
    small = picture.convert("RGB")
    small.thumbnail((SIDE, SIDE))
    pixels = np.asarray(small).astype(np.float64)
    height, width, _ = pixels.shape
    if min(height, width) < 16:
        return None
    rim = np.ones((height, width), bool)
    rim[RIM:-RIM, RIM:-RIM] = False
    distance = _distance(pixels, pixels[rim])
    apart = distance > otsu(distance)
    first = _patches(apart)
    if not _plausible(first):
        return None
    mask = _refined(pixels, first, rim)
    agree = (first & mask).sum() / (first | mask).sum()
    confidence = _parted(distance, apart) * agree * max(0.0, 1 - 2 * (mask & rim).sum() / rim.sum())
    return Found(box=box_of(mask), confidence=float(confidence), mask=mask)


def propose_box(picture: PIL.Image.Image) -> Box:
    """Return a box around what differs from the photo's rim; the central 90 % if nothing stands out."""
    found = segment_foreground(picture)
    if found is None:
        return WIDE if min(picture.size) >= 16 else (0.0, 0.0, 1.0, 1.0)
    return found.box


def box_of(mask: Bool[np.ndarray, "h w"]) -> Box:
    """Return the bounding box of a mask, as fractions; the mask must not be empty."""
    height, width = mask.shape
    rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
    return columns[0] / width, rows[0] / height, (columns[-1] + 1) / width, (rows[-1] + 1) / height


def margin_of(card: Mapping[str, Any]) -> float | None:
    """Return the side of a generator's training crops over the object's box; None for whole pictures."""
    data = card.get("config", {}).get("data", {})
    margin = data.get("object_margin", 1.5)
    larger = float(data.get("jitter", 0))
    cut = 1 + larger / 2 if data.get("jitter_size", False) else 1.0  # crops of the mean size
    return None if margin is None else float(margin) * cut / (1 + larger)


def otsu(values: Float[np.ndarray, "h w"]) -> float:
    """Return the threshold that best separates values into two groups (Otsu 1979)."""
    counts, edges = np.histogram(values, bins=64)
    middles = (edges[:-1] + edges[1:]) / 2
    below, total = np.cumsum(counts), counts.sum()
    sums = np.cumsum(counts * middles)
    above = total - below
    with np.errstate(divide="ignore", invalid="ignore"):
        gap = sums / below - (sums[-1] - sums) / above
        between = np.nan_to_num(below * above * gap**2, nan=0.0, posinf=0.0)
    return float(middles[int(between.argmax())])


def _distance(pixels: Float[np.ndarray, "h w 3"], rim: Float[np.ndarray, "n 3"]) -> Float[np.ndarray, "h w"]:
    """Return how far each pixel is from the rim's colours, in standard deviations, slightly blurred."""
    apart = pixels - np.median(rim, 0)
    precision = np.linalg.inv(np.cov(rim.T) + NOISE * np.eye(3))
    return scipy.ndimage.gaussian_filter(np.sqrt(np.einsum("hwi,ij,hwj->hw", apart, precision, apart)), 1.0)


def _parted(values: Float[np.ndarray, "h w"], apart: Bool[np.ndarray, "h w"]) -> float:
    """Return the share of the values' variance that lies between the two groups (Otsu's eta)."""
    share = apart.mean()
    between = share * (1 - share) * (values[apart].mean() - values[~apart].mean()) ** 2
    return float(between / values.var())


def _plausible(mask: Bool[np.ndarray, "h w"]) -> bool:
    return bool(0.02 <= mask.mean() <= 0.98)


def _patches(mask: Bool[np.ndarray, "h w"]) -> Bool[np.ndarray, "h w"]:
    """Return the largest connected patch, and those of a fifth of its size or more."""
    labelled: Any = scipy.ndimage.label(mask)
    patches, count = labelled
    if count == 0:
        return mask
    areas = np.bincount(patches.ravel())[1:]
    return np.isin(patches, 1 + np.flatnonzero(areas >= 0.2 * areas.max()))


def _refined(
    pixels: Float[np.ndarray, "h w 3"], mask: Bool[np.ndarray, "h w"], rim: Bool[np.ndarray, "h w"]
) -> Bool[np.ndarray, "h w"]:
    """Return the mask refined three times by the colour models inside and outside of it."""
    for _ in range(3):
        evidence = _log_density(pixels, pixels[mask]) - _log_density(pixels, pixels[~mask])
        evidence = 0.5 * evidence.clip(-8, 8) - 3.0 * rim
        inside = mask.astype(np.float64)
        for _ in range(6):
            neighbours = scipy.ndimage.gaussian_filter(inside, 1.5)
            inside = 1 / (1 + np.exp(-(evidence + 4 * (neighbours - 0.5))))
        found = _patches(inside > 0.5)
        if not _plausible(found):
            break
        mask = found
    return mask


def _log_density(
    pixels: Float[np.ndarray, "h w 3"], sample: Float[np.ndarray, "n 3"], k: int = 3
) -> Float[np.ndarray, "h w"]:
    """Return the log density of colours under a mixture of `k` normal distributions; each is one cluster of `sample`.

    Clusters are those of k-means, initialised at colours evenly spread by brightness.
    """
    order = sample.sum(1).argsort()
    centres = sample[order[((np.arange(k) + 0.5) / k * len(sample)).astype(int)]]
    nearest = np.zeros(len(sample), int)
    for _ in range(6):
        nearest = np.square(sample[:, None] - centres).sum(2).argmin(1)
        centres = np.stack([sample[nearest == i].mean(0) if (nearest == i).any() else centres[i] for i in range(k)])
    parts = []
    for i in range(k):
        cluster = sample[nearest == i]
        spread = NOISE * np.eye(3) + (np.cov(cluster.T) if len(cluster) > 3 else 0)
        apart = pixels - centres[i]
        distance = np.einsum("hwi,ij,hwj->hw", apart, np.linalg.inv(spread), apart)
        weight = max(len(cluster) / len(sample), 1e-3)
        parts.append(np.log(weight) - 0.5 * (distance + np.linalg.slogdet(spread)[1]))
    return np.logaddexp.reduce(np.stack(parts), 0)
