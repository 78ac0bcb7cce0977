"""From predictions to objects: boxes and their scores, and suppression of duplicates (YOLACT Sec. 5)."""

import math
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torchvision.ops import nms

from training.segmentation.yolact.anchors import decode, overlap
from training.segmentation.yolact.network import Predictions
from training.types import Boxes

Suppression = Literal["fast", "cross-class", "traditional", "any-class"]
"""`fast` compares boxes of one class, and also with boxes dropped already; `cross-class` boxes of all classes, each in
its best one; `traditional` goes through them one by one. `any-class` is not published: as `cross-class`, but a box
scores how likely it is an object of any class, so that one between a shirt and a T-shirt is not lost."""


@dataclass(frozen=True, kw_only=True, slots=True)
class DetectionConfig:
    """Selection of objects from predictions; the defaults are those of the published figures."""

    suppression: Suppression = "fast"
    threshold: float = 0.05
    """Anchors whose best class (`any-class`: all together) scores no more are left out."""
    overlap: float = 0.5
    """Of two boxes that share more than this (IoU) the one of lower score goes."""
    compared: int = 200
    """Boxes of a class (`cross-class`, `any-class`: of all) that are compared; those of lower score go."""
    most: int = 100
    """Objects in a picture (`fast`, `traditional`)."""

    def __post_init__(self) -> None:
        if not (0 <= self.threshold < 1 and 0 < self.overlap <= 1 and self.compared >= 1 and self.most >= 1):
            raise ValueError(
                f"threshold {self.threshold}, overlap {self.overlap}, compared {self.compared}, most {self.most} find "
                f"nothing; expected 0 to 1 for the first two and at least 1 for the others"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class Detections:
    """Objects of one picture, of falling score."""

    box: Boxes
    """Fractions of the input, as predicted: they may reach out of it."""
    label: Int[Tensor, " n"]
    """Places in the config's classes."""
    score: Float[Tensor, " n"]
    coefficients: Float[Tensor, "n k"]

    def __len__(self) -> int:
        return len(self.score)

    def pick(self, index: Tensor | slice) -> "Detections":
        """Return the detections at `index`."""
        return Detections(
            box=self.box[index],
            label=self.label[index],
            score=self.score[index],
            coefficients=self.coefficients[index],
        )


@torch.no_grad()
def detect(found: Predictions, config: DetectionConfig, size: int) -> list[Detections]:
    """Return the objects of each picture; `size` is the input's side, in whose pixels `traditional` compares."""
    return [
        _detect_one(found.box_code[i], found.logits[i], found.coefficients[i], found.anchors, config, size)
        for i in range(len(found.logits))
    ]


def _detect_one(
    code: Float[Tensor, "anchors 4"],
    logits: Float[Tensor, "anchors c"],
    coefficients: Float[Tensor, "anchors k"],
    anchors: Float[Tensor, "anchors 4"],
    config: DetectionConfig,
    size: int,
) -> Detections:
    scores = logits.softmax(1)[:, 1:]
    kept = (scores.sum(1) if config.suppression == "any-class" else scores.amax(1)) > config.threshold
    scores, boxes, coefficients = scores[kept], decode(code[kept], anchors[kept]), coefficients[kept]
    if config.suppression == "any-class":
        whole = scores.sum(1).clamp(max=1)
        index, _ = cross_class_nms(boxes, whole[:, None], config)
        return Detections(
            box=boxes[index], label=scores[index].argmax(1), score=whole[index], coefficients=coefficients[index]
        )
    if config.suppression == "cross-class":
        index, label = cross_class_nms(boxes, scores, config)
    elif config.suppression == "traditional":
        index, label = traditional_nms(boxes, scores, config, size)
    else:
        index, label = fast_nms(boxes, scores, config)
    return Detections(box=boxes[index], label=label, score=scores[index, label], coefficients=coefficients[index])


Chosen = tuple[Int[Tensor, " n"], Int[Tensor, " n"]]
"""Rows of boxes and the class that each stands for, of falling score."""


def fast_nms(boxes: Float[Tensor, "m 4"], scores: Float[Tensor, "m classes"], config: DetectionConfig) -> Chosen:
    """Return what stays of each class when a box yields to any of higher score, kept or not (YOLACT Sec. 5).

    Every box stands in the list of every class, however low it scores there, as in the published program.
    """
    ranked, order = scores.T.sort(1, descending=True)
    ranked, order = ranked[:, : config.compared], order[:, : config.compared]
    keep = _yields_to_none(boxes[order], config.overlap)
    label = torch.arange(len(order), device=order.device)[:, None].expand_as(order)
    best = ranked[keep].sort(descending=True).indices[: config.most]
    return order[keep][best], label[keep][best]


def cross_class_nms(boxes: Float[Tensor, "m 4"], scores: Float[Tensor, "m classes"], config: DetectionConfig) -> Chosen:
    """Return what stays when each box stands in its best class only and all are compared."""
    best, label = scores.max(1)
    order = best.sort(descending=True).indices[: config.compared]
    order = order[_yields_to_none(boxes[order], config.overlap)]
    return order, label[order]


def _yields_to_none(boxes: Float[Tensor, "*classes m 4"], most: float) -> Tensor:
    """Return which boxes, in rows of falling score, share no more than `most` with any before them."""
    if boxes.shape[-2] == 0:
        return torch.zeros(boxes.shape[:-1], dtype=torch.bool, device=boxes.device)
    return overlap(boxes, boxes).triu(diagonal=1).amax(-2) <= most


def traditional_nms(
    boxes: Float[Tensor, "m 4"], scores: Float[Tensor, "m classes"], config: DetectionConfig, size: int
) -> Chosen:
    """Return what stays of each class when boxes yield to kept ones, from the highest score down.

    Widths count one pixel more than the edges are apart, and a box goes at an overlap equal to the limit, both as in
    the published program.
    """
    pixels = boxes.double() * size + torch.tensor([0.0, 0, 1, 1], dtype=torch.float64, device=boxes.device)
    limit = math.nextafter(config.overlap, 0)
    rows, labels = [], []
    for label in range(scores.shape[1]):
        [index] = torch.where(scores[:, label] > config.threshold)
        kept = nms(pixels[index].cpu(), scores[index, label].double().cpu(), limit).to(index.device)
        rows.append(index[kept])
        labels.append(torch.full_like(rows[-1], label))
    index, label = torch.cat(rows), torch.cat(labels)
    best = scores[index, label].sort(descending=True).indices[: config.most]
    return index[best], label[best]
