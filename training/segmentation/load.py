"""Segmenters by name: `classical`, a checkpoint of a YOLACT network, or one exported to ONNX."""

from collections.abc import Sequence
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any, Literal

import numpy as np
import PIL.Image
import torch

from ..checkpoint import load_model
from ..objects import WIDE
from ..pictures import Box, extends_beyond, square_crop, square_region
from .classical import ClassicalSegmenter
from .contract import Instance, Pixels, Segmenter
from .subject import SURE, SubjectFinder

BUNDLED = Path(__file__).parents[2] / "checkpoints" / "yolact-fast-320.safetensors"
"""The bundled finder."""
Settings = Literal["display", "published"]


def load_segmenter(
    name: str | Path = "",
    *,
    settings: Settings = "display",
    threads: int = 1,
    least: float | None = None,
    most: int | None = None,
) -> Segmenter:
    """Return a segmenter.

    Args:
        name: `classical`, a .safetensors checkpoint or an .onnx file; empty takes the bundled network, or the classical
            finder where there is none.
        settings: `display` for showing objects to users, `published` for average precision: 100 objects of any score,
            duplicates removed only within each class.
        threads: of ONNX Runtime.
        least: score below which a network finds nothing; by default .3 for showing.
        most: objects that a network finds in a photo; by default 20 for showing, at most 200.

    Raises: ValueError for any other name or file.
    """
    if not name:
        name = BUNDLED if BUNDLED.is_file() else "classical"
    if str(name) == "classical":
        return ClassicalSegmenter()
    path = Path(name)
    if path.suffix.lower() in (".pth", ".pt"):
        raise ValueError(
            f"{path.name} is no file of this toolkit; turn the authors' weights into one with "
            f"`python -m training import-official {path} --out FILE.safetensors`"
        )
    from .yolact.segmenter import PUBLISHED, FinderConfig  # after the cheap checks: torch models take a second

    config = PUBLISHED if settings == "published" else FinderConfig()
    if least is not None:
        detection = replace(config.detection, threshold=min(least, config.detection.threshold))
        config = replace(config, least=least, detection=detection)
    if most is not None:
        config = replace(config, most=most, detection=replace(config.detection, most=max(most, config.detection.most)))
    if path.suffix.lower() == ".onnx":
        from .yolact.export import OnnxNetwork

        return StagedYolact(OnnxNetwork(path, threads=threads), config)
    model: Any = load_model(path)
    if getattr(model, "family", "") != "yolact":
        raise ValueError(
            f"{path.name} finds no objects: it is a {getattr(model, 'family', 'model')}; give a YOLACT file"
        )
    return StagedYolact(model, config)


def finder_name(name: str | Path = "") -> str:
    """Return a segmenter's name for users: its file's stem, or `classical`."""
    return Path(name).stem if name else BUNDLED.stem if BUNDLED.is_file() else "classical"


def load_finder(name: str | Path = "", labels: Sequence[str] = (), *, sure: float = SURE) -> SubjectFinder:
    """Return a finder by the name of its segmenter (`training.segmentation.load.load_segmenter`).

    Raises: ValueError for anything but a segmenter, or an unknown label.
    """
    return SubjectFinder(load_segmenter(name), labels, sure=sure, name=finder_name(name))


@cache
def default_finder() -> SubjectFinder:
    """Return the finder with the bundled network, read once; the classical one where there is none."""
    return load_finder()


def propose_box(picture: PIL.Image.Image, finder: SubjectFinder | None = None) -> Box:
    """Return a box around a photo's object, as fractions; the central 90 % if nothing is found."""
    found = (finder or default_finder())(picture)
    if found is None:
        return WIDE if min(picture.size) >= 16 else (0.0, 0.0, 1.0, 1.0)
    return found.box


def square_around(
    picture: PIL.Image.Image, box: Box, *, margin: float, finder: SubjectFinder | None = None
) -> PIL.Image.Image:
    """Return the square around an object as the pictures of a set with masks are cut; see
    `training.pictures.square_crop`.

    Only where the square extends beyond the photo is the object's mask looked for, which takes the time of a search.
    """
    mask = None
    if extends_beyond(square_region(*picture.size, box, margin=margin), picture.size):
        found = (finder or default_finder())(picture, box)
        if found is not None and found.mask is not None:
            shown = PIL.Image.fromarray(found.mask).resize(picture.size, PIL.Image.Resampling.BILINEAR)
            mask = np.asarray(shown) > 0.5
    return square_crop(picture, box, margin=margin, mask=mask)


class StagedYolact:
    """A YOLACT network as a `Segmenter` whose steps can run in separate threads."""

    def __init__(self, network: Any, config: Any = None) -> None:
        from .yolact.segmenter import YolactSegmenter

        self.finder = YolactSegmenter(network, config)

    @property
    def labels(self) -> tuple[str, ...]:
        """Names of the network's classes."""
        return self.finder.labels

    def __call__(self, image: Pixels) -> list[Instance]:
        """Return the instances of a photo, by falling score."""
        return self.finish(self.predict(self.prepare(image)))

    def prepare(self, image: Pixels) -> Any:
        """Return the network's input and the photo's placement in it."""
        from .yolact.photos import prepare

        settings = self.finder.network.config
        return prepare(torch.tensor(image), settings.size, letterbox=settings.letterbox)

    def predict(self, prepared: Any) -> Any:
        """Run the network."""
        image, placement = prepared
        with torch.inference_mode():
            return self.finder.network(image.to(self.finder.network.device)), placement

    def finish(self, predicted: Any) -> list[Instance]:
        """Return the instances in the network's output, without those of empty masks."""
        predictions, placement = predicted
        found = self.finder.choose(predictions, placement)
        return self.finder.instances(found, placement.height, placement.width)
