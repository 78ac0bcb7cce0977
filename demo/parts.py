"""Parts of a picture by their codes, such as an inverted photo gave them; rows of numbers as base64 text."""

import base64
import binascii
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.codes_file import HasParts
from training.types import Generator, Resized

MOST = 1000.0
"""No code's number is larger, up or down: normal codes and styles end near 10."""
DAMAGED = "the codes in this recipe are damaged; save it again"


def pack(values: Tensor) -> str:
    """Return one row of numbers as base64 text."""
    return base64.b64encode(values.detach().float().cpu().numpy().astype("<f4").tobytes()).decode()


def unpack(text: str) -> Tensor:
    """Return the row (1, k) in base64 text; ValueError if it holds none, or a number that no code has."""
    try:
        row = np.frombuffer(base64.b64decode(text, validate=True), "<f4")
    except (ValueError, binascii.Error) as error:
        raise ValueError(DAMAGED) from error
    if not row.size or not (np.abs(row) <= MOST).all():  # no number that is not finite is
        raise ValueError(DAMAGED)
    return torch.from_numpy(row.astype(np.float32))[None]


def parts_of(generator: Generator) -> HasParts | None:
    """Return a generator as one whose pictures have parts; None if they have none."""
    while isinstance(generator, Resized):
        generator = generator.generator
    return generator if isinstance(generator, HasParts) else None


def packed_parts(generator: HasParts, codes: Any) -> dict[str, dict[str, str]]:
    """Return the codes of one row by part and field, as a recipe's slots hold them."""
    return {
        part: {name: pack(row) for name, row in generator.part_codes(codes, part).items()} for part in generator.parts
    }
