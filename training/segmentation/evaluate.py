"""Evaluation of a segmenter on a COCO set: scores, detections and time a picture."""

import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from tqdm import tqdm

from ..data.coco import CocoSet
from ..metrics.coco_map import CocoEvaluator, CocoScores
from .contract import Instance, Segmenter

SHOWN = 0.3
"""Score from which instances are shown."""


@dataclass(frozen=True, slots=True)
class Measured:
    """Measurements of one segmenter."""

    scores: CocoScores
    milliseconds: float
    """Median time a picture, from pixels to instances."""
    worst: tuple[int, ...]
    """Pictures, the worst first."""
    found: dict[int, list[Instance]] = field(default_factory=dict)
    """Instances of the worst pictures above `SHOWN`, or the one of highest score."""

    def summary(self) -> dict[str, Any]:
        """Return plain values."""
        return self.scores.summary() | {"milliseconds": round(self.milliseconds, 2)}


def measure(
    segmenter: Segmenter,
    truth: CocoSet,
    chosen: Sequence[int],
    groups: Mapping[str, str] | None = None,
    *,
    one_class: bool = False,
    bootstrap: int = 300,
    keep: int = 24,
) -> Measured:
    """Run a segmenter over the pictures `chosen` of a set and score it; the `keep` worst pictures are kept to show."""
    evaluator = CocoEvaluator(truth, groups, one_class=one_class)
    times, worst = [], []  # worst: (fit, picture, instances)
    for i in tqdm(chosen, unit="pictures", disable=None):
        image = truth.load(i).image
        began = time.perf_counter()
        instances = segmenter(image)
        times.append(time.perf_counter() - began)
        fit = evaluator.add(i, instances)
        shown = [instance for instance in instances if instance.score >= SHOWN] or instances[:1]
        worst.append((fit.iou, i, shown[:10]))
        worst = sorted(worst, key=lambda entry: entry[:2])[:keep]
    scores = evaluator.scores(bootstrap=bootstrap)
    return Measured(
        scores, 1000 * float(np.median(times)), tuple(i for _, i, _ in worst), {i: found for _, i, found in worst}
    )
