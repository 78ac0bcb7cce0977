"""Statistics of features, and distances between them: Frechet (Heusel et al. 2017), kernel (Binkowski et al. 2018)."""

import numpy as np
import torch
import torch.distributed as dist
from jaxtyping import Float
from torch import Tensor


class Moments:
    """Mean and covariance of feature vectors, accumulated in float64.

    The sums' memory does not grow with the number of pictures. The kernel distance needs vectors themselves: one in
    `keep_every` is kept (0: none).
    """

    def __init__(self, *, keep_every: int = 0) -> None:
        self.keep_every = keep_every
        self.n = 0
        self.total = torch.zeros(0, dtype=torch.float64)
        self.outer = torch.zeros(0, 0, dtype=torch.float64)
        self.kept: list[Tensor] = []

    def add(self, features: Float[Tensor, "n d"]) -> None:
        """Add `n` vectors."""
        if self.n == 0:
            # MPS knows no float64; everywhere else the sums stay beside the network
            device = torch.device("cpu") if features.device.type == "mps" else features.device
            self.total = torch.zeros(features.shape[1], dtype=torch.float64, device=device)
            self.outer = self.total.new_zeros(features.shape[1], features.shape[1])
        if self.keep_every:
            self.kept.append(features[-self.n % self.keep_every :: self.keep_every].cpu())
        wide = features.to(self.total.device).double()
        self.total += wide.sum(0)
        self.outer.addmm_(wide.T, wide)
        self.n += len(features)

    def reduce(self) -> None:
        """Sum the statistics over torchrun's processes, so that each has those of all pictures."""
        if not (dist.is_available() and dist.is_initialized()):
            return
        device = torch.device("cuda") if dist.get_backend() == "nccl" else torch.device("cpu")
        counts = torch.tensor([self.n, len(self.total), len(self.vectors)], device=device)
        everyone = [torch.zeros_like(counts) for _ in range(dist.get_world_size())]
        dist.all_gather(everyone, counts)
        dim = max(int(c[1]) for c in everyone)
        if self.n == 0:  # fewer blocks of pictures than processes
            self.total, self.outer = self.total.new_zeros(dim), self.outer.new_zeros(dim, dim)
        total, outer = self.total.to(device), self.outer.to(device)
        dist.all_reduce(total)
        dist.all_reduce(outer)
        mine = torch.zeros(max(int(c[2]) for c in everyone), dim, device=device)
        mine[: len(self.vectors)] = self.vectors.to(device)
        parts = [torch.zeros_like(mine) for _ in everyone]
        dist.all_gather(parts, mine)
        self.n, self.total, self.outer = sum(int(c[0]) for c in everyone), total, outer
        self.kept = [part[: int(c[2])].cpu() for part, c in zip(parts, everyone, strict=True)]

    @property
    def mean(self) -> Float[Tensor, " d"]:
        """Mean vector, float64."""
        return self.total / self.n

    @property
    def covariance(self) -> Float[Tensor, "d d"]:
        """Unbiased covariance, float64."""
        return (self.outer - torch.outer(self.total, self.mean)) / (self.n - 1)

    @property
    def vectors(self) -> Float[Tensor, "kept d"]:
        """The kept vectors, float32, on the CPU."""
        return torch.cat(self.kept) if self.kept else torch.zeros(0, self.total.shape[0])


def frechet_distance(
    mean_1: Float[Tensor, " d"],
    covariance_1: Float[Tensor, "d d"],
    mean_2: Float[Tensor, " d"],
    covariance_2: Float[Tensor, "d d"],
) -> float:
    """Return |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2))  (Heusel et al. 2017, Eq. 6).

    The trace of the root is taken as that of (C1^(1/2) C2 C1^(1/2))^(1/2), which is symmetric: real eigenvalues, no
    general matrix root, five times faster than it.
    """
    values, basis = torch.linalg.eigh(covariance_1)
    root = (basis * values.clamp(min=0).sqrt()) @ basis.T
    inner = torch.linalg.eigvalsh(root @ covariance_2 @ root)
    trace = covariance_1.trace() + covariance_2.trace() - 2 * inner.clamp(min=0).sqrt().sum()
    return float((mean_1 - mean_2).square().sum() + trace)


def kernel_distance(
    real: Float[Tensor, "n d"], drawn: Float[Tensor, "m d"], *, subsets: int = 100, largest: int = 1000, seed: int = 0
) -> float:
    """Return the mean over random subsets of the unbiased MMD^2 under (x.y / d + 1)^3  (Binkowski et al. 2018, Sec. 4).

    Subsets are clean-fid's: as many, as large and, with numpy seeded alike, the same ones.
    """
    rng = np.random.RandomState(seed)  # clean-fid's kind of generator: both draw the same subsets
    d, m = real.shape[1], min(len(real), len(drawn), largest)
    total = 0.0
    for _ in range(subsets):
        x = drawn[rng.choice(len(drawn), m, replace=False)]
        y = real[rng.choice(len(real), m, replace=False)]
        xx, yy, xy = ((a @ b.T / d + 1).pow(3).double() for a, b in ((x, x), (y, y), (x, y)))
        within = xx.sum() - xx.trace() + yy.sum() - yy.trace()
        total += float(within / (m - 1) - 2 * xy.sum() / m)
    return total / subsets / m
