"""The finder without a network: one object that stands out from its backdrop by colour (`training.objects`)."""

from dataclasses import dataclass

import numpy as np
import PIL.Image

from ..objects import segment_foreground
from .contract import Instance, Pixels

LABEL = "object"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassicalSegmenter:
    """A `Segmenter` that finds one object in front of a plain background."""

    least: float = 0.0
    """Confidence below which nothing is returned."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The single label, as it does not classify objects."""
        return (LABEL,)

    def __call__(self, image: Pixels) -> list[Instance]:
        """Return the object that differs from the photo's rim, scored by its confidence; empty if there is none."""
        height, width = image.shape[:2]
        if min(height, width) < 1:
            return []
        found = segment_foreground(PIL.Image.fromarray(image))
        if found is None or found.confidence < self.least:
            return []
        small = PIL.Image.fromarray(found.mask.astype(np.float32))
        mask = np.array(small.resize((width, height), PIL.Image.Resampling.BILINEAR)).clip(0, 1)
        x0, y0, x1, y1 = found.box
        box = (x0 * width, y0 * height, x1 * width, y1 * height)
        return [Instance(mask, box, LABEL, min(1.0, max(0.0, found.confidence)))]
