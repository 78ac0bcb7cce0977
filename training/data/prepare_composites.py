"""`prepare composites`: synthetic scenes of cut-out objects, and optionally photos, as a COCO folder."""

import json
import logging
import multiprocessing
import os
import shutil
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
from tqdm import tqdm

from .backgrounds import read_environments
from .coco import CocoSet, CocoWriter, find_split
from .composites import SceneOptions, Sources, make_scene, only
from .writing import whole_folder

log = logging.getLogger(__name__)

CHUNK = 50
"""Scenes in one job of a worker."""
KEPT_MAP = 6
"""Every 6th environment is used for validation scenes only."""
SPLITS = ("train", "validation")


@dataclass(frozen=True, kw_only=True)
class PrepareComposites:
    """Make scenes of several objects with exact masks; the same arguments always give the same pictures.

    Training scenes use the sets' train split, validation scenes their validation split and other environments.
    """

    objects: tuple[Path, ...]
    """COCO folders whose objects are cut out and pasted."""
    out: Path
    """The folder to make: train.json, validation.json, images."""
    photos: tuple[Path, ...] = ()
    """COCO folders whose photos are used as backgrounds, and added to the training set."""
    environments: Path | None = None
    """A folder of .npz environment maps (`radiance`, linear, equirectangular) to use as backgrounds."""
    count: int = 10_000
    """Training scenes, in addition to the photos."""
    held_out: int = 500
    """Validation scenes, of 2 to 5 objects each."""
    side: int = 320
    """Longer side of the scenes, pixels."""
    erode: tuple[float, ...] = ()
    """Pixels by which to erode the masks of each set in `objects`, one value a set; by default 1."""
    whole_photos: bool = True
    """Add the photos of `photos` to the training set."""
    quality: int = 92
    """JPEG quality of the pictures written, 1 to 100."""
    seed: int = 0
    """Random seed; the same seed makes the same set."""
    workers: int = 0
    """Worker processes; 0 takes one for each core."""

    def __post_init__(self) -> None:
        if self.count < 1 or self.held_out < 0 or self.side < 64 or self.seed < 0 or not 1 <= self.quality <= 100:
            raise ValueError(
                f"cannot make {self.count} + {self.held_out} scenes of {self.side} px, seed {self.seed}, quality "
                f"{self.quality}; expected at least 1, no negative number, at least 64 px, and 1 to 100"
            )
        if not self.objects or (self.erode and len(self.erode) != len(self.objects)):
            raise ValueError(f"got {len(self.objects)} sets of objects and {len(self.erode)} values of --erode")

    def run(self) -> None:
        """Write the set. Raises: ValueError if a source cannot be used, or the folder is there already."""
        labels = self._labels()
        with whole_folder(self.out) as folder:
            (folder / "images").mkdir()
            info = {k: str(v) for k, v in asdict(self).items() if k not in ("out", "workers")}
            writers = {split: CocoWriter(labels, made_by="prepare composites", **info) for split in SPLITS}
            if self.whole_photos:
                self._add_photos(writers["train"], folder)
            jobs = [
                (self, labels, folder, split, start, min(CHUNK, n - start))
                for split, n in zip(SPLITS, (self.count, self.held_out), strict=True)
                for start in range(0, n, CHUNK)
            ]
            for job, part in zip(jobs, self._made(jobs), strict=True):
                writers[job[3]].merge(part)
            for split, writer in writers.items():
                writer.write(folder / f"{split}.json")
        counts = {split: len(writer.images) for split, writer in writers.items()}
        print(json.dumps({"out": str(self.out), "labels": labels, **counts}))

    def _made(self, jobs: list[Any]) -> list[CocoWriter]:
        """Return the results of the jobs, in order."""
        workers = self.workers or os.cpu_count() or 1
        made = []
        with tqdm(total=sum(job[-1] for job in jobs), unit="scenes", disable=None) as bar:
            if workers == 1:
                for job in jobs:
                    made.append(_scenes(job))
                    bar.update(job[-1])
                return made
            spawn = multiprocessing.get_context("spawn")
            with ProcessPoolExecutor(workers, spawn, torch.set_num_threads, (1,)) as pool:
                for job, part in zip(jobs, pool.map(_scenes, jobs), strict=True):
                    made.append(part)
                    bar.update(job[-1])
        return made

    def _labels(self) -> tuple[str, ...]:
        """Return the labels of all sets, sorted."""
        sets = [find_split(folder, "train") for folder in (*self.objects, *self.photos)]
        return tuple(sorted({name for found in sets for name in found.categories}))

    def _add_photos(self, writer: CocoWriter, folder: Path) -> None:
        """Copy the photos of the train splits."""
        for source in self.photos:
            found = find_split(source, "train")
            for i, picture in enumerate(found.pictures):
                name = f"{source.name}-{i:06d}{picture.path.suffix}"
                shutil.copyfile(picture.path, folder / "images" / name)
                masks = found.load(i).masks
                image = writer.add_image(name, picture.width, picture.height, source=f"{source.name}/{picture.name}")
                for mask, item in zip(masks, picture.objects, strict=True):
                    writer.add(image, found.categories[item.label], mask, crowd=item.crowd)


@cache
def _sources(command: PrepareComposites, split: str) -> Sources:
    """Return the objects and backgrounds of a split's scenes; read once a process."""
    objects = [find_split(folder, split) for folder in command.objects]
    photos: list[CocoSet] = [find_split(folder, split) for folder in command.photos]
    maps = {} if command.environments is None else read_environments(command.environments)
    held = {name: k % KEPT_MAP == KEPT_MAP - 1 for k, name in enumerate(maps)}
    chosen = [maps[name] for name in maps if held[name] == (split == "validation")]
    return Sources(objects, photos, chosen, [folder.name for folder in command.objects], command.erode)


def _scenes(job: tuple[PrepareComposites, tuple[str, ...], Path, str, int, int]) -> CocoWriter:
    """Make some scenes of a split and write their pictures; return their annotations."""
    command, labels, folder, split, start, n = job
    options = SceneOptions(side=command.side)
    if split == "validation":
        options = only(options, 2, 5)
    writer = CocoWriter(labels)
    for index in range(start, start + n):
        rng = np.random.default_rng([command.seed, SPLITS.index(split), index])
        scene = make_scene(_sources(command, split), options, rng)
        name = f"{split}-{index:06d}.jpg"
        PIL.Image.fromarray(scene.image).save(folder / "images" / name, quality=command.quality)
        image = writer.add_image(name, scene.image.shape[1], scene.image.shape[0])
        for item in scene.objects:
            writer.add(image, item.label, item.mask, source=item.source)
    return writer
