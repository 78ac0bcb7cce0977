"""Weights of convolutions in a TensorFlow Lite file, quantised ones as floats. Nothing in the file is run.

The file is a FlatBuffer of TensorFlow's `schema.fbs`; only the parts that hold weights are read.
"""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

TYPES = {0: np.float32, 1: np.float16, 2: np.int32, 3: np.uint8, 9: np.int8}
"""TensorTypes of the schema that weights may have."""


@dataclass(frozen=True, slots=True)
class Table:
    """A table of a FlatBuffer; fields are accessed by their number in the schema."""

    data: bytes
    at: int

    def place(self, field: int) -> int | None:
        """Return the offset of a field's value; None if the field is absent."""
        vtable = self.at - struct.unpack_from("<i", self.data, self.at)[0]
        if vtable < 0 or 4 + 2 * field >= struct.unpack_from("<H", self.data, vtable)[0]:
            return None
        offset = struct.unpack_from("<H", self.data, vtable + 4 + 2 * field)[0]
        return self.at + offset if offset else None

    def number(self, field: int, kind: str) -> int:
        """Return a field of the `struct` format `kind`, 0 if it is left out."""
        place = self.place(field)
        return 0 if place is None else struct.unpack_from(f"<{kind}", self.data, place)[0]

    def numbers(self, field: int, dtype: Any) -> np.ndarray:
        """Return a vector of numbers, empty if it is left out."""
        place = self.place(field)
        if place is None:
            return np.zeros(0, dtype)
        place = self._follow(place)
        return np.frombuffer(self.data, dtype, struct.unpack_from("<I", self.data, place)[0], place + 4)

    def table(self, field: int) -> "Table | None":
        """Return a table that this one refers to."""
        place = self.place(field)
        return None if place is None else Table(self.data, self._follow(place))

    def tables(self, field: int) -> list["Table"]:
        """Return a vector of tables, empty if it is left out."""
        place = self.place(field)
        if place is None:
            return []
        place = self._follow(place)
        n = struct.unpack_from("<I", self.data, place)[0]
        return [Table(self.data, self._follow(place + 4 + 4 * i)) for i in range(min(n, len(self.data) // 4))]

    def _follow(self, place: int) -> int:
        return place + struct.unpack_from("<I", self.data, place)[0]


def convolutions(path: Path) -> Iterator[tuple[Float[Tensor, "_ _ _ _"], Float[Tensor, " _"]]]:
    """Yield weight and bias of each convolution of a file, in the order of computation.

    Weights are (out, kernel, kernel, in), those of depthwise convolutions (1, kernel, kernel, channels).

    Raises: ValueError if the file is not a TensorFlow Lite file, or truncated.
    """
    data = path.read_bytes()
    if data[4:8] != b"TFL3":
        raise ValueError("it is no TensorFlow Lite file")
    try:
        model = Table(data, struct.unpack_from("<I", data, 0)[0])
        [graph, *_] = model.tables(2)
        tensors, buffers = graph.tables(0), model.tables(4)
        for operator in graph.tables(3):
            inputs = operator.numbers(1, np.int32)
            if len(inputs) == 3 and len(tensors[inputs[1]].numbers(0, np.int32)) == 4:
                weight, bias = (_values(tensors[i], buffers) for i in inputs[1:])
                yield weight, bias
    except (struct.error, IndexError, KeyError) as error:
        raise ValueError(f"it is no whole TensorFlow Lite file ({error})") from None


def _values(tensor: Table, buffers: list[Table]) -> Tensor:
    """Return a tensor's values as floats: scale (q - zero point)."""
    shape = [int(side) for side in tensor.numbers(0, np.int32)]
    stored = buffers[tensor.number(2, "I")].numbers(0, np.uint8)
    values = stored.view(TYPES[tensor.number(1, "b")]).reshape(shape).astype(np.float64)
    quantised = tensor.table(4)
    if quantised is not None and len(scale := quantised.numbers(2, np.float32)):
        along = [1] * len(shape)
        along[quantised.number(6, "i")] = len(scale)
        zero = quantised.numbers(3, np.int64)
        values = (values - (zero.reshape(along) if len(zero) else 0)) * scale.astype(np.float64).reshape(along)
    return torch.from_numpy(values).float()
