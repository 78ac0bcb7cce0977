"""YOLACT as an object finder: photos to instances."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from training.segmentation.contract import Instance, PixelBox, Pixels
from training.segmentation.yolact.detection import DetectionConfig, Detections, detect
from training.segmentation.yolact.export import OnnxNetwork
from training.segmentation.yolact.masks import MaskConfig, Patch, assemble, crop, patches
from training.segmentation.yolact.network import Predictions, Yolact
from training.segmentation.yolact.photos import Placement, prepare


@dataclass(frozen=True, kw_only=True, slots=True)
class FinderConfig:
    """Selection of objects and cropping of their masks.

    The defaults are for showing objects to users; `PUBLISHED` are the settings of the published figures.
    """

    detection: DetectionConfig = field(default_factory=lambda: DetectionConfig(suppression="any-class", threshold=0.3))
    masks: MaskConfig = field(default_factory=lambda: MaskConfig(sharp=True, smallest_part=0.1))
    least: float = 0.3
    """Score below which nothing is shown; with mask re-scoring the box's score times the mask's IoU."""
    most: int = 20
    """Objects in a picture."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1 or self.most < 1:
            raise ValueError(f"least is {self.least} and most {self.most}; expected 0 to 1, and at least 1")


PUBLISHED = FinderConfig(detection=DetectionConfig(), masks=MaskConfig(), least=0.0, most=100)
"""Fast NMS, 100 objects however low they score, masks cut at prototype size."""


@dataclass(frozen=True, slots=True)
class Found:
    """One object, its mask kept as small as it is."""

    box: PixelBox
    label: int
    """Place in the config's classes."""
    score: float
    """Of the box."""
    mask_score: float
    """Of the mask: the box's, times the IoU expected of the mask where the network guesses it (YOLACT++)."""
    patch: Patch


class YolactSegmenter:
    """Finds objects with a YOLACT network; a `Segmenter`."""

    def __init__(self, network: Yolact | OnnxNetwork, config: FinderConfig | None = None) -> None:
        self.network: Yolact | OnnxNetwork = network.eval()
        self.config = config or FinderConfig()

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        return self.network.config.classes

    def __call__(self, image: Pixels) -> list[Instance]:
        """Return the instances of a photo, by falling score, without those of empty masks."""
        height, width = image.shape[:2]
        return self.instances(self.find(image), height, width)

    def instances(self, objects: Iterable[Found], height: int, width: int) -> list[Instance]:
        """Return the objects of a photo of that size as instances, by falling score, without those of empty masks."""
        instances = []
        for found in objects:
            x0, y0, x1, y1 = found.box
            if x1 > x0 and y1 > y0 and (found.patch.values > 0.5).any():
                mask = found.patch.paste(height, width)
                label = self.labels[found.label]
                instances.append(Instance(mask, found.box, label, found.mask_score, found.score))
        return sorted(instances, key=lambda instance: -instance.score)

    def find(self, image: Pixels) -> Iterator[Found]:
        """Yield the objects of a photo, by falling score of their boxes."""
        settings = self.network.config
        photo = torch.from_numpy(np.ascontiguousarray(image))
        prepared, placement = prepare(photo, settings.size, letterbox=settings.letterbox)
        with torch.inference_mode():
            predictions = self.network(prepared.to(self.network.device))
            yield from self.choose(predictions, placement)

    @torch.inference_mode()
    def choose(self, predictions: Predictions, placement: Placement) -> list[Found]:
        """Return the objects that predictions for one photo hold."""
        [found] = detect(predictions, self.config.detection, self.network.config.size)
        found = found.pick(slice(self.config.most))
        prototypes = predictions.prototypes[0]
        mask_scores = found.score * self._expected_iou(prototypes, found)
        shown = torch.where(mask_scores >= self.config.least)[0]
        found, mask_scores = found.pick(shown), mask_scores[shown].tolist()
        boxes, labels, scores = placement.to_photo(found.box).tolist(), found.label.tolist(), found.score.tolist()
        cuts = patches(prototypes, found.coefficients, found.box, placement, self.config.masks)
        return [
            Found((box[0], box[1], box[2], box[3]), label, score, mask_score, patch)
            for box, label, score, mask_score, patch in zip(boxes, labels, scores, mask_scores, cuts, strict=True)
        ]

    def _expected_iou(self, prototypes: Float[Tensor, "h w k"], found: Detections) -> Float[Tensor, " n"]:
        """Return the IoU that the network expects of each mask; 1 where it does not guess it."""
        if not (isinstance(self.network, Yolact) and self.network.config.mask_rescoring and len(found)):
            return torch.ones_like(found.score)
        soft = crop(assemble(prototypes, found.coefficients), found.box)
        return self.network.maskiou_net(soft[:, None]).gather(1, found.label[:, None])[:, 0]


def published(segmenter: YolactSegmenter) -> YolactSegmenter:
    """Return the same finder with the settings that the published figures are measured with."""
    return YolactSegmenter(segmenter.network, replace(PUBLISHED))
