"""A finder of objects measured against its targets: one JSON line for each part.

    python -m tests.benchmarks.segment MODEL.safetensors --pets DIR --clothing DIR --scenes DIR --calibrate DIR
        [--environments DIR] [--parts network paper film identities int8 pets clothing scenes boxes] [--limit N]

`--pets`, `--clothing` and `--scenes` are COCO folders whose validation split is read: whole photos of one animal, one
garment, and composites of two to five objects. `--calibrate` is one whose training pictures scale the 8-bit network.
Times are medians on cores that nothing else should use: run it on a quiet machine.
"""

import json
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

import numpy as np
import torch
import tyro

from tests.benchmarks.segment_film import SIZE, SegmentFilm, write_film
from training.checkpoint import load_model
from training.data.coco import CocoSet, find_split
from training.segmentation.contract import Segmenter
from training.segmentation.evaluate import measure
from training.segmentation.film import track_film
from training.segmentation.load import load_segmenter
from training.segmentation.yolact import export
from training.segmentation.yolact.network import Yolact
from training.segmentation.yolact.presets import RESNET50

Part = Literal["network", "paper", "film", "identities", "int8", "pets", "clothing", "scenes", "boxes"]


@dataclass(frozen=True, kw_only=True)
class Segment:
    """Measure a finder of objects."""

    model: tyro.conf.Positional[Path]
    """A checkpoint of a YOLACT network."""
    pets: Path | None = None
    clothing: Path | None = None
    scenes: Path | None = None
    calibrate: Path | None = None
    environments: Path | None = None
    """Backgrounds of the films (.npz environment maps); patterns if not given."""
    parts: tuple[Part, ...] = get_args(Part)
    limit: int = 0
    """Pictures of a set, evenly picked; 0 takes all."""
    frames: int = 120
    """Of a film."""
    films: int = 4
    pictures: int = 200
    """To calibrate with."""

    def run(self) -> None:
        """Print the lines; parts whose data is not given are left out."""
        torch.set_num_threads(1)
        with tempfile.TemporaryDirectory() as folder:
            self._run(Path(folder))

    def _run(self, folder: Path) -> None:
        network: Any = load_model(self.model)
        files = {"fp32": folder / "fp32.onnx"}
        export.export(network, files["fp32"])
        if self.calibrate is not None:
            files["int8"] = folder / "int8.onnx"
            photos = list(_photos(find_split(self.calibrate, "train"), self.pictures))
            export.export_int8(network, files["int8"], photos)
        milliseconds: dict[str, float] = {}
        if "network" in self.parts or "paper" in self.parts:
            milliseconds = _network_times(network, files)
            say("network", cores=1, size=network.config.size, **milliseconds)
        if "paper" in self.parts:
            say("paper", cores=1, **_against_paper(milliseconds))
        best = files.get("int8", files["fp32"])
        if "film" in self.parts and self.scenes is not None:
            say("film", model=best.stem, **self._film(best, folder))
        if "identities" in self.parts and self.scenes is not None:
            objects = tuple(path for path in (self.pets, self.clothing) if path is not None) or (self.scenes,)
            options = {"objects": objects, "environments": self.environments, "frames": self.frames}
            SegmentFilm(model=str(best), films=self.films, **options).run()
        if "int8" in self.parts and "int8" in files:
            self._int8(files)
        for name in ("pets", "clothing", "scenes"):
            if name in self.parts:
                self._precision(name)
        if "boxes" in self.parts:
            self._boxes()

    def _measured(
        self, segmenter: Segmenter, data: Path, groups: dict[str, str] | None = None, *, one_class: bool = False
    ) -> dict[str, Any]:
        """Return the scores of a segmenter on the validation pictures of a COCO folder; labels of a group count as
        one."""
        truth = find_split(data, "validation")
        n = min(self.limit or len(truth), len(truth))
        chosen = np.unique(np.linspace(0, len(truth) - 1, n).round().astype(int)).tolist()
        return measure(segmenter, truth, chosen, groups, one_class=one_class, bootstrap=100, keep=0).summary()

    def _film(self, model: Path, folder: Path) -> dict[str, Any]:
        """Return frames a second of a 640 x 360 film on two cores, from reading to having written."""
        assert self.scenes is not None
        pictures = list(_photos(find_split(self.scenes, "validation"), 12))
        frames = [np.ascontiguousarray(_panned(pictures, t, self.frames)) for t in range(self.frames)]
        write_film(folder / "film.mp4", frames)
        segmenter, rates = load_segmenter(model, threads=1), []
        with _two_cores() as cores:
            for _ in range(3):
                done = track_film(segmenter, folder / "film.mp4", folder / "out.mp4")
                rates.append(done["frames"] / done["seconds"])
        return {"size": list(SIZE), "cores": cores, "frames": self.frames, "fps": round(float(np.median(rates)), 2)}

    def _int8(self, files: dict[str, Path]) -> None:
        """Say what eight bits cost in AP, on each set."""
        for name in ("scenes", "pets", "clothing"):
            data = getattr(self, name)
            if data is None:
                continue
            ap = {
                kind: self._measured(load_segmenter(path, settings="published"), data)["mask"]["ap"]
                for kind, path in files.items()
            }
            say("int8", data=name, fp32_ap=ap["fp32"], int8_ap=ap["int8"], cost=round(ap["fp32"] - ap["int8"], 4))

    def _precision(self, name: str) -> None:
        """Say the AP of masks on a set by class; of clothing also as one class, of scenes with garments as one."""
        data = getattr(self, name)
        if data is None:
            return
        segmenter = load_segmenter(self.model, settings="published")
        ways = ["each"] + (["one"] if name == "clothing" else [])
        garments: dict[str, str] = {}
        if name == "scenes" and self.clothing is not None:
            garments = dict.fromkeys(find_split(self.clothing, "validation").categories, "garment")
            ways.append("garments as one")
        for way in ways:
            one_class = way == "one"
            groups = garments if way == "garments as one" else None
            found = self._measured(segmenter, data, groups, one_class=one_class)
            say(
                name,
                classes=way,
                **{k: found["mask"][k] for k in ("ap", "ap50", "ap75", "interval", "interval50")},
                by_class=None if one_class else {k: v["mask_ap"] for k, v in found["classes"].items()},
                **{k: found[k] for k in ("pictures", "best_mask_iou", "best_mask_iou_over_80", "surest_mask_iou")},
            )

    def _boxes(self) -> None:
        """Say the share of photos whose surest box is right, IoU over .6, by the network and by the classical one."""
        for name in ("pets", "clothing"):
            data = getattr(self, name)
            if data is not None:
                for model in (str(self.model), "classical"):
                    found = self._measured(load_segmenter(model), data, one_class=True)
                    say("boxes", data=name, model=Path(model).stem, right=found["box_iou_over_60"])


def say(what: str, **values: Any) -> None:
    """Print one line."""
    print(json.dumps({"what": what} | {k: v for k, v in values.items() if v is not None}), flush=True)


def timed(job: Callable[[], Any], n: int) -> float:
    """Return the median milliseconds of a job, after a few that warm it up."""
    times = []
    for k in range(n + 3):
        began = time.perf_counter()
        job()
        if k >= 3:
            times.append(1000 * (time.perf_counter() - began))
    return round(float(np.median(times)), 2)


def _network_times(network: Yolact, files: dict[str, Path]) -> dict[str, float]:
    """Return milliseconds a picture of the network alone on one core, by torch and by ONNX Runtime."""
    picture = torch.rand(1, 3, network.config.size, network.config.size) * 2 - 1
    with torch.inference_mode():
        found = {"torch_ms": timed(lambda: network(picture), 20)}
    for kind, path in files.items():
        run = export.OnnxNetwork(path, threads=1)
        found[f"{kind}_ms"] = timed(lambda run=run: run(picture), 50)
    return found


def _against_paper(ours: dict[str, float]) -> dict[str, float]:
    """Return how many times longer the published ResNet-50 network takes at 550 px, on the same core."""
    theirs = Yolact(RESNET50.network).eval()
    picture = torch.rand(1, 3, theirs.config.size, theirs.config.size) * 2 - 1
    with torch.inference_mode():
        paper = timed(lambda: theirs(picture), 5)
    return {"resnet50_550_ms": paper} | {f"times_{k.removesuffix('_ms')}": round(paper / v, 1) for k, v in ours.items()}


def _photos(data: CocoSet, n: int) -> Iterator[np.ndarray]:
    """Yield pictures of a set, evenly picked."""
    for i in np.unique(np.linspace(0, len(data) - 1, min(n, len(data))).round().astype(int)).tolist():
        yield data.load(i).image


def _panned(pictures: list[np.ndarray], t: int, frames: int) -> np.ndarray:
    """Return frame `t` of a film that pans over pictures, one after the other."""
    width, height = SIZE
    place = t * len(pictures) / frames
    photo = torch.from_numpy(pictures[int(place)]).permute(2, 0, 1)[None].float()
    large = torch.nn.functional.interpolate(photo, size=(height + 40, width + 80), mode="bilinear")
    x, y = round(80 * (place % 1)), round(40 * (place % 1))
    return large[0, :, y : y + height, x : x + width].permute(1, 2, 0).to(torch.uint8).numpy()


class _two_cores:  # noqa: N801 (a block)
    """Run a block on two of the cores that this process may use; gives how many it got."""

    def __enter__(self) -> int:
        self.before = os.sched_getaffinity(0)
        os.sched_setaffinity(0, set(sorted(self.before)[:2]))
        return min(2, len(self.before))

    def __exit__(self, *_: object) -> None:
        os.sched_setaffinity(0, self.before)


if __name__ == "__main__":
    tyro.cli(Segment).run()
