"""Losses that split a picture into object and background without masks to learn from (GIRAFFE HD Sec. 3.3).

Adversarial terms, R1 and binarisation are those of `giraffe_hd.fast.losses`.
"""

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.runtime.distributed import batch_mean
from training.types import Mask

Scalar = Float[Tensor, ""]


def bbox_containment(mask: Mask, silhouette: Mask) -> Scalar:
    """Return mean((1 - B) * M): the mask outside the object's projected box B."""
    return ((1 - silhouette) * mask).mean()


def coverage(mask: Mask, min_ratio: float) -> Scalar:
    """Return ReLU(min_ratio - mean(M)); the mean goes over all pictures of the batch, as the authors' does."""
    return F.relu(min_ratio - batch_mean(mask.mean()))
