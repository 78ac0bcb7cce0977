"""Which anchor answers for which object, and which anchors' classes are learnt (YOLACT Sec. 3; SSD Sec. 2.2)."""

from dataclasses import dataclass

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.segmentation.yolact.anchors import area, corners, encode, intersection, overlap
from training.types import Boxes, Instances

NEUTRAL = -1
"""Class of anchors that neither class is asked of."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MatchConfig:
    """From which overlap on an anchor is an object's, and when nobody's; the defaults are the published ones."""

    positive: float = 0.5
    """IoU from which on an anchor is its object's."""
    negative: float = 0.4
    """IoU under which it is background; between the two it is neutral."""
    crowd: float = 0.7
    """Share of an anchor inside a crowd above which it is neutral."""
    negatives: int = 3
    """Background anchors that are learnt from, a positive."""
    negatives_alone: int = 0
    """Background anchors that are learnt from in a picture without objects."""  # paper: 0; `fast` 64

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
    """What each anchor of one picture should say."""

    label: Int[Tensor, " anchors"]
    """Class + 1; 0 for background, -1 for neutral."""
    object: Int[Tensor, " anchors"]
    """The object that it is closest to; 0 where there is none."""
    code: Float[Tensor, "anchors 4"]
    """That object's box against the anchor."""

    @property
    def positive(self) -> Bool[Tensor, " anchors"]:
        """Which anchors are an object's."""
        return self.label > 0


@torch.no_grad()
def match(anchors: Float[Tensor, "anchors 4"], truth: Instances, config: MatchConfig) -> Matched:
    """Return what the anchors should say of one picture's objects; its crowds only make anchors neutral.

    Each anchor takes its best box; then boxes claim one anchor each, the pair of highest overlap first.
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
    """Return each anchor's overlap with its object, and which object that is; claimed anchors have an overlap of 2."""
    best, chosen = shared.max(1)
    left = shared.clone()
    for _ in range(shared.shape[1]):
        top, anchor = left.max(0)
        object_ = int(top.argmax())
        claimed = anchor[object_]
        best[claimed], chosen[claimed] = 2.0, object_
        left[claimed], left[:, object_] = -1.0, -1.0
    return best, chosen


@torch.no_grad()
def hard_negatives(
    logits: Float[Tensor, "anchors c"], matched: Matched, config: MatchConfig
) -> Bool[Tensor, " anchors"]:
    """Return the background anchors of one picture that are surest to be an object, a few for each positive."""
    positives = int(matched.positive.sum())
    count = config.negatives * positives if positives else config.negatives_alone
    background = matched.label == 0
    doubt = (logits.logsumexp(1) - logits[:, 0]).masked_fill(~background, 0)
    first = doubt.sort(descending=True).indices[: min(count, len(doubt) - 1)]
    chosen = torch.zeros_like(background)
    chosen[first] = True
    return chosen & background


def learnt_boxes(truth: Instances) -> Boxes:
    """Return the boxes of a picture's objects, crowds left out."""
    return truth.box[~truth.crowd]
