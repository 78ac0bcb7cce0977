"""Losses between a photo and what a generator makes of the codes that were read from it."""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.types import Image, Mask

Scalar = Float[Tensor, ""]


def multiscale_l1(fake: Image, real: Image) -> Float[Tensor, " n"]:
    """Return the mean absolute difference of each picture's pixels, at full size and halved twice."""
    total = (fake - real).abs().mean((1, 2, 3))
    for _ in range(2):
        fake, real = F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2)
        total = total + (fake - real).abs().mean((1, 2, 3))
    return total


def mask_loss(mask: Mask, given: Mask) -> Scalar:
    """Return the cross entropy of a mask against the given one, plus 1 - Dice."""
    mask = mask.float().clamp(1e-4, 1 - 1e-4)
    entropy = F.binary_cross_entropy(mask, given)
    both, all_ = (mask * given).sum((1, 2, 3)), (mask + given).sum((1, 2, 3))
    return entropy + (1 - (2 * both + 1) / (all_ + 1)).mean()


def roughness(image: Image, mask: Mask) -> Scalar:
    """Return the mean absolute difference of neighbouring pixels that both lie within the mask."""
    total = image.new_zeros(())
    for axis in (2, 3):
        last = image.shape[axis] - 1
        (before, within_before), (after, within_after) = (
            (image.narrow(axis, start, last), mask.narrow(axis, start, last)) for start in (0, 1)
        )
        within = within_before * within_after
        total = total + ((after - before).abs() * within).sum() / (image.shape[1] * within.sum()).clamp_min(1)
    return total / 2


def divergence(mean: Float[Tensor, "n d"], log_variance: Float[Tensor, "n d"]) -> Scalar:
    """Return KL(N(mean, variance) || N(0, 1)), summed over a code, mean over pictures (VAE, Kingma and Welling 2014,
    Appendix B)."""
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()
