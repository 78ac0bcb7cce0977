"""Early diagnosis of mask collapse during training, which the losses do not show."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch

from training.batched import rows
from training.metrics.masks import iou
from training.types import Generator

WHEN = (2_000, 5_000, 10_000, 20_000, 50_000)
"""Pictures seen at which training checks the masks."""
BATCH = 8
"""Samples drawn at a time, so that no more memory is needed than in training."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MaskCheck:
    """Statistics of the masks of random samples, as shares of the picture, and advice."""

    area: float
    """Mean area."""
    spread: float
    """Standard deviation of the area over pictures."""
    soft: float
    """Share of the area with values between 0.1 and 0.9."""
    alike: float
    """IoU of masks of different samples, thresholded at 0.5."""
    box: float | None
    """Mean area of the real pictures' boxes; None without boxes."""
    settled: bool
    advice: str

    def __str__(self) -> str:
        box = "" if self.box is None else f", boxes of the photos {self.box:.0%}"
        return (
            f"mask: {self.area:.0%} of the picture (spread {self.spread:.0%}{box}), soft {self.soft:.0%} of it, "
            f"overlap between samples {self.alike:.2f}: {self.advice}"
        )


@torch.inference_mode()
def check_masks(
    generator: Generator,
    *,
    box: float | None = None,
    options: Mapping[str, str] | None = None,
    n: int = 64,
    seed: int = 0,
) -> MaskCheck | None:
    """Return statistics of the masks of `n` samples; None for a generator without masks.

    `box` is the mean area of the real boxes, `options` the recipe's options by kind of fault
    (`types.Recipe.mask_advice`).
    """
    codes = generator.sample(n, torch.Generator().manual_seed(seed))
    masks = []
    for start in range(0, n, BATCH):
        mask = getattr(generator(rows(codes, slice(start, start + BATCH))), "mask", None)
        if mask is None:
            return None
        masks.append(mask)
    mask = torch.cat(masks).float().sum(1, keepdim=True).clamp(0, 1)  # scenes of several objects have one each
    areas = mask.mean((1, 2, 3))
    area, spread = float(areas.mean()), float(areas.std())
    soft = float(((mask > 0.1) & (mask < 0.9)).float().mean() / areas.mean().clamp_min(1e-6))
    alike = float(iou(mask, mask.roll(1, 0)).mean())
    kind = _kind(area, spread, soft, alike, box)
    named = (options or {}).get(kind)
    advice = ADVICE[kind] + (f": {named}" if named else "")
    return MaskCheck(
        area=area, spread=spread, soft=soft, alike=alike, box=box, settled=kind == "settled", advice=advice
    )


ADVICE = {
    "settled": "settled",
    "nothing": "the mask is empty and the background draws everything; if this persists, raise the weight of the "
    "loss that keeps masks from vanishing, or make the background weaker (fewer channels)",
    "everything": "the object draws the background too; if this persists, raise the weight of the loss that keeps "
    "masks small, or give tighter boxes",
    "soft": "still half-transparent; usual at first, later raise the weight of binarisation or start its ramp earlier",
    "alike": "every sample has the same mask, so pose and shape have no effect; if this persists, check whether the "
    "objects in the photos all have the same pose, or raise the weight of the losses on poses and codes",
}
"""Advice by kind of fault (remedies of FineGAN's and GIRAFFE's successors)."""


def _kind(area: float, spread: float, soft: float, alike: float, box: float | None) -> str:
    """Return the key of `ADVICE` for these statistics."""
    if area < 0.01:
        return "nothing"
    if area > 0.9 or (box is not None and area > 1.5 * box):
        return "everything"
    if soft > 0.5:
        return "soft"
    return "alike" if alike > 0.95 and spread < 0.02 else "settled"
