"""Usage of codes, and their agreement with labels that were not used in training."""

import numpy as np
import torch
from jaxtyping import Float, Int
from scipy.optimize import linear_sum_assignment
from torch import Tensor


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
