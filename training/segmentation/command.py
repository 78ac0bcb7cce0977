"""Commands: python -m training segment image | video | export | evaluate."""

import json
import logging
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import tyro
from tqdm import tqdm

from ..checkpoint import write_whole
from ..pictures import PictureError, decode_picture
from .contract import Instance, Segmenter

log = logging.getLogger(__name__)

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp", ".bmp", ".tif", ".tiff", ".gif", ".avif")
ALL = 100
"""Objects of all labels in a photo, where those of some are wanted."""
MAX_BYTES, MAX_PIXELS = 100_000_000, 60_000_000
"""Larger photos are refused."""


@dataclass(frozen=True, kw_only=True)
class _Finding:
    """Options that select objects."""

    model: str = ""
    """A .safetensors checkpoint, an .onnx file, or `classical`; by default the bundled network, or the classical finder
    where there is none."""
    labels: tuple[str, ...] = ()
    """Labels to keep; all if not given."""
    least: float = 0.4
    """Score below which an object is left out."""
    most: int = 20
    """Largest number of objects in a picture; those of highest score are kept."""

    def __post_init__(self) -> None:
        if not 0 <= self.least <= 1 or self.most < 1:
            raise ValueError(f"got --least {self.least} and --most {self.most}; expected 0 to 1, and at least 1")

    def segmenter(self) -> Segmenter:
        """Return the segmenter. Raises: ValueError for labels that it does not know."""
        from .load import load_segmenter

        most = max(self.most, ALL if self.labels else 0)  # those of other labels are left out afterwards
        found = load_segmenter(self.model, least=self.least, most=most)
        if unknown := [label for label in self.labels if label not in found.labels]:
            raise ValueError(f"unknown label {unknown[0]!r}; this segmenter knows {', '.join(found.labels)}")
        return found

    def kept(self, instances: Sequence[Instance]) -> list[Instance]:
        """Return the instances that the options select."""
        wanted = [i for i in instances if i.score >= self.least and (not self.labels or i.label in self.labels)]
        return wanted[: self.most]


@dataclass(frozen=True, kw_only=True)
class Photos(_Finding):
    """Cut objects out of photos; write RGBA cut-outs, masks, polygons and COCO JSON.

    Photos of more than 16 megapixels are made smaller first. What is cut of such a photo, or of one that its camera
    marked as turned, is written too: outlines and masks are for that picture.
    """

    photos: tyro.conf.Positional[tuple[Path, ...]]
    """Photos, or folders of them."""
    out: Path
    """The folder to write into."""
    refine: bool = True
    """Refine mask edges by the edges of the photo."""

    def run(self) -> None:
        """Write the files, and one JSON line a photo. Raises: ValueError if no photo can be used."""
        from .cutouts import write_cutouts

        segmenter, done, names = self.segmenter(), 0, set[str]()
        for path in _pictures(self.photos):
            try:
                decoded = decode_picture(path, max_bytes=MAX_BYTES, max_pixels=MAX_PIXELS)
            except PictureError as error:
                log.warning("left out: %s", error)
                print(json.dumps({"photo": str(path), "error": str(error)}))
                continue
            image = np.array(decoded.picture)
            reduced = decoded.size != decoded.picture.size
            if reduced:
                sizes = (*decoded.size, *decoded.picture.size)
                log.warning("%s has %d x %d pixels and is cut at %d x %d", path.name, *sizes)
            found = self.kept(segmenter(image))
            name = _unused(path.stem, names)
            named = None if reduced or decoded.orientation != 1 else path.name
            files = write_cutouts(image, found, self.out, name, file_name=named, refine=self.refine)
            objects = [_entry(instance) for instance in found]
            print(json.dumps({"photo": str(path), "objects": objects, "files": files}))
            done += 1
        if not done:
            raise ValueError("none of the photos can be used; each is named above")


@dataclass(frozen=True, kw_only=True)
class Video(_Finding):
    """Find and track the objects of a film, and write the film with them marked, without sound.

    An object is shown once its score has been .5; after that, --least counts.
    """

    film: tyro.conf.Positional[Path]
    """MP4, WebM, MOV, AVI or GIF."""
    out: Path
    """The .mp4 to write; the objects of each frame are written beside it as .json."""
    show: Literal["painted", "cutout"] = "painted"
    """`painted`: the whole picture with objects tinted and named; `cutout`: the objects on one colour."""
    ground: tuple[int, int, int] = (0, 177, 64)
    """Colour behind the objects with `--show cutout`, RGB."""
    patience: int = 20
    """Frames for which an object may be hidden without losing its identity."""

    def __post_init__(self) -> None:
        super().__post_init__()
        if not all(0 <= value <= 255 for value in self.ground):
            raise ValueError(f"--ground is {' '.join(map(str, self.ground))}; expected three numbers from 0 to 255")

    def run(self) -> None:
        """Write the film and print one JSON line. Raises: ValueError."""
        from ..imaging.video import FilmError, probe
        from .film import cut_out_on, painted, track_film
        from .tracking import TrackingConfig

        if self.out.suffix.lower() != ".mp4":
            raise ValueError(f"cannot write {self.out.name}: expected a name that ends in .mp4")
        if self.out.resolve() == self.film.resolve():
            raise FilmError(f"{self.out} is the film itself; choose another --out")
        probe(self.film)  # before the model is read
        tracking = TrackingConfig(patience=self.patience, sure=max(0.5, self.least))
        paint = painted if self.show == "painted" else cut_out_on(self.ground)
        done = track_film(self.segmenter(), self.film, self.out, keep=self.kept, tracking=tracking, paint=paint)
        print(json.dumps(done))


@dataclass(frozen=True, kw_only=True)
class Export:
    """Write a YOLACT network as ONNX, to run with ONNX Runtime on a CPU; with --int8, quantised."""

    checkpoint: tyro.conf.Positional[Path]
    """A .safetensors file of a YOLACT network."""
    out: Path
    """The .onnx file to write."""
    int8: Path | None = None
    """A COCO folder whose training pictures calibrate 8-bit weights and activations; by default 32-bit floats."""
    pictures: int = 200
    """Number of calibration pictures."""

    def run(self) -> None:
        """Write the file and print one JSON line. Raises: ValueError."""
        from ..checkpoint import load_model
        from .yolact import export

        if self.out.suffix.lower() != ".onnx" or self.pictures < 1:
            raise ValueError(
                f"got --out {self.out.name} and --pictures {self.pictures}; expected FILE.onnx, at least 1"
            )
        network: Any = load_model(self.checkpoint)
        if network.family != "yolact":
            raise ValueError(f"{self.checkpoint.name} is a {network.family}; only YOLACT networks are exported")
        if self.int8 is None:
            export.export(network, self.out)
        else:
            _quantised(network, self.out, self.int8, self.pictures)
        print(json.dumps({"out": str(self.out), "bytes": self.out.stat().st_size, "int8": self.int8 is not None}))


@dataclass(frozen=True, kw_only=True)
class Evaluate:
    """Evaluate segmenters on a COCO folder: AP of boxes and masks, and a report with the worst cases."""

    models: tyro.conf.Positional[tuple[str, ...]]
    """Checkpoints, .onnx files, or `classical`; the first one's worst cases are shown."""
    data: Path
    """A COCO folder."""
    out: Path
    """The folder for report.json and report.html."""
    split: str = "validation"
    """Split of the set."""
    limit: int = 0
    """Number of pictures, evenly spread; 0 takes all."""
    one_class: bool = False
    """Treat all labels as one class, so that only boxes and masks count. Required for the classical finder."""
    group: tuple[str, ...] = ()
    """Labels that count as one class, as NAME=LABEL,LABEL,..."""
    settings: Literal["published", "display"] = "published"
    """`published`: 100 objects of any score, as AP is defined; `display`: the objects that users are shown."""
    worst: int = 24
    """Pictures shown."""
    bootstrap: int = 300
    """Bootstrap samples for the interval, on sets of fewer than 200 pictures."""

    def run(self) -> None:
        """Write the report and print one JSON line a model. Raises: ValueError."""
        from ..data.coco import find_split
        from .evaluate import measure
        from .load import load_segmenter
        from .report import write_report

        if not self.models or self.limit < 0 or self.worst < 0 or self.bootstrap < 0:
            raise ValueError("expected at least one model, and no negative numbers")
        groups, truth = self._groups(), find_split(self.data, self.split)
        n = len(truth) if not self.limit else min(self.limit, len(truth))
        chosen = np.unique(np.linspace(0, len(truth) - 1, n).round().astype(int)).tolist()
        if not chosen:
            raise ValueError(f"{truth.path} lists no pictures")
        measured = {}
        for model in self.models:
            segmenter = load_segmenter(model, settings=self.settings)
            measured[model] = measure(
                segmenter, truth, chosen, groups, one_class=self.one_class, bootstrap=self.bootstrap, keep=self.worst
            )
            print(json.dumps({"model": model, "data": str(self.data), **measured[model].summary()}))
        self.out.mkdir(parents=True, exist_ok=True)
        arguments = {k: str(v) for k, v in asdict(self).items()}
        content = {"arguments": arguments, "models": {name: m.summary() for name, m in measured.items()}}
        content["sha256_of"] = {name: checksum for name in measured if (checksum := _sha256(name))}
        write_whole(self.out / "report.json", (json.dumps(content, indent=1) + "\n").encode())
        write_report(self.out / "report.html", truth, measured, arguments)

    def _groups(self) -> dict[str, str]:
        """Return label -> class. Raises: ValueError."""
        groups = {}
        for entry in self.group:
            name, equals, labels = entry.partition("=")
            if not equals or not name or not labels:
                raise ValueError(f"got --group {entry}; expected NAME=LABEL,LABEL,...")
            groups |= dict.fromkeys(labels.split(","), name)
        return groups


def _entry(instance: Instance) -> dict[str, Any]:
    """Return an instance as plain values for printing."""
    box = [round(float(edge), 1) for edge in instance.box]
    return {"label": instance.label, "score": round(instance.score, 4), "box": box}


def _sha256(model: str) -> str:
    """Return the checksum of a checkpoint's weights, by which `publish` identifies it; "" for other models."""
    from ..checkpoint import read_card

    return read_card(model, beside=False)["sha256"] if model.endswith(".safetensors") else ""


def _quantised(network: Any, out: Path, data: Path, pictures: int) -> None:
    """Write a network with 8-bit weights and activations, calibrated on training pictures."""
    import torch

    from ..data.coco import find_split
    from .yolact import export
    from .yolact.photos import prepare

    found, settings = find_split(data, "train"), network.config
    chosen = np.unique(np.linspace(0, len(found) - 1, min(pictures, len(found))).round().astype(int)).tolist()
    shown = (prepare(torch.tensor(found.load(i).image), settings.size, letterbox=settings.letterbox)[0] for i in chosen)
    with tempfile.TemporaryDirectory() as folder:
        plain = Path(folder) / "float.onnx"
        export.export(network, plain)
        export.quantise(plain, out, shown)


def _pictures(paths: Sequence[Path]) -> Iterator[Path]:
    """Yield photos, those of folders by name. Raises: ValueError for a folder without any."""
    for path in paths:
        if not path.is_dir():
            yield path
            continue
        inside = sorted(p for p in path.iterdir() if p.suffix.lower() in SUFFIXES)
        if not inside:
            raise ValueError(f"{path} has no photos in it")
        yield from tqdm(inside, unit="photos", disable=None)


def _unused(stem: str, names: set[str]) -> str:
    """Return a file stem for a photo that is not used yet."""
    name, k = stem, 2
    while name in names:
        name, k = f"{stem}-{k}", k + 1
    names.add(name)
    return name


COMMAND = (
    Annotated[Photos, tyro.conf.subcommand("image")]
    | Annotated[Video, tyro.conf.subcommand("video")]
    | Annotated[Export, tyro.conf.subcommand("export")]
    | Annotated[Evaluate, tyro.conf.subcommand("evaluate")]
)
"""Commands of `python -m training segment`."""
