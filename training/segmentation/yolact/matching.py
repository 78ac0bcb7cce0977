"""Assigns objects to anchors, and picks the anchors of the class loss (YOLACT Sec. 3; SSD Sec. 2.2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.segmentation.yolact.anchors import area, corners, encode, intersection, overlap
from training.types import Instances

NEUTRAL = -1
"""Label of anchors that the class loss ignores."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig:
    """Thresholds that make an anchor positive, negative or neutral; the defaults are the published ones."""

    positive: float = 0.5
    """An anchor is positive for an object from this IoU on."""
    negative: float = 0.4
    """Below this IoU it is background; between the two it is neutral."""
    crowd: float = 0.7
    """Share of an anchor inside a crowd above which it is neutral."""
    negatives: int = 3
    """Background anchors in the class loss for each positive one (hard negative mining)."""
    negatives_alone: int = 0
    """Background anchors in the class loss of a picture without objects."""  # paper: 0; `fast` 64

    def __post_init__(self) -> None:
        if (
            not 0 <= self.negative <= self.positive <= 1
            or self.crowd < 0
            or min(self.negatives, self.negatives_alone) < 0
        ):
            raise ValueError(
                f"negative {self.negative}, positive {self.positive}, crowd {self.crowd}, negatives {self.negatives}, "
                f"negatives_alone {self.negatives_alone}: expected 0 <= negative <= positive <= 1, and none below 0"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Matched:
    """The targets of one picture's anchors."""

    label: Int[Tensor, " anchors"]
    """Class + 1; 0 for background, -1 for neutral."""
    object: Int[Tensor, " anchors"]
    """Index of the object of highest IoU; 0 where there is none."""
    code: Float[Tensor, "anchors 4"]
    """That object's box, encoded against the anchor."""

    @property
    def positive(self) -> Bool[Tensor, " anchors"]:
        """Which anchors are assigned to an object."""
        return self.label > 0


@torch.no_grad()
def match(anchors: Float[Tensor, "anchors 4"], truth: Instances, config: MatchConfig) -> Matched:
    """Return the anchors' targets for one picture's objects; crowds only make anchors neutral.

    Each anchor takes the box of highest IoU; then each box takes one anchor, the pair of highest IoU first.
    """
    boxes, labels = truth.box[~truth.crowd], truth.label[~truth.crowd]
    n = len(anchors)
    if len(boxes):
        best, chosen = _assign(overlap(corners(anchors), boxes))
        label = labels[chosen] + 1
        label[best < config.positive] = NEUTRAL
        label[best < config.negative] = 0
        code = encode(boxes[chosen], anchors)
    else:
        label = chosen = torch.zeros(n, dtype=torch.int64, device=anchors.device)
        code = torch.zeros_like(anchors)
    if truth.crowd.any():
        inside = intersection(corners(anchors), truth.box[truth.crowd]) / area(corners(anchors))[:, None]
        label = torch.where((label <= 0) & (inside.amax(1) > config.crowd), NEUTRAL, label)
    return Matched(label=label, object=chosen, code=code)


def _assign(shared: Float[Tensor, "anchors objects"]) -> tuple[Float[Tensor, " anchors"], Int[Tensor, " anchors"]]:
    """Return each anchor's IoU with its object, 2 where a box took the anchor, and the index of that object."""
    best, chosen = shared.max(1)
    remaining = shared.clone()
    for _ in range(shared.shape[1]):
        top, anchor = remaining.max(0)
        object_ = int(top.argmax())
        taken = anchor[object_]
        best[taken], chosen[taken] = 2.0, object_
        remaining[taken], remaining[:, object_] = -1.0, -1.0
    return best, chosen


@torch.no_grad()
def hard_negatives(
    logits: Float[Tensor, "anchors c"], matched: Matched, config: MatchConfig
) -> Bool[Tensor, " anchors"]:
    """Return the background anchors of one picture with the highest class loss, `negatives` for each positive."""
    positives = int(matched.positive.sum())
    count = config.negatives * positives if positives else config.negatives_alone
    background = matched.label == 0
    loss = (logits.logsumexp(1) - logits[:, 0]).masked_fill(~background, 0)
    first = loss.sort(descending=True).indices[: min(count, len(loss) - 1)]
    chosen = torch.zeros_like(background)
    chosen[first] = True
    return chosen & background
