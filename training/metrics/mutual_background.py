"""Mutual background score: the change of the background when only the object is redrawn (GIRAFFE HD Sec. 4).

As in the authors' script, the object's shape, appearance, size, rotation and place, except its height, are redrawn; of
the pixels that are background in both pictures, the share that changed by 1/255 or more in a channel is the score. 0 is
perfect.
"""

import warnings
from collections.abc import Callable

import torch
from jaxtyping import Bool
from torch import Tensor
from torch.nn.functional import interpolate

from training.batched import rows
from training.metrics.knobs import BACKGROUND, CAMERA, redraw
from training.metrics.masks import CLEAR, changed_share
from training.metrics.weights import WeightsMissingError
from training.types import Generator, Image, Mask

KEPT = (*BACKGROUND, *CAMERA, "y")
"""Knobs the score leaves alone: height was tied to the background in one of the authors' sets."""
CLASSES = {"aeroplane": 1, "bicycle": 2, "bird": 3, "car": 7, "cat": 8, "dog": 12, "person": 15}
"""Classes of DeepLab (PASCAL VOC) that are useful here."""

Segmenter = Callable[[Image, Mask], Bool[Tensor, "n 1 h w"]]
"""Picture and the generator's own mask -> where the object is."""


def own_mask(image: Image, mask: Mask) -> Bool[Tensor, "n 1 h w"]:
    """Return the pixels where the generator's own mask is not empty."""
    return mask >= CLEAR


def deeplab(kind: str, device: torch.device | str = "cpu") -> Segmenter:
    """Return the authors' segmenter, torchvision's DeepLabV3-ResNet101, for one of `CLASSES`.

    Raises: ValueError for another class; WeightsMissingError if its weights are not available.
    """
    if kind not in CLASSES:
        raise ValueError(f"DeepLab knows no {kind!r} here; known: {', '.join(sorted(CLASSES))}")
    from torchvision.models.segmentation import DeepLabV3_ResNet101_Weights as Weights
    from torchvision.models.segmentation import deeplabv3_resnet101

    weights = Weights.COCO_WITH_VOC_LABELS_V1
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            network = deeplabv3_resnet101(weights=weights, progress=False).eval().to(device)
    except OSError as problem:
        raise WeightsMissingError(
            f"DeepLab's weights cannot be downloaded ({getattr(problem, 'reason', problem)}). Fetch {weights.url} "
            f"elsewhere and put it into $TORCH_HOME/hub/checkpoints, or go by the generator's own masks."
        ) from None
    mean = torch.tensor([0.485, 0.456, 0.406], device=device).view(1, 3, 1, 1)
    sd = torch.tensor([0.229, 0.224, 0.225], device=device).view(1, 3, 1, 1)

    @torch.inference_mode()
    def segment(image: Image, mask: Mask) -> Bool[Tensor, "n 1 h w"]:
        size = image.shape[2:]
        x = ((image + 1) / 2 - mean) / sd
        if min(size) < 256:  # trained on larger pictures
            x = interpolate(x, (256, 256), mode="bilinear", align_corners=False)
        found = interpolate(network(x)["out"], size, mode="bilinear", align_corners=False)
        return found.argmax(1, keepdim=True) == CLASSES[kind]

    return segment


@torch.inference_mode()
def mutual_background(
    generator: Generator, segmenter: Segmenter = own_mask, *, n: int = 200, seed: int = 0, levels: float = 1.0
) -> float | None:
    """Return the mean share of common background that changed by `levels` / 255 or more; None if there was none."""
    rng = torch.Generator().manual_seed(seed)
    base = generator.sample(n, rng)
    codes = base
    for knob in generator.knobs:
        if knob.kind != "picture" and knob.name not in KEPT and knob.high > knob.low:
            codes = redraw(generator, codes, knob, rng)
    images, outside = [], []
    for start in range(0, n, 32):
        part = slice(start, start + 32)
        before, after = generator(rows(base, part)), generator(rows(codes, part))
        clear = ~segmenter(before.image, before.mask) & ~segmenter(after.image, after.mask)
        images.append(torch.stack([before.image, after.image]))
        outside.append(clear)
    before, after = torch.cat(images, 1)
    return changed_share(before, after, torch.cat(outside), levels)
