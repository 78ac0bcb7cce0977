"""Base class of the generators that read codes from photos, with the knobs for the four factors."""

from abc import abstractmethod
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from mixnmatch.codes import FACTOR_TABLE, FACTORS, Codes, with_factor
from training.batched import stack
from training.types import Generator, Image, Knob, knob_seeds


class PhotoGenerator(Generator):
    """A generator with a photo knob and a seed knob for each of background, pose, shape and texture."""

    @property
    def resolution(self) -> int:
        """Side of the square picture in pixels."""
        return self.config.resolution

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """One photo and one seed for each of the four factors."""
        photos = [
            Knob(name=name, label=f"{f.label} from", kind="picture", help=f"{f.gives[0].upper()}{f.gives[1:]}.")
            for name, f in FACTOR_TABLE.items()
        ]
        seeds = [Knob(name=f"{name}_seed", label=f"Another {name}", kind="seed", high=9999, step=1) for name in FACTORS]
        return (*photos, *seeds)

    @property
    def parts(self) -> tuple[str, ...]:
        """What of a picture can be taken from another: the four factors."""
        return FACTORS

    def part_codes(self, codes: Codes, part: str) -> dict[str, Tensor]:
        """Return the fields of a factor."""
        return {name: rows for name in FACTOR_TABLE[part].fields if (rows := getattr(codes, name)) is not None}

    def with_part(self, codes: Codes, part: str, fields: dict[str, Tensor]) -> Codes:
        """Return `codes` with a factor's fields: a row each, or one for all rows.

        Raises: ValueError for another factor, or fields that do not fit.
        """
        known = self.part_codes(codes, part) if part in FACTOR_TABLE else {}
        for name, rows in fields.items():
            if name not in known or rows.shape[1:] != known[name].shape[1:] or len(rows) not in (1, len(codes.z)):
                raise ValueError(f"codes of {part[:40]} do not fit this generator: got {name[:40]} {tuple(rows.shape)}")
        return replace(codes, **{name: rows.expand(len(codes.z), -1) for name, rows in fields.items()})

    def knob_values(self, codes: Codes) -> dict[str, Tensor]:
        """Return where the knobs that are numbers stand: none is."""
        return {}

    @abstractmethod
    def encode(self, image: Image, factors: tuple[str, ...] = FACTORS) -> Codes:
        """Return E(x) of photos x (MixNMatch Sec. 3.2); codes of factors that are not asked for are zeros."""

    @abstractmethod
    def shape_feature(self, image: Image) -> Float[Tensor, "n feature s s"]:
        """Return S(x) of photos x: pose and shape together, as a feature map aligned with the pixels (Sec. 3.4)."""

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        """Return `codes` with one factor read from a photo, or drawn from a seed, in every row.

        Raises: ValueError for an unknown name, pictures of the wrong size or number, or a seed that is not whole.
        """
        kind, n = self.knob(name).kind, len(codes.z)
        factor = name.removesuffix("_seed")
        if kind == "picture":
            new = self.encode(self._picture(name, value, n), factors=(factor,))
        else:
            seeds = knob_seeds(name, value, n)
            new = stack([self.sample(1, torch.Generator().manual_seed(seed)) for seed in seeds])
        return with_factor(codes, factor, new)

    def _check(self, image: Image) -> None:
        side = self.resolution
        if image.ndim != 4 or image.shape[1:] != (3, side, side):
            raise ValueError(f"got pictures of shape {tuple(image.shape)}, expected (n, 3, {side}, {side})")

    def _picture(self, name: str, value: Any, n: int) -> Image:
        side = self.resolution
        if not isinstance(value, Tensor) or value.ndim != 4 or value.shape[1:] != (3, side, side):
            came = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise ValueError(f"knob {name!r} takes pictures of shape (1 or {n}, 3, {side}, {side}); got {came}")
        if value.shape[0] not in (1, n):
            raise ValueError(f"knob {name!r} takes 1 picture or {n}, one a row; got {value.shape[0]}")
        if not value.is_floating_point():
            raise ValueError(f"knob {name!r} takes pictures in [-1, 1]; got whole numbers ({value.dtype})")
        return value.to(self.device, torch.float32)
