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
    """A `torch.Generator` that knows its share of the batch; torch's own functions ignore the share."""

    part = 0
    parts = 1


def sharded_generator(seed: int, part: int = 0, parts: int = 1, device: torch.device | str = "cpu") -> ShardedGenerator:
    """Return the generator of share `part` of `parts`; all shares have the same state."""
    rng = ShardedGenerator(device)
    rng.manual_seed(seed)
    rng.part, rng.parts = part, parts
    return rng


def shard_of(rng: torch.Generator | None) -> tuple[int, int]:
    """Return the share of the batch of `rng`, as (part, parts); (0, 1) for a plain generator."""
    return (rng.part, rng.parts) if isinstance(rng, ShardedGenerator) else (0, 1)


def local_rows(whole: Any, rng: torch.Generator | None) -> Any:
    """Return the rows of the global batch, a tensor or a list, that belong to the share of `rng`."""
    part, parts = shard_of(rng)
    if parts == 1:
        return whole
    return whole[part::parts].contiguous() if isinstance(whole, Tensor) else whole[part::parts]


def rand(n: int, *shape: int, rng: torch.Generator) -> Tensor:
    """Return this share's `n` rows of uniform numbers in [0, 1), on the device of `rng`."""
    return local_rows(torch.rand(n * shard_of(rng)[1], *shape, generator=rng, device=rng.device), rng)


def randn(n: int, *shape: int, rng: torch.Generator) -> Tensor:
    """Return this share's `n` rows of standard normal numbers, on the device of `rng`."""
    return local_rows(torch.randn(n * shard_of(rng)[1], *shape, generator=rng, device=rng.device), rng)


def sampled(sample: Callable[[int], C], n: int, rng: torch.Generator) -> C:
    """Return this share's `n` rows of codes; `sample` is called with the number of rows of the global batch."""
    part, parts = shard_of(rng)
    return sample(n) if parts == 1 else rows(sample(n * parts), slice(part, None, parts))
