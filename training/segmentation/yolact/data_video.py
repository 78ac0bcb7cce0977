"""Training pairs of frames: FlyingChairs with its true flow, and films in YouTube-VIS's format."""

import json
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.data.mask_codes import MaskError, decode
from training.pictures import opened
from training.runtime.sharded_random import rand
from training.segmentation.yolact.augment import vary_colours
from training.segmentation.yolact.photos import fit, place
from training.types import Batch, Image, Instances

FLO_MARK = 202021.25
"""First number of a .flo file (Middlebury)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class FlowDataConfig:
    """FlyingChairs: a folder of NUMBER_img1.ppm, NUMBER_img2.ppm and NUMBER_flow.flo."""

    size: int = 550
    """Side that frames are squashed to; flow stays in their own pixels."""
    letterbox: bool = False
    """Pairs are always squashed, as published."""
    classes: tuple[str, ...] = ()
    """Flow has none."""

    def open(self, path: Path) -> "FlowSet":
        """Return the pairs in the folder `path`, or in its `data`."""
        return FlowSet(path, self)


class FlowSet:
    """Pairs of frames and the flow from the first to the second."""

    def __init__(self, path: Path, config: FlowDataConfig) -> None:
        self.path, self.config = path, config
        flows = sorted(path.glob("*_flow.flo")) or sorted(path.glob("data/*_flow.flo"))
        if not flows:
            raise ValueError(f"{path} holds no *_flow.flo; give the folder of FlyingChairs")
        self._stems = [flow.with_name(flow.name.removesuffix("_flow.flo")) for flow in flows]
        self.index = flows[0]
        """A file that identifies the set; FlyingChairs has no list of its pictures."""

    def __len__(self) -> int:
        return len(self._stems)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Return frames, those that the flow leads to as `previous`, and the flow in units of the network."""
        pairs = [self._pair(self._stems[i]) for i in indices]
        image, previous, flow = (torch.cat(column) for column in zip(*pairs, strict=True))
        return Batch(image=image, previous=previous, flow=flow, index=tuple(int(i) for i in indices))

    def _pair(self, stem: Path) -> tuple[Tensor, Tensor, Tensor]:
        size = self.config.size
        frames = [_frame(stem.with_name(f"{stem.name}_{which}.ppm")) for which in ("img1", "img2")]
        flow = read_flow(stem.with_name(f"{stem.name}_flow.flo"))
        if frames[0].shape[2:] != frames[1].shape[2:] or frames[0].shape[2:] != flow.shape[1:]:
            raise ValueError(f"{stem}: the frames and their flow are of different sizes")
        squashed = [F.interpolate(frame, (size, size), mode="bilinear", align_corners=False) for frame in frames]
        unit = torch.tensor([flow.shape[2], flow.shape[1]])[:, None, None]
        whole = F.interpolate((flow * 16 / unit)[None], (size, size), mode="bilinear", align_corners=False)
        return squashed[0], squashed[1], whole


def read_flow(path: Path) -> Float[Tensor, "2 h w"]:
    """Return a .flo file's flow in pixels, x then y. Raises: ValueError for what is none."""
    content = path.read_bytes()
    if len(content) < 12 or np.frombuffer(content, "<f4", 1)[0] != np.float32(FLO_MARK):
        raise ValueError(f"{path} is no .flo file")
    width, height = np.frombuffer(content, "<i4", 2, 4).tolist()
    if not (0 < width < 100_000 and 0 < height < 100_000) or len(content) != 12 + 8 * width * height:
        raise ValueError(f"{path} is cut short, or no .flo file: {width} x {height} in {len(content)} bytes")
    values = np.frombuffer(content, "<f4", offset=12).reshape(height, width, 2)
    return torch.from_numpy(values.transpose(2, 0, 1).copy())


def _frame(path: Path) -> Image:
    """Return a frame in [-1, 1]. Raises: ValueError."""
    try:
        with opened(path) as picture:
            pixels = np.array(picture.convert("RGB"))
    except (OSError, SyntaxError, ValueError, PIL.Image.DecompressionBombError) as error:
        raise ValueError(f"the frame {path} cannot be read ({error})") from error
    return torch.from_numpy(pixels.transpose(2, 0, 1)[None].copy()).float() / 127.5 - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class VideoDataConfig:
    """Films in YouTube-VIS's format: a folder with SPLIT.json, and the frames in `JPEGImages` or beside it."""

    size: int = 550
    """Side of the square input in pixels."""
    letterbox: bool = False
    """Keep the aspect ratio and pad; otherwise frames are squashed."""
    split: str = "train"
    """Split to train on."""
    classes: tuple[str, ...] = ()
    """Categories in the order of the network's classes; empty for those of the list."""
    nearest: int = 2
    """Smallest distance from `previous` to the frame, in frames."""
    farthest: int = 5
    """Largest distance from `previous` to the frame, in frames."""
    colours: bool = True
    """Vary colours, of both frames alike."""
    mirror: bool = True
    """Mirror half of the pairs left to right."""

    def __post_init__(self) -> None:
        if not 1 <= self.nearest <= self.farthest:
            raise ValueError(f"nearest is {self.nearest}, farthest {self.farthest}; expected 1 <= nearest <= farthest")

    def open(self, path: Path) -> "VideoSet":
        """Return the frames of the split in the folder `path`."""
        return VideoSet(path, self)


class VideoSet:
    """Frames with the masks of their objects, each with a frame before it."""

    def __init__(self, path: Path, config: VideoDataConfig) -> None:
        self.path, self.config = path, config
        self.index = next((p for p in (path / f"{config.split}.json", path / "instances.json") if p.is_file()), path)
        if self.index == path:
            raise ValueError(f"{path} has no {config.split}.json or instances.json in YouTube-VIS's format")
        try:
            content = json.loads(self.index.read_text(encoding="utf-8"))
            self._films = {film["id"]: film for film in content["videos"]}
            categories = {entry["id"]: entry["name"] for entry in sorted(content["categories"], key=lambda c: c["id"])}
            self._objects: dict[Any, list[dict[str, Any]]] = {key: [] for key in self._films}
            for entry in content["annotations"]:
                self._objects[entry["video_id"]].append(entry)
            self._sizes = {key: (int(film["height"]), int(film["width"])) for key, film in self._films.items()}
            self._names = {key: [str(name) for name in film["file_names"]] for key, film in self._films.items()}
        except (ValueError, KeyError, TypeError) as error:
            raise ValueError(f"{self.index} is no list in YouTube-VIS's format ({error!r})") from error
        self.categories = tuple(categories.values())
        classes = config.classes or self.categories
        self._label = {key: classes.index(name) for key, name in categories.items() if name in classes}
        self._frames = [
            (key, t)
            for key, names in self._names.items()
            for t in range(config.nearest, len(names))
            if any(_mask_of(entry, t) for entry in self._objects[key])
        ]
        if not self._frames:
            raise ValueError(f"{self.index} has no frame with an object and {config.nearest} frames before it")
        self._pool = ThreadPoolExecutor(max_workers=4, thread_name_prefix="frames")

    def __len__(self) -> int:
        return len(self._frames)

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Return frames with their objects, and earlier frames as `previous`."""
        seeds = (rand(len(indices), 2, rng=rng).double() * 2**24).long().tolist()
        found = list(self._pool.map(self._pair, [self._frames[i] for i in indices], seeds))
        return Batch(
            image=torch.cat([image for image, _, _ in found]),
            previous=torch.cat([previous for _, previous, _ in found]),
            instances=tuple(instances for _, _, instances in found),
            index=tuple(int(i) for i in indices),
        )

    def _pair(self, frame: tuple[Any, int], seed: list[int]) -> tuple[Image, Image, Instances]:
        (key, t), config, rng = frame, self.config, np.random.default_rng(seed)
        before = t - int(rng.integers(config.nearest, min(config.farthest, t) + 1))
        frames = torch.cat([self._read(self._names[key][i]) for i in (t, before)])
        if config.colours:
            joined = ((frames + 1) * 127.5).transpose(0, 1).flatten(1, 2)
            frames = vary_colours(joined, rng).unflatten(1, (2, -1)).transpose(0, 1) / 127.5 - 1
        mirrored = config.mirror and rng.random() < 0.5
        if mirrored:
            frames = frames.flip(3)
        objects = self._instances(key, t, mirrored=mirrored)
        height, width = frames.shape[2:]
        frames = fit(frames, place(height, width, config.size, letterbox=config.letterbox), config.size)
        return frames[:1], frames[1:], objects

    def _read(self, name: str) -> Image:
        places = [
            self.path / "JPEGImages" / name,
            self.path / self.config.split / "JPEGImages" / name,
            self.path / name,
        ]
        return _frame(next((place for place in places if place.is_file()), places[0]))

    def _instances(self, key: Any, t: int, *, mirrored: bool) -> Instances:
        """Return the objects of one frame in the square. Raises: ValueError that names the annotation."""
        size, side = self._sizes[key], self.config.size
        placement = place(*size, side, letterbox=self.config.letterbox)
        boxes, labels, masks, crowds = [], [], [], []
        for entry in self._objects[key]:
            if not _mask_of(entry, t) or entry["category_id"] not in self._label:
                continue
            try:
                mask = decode(entry["segmentations"][t], size)
            except MaskError as error:
                raise ValueError(f"{self.index.name}: annotation {entry['id']!r}, frame {t}, {error}") from error
            if not mask.any():
                continue
            if mirrored:
                mask = mask[:, ::-1].copy()
            rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
            boxes.append([columns[0], rows[0], columns[-1] + 1, rows[-1] + 1])
            labels.append(self._label[entry["category_id"]])
            masks.append(torch.from_numpy(mask).float())
            crowds.append(bool(entry.get("iscrowd", 0)))
        stacked = fit(torch.stack(masks)[:, None], placement, side) if masks else torch.zeros(0, 1, side, side)
        return Instances(
            box=placement.to_input(torch.tensor(boxes, dtype=torch.float32).reshape(-1, 4)),
            label=torch.tensor(labels, dtype=torch.int64),
            mask=stacked[:, 0] >= 0.5,
            crowd=torch.tensor(crowds, dtype=torch.bool),
        )


def _mask_of(entry: dict[str, Any], t: int) -> Any:
    masks = entry.get("segmentations") or []
    return masks[t] if t < len(masks) else None
