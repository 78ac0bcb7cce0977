"""Losses of GIRAFFE HD's fast configs, each a mean over the batch."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.types import Mask

Scalar = Float[Tensor, ""]


def pose_error(read: Float[Tensor, "n 6"], true: Float[Tensor, "n 6"], weights: tuple[float, ...]) -> Scalar:
    """Return the mean squared error of a pose head, each of its readings with its weight."""
    return (read.new_tensor(weights) * (read - true).square()).mean()


def coverage(alpha: Mask, hit: Mask, share: tuple[float, float]) -> Scalar:
    """Return how far each object's opacity, as a share of its box's silhouette, lies outside `share`.

    Per picture: over a batch, as published, one picture may be all object and its neighbour empty.
    """
    filled = alpha.sum((1, 2, 3)) / hit.sum((1, 2, 3)).clamp_min(1)
    return (F.relu(share[0] - filled) + F.relu(filled - share[1])).mean()


def binarisation(mask: Mask) -> Scalar:
    """Return mean(min(m, 1 - m))  (paper Eq. 8)."""
    return torch.minimum(mask, 1 - mask).mean()
