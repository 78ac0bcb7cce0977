"""Average precision of boxes and masks as COCO defines it, by faster-coco-eval, and mask IoU of each picture.

AP is the mean over the IoU thresholds .50, .55, ... .95 and over classes of the precision interpolated at 101 recalls;
classes without a true object are left out.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import numpy as np
from jaxtyping import Bool, Float

from ..data.coco import CocoSet
from ..data.mask_codes import decode, to_rle
from ..segmentation.contract import Instance

MOST = 100
"""Detections of a picture that count, by falling score."""
FEW = 200
"""Sets of fewer pictures get a bootstrap interval."""
Kind = Literal["box", "mask"]


@dataclass(frozen=True, slots=True)
class Precision:
    """Average precisions in [0, 1]; None where there is nothing to find."""

    ap: float | None
    ap50: float | None
    ap75: float | None
    small: float | None
    """Objects of less than 32 x 32 pixels of the picture."""
    medium: float | None
    large: float | None
    """Objects of 96 x 96 pixels or more."""
    interval: tuple[float, float] | None = None
    """Bootstrap interval of `ap`: 2.5 and 97.5 percentile over sets resampled from the pictures."""
    interval50: tuple[float, float] | None = None
    """Of `ap50`."""


@dataclass(frozen=True, slots=True)
class Fit:
    """IoUs of one picture's objects."""

    picture: int
    iou: float
    """Mean over true objects of the IoU with the best instance of their class; 1 where nothing is to find or found."""
    surest: float | None
    """Mask IoU of the instance of highest score, of any class, with the true object it fits best; None without
    objects."""
    best: float | None
    """Mask IoU of the instance that fits the largest true object best."""
    box: float | None
    """IoU of the box of the instance of highest score with the true box it fits best."""


@dataclass(frozen=True, slots=True)
class CocoScores:
    """Scores of a segmenter on a set of pictures."""

    pictures: int
    objects: int
    box: Precision
    mask: Precision
    classes: dict[str, dict[str, float | None]]
    """Class -> box AP, mask AP, mask AP50, and how many true objects."""
    fits: tuple[Fit, ...]

    def summary(self) -> dict[str, Any]:
        """Return the scores without those of single pictures, as plain values."""
        surest = [fit.surest for fit in self.fits if fit.surest is not None]
        best = [fit.best for fit in self.fits if fit.best is not None]
        boxes = [fit.box for fit in self.fits if fit.box is not None]
        return {
            "pictures": self.pictures,
            "objects": self.objects,
            "box": asdict(self.box),
            "mask": asdict(self.mask),
            "classes": self.classes,
            "surest_mask_iou": _mean(surest),
            "best_mask_iou": _mean(best),
            "best_mask_iou_over_80": _mean([iou > 0.8 for iou in best]),
            "box_iou_over_60": _mean([iou > 0.6 for iou in boxes]),
        }


class CocoEvaluator:
    """Collects a segmenter's detections in the pictures of a set, and scores them."""

    def __init__(self, truth: CocoSet, groups: Mapping[str, str] | None = None, *, one_class: bool = False) -> None:
        """Take the true objects of a set.

        Args:
            truth: the set.
            groups: label -> the class that it counts as, in truth and in what is found; others count as themselves.
            one_class: whether all labels count as one class, so that only masks and boxes are scored.
        """
        self.truth, self._groups, self._one = truth, dict(groups or {}), one_class
        names = [self._class(name) for name in truth.categories]
        self.classes = tuple(dict.fromkeys(names))
        self._truths: list[dict[str, Any]] = []
        self._found: list[dict[str, Any]] = []
        self._fits: dict[int, Fit] = {}

    def add(self, i: int, instances: Sequence[Instance]) -> Fit:
        """Add the detections in picture `i`; return their IoUs. Raises: ValueError if it was added already."""
        if i in self._fits:
            raise ValueError(f"picture {i} was added already; add each picture once")
        picture = self.truth.pictures[i]
        size = picture.height, picture.width
        masks, names = [], []
        for item in picture.objects:
            mask = decode(item.segmentation, size)
            x0, y0, x1, y1 = item.box
            masks.append((mask, item))
            names.append(self._class(self.truth.categories[item.label]))
            self._truths.append(
                {
                    "id": len(self._truths) + 1,
                    "image_id": i,
                    "category_id": self.classes.index(names[-1]) + 1,
                    "bbox": [x0, y0, x1 - x0, y1 - y0],
                    "area": item.area,
                    "iscrowd": int(item.crowd),
                    "segmentation": to_rle(mask),
                }
            )
        kept = sorted(instances, key=lambda instance: -instance.score)[:MOST]
        for instance in kept:
            if instance.mask.shape != size:
                raise ValueError(f"picture {i} is {size}, an instance's mask {instance.mask.shape}; expected the same")
            name = self._class(instance.label)
            if name in self.classes:
                x0, y0, x1, y1 = instance.box
                self._found.append(
                    {
                        "image_id": i,
                        "category_id": self.classes.index(name) + 1,
                        "bbox": [x0, y0, x1 - x0, y1 - y0],
                        "score": instance.score,
                        "box_score": instance.score if instance.box_score is None else instance.box_score,
                        "segmentation": to_rle(instance.binary),
                    }
                )
        self._fits[i] = _fit(i, masks, names, kept, [self._class(instance.label) for instance in kept])
        return self._fits[i]

    def scores(self, *, bootstrap: int = 300, seed: int = 0) -> CocoScores:
        """Return the scores of the pictures added. Raises: ValueError if there are none, or the package is missing."""
        if not self._fits:
            raise ValueError("no picture was added; add what was found in each")
        few = bootstrap if len(self._fits) < FEW else 0
        precision, by_class = {}, {}
        for kind in ("box", "mask"):
            precision[kind], by_class[kind] = self._precision(kind, few, seed)
        counts = [
            sum(t["category_id"] == k + 1 and not t["iscrowd"] for t in self._truths) for k in range(len(self.classes))
        ]
        classes = {
            name: {
                "box_ap": by_class["box"][k][0],
                "mask_ap": by_class["mask"][k][0],
                "mask_ap50": by_class["mask"][k][1],
                "objects": counts[k],
            }
            for k, name in enumerate(self.classes)
        }
        fits = tuple(self._fits[i] for i in sorted(self._fits))
        return CocoScores(len(fits), sum(counts), precision["box"], precision["mask"], classes, fits)

    def content(self) -> tuple[dict[str, Any], list[dict[str, Any]]]:
        """Return the true objects as a COCO instances JSON holds them, and the list of detections."""
        images = [
            {"id": i, "file_name": p.name, "width": p.width, "height": p.height}
            for i, p in ((i, self.truth.pictures[i]) for i in sorted(self._fits))
        ]
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.classes)]
        found = [{key: value for key, value in item.items() if key != "box_score"} for item in self._found]
        return {"info": {}, "images": images, "annotations": self._truths, "categories": categories}, found

    def _class(self, label: str) -> str:
        return "object" if self._one else self._groups.get(label, label)

    def _precision(self, kind: str, draws: int, seed: int) -> tuple[Precision, list[tuple[float | None, float | None]]]:
        """Return the precisions of boxes or masks, and AP and AP50 of each class."""
        try:
            from faster_coco_eval import COCO, COCOeval_faster
        except ImportError as error:
            raise ValueError("evaluation needs the package faster-coco-eval: pip install '.[segment]'") from error
        content, found = self.content()
        if kind == "box":  # YOLACT++ ranks boxes by their classes' scores, masks by the expected IoU too
            found = [item | {"score": own["box_score"]} for item, own in zip(found, self._found, strict=True)]
        if not self._truths or not found:
            nothing = 0.0 if self._truths else None
            every: list[tuple[float | None, float | None]] = [(nothing, nothing)] * len(self.classes)
            return Precision(nothing, nothing, nothing, None, None, None), every
        truth = COCO(content, use_deepcopy=True)
        run = COCOeval_faster(
            truth,
            truth.loadRes([dict(item) for item in found]),
            "bbox" if kind == "box" else "segm",
            print_function=lambda *_: None,
            separate_eval=True,
        )
        run.evaluate()
        run.accumulate()
        table = np.asarray(run.eval["precision"])  # thresholds, recalls, classes, areas, most detections
        intervals: list[tuple[float, float] | None] = [None, None]
        every = [_stats(table[:, :, k : k + 1])[:2] for k in range(len(self.classes))]
        if draws:
            drawn = _bootstrap(run, len(self._fits), draws, seed)
            intervals = [_interval(drawn[:, 0]), _interval(drawn[:, 1])]
        return Precision(*_stats(table), *intervals), every


def _stats(table: Float[np.ndarray, "thresholds recalls classes areas most"]) -> tuple[Any, ...]:
    """Return AP, AP50, AP75 and AP of small, medium and large objects; None where no class has any."""
    table = table[..., -1]
    parts = [table[..., 0], table[0, ..., 0], table[5, ..., 0], table[..., 1], table[..., 2], table[..., 3]]
    return tuple(_mean(part[part > -1]) for part in parts)


def _bootstrap(run: Any, pictures: int, draws: int, seed: int) -> Float[np.ndarray, "draws 2"]:
    """Return AP and AP50 of sets drawn with replacement from the pictures that `run` has matched."""
    rng = np.random.default_rng(seed)
    matched = run._evalImgs_cpp  # of each class, area and picture, in this order
    blocks = [matched[start : start + pictures] for start in range(0, len(matched), pictures)]
    found = []
    for _ in range(draws):
        chosen = rng.integers(pictures, size=pictures).tolist()
        run._evalImgs_cpp = [block[i] for block in blocks for i in chosen]
        run.accumulate()
        found.append([np.nan if v is None else v for v in _stats(np.asarray(run.eval["precision"]))[:2]])
    run._evalImgs_cpp = matched
    return np.array(found)


def _interval(values: Float[np.ndarray, " draws"]) -> tuple[float, float] | None:
    """Return the middle 95 % of values."""
    values = values[~np.isnan(values)]
    if len(values) == 0:
        return None
    low, high = np.quantile(values, (0.025, 0.975)).tolist()
    return low, high


def _fit(
    i: int, truths: Sequence[tuple[Any, Any]], names: Sequence[str], found: Sequence[Instance], labels: Sequence[str]
) -> Fit:
    """Return the IoUs of a picture's objects, without crowds."""
    real = [k for k, (_, item) in enumerate(truths) if not item.crowd]
    if not real:
        return Fit(i, 1.0 if not found else 0.0, None, None, None)
    masks = [instance.binary for instance in found]
    ious = np.array([[mask_iou(truths[k][0], mask) for mask in masks] for k in real]).reshape(len(real), len(masks))
    same = np.array([[names[k] == label for label in labels] for k in real]).reshape(ious.shape)
    if not found:
        return Fit(i, 0.0, 0.0, 0.0, 0.0)
    largest = int(np.argmax([truths[k][1].area for k in real]))
    boxes = [box_iou(truths[k][1].box, found[0].box) for k in real]
    return Fit(
        i, float((ious * same).max(1).mean()), float(ious[:, 0].max()), float(ious[largest].max()), float(max(boxes))
    )


def mask_iou(a: Bool[np.ndarray, "h w"], b: Bool[np.ndarray, "h w"]) -> float:
    """Return the overlap of two masks over their union; 0 if both are empty."""
    union = (a | b).sum()
    return float((a & b).sum() / union) if union else 0.0


def box_iou(a: Sequence[float], b: Sequence[float]) -> float:
    """Return the overlap of two boxes x0 y0 x1 y1 over their union."""
    wide, high = min(a[2], b[2]) - max(a[0], b[0]), min(a[3], b[3]) - max(a[1], b[1])
    if wide <= 0 or high <= 0:
        return 0.0
    return float(wide * high / ((a[2] - a[0]) * (a[3] - a[1]) + (b[2] - b[0]) * (b[3] - b[1]) - wide * high))


def _mean(values: Iterable[float]) -> float | None:
    values = list(values)
    return float(np.mean(values)) if values else None
