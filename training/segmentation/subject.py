"""Selection of a photo's one object among a segmenter's instances, for generators of single objects.

A confident instance of the network is taken first, else an object that clearly stands out from a plain backdrop.
"""

import threading
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import PIL.Image

from training.objects import SURE as SURE_OF_BACKDROP
from training.pictures import Box
from training.segmentation.classical import ClassicalSegmenter
from training.segmentation.contract import Instance, PixelBox, Segmenter, SoftMask

SURE = 0.5
"""Score from which a network's instance is confident."""
LOOKED_AT = 640
"""Longer side in pixels to which photos are reduced before the search."""
SAME = 0.5
"""IoU of two boxes from which they belong to one object."""
Origin = Literal["network", "backdrop"]


@dataclass(frozen=True, slots=True, eq=False)
class Subject:
    """The object of a photo."""

    box: Box
    """Fractions of the photo's width and height."""
    mask: SoftMask | None
    """At the size of the searched picture; None for the backdrop method, which is too coarse."""
    label: str
    confidence: float
    """In [0, 1]."""
    sure: bool
    """Whether it can be used without checking it by eye."""
    origin: Origin


class SubjectFinder:
    """Finds a photo's object with one segmenter; thread-safe, with one call at a time."""

    def __init__(self, segmenter: Segmenter, labels: Sequence[str] = (), *, sure: float = SURE, name: str = "") -> None:
        """Set the segmenter, the accepted labels (none: all), and the score from which an instance is confident.

        Raises: ValueError for an unknown label.
        """
        if unknown := [label for label in labels if label not in segmenter.labels]:
            raise ValueError(f"unknown label {unknown[0]!r}; this finder knows {', '.join(segmenter.labels)}")
        if not 0 <= sure <= 1:
            raise ValueError(f"got {sure:g} as the score of a sure object; expected 0 to 1")
        self.segmenter, self.labels, self.name = segmenter, tuple(labels), name
        self.is_network = not isinstance(segmenter, ClassicalSegmenter)
        self._sure = sure if self.is_network else SURE_OF_BACKDROP
        self._turn = threading.Lock()

    def __call__(self, picture: PIL.Image.Image, box: Box | None = None) -> Subject | None:
        """Return the object of a photo; None if nothing is found.

        Of several confident instances the largest is taken, else the one of highest score. With a `box`, the instance
        in it is taken, and None if there is none.
        """
        image = _seen(picture)
        with self._turn:
            instances = [i for i in self.segmenter(image) if not self.labels or i.label in self.labels]
        if box is not None:
            return self._within(instances, box, image.shape)
        chosen = self._subject(_largest(instances, self._sure), image.shape)
        if (chosen is not None and chosen.sure) or not self.is_network or self.labels:
            return chosen
        backdrop = SubjectFinder(ClassicalSegmenter())(PIL.Image.fromarray(image))
        return backdrop if backdrop is not None and (backdrop.sure or chosen is None) else chosen

    def _within(self, instances: Iterable[Instance], box: Box, shape: tuple[int, ...]) -> Subject | None:
        """Return the instance whose box has the largest IoU with a known one."""
        known = (box[0] * shape[1], box[1] * shape[0], box[2] * shape[1], box[3] * shape[0])
        best = max(instances, key=lambda instance: overlap(instance.box, known), default=None)
        return self._subject(best, shape) if best is not None and overlap(best.box, known) >= SAME else None

    def _subject(self, instance: Instance | None, shape: tuple[int, ...]) -> Subject | None:
        if instance is None:
            return None
        (x0, y0, x1, y1), (height, width) = instance.box, shape[:2]
        box = (x0 / width, y0 / height, x1 / width, y1 / height)
        return Subject(
            box,
            instance.mask if self.is_network else None,
            instance.label,
            instance.score,
            instance.score >= self._sure,
            "network" if self.is_network else "backdrop",
        )


def overlap(a: PixelBox, b: PixelBox) -> float:
    """Return the intersection of two boxes over their union."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    areas = sum((box[2] - box[0]) * (box[3] - box[1]) for box in (a, b))
    return wide * high / (areas - wide * high)


def _largest(instances: Sequence[Instance], sure: float) -> Instance | None:
    """Return the largest confident instance, else the one of highest score."""
    safe = [instance for instance in instances if instance.score >= sure]
    if safe:
        return max(safe, key=lambda instance: float(instance.mask.sum()))
    return max(instances, key=lambda instance: instance.score, default=None)


def _seen(picture: PIL.Image.Image) -> np.ndarray:
    """Return a photo as the segmenter's input, reduced to `LOOKED_AT`."""
    small = picture.convert("RGB")
    small.thumbnail((LOOKED_AT, LOOKED_AT), PIL.Image.Resampling.BICUBIC)
    return np.array(small)
