"""The interface of object finders: instances with a mask, a box, a label and a score."""

from dataclasses import dataclass
from typing import Protocol, runtime_checkable

import numpy as np
from jaxtyping import Float, UInt8

from ..pictures import PixelBox as PixelBox

Pixels = UInt8[np.ndarray, "h w 3"]
"""A photo: RGB bytes, upright, rows from the top."""
SoftMask = Float[np.ndarray, "h w"]
"""The object's share of each pixel: float32 in [0, 1]; a binary mask is `mask > 0.5`."""


@dataclass(frozen=True, slots=True, eq=False)
class Instance:
    """One object found in a photo."""

    mask: SoftMask
    """At the photo's size, float32 in [0, 1]: soft at its edges, zero outside the object."""
    box: PixelBox
    """In pixels of the photo, inside it, with x0 < x1 and y0 < y1."""
    label: str
    """One of the segmenter's `labels`."""
    score: float
    """Confidence in [0, 1]; of YOLACT++ that of the mask."""
    box_score: float | None = None
    """Confidence of the box, by which its average precision is taken; None where `score` is of both."""

    @property
    def binary(self) -> np.ndarray:
        """Which pixels are the object: bool, (h, w)."""
        return self.mask > 0.5


@runtime_checkable
class Segmenter(Protocol):
    """Finds the objects of one photo."""

    @property
    def labels(self) -> tuple[str, ...]:
        """Labels of its instances, in the order of its classes."""
        ...

    def __call__(self, image: Pixels) -> list[Instance]:
        """Return the instances of a photo, by falling score."""
        ...
