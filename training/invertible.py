"""What finding the codes of photos gives, and who can do it: the contract of `training.inversion`."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol, runtime_checkable

from torch import Tensor

from training.types import Image


class Progress(NamedTuple):
    """How far an inversion has come."""

    stage: str
    """`pose` once what is read at once is there, then the names of stages."""
    done: float
    """Share of all steps, in [0, 1]."""
    codes: Any
    """A row a photo."""
    loss: float
    """Of the last step, not a number before the first."""
    front: float | None = None
    """With the pose: how clear it is which end of the object is its front, near 1 clear and near 0 not; the option
    `turned` then starts from the other end. None where objects have no such ends."""


OnProgress = Callable[[Progress], object]
"""Called after the pose is read and after each step; the inversion ends early if it returns False."""


class Inverted(NamedTuple):
    """What an inversion found."""

    codes: Any
    """A row a photo."""
    loss: float
    finished: bool = True
    """Whether no one ended it early."""
    weights: Mapping[str, Tensor] = {}
    """What sharpening made of some of the generator's weights, by name."""


@runtime_checkable
class InvertsPhotos(Protocol):
    """A generator that finds the codes of photos."""

    @property
    def can_invert(self) -> bool:
        """Whether the files that it needs are there."""
        ...

    def invert(
        self, photo: Image, *, progress: OnProgress | None = None, apart: bool = False, **options: Any
    ) -> Inverted:
        """Return the codes of photos of one object, or with `apart` of one object each, a row a photo.

        Raises: ValueError where a file that it needs, or an option, is not there.
        """
        ...
