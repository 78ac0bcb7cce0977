"""Usage of codes, and their agreement with labels that were not used in training."""

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from training.data.folder import PictureSet
from training.types import Image

BLOCK = 64
"""Pictures that are read at a time."""


def perplexity(shares: Float[Tensor, "n codes"]) -> float:
    """Return exp of the entropy of the mean row: the effective number of codes in use."""
    mean = shares.double().mean(0)
    mean = mean / mean.sum()
    return float(torch.exp(-(mean * mean.clamp_min(1e-12).log()).sum()))


def contingency(a: Int[Tensor, " n"], b: Int[Tensor, " n"]) -> Float[Tensor, "kinds_a kinds_b"]:
    """Return how often each pair of numbers occurs together."""
    table = torch.zeros(int(a.max()) + 1, int(b.max()) + 1, dtype=torch.float64)
    return table.index_put_((a.cpu(), b.cpu()), torch.ones(len(a), dtype=torch.float64), accumulate=True)


def clustering_accuracy(codes: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Return the share of pictures whose code is its label's, under the best one-to-one naming of codes."""
    table = contingency(codes, labels).numpy()
    pairs = linear_sum_assignment(table, maximize=True)
    return float(table[pairs].sum() / len(codes))


def normalised_information(codes: Int[Tensor, " n"], labels: Int[Tensor, " n"]) -> float:
    """Return the mutual information of codes and labels over the mean of their entropies, 0 to 1 (NMI)."""
    joint = contingency(codes, labels).numpy() / len(codes)
    own = [joint.sum(1), joint.sum(0)]
    entropies = [float(-(p[p > 0] * np.log(p[p > 0])).sum()) for p in own]
    together = joint[joint > 0]
    product = np.outer(*own)[joint > 0]
    information = float((together * np.log(together / product)).sum())
    return information / max((entropies[0] + entropies[1]) / 2, 1e-12)


def codes_used(encode: Callable[[Image], Any], pictures: PictureSet, most: int = 12_000) -> dict[str, dict[str, float]]:
    """Return, for each code that is shares of a list, how much of the list is in use and how it agrees with labels.

    `encode` returns the codes of pictures. Up to `most` pictures are read, evenly spread: with few of them, codes
    agree with labels by chance. "by chance" is the same agreement after the labels were shuffled.
    """
    n = min(len(pictures), most)
    chosen = [i * len(pictures) // n for i in range(n)]
    read: dict[str, list[Tensor]] = {}
    for start in range(0, n, BLOCK):
        codes = encode(pictures.get(chosen[start : start + BLOCK]).image)
        for name in codes.__dataclass_fields__:
            shares = getattr(codes, name)
            if shares is not None and shares.ndim == 2 and shares.min() >= 0 and (shares.sum(1) - 1).abs().max() < 1e-3:
                read.setdefault(name, []).append(shares.cpu())
        if not read:
            return {}
    labels = pictures.labels[chosen]
    shuffled = labels[torch.randperm(n, generator=torch.Generator().manual_seed(0))]
    result = {}
    for name, parts in read.items():
        shares = torch.cat(parts)
        if len(shares) < n:  # shares by accident, in some blocks
            continue
        hard = shares.argmax(1)
        found = {"values": float(shares.shape[1]), "perplexity": perplexity(shares), "pictures": float(n)}
        found["perplexity_of_choices"] = perplexity(torch.nn.functional.one_hot(hard, shares.shape[1]).float())
        if len(pictures.label_names) > 1:
            for ending, truth in (("", labels), ("_by_chance", shuffled)):
                found[f"accuracy{ending}"] = clustering_accuracy(hard, truth)
                found[f"nmi{ending}"] = normalised_information(hard, truth)
        result[name] = found
    return result
