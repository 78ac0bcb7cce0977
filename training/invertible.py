"""The contract of `training.inversion`: its results, and the protocol of generators that invert photos."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from training.types import Image


class Progress(NamedTuple):
    """The progress of an inversion."""

    stage: str
    """`pose` after the reader has run, then the name of the optimisation's stage."""
    done: float
    """Share of all steps, in [0, 1]."""
    codes: Any
    """A row a photo."""
    loss: float
    """Loss of the last step; NaN before the first."""
    front: float | None = None
    """With the pose: how clear it is which end of the object is its front, near 1 clear and near 0 not; the option
    `turned` then starts from the other end. None where objects have no such ends."""


OnProgress = Callable[[Progress], object]
"""Called after the pose is read and after each step; the inversion ends early if it returns False."""


class Inverted(NamedTuple):
    """The result of an inversion."""

    codes: Any
    """A row a photo."""
    loss: float
    finished: bool = True
    """False if the caller ended it early."""
    weights: Mapping[str, Tensor] = {}
    """Weights of the generator that sharpening changed, by name."""


@runtime_checkable
class InvertsPhotos(Protocol):
    """A generator that can invert photos."""

    @property
    def can_invert(self) -> bool:
        """Whether the files that it needs are there."""
        ...

    def invert(
        self, photo: Image, *, progress: OnProgress | None = None, apart: bool = False, **options: Any
    ) -> Inverted:
        """Return the codes of photos of one object, or with `apart` of one object each, a row a photo.

        Raises: ValueError for a missing file or an unknown option.
        """
        ...
