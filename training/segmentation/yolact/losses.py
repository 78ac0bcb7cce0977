"""The losses of YOLACT and YOLACT++ (YOLACT Sec. 3, 4; SSD Sec. 2.2): B, C, M, S, I, as the published programs sum."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor

from training.runtime.distributed import same_mean
from training.segmentation.yolact.masks import crop
from training.segmentation.yolact.matching import MatchConfig, Matched, hard_negatives, match
from training.segmentation.yolact.network import MaskIoU, Predictions
from training.types import Instances


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """What the terms are multiplied with; the defaults are the published ones."""

    box: float = 1.5
    """Of the boxes' smooth L1."""
    label: float = 1.0
    """Of the classes' cross entropy, with hard negatives (SSD Sec. 2.2)."""
    mask: float = 6.125
    """Of the masks' cross entropy, each over the area of its box (YOLACT Sec. 3.3)."""
    segmentation: float = 1.0
    """Of the semantic segmentation on the pyramid's finest map (YOLACT Sec. 5)."""
    mask_iou: float = 25.0
    """Of the mask IoU that a network with re-scoring guesses (YOLACT++ Sec. 6.1)."""
    masks_learnt: int = 100
    """Positives of a picture whose masks are learnt from; of more, a random choice stands for all."""
    smallest_mask: float = 25.0
    """Pixels of prototypes below which a mask's IoU is not learnt."""


def losses(
    found: Predictions,
    segmentation: Float[Tensor, "n classes seg_h seg_w"] | None,
    truth: Sequence[Instances],
    weights: LossWeights,
    matching: MatchConfig,
    *,
    rng: torch.Generator,
    mask_iou: MaskIoU | None = None,
) -> dict[str, Tensor]:
    """Return the named terms for a batch, weighted: B boxes, C classes, M masks, S segmentation, I mask IoU.

    Args:
        segmentation: logits of each class on P3; None leaves S out.
        mask_iou: the network of I; None leaves I out.
        rng: which positives' masks are learnt, where a picture has more than `weights.masks_learnt`.
    """
    matched = [match(found.anchors, objects, matching) for objects in truth]
    positives = same_mean(found.logits.new_tensor(float(sum(int(m.positive.sum()) for m in matched))))
    n = positives.clamp(min=1)  # paper: not guarded; here at least 1, against 0 / 0
    box = label = mask = iou = found.logits.new_zeros(())
    for i, (m, objects) in enumerate(zip(matched, truth, strict=True)):
        positive = m.positive
        box = box + F.smooth_l1_loss(found.box_code[i][positive], m.code[positive], reduction="sum")
        learnt = positive | hard_negatives(found.logits[i], m, matching)
        label = label + F.cross_entropy(found.logits[i][learnt], m.label[learnt].clamp(min=0), reduction="sum")
        if positive.any():
            of_masks, of_iou = _mask_losses(found, i, m, objects, weights, rng, mask_iou)
            mask, iou = mask + of_masks, iou + of_iou
    terms = {"B": weights.box * box / n, "C": weights.label * label / n, "M": weights.mask * mask / n}
    if segmentation is not None:
        terms["S"] = weights.segmentation * segmentation_loss(segmentation, truth)
    if mask_iou is not None:
        terms["I"] = weights.mask_iou * iou / n
    return terms


def _mask_losses(
    found: Predictions,
    i: int,
    m: Matched,
    objects: Instances,
    weights: LossWeights,
    rng: torch.Generator,
    mask_iou: MaskIoU | None,
) -> tuple[Tensor, Tensor]:
    """Return the sums of M and I over one picture's positives, not weighted."""
    prototypes = found.prototypes[i]
    height, width = prototypes.shape[:2]
    [positives] = torch.where(m.positive)
    share = 1.0
    if len(positives) > weights.masks_learnt:
        share = len(positives) / weights.masks_learnt
        chosen = torch.randperm(len(positives), generator=rng)[: weights.masks_learnt]
        positives = positives[chosen.to(positives.device)]
    which = m.object[positives]
    boxes = objects.box[~objects.crowd][which]
    targets = at_size(objects, (height, width))[which].float()
    soft = crop(
        torch.sigmoid(found.coefficients[i][positives] @ prototypes.flatten(0, 1).T).unflatten(1, (height, width)),
        boxes,
    )
    bce = F.binary_cross_entropy(soft.clamp(0, 1), targets, reduction="none").sum((1, 2))
    size = (boxes[:, 2:] - boxes[:, :2]) * boxes.new_tensor([width, height])
    mask = share * (bce / size.prod(1)).sum()
    if mask_iou is None:
        return mask, mask.new_zeros(())
    large = targets.sum((1, 2)) > weights.smallest_mask
    labels = objects.label[~objects.crowd][which]
    return mask, _iou_loss(soft[large], targets[large], labels[large], mask_iou)


def _iou_loss(soft: Tensor, targets: Tensor, labels: Tensor, mask_iou: MaskIoU) -> Tensor:
    """Return the sum of I; its gradient reaches the masks too, as in the published program."""
    if not len(soft):
        return soft.new_zeros(())
    binary = (soft > 0.5).float()
    shared = (binary * targets).sum((1, 2))
    truth = shared / (binary.sum((1, 2)) + targets.sum((1, 2)) - shared)
    guess = mask_iou(soft[:, None]).gather(1, labels[:, None])[:, 0]
    return F.smooth_l1_loss(guess, truth, reduction="sum")


def at_size(objects: Instances, size: tuple[int, int]) -> Bool[Tensor, "n h w"]:
    """Return the masks of a picture's objects, crowds left out, at another size."""
    masks = objects.mask[~objects.crowd].float()
    if not len(masks):
        return masks.new_zeros((0, *size)).bool()
    return F.interpolate(masks[:, None], size=size, mode="bilinear", align_corners=False)[:, 0] > 0.5


def segmentation_loss(logits: Float[Tensor, "n classes h w"], truth: Sequence[Instances]) -> Float[Tensor, ""]:
    """Return S: binary cross entropy against the union of each class's masks, a pixel and picture, over all classes."""
    targets = torch.zeros_like(logits)
    height, width = logits.shape[2:]
    for target, objects in zip(targets, truth, strict=True):
        for label, mask in zip(objects.label[~objects.crowd].tolist(), at_size(objects, (height, width)), strict=True):
            target[label] = torch.maximum(target[label], mask.float())
    return F.binary_cross_entropy_with_logits(logits, targets, reduction="sum") / (height * width * len(logits))
