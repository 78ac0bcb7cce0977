"""Losses of GIRAFFE HD's fast configs, each a mean over the batch.

Symbol of the paper -> where it is computed (weights in `TrainConfig`):

    L_adv   `training.nn.gan.generator_loss`, `discriminator_loss`, and those of the projected discriminator
    R1      `training.nn.gan.r1_penalty`
    L_cvg   `coverage`, here of the opacity and with an upper end
    L_bin   `binarisation`
    L_bbox  none: rays are clipped to the object's box, so that there is no opacity outside it

Two are not in the paper: the pose head's error, `pose_error`, keeps rotation, size and place decodable (InfoGAN);
`surface_spread` makes surfaces hard.
"""

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
    """Return mean(min(M, 1 - M)), L_bin of the paper (Sec. 3.3)."""
    return torch.minimum(mask, 1 - mask).mean()


def surface_spread(
    opacity: Float[Tensor, "n rays"], spread: Float[Tensor, "n rays"], length: Float[Tensor, "n 1"]
) -> Scalar:
    """Return the variance of the depth along a ray, in half-lengths of its object squared, a mean over opaque rays."""
    opaque = opacity.detach()
    return (opaque * spread / length.square()).sum() / opaque.sum().clamp_min(1)
