"""Index, repeat and concatenate dataclasses of tensors that share a leading axis `n`, such as codes."""

from collections.abc import Iterable
from dataclasses import replace
from typing import Any, TypeVar

import torch

C = TypeVar("C")


def rows(codes: C, index: Any) -> C:
    """Return the rows of a dataclass of tensors that `index` picks (an int keeps the leading axis)."""
    index = slice(index, index + 1 or None) if isinstance(index, int) else index
    return replace(codes, **{k: v[index] for k, v in fields_of(codes).items() if v is not None})  # type: ignore[type-var]


def repeat(codes: C, n: int) -> C:
    """Return each row of a dataclass of tensors repeated `n` times, as `repeat_interleave` does."""
    return replace(codes, **{k: v.repeat_interleave(n, 0) for k, v in fields_of(codes).items() if v is not None})  # type: ignore[type-var]


def stack(parts: Iterable[C]) -> C:
    """Return several dataclasses of tensors concatenated along `n`.

    Raises: ValueError if a field is None in some of them but not in all.
    """
    parts = list(parts)
    columns = [fields_of(part) for part in parts]
    for name in columns[0]:
        if len({column[name] is None for column in columns}) > 1:
            raise ValueError(f"some of these rows have {name} and some have none; give it to all or to none")
    joined = {k: torch.cat([c[k] for c in columns]) for k, v in columns[0].items() if v is not None}
    return replace(parts[0], **joined)  # type: ignore[type-var]


def fields_of(codes: Any) -> dict[str, Any]:
    """Return a dataclass's fields by name, without copying them."""
    return {name: getattr(codes, name) for name in codes.__dataclass_fields__}
