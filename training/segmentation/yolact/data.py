"""Pictures with the masks of their objects, in COCO's format, as training batches."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.data.coco import CocoPicture, find_split
from training.runtime.sharded_random import rand
from training.segmentation.yolact.augment import AugmentConfig, Region, choose_region, inside, still, vary_colours
from training.segmentation.yolact.photos import place
from training.types import Batch, Instances

OTHERS = 20
"""Pictures that are tried in the place of one without objects."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InstanceDataConfig:
    """How pictures of a COCO folder become training batches."""

    size: int = 550
    """Side of the square input in pixels."""
    letterbox: bool = False
    """Keep the aspect ratio and pad; otherwise pictures are stretched to a square."""
    fill: tuple[float, float, float] = (123.68, 116.78, 103.94)
    """RGB, 0 to 255, of what is shown beyond the picture."""
    split: str = "train"
    """Split to train on."""
    classes: tuple[str, ...] = ()
    """Categories to train on, in the order of the network's classes; empty for all of the set's."""
    partial: bool = False
    """Whether the set may lack some of the classes."""
    augment: AugmentConfig = field(default_factory=AugmentConfig)

    def open(self, path: Path) -> "InstanceSet":
        """Return the split of the COCO folder `path`. Raises: ValueError that names what is wrong with it."""
        return InstanceSet(path, self)


class _Shown(NamedTuple):
    """One augmented picture and its objects."""

    image: Float[Tensor, "3 size size"]
    instances: Instances


class InstanceSet:
    """The pictures of one split of a COCO folder. Same indices and same state of `rng`: same batch."""

    def __init__(self, path: Path, config: InstanceDataConfig) -> None:
        self.path, self.config = path, config
        self.coco = find_split(path, config.split)
        self.index = self.coco.path
        """The file that lists the pictures."""
        names = self.coco.categories
        classes = config.classes or names
        missing = [name for name in classes if name not in names]
        if missing and not (config.partial and len(missing) < len(classes)):
            raise ValueError(f"{self.index} has no category {missing[0]!r}; it has {', '.join(names)}")
        self._place = np.array([classes.index(name) if name in classes else -1 for name in names])
        if not len(self.coco):
            raise ValueError(f"{self.index} lists no pictures; give a set with some")
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="instances")

    def __len__(self) -> int:
        return len(self.coco)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Return a training batch; under torchrun this process's rows of it (`rng` knows its share)."""
        seeds = (rand(len(indices), 2, rng=rng).double() * 2**24).long().tolist()
        return self._collected(indices, list(self._pool.map(self._varied, indices, seeds)))

    def get(self, indices: Sequence[int]) -> Batch:
        """Return pictures without augmentation, in the input's square."""
        return self._collected(indices, list(self._pool.map(self._plain, indices)))

    def _collected(self, indices: Sequence[int], shown: list[_Shown]) -> Batch:
        return Batch(
            image=torch.stack([item.image for item in shown]),
            instances=tuple(item.instances for item in shown),
            index=tuple(int(i) for i in indices),
        )

    def _plain(self, i: int) -> _Shown:
        return self._show(self._loaded(i), still(self.config.augment), np.random.default_rng(0))

    def _varied(self, i: int, seed: list[int]) -> _Shown:
        """Return picture `i` varied at random; without objects in it another one, where none may lack them."""
        rng = np.random.default_rng(seed)
        for _ in range(OTHERS):
            picture = self._loaded(i)
            if self.config.augment.negatives or (~picture.crowd).any():
                shown = self._show(picture, self.config.augment, rng)
                if self.config.augment.negatives or (~shown.instances.crowd).any():
                    return shown
            i = int(rng.integers(len(self)))
        raise ValueError(
            f"{OTHERS} pictures of {self.index} in a row show no object; give a set with more of them, or learn from "
            f"pictures without objects too (--config.data.augment.negatives)"
        )

    def _loaded(self, i: int) -> CocoPicture:
        """Return a picture with the objects to train on, numbered as the network's classes."""
        picture = self.coco.load(i)
        labels = self._place[picture.labels] if len(picture.labels) else picture.labels
        kept = labels >= 0
        if kept.all():
            return picture._replace(labels=labels)
        return CocoPicture(picture.image, picture.boxes[kept], picture.masks[kept], labels[kept], picture.crowd[kept])

    def _show(self, picture: CocoPicture, augment: AugmentConfig, rng: np.random.Generator) -> _Shown:
        """Return what of a picture is shown, brought into the input's square."""
        height, width = picture.image.shape[:2]
        region = choose_region(width, height, picture.boxes[~picture.crowd], augment, rng)
        kept = inside((picture.boxes[:, :2] + picture.boxes[:, 2:]) / 2, region)
        if not augment.cut:
            kept = np.ones(len(kept), bool)
        flip = augment.mirror and rng.random() < 0.5
        view = _View(region, (height, width), self.config)
        colours = torch.from_numpy(view.seen(picture.image.transpose(2, 0, 1))).float()
        if augment.colours:
            colours = vary_colours(colours, rng)
        image = view.shown(colours[None], torch.tensor(self.config.fill)[:, None, None])[0] / 127.5 - 1
        objects = torch.from_numpy(view.seen(picture.masks[kept])).float()
        masks = view.shown(objects[:, None], torch.zeros(1, 1, 1))[:, 0] >= 0.5
        boxes = view.boxes(picture.boxes[kept])
        if flip:
            columns, share = view.inner[1], view.inner[1] / self.config.size
            image[:, :, :columns] = image[:, :, :columns].flip(2)
            masks[:, :, :columns] = masks[:, :, :columns].flip(2)
            boxes = torch.stack([share - boxes[:, 2], boxes[:, 1], share - boxes[:, 0], boxes[:, 3]], 1)
        large = ((boxes[:, 2:] - boxes[:, :2]) * self.config.size).amin(1) > augment.smallest
        large &= masks.flatten(1).any(1) | torch.tensor(not augment.negatives)
        instances = Instances(
            box=boxes[large],
            label=torch.from_numpy(picture.labels[kept])[large],
            mask=masks[large],
            crowd=torch.from_numpy(picture.crowd[kept])[large],
        )
        return _Shown(image, instances)


class _View:
    """A region of a picture in the input's square; what of it lies beyond the picture is filled."""

    def __init__(self, region: Region, size: tuple[int, int], config: InstanceDataConfig) -> None:
        self.region, self.side = region, config.size
        x0, y0, x1, y1 = region
        self.placement = place(y1 - y0, x1 - x0, config.size, letterbox=config.letterbox)
        self.inner = round(self.placement.share_y * config.size), round(self.placement.share_x * config.size)
        """Rows and columns of the square that the region takes up."""
        self.rows = max(0, y0), min(size[0], y1)
        self.columns = max(0, x0), min(size[1], x1)
        """Of the picture, those that the region shows."""

    def seen(self, layers: np.ndarray) -> np.ndarray:
        """Return the part of `(n, h, w)` layers of the picture that the region shows."""
        return np.ascontiguousarray(layers[:, slice(*self.rows), slice(*self.columns)])

    def shown(self, seen: Float[Tensor, "n c _ _"], fill: Tensor) -> Float[Tensor, "n c size size"]:
        """Return that part in the square, bilinear; all else is `fill`."""
        square = fill.expand(*seen.shape[:2], self.side, self.side).clone()
        x0, y0, x1, y1 = self.region
        top, bottom = (round((row - y0) * self.inner[0] / (y1 - y0)) for row in self.rows)
        left, right = (round((column - x0) * self.inner[1] / (x1 - x0)) for column in self.columns)
        bottom, right = max(bottom, top + 1), max(right, left + 1)
        if seen.numel():  # a cut of the canvas may miss the picture
            smooth = self.placement.smooth
            part = F.interpolate(
                seen, (bottom - top, right - left), mode="bilinear", align_corners=False, antialias=smooth
            )
            square[:, :, top:bottom, left:right] = part[:, :, : self.side - top, : self.side - left]
        return square

    def boxes(self, boxes: Float[np.ndarray, "n 4"]) -> Float[Tensor, "n 4"]:
        """Return boxes cut to the region, as fractions of the square."""
        x0, y0, x1, y1 = self.region
        moved = np.clip(boxes - np.array([x0, y0, x0, y0]), 0, np.array([x1 - x0, y1 - y0, x1 - x0, y1 - y0]))
        return self.placement.to_input(torch.from_numpy(moved.astype(np.float32)))
