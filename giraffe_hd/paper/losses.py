"""Losses that split a picture into object and background without masks to learn from (GIRAFFE HD Sec. 3.3).

M is the mask, B the object's projected box. Symbol -> where it is computed (weights in `TrainConfig`):

    L_adv   softplus(-D(G(z))): `training.nn.gan.generator_loss`; D's side: `discriminator_loss`
    R1      r1 / 2 E |grad D(x)|^2 on photos: `training.nn.gan.r1_penalty`
    L_bbox  mean((1 - B) M): `bbox_containment`; B: `Generator.box_silhouette`
    L_cvg   ReLU(min_ratio - mean(M)): `coverage`
    L_bin   mean(min(M, 1 - M)): `giraffe_hd.fast.losses.binarisation`

`Recipe.generator_losses` sums L_adv + bbox L_bbox + cvg L_cvg + bin L_bin.
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
