"""Sharded random numbers: every rank draws for the global batch and keeps its own rows.

So results do not depend on the number of ranks.

Share `part` of `parts` holds rows part, part + parts, part + 2 parts, ... Interleaved so, the first half of every share
together is the first half of the batch, and the groups over which `MinibatchStddev` looks are groups of the batch.
"""

from collections.abc import Callable
from typing import Any, TypeVar

import torch
from torch import Tensor

from training.batched import rows

C = TypeVar("C")


class ShardedGenerator(torch.Generator):
    """A random source that knows its share of the batch; `torch.rand` and its like, given it, draw as always."""

    part = 0
    parts = 1


def sharded_generator(seed: int, part: int = 0, parts: int = 1, device: torch.device | str = "cpu") -> ShardedGenerator:
    """Return the random source of share `part` of `parts`: of all shares in the same state."""
    rng = ShardedGenerator(device)
    rng.manual_seed(seed)
    rng.part, rng.parts = part, parts
    return rng


def shard_of(rng: torch.Generator | None) -> tuple[int, int]:
    """Return which share of the batch `rng` belongs to, and of how many: (0, 1) for a plain generator."""
    return (rng.part, rng.parts) if isinstance(rng, ShardedGenerator) else (0, 1)


def local_rows(whole: Any, rng: torch.Generator | None) -> Any:
    """Return those rows of the whole batch, a tensor or a list, that belong to the share of `rng`."""
    part, parts = shard_of(rng)
    if parts == 1:
        return whole
    return whole[part::parts].contiguous() if isinstance(whole, Tensor) else whole[part::parts]


def rand(n: int, *shape: int, rng: torch.Generator) -> Tensor:
    """Return `n` rows uniform in [0, 1), this share's, on the device of `rng`."""
    return local_rows(torch.rand(n * shard_of(rng)[1], *shape, generator=rng, device=rng.device), rng)


def randn(n: int, *shape: int, rng: torch.Generator) -> Tensor:
    """Return `n` standard normal rows, this share's, on the device of `rng`."""
    return local_rows(torch.randn(n * shard_of(rng)[1], *shape, generator=rng, device=rng.device), rng)


def sampled(sample: Callable[[int], C], n: int, rng: torch.Generator) -> C:
    """Return `n` rows, this share's, of the codes that `sample(n of the whole batch)` draws."""
    part, parts = shard_of(rng)
    return sample(n) if parts == 1 else rows(sample(n * parts), slice(part, None, parts))
