"""The contract between generators, the training loop, the metrics and the page."""

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from numbers import Real
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, TypeVar, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor, nn

from training.batched import fields_of
from training.resize import resized
from training.runtime.result_cache import ResultCache

Image = Float[Tensor, "n 3 h w"]
"""Pictures, RGB in [-1, 1]."""
Mask = Float[Tensor, "n 1 h w"]
"""Share of a layer in each pixel, in [0, 1]."""
Boxes = Float[Tensor, "n 4"]
"""x0 y0 x1 y1 as fractions of the picture's width and height, y down."""

KnobKind = Literal["range", "angle", "seed", "picture"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Knob:
    """One control of a generator: shown on the page, set by `Generator.set` and measured by the knob report."""

    name: str
    """Name for `Generator.set`, in saved recipes and in reports."""
    label: str
    """Name shown to users."""
    kind: KnobKind
    """`range` and `angle` (degrees) are numbers, `seed` a whole number that redraws a code, `picture` a photo."""
    unit: str = ""
    low: float = 0.0
    high: float = 1.0
    """`low` to `high` is the trained range of a `range` or `angle`."""
    default: float = 0.0
    step: float = 0.01
    help: str = ""
    extended_range: tuple[float, float] | None = None
    """Range that the page allows; None: a little beyond the trained range."""

    def __post_init__(self) -> None:
        if self.low > self.high:
            raise ValueError(f"knob {self.name!r}: low {self.low} is above high {self.high}")
        if (
            self.extended_range is not None
            and not self.extended_range[0] <= self.low <= self.high <= self.extended_range[1]
        ):
            raise ValueError(
                f"knob {self.name!r}: extended_range {self.extended_range} leaves out some of {self.low} to {self.high}"
            )


def knob_numbers(name: str, value: Any, like: Float[Tensor, " n"]) -> Float[Tensor, " n"]:
    """Return the values of knob `name`, one number or one a row, as a tensor like `like`.

    Raises: ValueError for values that are not numbers, not finite, or of another count.
    """
    n = len(like)
    if not isinstance(value, Real | np.ndarray | Tensor) or isinstance(value, bool):
        raise ValueError(f"knob {name!r} takes a number or a tensor of {n} numbers, not {value!r}")
    numbers = torch.as_tensor(value, dtype=like.dtype, device=like.device)
    if numbers.ndim and numbers.shape not in ((1,), (n,)):
        raise ValueError(f"knob {name!r} takes one number or {n}, not a tensor of shape {tuple(numbers.shape)}")
    if not numbers.isfinite().all():
        raise ValueError(f"knob {name!r} takes finite numbers, not {value!r}")
    return numbers.expand(n)


def knob_seeds(name: str, value: Any, n: int) -> list[int]:
    """Return the seeds of knob `name` for `n` rows: one for all of them, or one a row.

    Raises: ValueError for anything but an integer from 0, or `n` of them.
    """
    seeds = np.asarray(value.cpu() if isinstance(value, Tensor) else value).reshape(-1).tolist()
    numbers = all(isinstance(seed, int | float) and not isinstance(seed, bool) for seed in seeds)
    if len(seeds) not in (1, n) or not numbers or any(not 0 <= seed < 2**63 or seed != int(seed) for seed in seeds):
        many = f", or {n} of them" if n > 1 else ""
        raise ValueError(f"knob {name!r} takes a whole number from 0{many}, not {value!r}")
    return [int(seed) for seed in seeds]


@dataclass(frozen=True, kw_only=True, slots=True)
class Instances:
    """The objects of one picture, as training targets of object finders."""

    box: Boxes
    label: Int[Tensor, " n"]
    """Indices into the network's classes."""
    mask: Bool[Tensor, "n h w"]
    """At the picture's size."""
    crowd: Bool[Tensor, " n"]
    """Whether an entry is a crowd of objects, which is excluded from the losses."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Batch:
    """Real pictures for one training step."""

    image: Image
    """The view that the generator imitates."""
    box: Boxes | None = None
    """The object in `image`; None where the set has no boxes."""
    scene: Float[Tensor, "n 3 scene_h scene_w"] | None = None
    """The picture with more of its surroundings, for discriminators of backgrounds."""
    scene_box: Boxes | None = None
    """The object in `scene`."""
    mask: Mask | None = None
    """The object's mask in `image`: for evaluation, and for recipes that need masks."""
    index: tuple[int, ...] = ()
    """Positions of the pictures in their set."""
    previous: Image | None = None
    """An earlier frame of the same film as `image`; with `flow`, the frame that the flow leads to."""
    flow: Float[Tensor, "n 2 h w"] | None = None
    """Optical flow from `image` to `previous` in pixels, x then y."""
    instances: tuple[Instances, ...] | None = None
    """The objects of each picture; None where the set has no such annotations."""


@runtime_checkable
class TrainingSet(Protocol):
    """Training pictures. The same indices and state of `rng` give the same batch.

    A set whose list of pictures is not the file `index.csv` in `path` has the file as its attribute `index`.
    """

    path: Path

    def __len__(self) -> int: ...

    def batch(self, indices: Sequence[int], rng: torch.Generator) -> Batch:
        """Return a training batch; under torchrun this process's rows of it (`rng` knows its share)."""
        ...


@dataclass(frozen=True, kw_only=True, slots=True)
class Step:
    """Progress of training: the input of schedules and random draws."""

    index: int
    """Steps done before this one."""
    images: int
    """Real pictures seen before this step."""
    rng: torch.Generator
    """Seeded from the run's seed and `index`, so that a resumed run draws the same numbers."""

    def ramp(self, start: int, end: int) -> float:
        """Return 0 before `start` images, 1 after `end`, linear between."""
        return min(1.0, max(0.0, (self.images - start) / max(1, end - start)))


@dataclass(kw_only=True, slots=True)
class Phase:
    """One update of one network: its parameters, losses and schedule."""

    name: str
    network: nn.Module
    optimizer: torch.optim.Optimizer
    losses: Callable[[Batch, Step], dict[str, Tensor]]
    """Named scalars, already weighted; the phase minimises their sum."""
    every: int = 1
    """Due on steps divisible by this; the loss is multiplied by it (lazy regularisation, StyleGAN2 Sec. 3.1)."""
    since: int = 0
    until: int | None = None
    """Active from `since` images up to, not including, `until`."""
    rate: Callable[[Step], float | Sequence[float]] | None = None
    """Factors on the optimizer's initial learning rates at a step: one for all groups, or one for each."""
    base_rates: tuple[float, ...] = field(init=False)
    """The optimizer's initial learning rates; a resumed optimizer has only those of its last step."""
    max_norm: float | None = None
    """Gradients of a larger norm are scaled down to it; None leaves them."""

    def __post_init__(self) -> None:
        if self.every < 1:
            raise ValueError(f"{self.name} is due every {self.every} steps; give 1 or more, and a weight of 0 for none")
        self.base_rates = tuple(float(group["lr"]) for group in self.optimizer.param_groups)

    def parameters(self) -> list[nn.Parameter]:
        """Return the network's parameters that the optimizer updates; the others stay as they are."""
        updated = {id(parameter) for group in self.optimizer.param_groups for parameter in group["params"]}
        return [parameter for parameter in self.network.parameters() if id(parameter) in updated]

    def set_rates(self, step: Step, factor: float = 1.0) -> None:
        """Set the optimizer's learning rates for `step`, multiplied by `factor`."""
        share = 1.0 if self.rate is None else self.rate(step)
        shares = [share] * len(self.base_rates) if isinstance(share, int | float) else share
        for group, base, own in zip(self.optimizer.param_groups, self.base_rates, shares, strict=True):
            group["lr"] = base * own * factor

    def due(self, step: Step) -> bool:
        """Whether this phase runs at `step`."""
        return (
            step.index % self.every == 0
            and step.images >= self.since
            and (self.until is None or step.images < self.until)
        )


T = TypeVar("T")


class Model(nn.Module):
    """A network that can be trained, saved, and loaded by the name of its family."""

    family: ClassVar[str]
    """Name in `training.registry.FAMILIES`."""
    config: Any
    """The frozen dataclass this network was built from."""
    source: Path | None = None
    """The file that it was read from."""

    @property
    @abstractmethod
    def resolution(self) -> int:
        """Side of the square picture in pixels."""

    @property
    def device(self) -> torch.device:
        """The device of the weights."""
        return next(self.parameters()).device


class Generator(Model):
    """A model from codes to layers, with knobs that change the codes.

    `Codes` and `Layers` are frozen dataclasses of tensors with a leading axis `n`; every `Layers` has `image`.
    """

    result_cache: ResultCache | None = None
    """A cache, for a generator that is not trained: unchanged parts of a picture are taken from it."""

    def cached(self, name: str, function: Callable[[], T], *inputs: Tensor) -> T:
        """Return `function()`, which depends only on `inputs`, from the cache if possible."""
        if self.result_cache is None or self.training or torch.is_grad_enabled():
            return function()
        return self.result_cache(name, function, *inputs)

    def at(self, resolution: int) -> "Generator":
        """Return this generator with the same weights, drawing pictures of another side.

        A model that renders rays renders up to eight times as many a side. Other sizes are made by Lanczos resampling,
        and `sharp` is False if that enlarges.

        Raises: ValueError for a side that is not from 16 to 2048 pixels.
        """
        if not 16 <= resolution <= 2048:
            raise ValueError(f"pictures of {resolution} pixels a side cannot be drawn; expected 16 to 2048")
        return self if resolution == self.resolution else Resized(self, resolution)

    @property
    def sharp(self) -> bool:
        """Whether pictures are rendered at `resolution` or more, not enlarged."""
        return True

    def copied(self, *, results: int, **attributes: Any) -> "Generator":
        """Return a copy that shares all weights, with `attributes` replaced and, if there is a cache, a new one of
        `results` entries."""
        other = copy.copy(self)
        vars(other).pop("forward", None)  # a CUDA graph's, of this size
        other.result_cache = None if self.result_cache is None else ResultCache(results)
        for name, value in attributes.items():
            setattr(other, name, value)
        return other

    @property
    @abstractmethod
    def knobs(self) -> tuple[Knob, ...]:
        """The knobs, in the order in which the page shows them."""

    @property
    def fixed_knobs(self) -> tuple[Knob, ...]:
        """Knobs that were constant in training (`low` equals `high`) but can be set within `extended_range`."""
        return ()

    @abstractmethod
    def sample(self, n: int, rng: torch.Generator) -> Any:
        """Draw `n` codes from the prior, on this generator's device; `rng` is a CPU generator."""

    @abstractmethod
    def set(self, codes: Any, name: str, value: Any) -> Any:
        """Return `codes` with the knob `name` set to `value` in every row.

        `value` is a number in the knob's unit or a tensor `(n,)` of such numbers; for a seed a whole number, which
        draws the same code into every row; for a picture an `Image` of one row or of `n` rows.

        Raises: ValueError for an unknown name (with the known ones) or a value of the wrong kind.
        """

    def knob(self, name: str) -> Knob:
        """Return the knob called `name`. Raises: ValueError that lists the known names."""
        for knob in (*self.knobs, *self.fixed_knobs):
            if knob.name == name:
                return knob
        raise ValueError(f"no knob {name!r}; this generator has {', '.join(k.name for k in self.knobs)}")


class Resized(Generator):
    """A generator whose pictures and maps are resized; everything else is passed on to the generator."""

    def __init__(self, generator: Generator, side: int) -> None:
        super().__init__()
        self.generator, self.side = generator, side

    def __getattr__(self, name: str) -> Any:
        """Return the generator's attribute."""
        try:
            return super().__getattr__(name)
        except AttributeError:
            return getattr(super().__getattr__("generator"), name)

    @property
    def family(self) -> str:  # type: ignore[override]
        """The generator's."""
        return self.generator.family

    @property
    def resolution(self) -> int:
        """Side of the square picture in pixels, after resizing."""
        return self.side

    @property
    def sharp(self) -> bool:
        """Whether pictures are reduced."""
        return self.side <= self.generator.resolution

    def at(self, resolution: int) -> Generator:
        """Return the generator at another side."""
        return self.generator.at(resolution)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """The generator's."""
        return self.generator.knobs

    @property
    def fixed_knobs(self) -> tuple[Knob, ...]:
        """The generator's."""
        return self.generator.fixed_knobs

    def sample(self, n: int, rng: torch.Generator) -> Any:
        """Draw codes as the generator does."""
        return self.generator.sample(n, rng)

    def set(self, codes: Any, name: str, value: Any) -> Any:
        """Turn a knob as the generator does."""
        return self.generator.set(codes, name, value)

    def forward(self, *inputs: Any, **options: Any) -> Any:
        """Return the generator's layers with pictures and masks resized; maps of rays keep their side."""
        layers = self.generator(*inputs, **options)
        drawn = {k: v for k, v in fields_of(layers).items() if k not in ("alpha", "depth")}
        return replace(layers, **{k: resized(v, self.side) for k, v in drawn.items()})


class Recipe(Protocol):
    """How a model is trained: its networks, their phases, and pictures that show its progress.

    A recipe may have `mask_advice`, the options that help against masks that are `nothing`, `everything`, `soft` or
    `alike` (`training.loop.mask_check`).
    """

    generator: Generator
    networks: nn.ModuleDict
    """All networks to save, the generator under 'generator'."""
    average: Generator
    """The averaged generator, set by the run before training."""

    def phases(self) -> list[Phase]:
        """Return the phases of one step, in order; called once, before training."""
        ...

    def begin(self, batch: Batch, step: Step) -> None:
        """Compute what the phases of this step share, such as one forward pass of the generator."""
        ...

    def grids(self, generator: Generator, batch: Batch) -> dict[str, Image]:
        """Return named grids of pictures, (rows * 8, 3, h, w) each, that show the progress of training."""
        ...


@runtime_checkable
class AdaptsWeights(Protocol):
    """A recipe that can be initialised from another kind of network."""

    def adapt_weights(self, theirs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return another recipe's weights, by names in its `networks`, under the names of this recipe's."""
        ...


def reads_outlines(generator: Any) -> bool:
    """Whether a generator has feature mode, which keeps photos' outlines; a published one may lack its extractor."""
    return hasattr(generator, "shape_feature") and getattr(generator, "extractor", True) is not None
