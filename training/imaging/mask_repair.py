"""Repairs masks by the colours of their photos. Imports no torch.

Masks made automatically hold floor between the legs of trousers and lack sleeves. As in GrabCut (Rother et al.,
SIGGRAPH 2004), colours inside and around the mask say which pixels belong to the object, in a few passes, and
outlines prefer edges; instead of Gaussian mixtures and a graph cut, smoothed histograms and pieces at the outline,
which change whole.
"""

from collections.abc import Callable
from typing import Any

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, Int, UInt8
from scipy import ndimage

BINS = 16
"""Bins of the histograms for each of red, green and blue."""
PASSES = 3
AROUND, REACH = 0.25, 0.12
"""How far from the mask colours count as background, and how far it may grow, as shares of the photo's longer side."""
EDGE, BLUR = 0.012, 0.008
"""Width along the outline that belongs to neither histogram, and standard deviation that smooths the ratio."""
LIMIT, SURE = 4.0, 1.0
"""Largest log ratio of a pixel, and from which one pixels join the object."""
LEAST, MOST = 0.65, 1.35
"""Shares of the old area between which a repair is trusted: objects in the colours of their background fall apart."""
FRAGMENT = 0.05
"""Share of the area from which a separate piece is kept."""
FEWEST = 50
"""Pixels that a histogram needs."""

Solid = Bool[np.ndarray, "h w"]
Field = Float[np.ndarray, "h w"]


def repaired(photo: UInt8[np.ndarray, "h w 3"], mask: UInt8[np.ndarray, "h w"]) -> UInt8[np.ndarray, "h w"]:
    """Return a mask without the pieces at its outline that have the background's colours, and with those next to it
    that have the object's, where the new outline lies on stronger edges; the mask as it was if too much changes."""
    bins = photo.astype(np.int64) * BINS // 256
    colour = (bins[..., 0] * BINS + bins[..., 1]) * BINS + bins[..., 2]
    slopes = [_filtered(ndimage.gaussian_gradient_magnitude, photo[..., i], 1.0) for i in range(3)]
    edges = np.sum(slopes, axis=0)
    side = max(mask.shape)
    old = mask > 127
    near = distance(~old) <= REACH * side
    solid = old
    for _ in range(PASSES):
        score = background_score(colour, solid, side)
        if score is None:
            return mask
        leave = touching((score > 0) & old, ~old)
        leave = on_edges(leave, edges, before=~old, after=old & ~leave)
        kept = old & ~leave
        join = _opened(touching((score < -SURE) & near & ~old, kept))
        join = on_edges(join, edges, before=kept, after=~old & ~join)
        solid = kept | join
    solid = without_fragments(_opened(solid))
    if not LEAST <= solid.sum() / old.sum() <= MOST:
        return mask
    return np.where(solid == old, mask, np.where(solid, 255, 0)).astype(np.uint8)


def background_score(colour: Int[np.ndarray, "h w"], solid: Solid, side: int) -> Field | None:
    """Return the log likelihood ratio of background to object, smoothed; None if one of them has too few pixels."""
    inside, apart = distance(solid) > EDGE * side, distance(~solid)
    around = (apart > EDGE * side) & (apart <= AROUND * side)
    if min(inside.sum(), around.sum()) < FEWEST:
        return None
    ratio = np.log(histogram(colour[around])[colour]) - np.log(histogram(colour[inside])[colour])
    return _filtered(ndimage.gaussian_filter, np.clip(ratio, -LIMIT, LIMIT), max(0.8, BLUR * side))


def histogram(colours: Int[np.ndarray, " n"]) -> Float[np.ndarray, " bins"]:
    """Return the share of each colour, smoothed and nowhere 0."""
    counts = np.bincount(colours, minlength=BINS**3).reshape(BINS, BINS, BINS)
    counts = _filtered(ndimage.gaussian_filter, counts, 0.7) + 1e-3 * len(colours) / BINS**3
    return (counts / counts.sum()).ravel()


def touching(some: Solid, others: Solid) -> Solid:
    """Return the pieces of `some` that touch `others`."""
    labels = pieces(some | others)
    return some & np.isin(labels, np.unique(labels[others]))


def on_edges(some: Solid, edges: Field, *, before: Solid, after: Solid) -> Solid:
    """Return the pieces whose border with `after` lies on stronger edges than that with `before`: the old outline."""
    labels = pieces(some)
    near = ndimage.grey_dilation(labels, size=3)
    names = np.arange(1, labels.max() + 1)
    sums, counts = (np.stack([ndimage.sum(x, near * s, names) for s in (before, after)]) for x in (edges, near > 0))
    old, new = sums / np.maximum(counts, 1)
    return np.isin(labels, names[new > old])


def without_fragments(solid: Solid) -> Solid:
    """Return a mask without its small separate pieces."""
    labels = pieces(solid)
    areas = np.bincount(labels.ravel())
    areas[0] = 0
    return np.isin(labels, np.flatnonzero(areas >= max(1, FRAGMENT * areas.sum())))


def pieces(some: Solid) -> Int[np.ndarray, "h w"]:
    """Return the number of the piece of each pixel, from 1 up; 0 outside them."""
    labels = np.zeros(some.shape, np.int32)
    ndimage.label(some, output=labels)
    return labels


def distance(some: Solid) -> Field:
    """Return the distance of each pixel of `some` to the nearest other one; 0 outside."""
    return np.asarray(ndimage.distance_transform_edt(some))


def _opened(some: Solid) -> Solid:
    return np.asarray(ndimage.binary_opening(some), bool)


def _filtered(filter: Callable[..., Any], image: np.ndarray, sigma: float) -> Float[np.ndarray, "*sides"]:
    return filter(image.astype(float), sigma, mode="nearest")


def repaired_picture(photo: PIL.Image.Image, mask: PIL.Image.Image) -> PIL.Image.Image:
    """Return `repaired` of a photo and a mask of the same size."""
    return PIL.Image.fromarray(repaired(np.asarray(photo.convert("RGB")), np.asarray(mask.convert("L"))))
