"""The finder that needs no network: one object that stands out from its backdrop (training.objects)."""

from dataclasses import dataclass

import numpy as np
import PIL.Image

from ..objects import segment_foreground
from .contract import Instance, Pixels

LABEL = "object"


@dataclass(frozen=True, kw_only=True, slots=True)
class ClassicalSegmenter:
    """Finds one object before a quiet background; a `Segmenter`."""

    least: float = 0.0
    """Confidence below which nothing is returned."""

    @property
    def labels(self) -> tuple[str, ...]:
        """The one label: what it is, it does not know."""
        return (LABEL,)

    def __call__(self, image: Pixels) -> list[Instance]:
        """Return what stands out from the photo's rim, with the confidence as its score; nothing if nothing does."""
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
