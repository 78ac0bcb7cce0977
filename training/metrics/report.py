"""`python -m training evaluate`: measures a generator and writes report.json and report.html."""

import json
import logging
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any, ClassVar, TypeVar

import torch
import tyro
from tqdm import tqdm

from training.checkpoint import load_generator, read_card, read_card_beside
from training.config import DataConfig
from training.data.folder import PictureSet, evaluation_data, splits_of
from training.devices import pick_device
from training.files import check_folder, write_whole
from training.metrics.car_evaluator import SHIPPED, CarEvaluator, load_evaluator
from training.metrics.features import Features, load_features
from training.metrics.fid import distances, drawn, real_statistics, statistics
from training.metrics.figures import figures, plain
from training.metrics.inversion import InversionReport, measure_inversion
from training.metrics.knobs import KnobReport, car_reader, measure_knobs
from training.metrics.lpips import Lpips, diversity
from training.metrics.masks import read_masks
from training.metrics.mutual_background import CLASSES, deeplab, mutual_background
from training.metrics.report_html import write_page
from training.metrics.swaps import SwapReport, measure_swaps, tied_by_default
from training.metrics.turn_evaluator import TurnEvaluator, TurnFit, load_turn_evaluator, measured_turn
from training.metrics.weights import WeightsMissingError
from training.runtime.malloc import keep_memory
from training.types import Generator

log = logging.getLogger(__name__)
T = TypeVar("T")

MEASURED_ON = ("data", "split", "n", "n_distance", "compared", "seed")
"""Fields of a report that a card stores with its figures."""
HELD_OUT = ("test", "validation", "val")
"""Names of held-out splits."""


@dataclass(kw_only=True, slots=True)
class Report:
    """Measurements of one checkpoint, and their settings."""

    name: str
    family: str
    images_seen: int | None
    sha256: str
    data: str
    split: str
    n: int
    seed: int
    versions: dict[str, str]
    knobs: KnobReport | None = None
    swaps: SwapReport | None = None
    mutual: dict[str, float] = field(default_factory=dict)
    """Segmenter -> share of common background changed by 1/255 or more when the object is redrawn."""
    diversity: dict[str, float] = field(default_factory=dict)
    """Seed knob -> LPIPS distance of pictures that differ in its code alone."""
    turns: TurnFit | None = None
    """Turns of the rotation knob, up to 60 degrees, against those that an evaluator of films reads."""
    inversion: InversionReport | None = None
    """How well the codes found for photos reconstruct them."""
    distances: dict[str, float] = field(default_factory=dict)
    """Distances of samples to real pictures, and (`real against real ...`) of other real pictures to them."""
    n_distance: int = 0
    compared: str = ""
    """The split of the real pictures for distances."""
    notes: list[str] = field(default_factory=list)
    """What was not measured, and why."""
    evaluator_errors: dict[str, float] = field(default_factory=dict)
    """Errors of the evaluator network on held-out renders."""
    seconds: dict[str, float] = field(default_factory=dict)
    """Part of the report -> seconds."""


class Timed:
    """Runs the parts of a report, with their times, and notes where weights are missing."""

    def __init__(self, report: Report, bar: "tqdm[Any]") -> None:
        self.report, self.bar = report, bar

    def __call__(self, name: str, measure: Callable[[], T]) -> T | None:
        """Return what `measure` returns; None, noted in the report, where its weights are missing."""
        start = time.monotonic()
        self.bar.set_description(name)
        try:
            return measure()
        except WeightsMissingError as problem:
            self.report.notes.append(f"{name}: {problem}")
            return None
        finally:
            self.bar.update()
            self.report.seconds[name] = round(time.monotonic() - start, 1)


def evaluate(
    generator: Generator,
    report: Report,
    pictures: PictureSet | None,
    *,
    training_pictures: PictureSet | None = None,
    evaluator: CarEvaluator | None = None,
    turn_evaluator: TurnEvaluator | None = None,
    features: Features | None = None,
    perceptual: Lpips | None = None,
    segmenter: str | None = None,
    inversion: int = 0,
) -> Report:
    """Fill in `report` with what applies to the generator, and return it.

    Without `pictures` only what needs no real ones is measured. `evaluator` reads rendered cars, `turn_evaluator` turns
    of objects that it saw in films. Distances are those to
    `pictures`, or to `training_pictures` where there are too few for a Frechet distance and more of these.
    """
    n, seed = report.n, report.seed
    compared, others = _compared(report, pictures, training_pictures, features)
    with tqdm(total=5, unit="part", leave=False) as bar:
        timed = Timed(report, bar)
        if turn_evaluator is not None:
            report.turns = timed("turns", lambda: measured_turn(turn_evaluator, generator, n=n, seed=seed))
        if any(knob.kind in ("range", "angle") for knob in generator.knobs):
            _evaluate_knobs(generator, report, evaluator, segmenter, timed)
        elif segmenter:
            report.notes.append("mutual background: left out, as this generator has no knobs that are numbers")
        if pictures is not None and any(knob.kind == "picture" for knob in generator.knobs):
            report.swaps = timed(
                "swaps",
                lambda: measure_swaps(
                    generator, pictures, evaluator=evaluator, features=features, n_features=report.n_distance,
                    compared=compared, perceptual=perceptual, n=max(32, n // 2), seed=seed,
                ),
            )  # fmt: skip
        if perceptual is not None:
            found = timed("diversity", lambda: diversity(generator, perceptual, n=max(32, n // 8), seed=seed))
            report.diversity = found or {}
        if inversion and pictures is None:
            report.notes.append("inversion: left out, as no photos were given; give --data")
        elif inversion and pictures is not None:
            _evaluate_inversion(generator, report, pictures, inversion, timed)
        if compared is not None and features is not None and report.n_distance:
            found = timed("distance to real pictures", lambda: _distance(generator, report, compared, others, features))
            report.distances = found or {}
    return report


def _evaluate_inversion(generator: Generator, report: Report, pictures: PictureSet, n: int, timed: Timed) -> None:
    """Measure inversion, or note why it cannot be: what was measured before must not be lost."""
    try:
        report.inversion = timed("inversion", lambda: measure_inversion(generator, pictures, n=n))
    except ValueError as problem:
        report.notes.append(f"inversion: left out ({problem})")
        return
    if report.inversion is None:
        report.notes.append("inversion: left out, as this generator inverts no photos")


def _compared(
    report: Report, pictures: PictureSet | None, training_pictures: PictureSet | None, features: Features | None
) -> tuple[PictureSet | None, PictureSet | None]:
    """Return the pictures that distances are to, and others for the distance between real ones."""
    if pictures is None or features is None:
        return pictures, training_pictures
    compared, others = pictures, training_pictures
    if others is not None and len(pictures) <= features.dim < len(others) and report.n_distance > len(pictures):
        compared, others, report.compared = others, None, "train"
        report.notes.append(
            f"{features.frechet_name}: {len(pictures)} held-out pictures are too few, so distances are those to "
            f"pictures trained on"
        )
    report.n_distance = min(report.n_distance, len(compared))
    return compared, others


def _evaluate_knobs(
    generator: Generator, report: Report, evaluator: CarEvaluator | None, segmenter: str | None, timed: Timed
) -> None:
    """Measure knobs that are numbers, and what redrawing the object does to the background."""
    n, seed = report.n, report.seed
    reader, name = (
        (read_masks, "its mask") if evaluator is None else (car_reader(evaluator), "an evaluator of rendered cars")
    )
    report.knobs = timed("knobs", lambda: measure_knobs(generator, reader=reader, reader_name=name, n=n, seed=seed))
    kinds = {"own masks": None} | ({f"DeepLab, {segmenter}": segmenter} if segmenter else {})
    for label, kind in kinds.items():
        arguments = () if kind is None else (kind,)
        score = timed(
            f"mutual background, {label}",
            lambda a=arguments: mutual_background(
                generator, *(deeplab(*a, device=generator.device),) if a else (), n=max(32, n // 4), seed=seed
            ),
        )
        report.mutual |= {label: score} if score is not None else {}


def _distance(
    generator: Generator, report: Report, pictures: PictureSet, others: PictureSet | None, features: Features
) -> dict[str, float]:
    """Return distances of samples, and of other real pictures as the floor, to real pictures: as many on every side."""
    n = report.n_distance
    kinds = {"frechet": n > features.dim, "kernel": True}
    if not kinds["frechet"]:
        report.notes.append(f"{features.frechet_name}: needs {features.dim + 1} pictures on either side, {n} are there")
    real = real_statistics(pictures, n, features, **kinds)
    if report.swaps is not None and report.swaps.distances:
        result = dict(report.swaps.distances["tied" if tied_by_default(generator) else "free"])  # the same samples
    else:
        ours = statistics(drawn(generator, n, seed=report.seed), n, features, **kinds, what="samples")
        result = distances(real, ours, features, **kinds)
    if others is not None and len(others) >= n:
        floor = distances(real, real_statistics(others, n, features, **kinds), features, **kinds)
        result |= {f"real against real {name}": value for name, value in floor.items()}
    return result


def held_out(data: Path, config: DataConfig) -> tuple[PictureSet, str] | None:
    """Return the pictures of a set that are not trained on, and the name of their split; None if there are none.

    Raises: ValueError if there are some, but they cannot be read.
    """
    there = splits_of(data)
    split = next((name for name in HELD_OUT if name in there), None)
    return None if split is None else (PictureSet(data, config, split), split)


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Measure a generator's knobs, mixes and distances to real pictures; write OUT/report.json and OUT/report.html."""

    RENAMED: ClassVar[dict[str, str]] = {"judge": "evaluator"}
    """Names of earlier versions -> today's."""
    checkpoint: tyro.conf.Positional[Path]
    """A generator file of either family."""
    data: Path | None = None
    """A prepared set of real pictures; for rendered cars, the evaluator network reads the knobs."""
    out: Path
    """The folder to write to."""
    n: int = 400
    """Pictures for each knob's fit; other parts scale with it. 400 take about 5 minutes on two cores at 64 px."""
    split: str | None = None
    """Split of the real pictures; by default a held-out one, `test` or `validation`, if there is one."""
    seed: int = 0
    """Random seed of the samples."""
    n_distance: int = 3_000
    """Largest number of pictures on either side for FID or FD; 0 leaves it out."""
    features: Path | None = None
    """For the distance to real pictures, instead of FID's Inception: a TorchScript network, a MobileNetV2 as a .tflite
    file, or the word `torchvision` for its MobileNetV2."""
    weights: Path | None = None
    """FID's Inception, for machines without internet; without a GPU, FID is measured only if this is given."""
    lpips_weights: Path | None = None
    """torchvision's AlexNet, the trunk of LPIPS, for machines without internet."""
    segmenter: str | None = None
    """Class of the object, such as car or person, for the authors' mutual background score by DeepLab."""
    evaluator: Path = SHIPPED
    """The network that reads rendered cars, a file of `python -m training.metrics.car_evaluator`."""
    turn_evaluator: Path | None = None
    """A network that reads the turn between two photos of an object, a file of `python -m
    training.metrics.turn_evaluator`: measures the rotation knob of generators of such photos."""
    inversion: int = 0
    """Real pictures to invert: how well their codes draw them rebuilt and, on rendered cars, turned and repainted; 40
    take about 3 minutes."""
    card: bool = False
    """Also write the figures into the card beside the checkpoint."""
    device: str | None = None
    """Where to compute: cpu, cuda, cuda:1; by default a GPU where there is one."""

    def run(self) -> None:
        """Measure, write, and print one JSON line of all figures."""
        if self.n < 32:
            raise ValueError(f"n is {self.n}; expected at least 32, as fewer pictures give no reliable figures")
        if self.n_distance < 0 or self.n_distance == 1 or self.inversion < 0:
            raise ValueError(
                f"got --n-distance {self.n_distance} and --inversion {self.inversion}; expected 0, which leaves the "
                f"part out, or more, and at least 2 pictures for a distance"
            )
        if self.segmenter not in (None, *CLASSES):
            raise ValueError(f"--segmenter is {self.segmenter!r}; DeepLab finds {', '.join(sorted(CLASSES))}")
        device = pick_device(self.device)
        check_folder(self.out)
        if self.card:
            check_folder(self.checkpoint.parent, "the checkpoint's folder")
        keep_memory()
        generator = load_generator(self.checkpoint, device)
        card = read_card(self.checkpoint)
        report = Report(
            name=self.checkpoint.stem,
            family=generator.family,
            images_seen=card.get("images_seen"),
            sha256=card.get("sha256", ""),
            data=self.data.name if self.data else "none",
            split="none",
            n=self.n,
            seed=self.seed,
            versions={name: version(name) for name in ("torch", "numpy", "pillow", "clean-fid", "lpips")}
            | {"python": platform.python_version(), "device": _describe(device)},
        )
        pictures = others = evaluator = features = perceptual = None
        if self.data is not None:
            pictures, others, report.split = self._pictures(generator, report)
            report.compared = report.split
            if {"rotation", "hue", "mesh"} <= pictures.factors.keys():
                evaluator = load_evaluator(self.evaluator, device)
                about = self.evaluator.with_suffix(".json")
                if about.is_file():
                    report.evaluator_errors = json.loads(about.read_text(encoding="utf-8"))["held_out_renders"]
            report.n_distance = self.n_distance
            if report.n_distance:
                features = self._features(report, device)
        try:
            perceptual = Lpips(self.lpips_weights).to(device)
        except WeightsMissingError as problem:
            report.notes.append(f"LPIPS: {problem}")
        evaluate(
            generator, report, pictures, training_pictures=others, evaluator=evaluator,
            turn_evaluator=load_turn_evaluator(self.turn_evaluator, device) if self.turn_evaluator else None,
            features=features, perceptual=perceptual, segmenter=self.segmenter, inversion=self.inversion,
        )  # fmt: skip
        self.write(report)

    def _pictures(self, generator: Generator, report: Report) -> tuple[PictureSet, PictureSet | None, str]:
        """Return the real pictures to compare with, the training pictures if they are others, and the split's name."""
        assert self.data is not None
        config = evaluation_data(self.checkpoint, generator)
        others = None
        if "train" in splits_of(self.data):
            others = PictureSet(self.data, config, memory=0)  # of many, few are looked at
        if self.split not in (None, "train"):
            return PictureSet(self.data, config, self.split), others, self.split
        if self.split is None:
            if (found := held_out(self.data, config)) is not None:
                return found[0], others, found[1]
            report.notes.append(f"{self.data.name} holds no pictures out: compared with training pictures")
        return PictureSet(self.data, config), None, "train"

    def _features(self, report: Report, device: torch.device) -> Features | None:
        """Return the network that compares pictures, or note why there is none."""
        if self.features is None and self.weights is None and device.type == "cpu":
            report.notes.append(
                "FID: left out, as its network takes long without a GPU; give --weights FILE (its Inception) or "
                "--features FILE (any network), or see python -m training fid"
            )
            return None
        try:
            return load_features(features=self.features, weights=self.weights, device=device)
        except WeightsMissingError as problem:
            report.notes.append(f"FID: {problem}")
            return None

    def write(self, report: Report) -> None:
        """Write the report's files, and print its figures."""
        found = figures(report)
        write_whole(self.out / "report.json", json.dumps(plain(report) | {"figures": found}, indent=1).encode())
        write_page(self.out / "report.html", report, found)
        if self.card:
            path = self.checkpoint.with_suffix(".json")
            card = read_card_beside(self.checkpoint) if path.is_file() else {}
            if card.get("sha256", report.sha256) != report.sha256:
                card = {}  # of other weights of this name
            kept = card.get("figures", {}) if "sha256" in card else {}
            card |= {"figures": kept | found, "sha256": report.sha256}
            card["measured_on"] = {name: getattr(report, name) for name in MEASURED_ON}
            write_whole(path, (json.dumps(card, indent=1) + "\n").encode())
        log.info("read %s", self.out / "report.html")
        print(json.dumps({"checkpoint": report.name, **found}))


def _describe(device: torch.device) -> str:
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{device.type} with {torch.get_num_threads()} thread(s)"


def quick_figures(
    generator: Generator, pictures: PictureSet | None = None, *, n: int = 128, seed: int = 0
) -> dict[str, float]:
    """Return a few figures in seconds, for the training log and for keeping the best: knobs, or swaps on `pictures`."""
    rendered = pictures is not None and {"rotation", "hue", "mesh"} <= pictures.factors.keys()
    report = Report(
        name="", family=generator.family, images_seen=None, sha256="", data="", split="", n=n, seed=seed, versions={}
    )
    report = evaluate(
        generator, report, pictures, evaluator=load_evaluator(device=generator.device) if rendered else None
    )
    return figures(report)
