"""The generators that a page offers, each with its card, the one thread that runs them and those that open photos."""

from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from demo.files import Visitor
from demo.turns import NOBODY, Turns
from training.checkpoint import load_generator, makes_pictures, read_card
from training.codes_file import HasParts, model_name
from training.files import file_sha256
from training.invertible import InvertsPhotos
from training.runtime.cuda_graphs import CudaGraphed
from training.runtime.result_cache import ResultCache
from training.types import Generator, Image, reads_outlines

T = TypeVar("T")
CHECKPOINTS = Path(__file__).parent.parent / "checkpoints"
"""Of the models that come with the toolkit."""
SHOWN_FIRST = ("mixnmatch-clothing-128",)
"""Of these, those that the page opens with, as their pictures are the best of their tab."""
MOST_SIZES = 6
"""Sides of pictures that a model is kept ready for."""
PHOTOS = 2
"""Photos that are opened at a time; of one address only one, so that its large ones leave room for others."""


@dataclass(frozen=True, kw_only=True)
class Model:
    """A generator as the page knows it."""

    name: str
    """The checkpoint's stem."""
    generator: Generator
    card: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    """Of the checkpoint file."""
    photo_side: int = 0
    """Side in pixels of the photos that it reads; 0 is the generator's."""
    _features: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)
    _sizes: dict[int, "Model"] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if not self.photo_side:
            object.__setattr__(self, "photo_side", self.generator.resolution)

    def at(self, side: int | None) -> "Model":
        """Return the same model drawing pictures of another side; of its own with None.

        Raises: ValueError for a side that cannot be drawn.
        """
        if side is None or side == self.generator.resolution:
            return self
        found = self._sizes.get(side)
        if found is None:
            found = self._sizes[side] = replace(self, generator=self.generator.at(side))
            for oldest in list(self._sizes)[:-MOST_SIZES]:  # each remembers what it has drawn
                self._sizes.pop(oldest, None)
        return found

    def finer(self, side: int | None) -> bool:
        """Whether pictures of a side are drawn with more detail than the generator's own."""
        return side is not None and side > self.photo_side and self.at(side).generator.sharp

    @property
    def reads_photos(self) -> bool:
        """Whether it takes its codes from photos: it then stands under "Mix photos"."""
        return hasattr(self.generator, "encode")

    @property
    def inverts(self) -> bool:
        """Whether it finds the codes of a photo, part by part: photos can then be dropped on "Turn the knobs"."""
        generator = self.generator
        return isinstance(generator, InvertsPhotos) and isinstance(generator, HasParts) and generator.can_invert

    @property
    def modes(self) -> tuple[str, ...]:
        """How shape is taken from a photo: as a code, or as a feature map that keeps its outline."""
        return ("code", "feature") if reads_outlines(self.generator) else ("code",)

    @property
    def device(self) -> str:
        """Return what it runs on, in words."""
        device = self.generator.device
        return torch.cuda.get_device_name(device) if device.type == "cuda" else device.type.upper()

    def feature(self, key: str, photo: Callable[[], Image]) -> Tensor:
        """Return the shape feature of a photo; the latest are kept by `key`."""
        if key not in self._features:
            self._features[key] = self.generator.shape_feature(photo())  # type: ignore[operator]
            while len(self._features) > 64:
                self._features.popitem(last=False)
        return self._features[key]


class Models:
    """Generators by name, one thread that owns them, one for pictures finer than their own, one that inverts photos, a
    few that open photos.

    All serve visitors in turns.

    One picture at a time, each on its own: so a picture never depends on what others ask for meanwhile. A finer one
    takes ten times as long, and its generator shares nothing but weights, so it is drawn beside the others. So is what
    inverts a photo, which takes seconds and keeps nothing in its generator.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise ValueError("no checkpoint to show; give one with --checkpoint FILE, or train one first")
        self._models = {model.name: model for model in models}
        if len(self._models) < len(models):
            raise ValueError("two checkpoints have the same file name; rename one of them")
        # one thread of torch's each: a second one gains nothing at 64 pixels and takes the core of another picture
        alone = partial(torch.set_num_threads, 1)
        self._generators, self._finer = Turns("generator", begin=alone), Turns("finer", begin=alone)
        self._photos = Turns("photos", PHOTOS, each=1)
        self._inverter = Turns("inverter", begin=alone)

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def of(self, name: str, sha256: str = "") -> Model:
        """Return the model whose file has this checksum, or else this name; ValueError if there is none."""
        return next((model for model in self if sha256 and model.sha256 == sha256), None) or self[name]

    def __getitem__(self, name: str) -> Model:
        """Return a model; ValueError with the known names if there is none."""
        if name not in self._models:
            known = ", ".join(self._models)
            raise ValueError(f"there is no checkpoint {name[:80]!r} here; this page has {known}")
        return self._models[name]

    def submit(
        self, job: Callable[..., T], *arguments: Any, visitor: Visitor = NOBODY, finer: bool = False
    ) -> "Future[T]":
        """Run `job` on the generators' thread, or that of finer pictures, in the turn of the visitor who asks."""
        return (self._finer if finer else self._generators).submit(visitor, _without_gradients, job, *arguments)

    def run(self, job: Callable[..., T], *arguments: Any, visitor: Visitor = NOBODY, finer: bool = False) -> T:
        """Run `job` on the generators' thread, or that of finer pictures, and wait for its result."""
        return self.submit(job, *arguments, visitor=visitor, finer=finer).result()

    def open(self, job: Callable[..., T], *arguments: Any, visitor: Visitor = NOBODY) -> "Future[T]":
        """Run a job that opens a photo, beside the generators' thread, in the visitor's turn."""
        return self._photos.submit(visitor, job, *arguments)

    def invert(self, job: Callable[..., T], *arguments: Any, visitor: Visitor = NOBODY) -> "Future[T]":
        """Run a job that inverts a photo, one at a time and beside the generators' thread, in the visitor's turn."""
        return self._inverter.submit(visitor, job, *arguments)

    def close(self) -> None:
        """Stop the threads; jobs that have not begun are dropped."""
        self._generators.close()
        self._finer.close(patience=1.0)
        self._photos.close(patience=1.0)
        self._inverter.close(patience=1.0)


def _without_gradients(job: Callable[..., T], *arguments: Any) -> T:
    with torch.inference_mode():
        return job(*arguments)


def load_model(path: Path, device: str) -> Model:
    """Return the model in a generator file, with the card that lies beside it or inside it.

    Raises: ValueError if there is no such file or it is no generator.
    """
    generator = load_generator(path, device)
    if generator.device.type == "cuda":  # a whole picture replayed takes less than looking up what has not changed
        setattr(generator, "forward", CudaGraphed(generator.forward))  # noqa: B010 (a method's place)
    else:
        generator.result_cache = ResultCache()
    return Model(name=model_name(path), generator=generator, card=read_card(path), sha256=file_sha256(path))


def bundled(folder: Path = CHECKPOINTS) -> list[Path]:
    """Return the generator files in the repository's `checkpoints`: `SHOWN_FIRST`, then the others by name, smaller
    pictures first.

    Files of other families, such as the segmenter, are skipped: they make no pictures.
    """

    def place(path: Path) -> tuple[bool, str, int]:
        name, _, size = path.stem.rpartition("-")
        name, pixels = (name, int(size)) if size.isdigit() else (path.stem, 0)
        return path.stem not in SHOWN_FIRST, name, pixels

    return sorted((path for path in folder.glob("*.safetensors") if makes_pictures(path)), key=place)
