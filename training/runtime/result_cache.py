"""Memoise tensor functions by the exact bytes of their inputs."""

from collections import OrderedDict
from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

T = TypeVar("T")


class ResultCache:
    """An LRU cache of functions of tensors, for networks whose weights do not change.

    A result is returned only for inputs of the same bytes, so it is exact. Results are shared: callers must not modify
    them in place.
    """

    def __init__(self, most: int = 24) -> None:
        if most < 1:
            raise ValueError(f"got a cache of {most} results, expected 1 or more")
        self.most = most
        self._kept: OrderedDict[tuple[Any, ...], Any] = OrderedDict()

    def __len__(self) -> int:
        return len(self._kept)

    def __call__(self, name: str, function: Callable[[], T], *inputs: Tensor) -> T:
        """Return `function()`, which is called `name` and depends only on `inputs`; the least recently used is
        evicted."""
        key = (name, *(_bytes(x) for x in inputs))
        if key not in self._kept:
            self._kept[key] = function()
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        return self._kept[key]


def _bytes(x: Tensor) -> tuple[Any, ...]:
    numbers = x.detach().cpu()
    exact = numbers.float() if x.dtype == torch.bfloat16 else numbers  # which NumPy does not know
    return x.dtype, tuple(x.shape), exact.numpy().tobytes()
