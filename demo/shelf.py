"""The generators that a page offers, each with its card, and the one thread that runs them."""

import hashlib
from collections import OrderedDict
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.checkpoint import load_generator, read_card
from training.runtime.cuda_graphs import CudaGraphed
from training.runtime.result_cache import ResultCache
from training.types import Generator, Image, reads_outlines

T = TypeVar("T")


@dataclass(frozen=True, kw_only=True)
class Model:
    """A generator as the page knows it."""

    name: str
    """The checkpoint's stem."""
    generator: Generator
    card: dict[str, Any] = field(default_factory=dict)
    sha256: str = ""
    """Of the checkpoint file."""
    _features: OrderedDict[str, Tensor] = field(default_factory=OrderedDict)

    @property
    def reads_photos(self) -> bool:
        """Whether it takes its codes from photos: it then stands under "Mix photos"."""
        return hasattr(self.generator, "encode")

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


class Shelf:
    """Generators by name, and one thread that owns them.

    One picture at a time, each on its own: so a picture never depends on what others ask for meanwhile.
    """

    def __init__(self, models: Sequence[Model]) -> None:
        if not models:
            raise ValueError("no checkpoint to show; give one with --checkpoint FILE, or train one first")
        self._models = {model.name: model for model in models}
        if len(self._models) < len(models):
            raise ValueError("two checkpoints have the same file name; rename one of them")
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="generator")

    def __iter__(self) -> Iterator[Model]:
        return iter(self._models.values())

    def __getitem__(self, name: str) -> Model:
        """Return a model; ValueError with the known names if there is none."""
        if name not in self._models:
            known = ", ".join(self._models)
            raise ValueError(f"there is no checkpoint {name[:80]!r} here; this page has {known}")
        return self._models[name]

    def submit(self, job: Callable[..., T], *arguments: Any) -> "Future[T]":
        """Run `job` on the generators' thread, after the jobs that came before."""
        return self._thread.submit(_without_gradients, job, *arguments)

    def run(self, job: Callable[..., T], *arguments: Any) -> T:
        """Run `job` on the generators' thread and wait for its result."""
        return self.submit(job, *arguments).result()

    def close(self) -> None:
        """Stop the thread; jobs that have not begun are dropped."""
        self._thread.shutdown(cancel_futures=True)


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
    with path.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    run_file = path.stem in ("generator", "best")  # all runs have these: named by their folder
    name = f"{path.resolve().parent.name}-{path.stem}" if run_file else path.stem
    return Model(name=name, generator=generator, card=read_card(path), sha256=sha256)


def bundled() -> list[Path]:
    """Return the generator files in the repository's `checkpoints`, by name, smaller pictures first."""

    def place(path: Path) -> tuple[str, int]:
        name, _, size = path.stem.rpartition("-")
        return (name, int(size)) if size.isdigit() else (path.stem, 0)

    return sorted((Path(__file__).parent.parent / "checkpoints").glob("*.safetensors"), key=place)
