"""Losses of the `fast` MixNMatch, each small enough to work by hand.

Paper: binary cross entropy and WGAN-GP; here the non-saturating logistic loss with lazy R1, and losses on the masks,
which the paper leaves alone.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float, Int
from torch import Tensor, nn

from training.runtime.distributed import batch_mean
from training.runtime.sharded_random import rand, randn
from training.types import Boxes, Image, Mask

Scalar = Float[Tensor, ""]


def cell_weights(boxes: Boxes, *, side: int, cells: int, field: int, stride: int) -> Float[Tensor, "n cells cells"]:
    """Return 1 for the cells of a patch discriminator that see nothing of the object's box, 0 for the others.

    Cell k sees the pixels from `stride` k up to, not including, `stride` k + `field` of `side`.
    """
    start = torch.arange(cells, device=boxes.device) * stride
    edges = boxes * side

    def clear(low: Tensor, high: Tensor) -> Tensor:
        return (start[None] + field <= low[:, None]) | (start[None] >= high[:, None])

    x0, y0, x1, y1 = edges.unbind(1)
    return (clear(y0, y1)[:, :, None] | clear(x0, x1)[:, None, :]).float()


def shrunk(boxes: Boxes, share: float) -> Boxes:
    """Return boxes about the same centres with sides shorter by `share`."""
    centre = (boxes[:, :2] + boxes[:, 2:]).repeat(1, 2) / 2
    return centre + (boxes - centre) * (1 - share)


def weighted_mean(values: Tensor, weights: Tensor) -> Scalar:
    """Return the mean of `values` by `weights`; 0 where no weight is above 0."""
    return batch_mean((values * weights).mean()) / batch_mean(weights.mean()).clamp(min=1 / weights.numel())


def area(mask: Mask, ends: tuple[float, float]) -> Scalar:
    """Return how far each mask's share of its picture lies outside `ends`, mean over pictures."""
    share = mask.mean((1, 2, 3))
    return (F.relu(ends[0] - share) + F.relu(share - ends[1])).mean()


def child_area(child: Mask, parent: Mask) -> Scalar:
    """Return relu(1/2 - child's area over parent's), mean over pictures: the texture covers half of the shape."""
    share = child.sum((1, 2, 3)) / parent.sum((1, 2, 3)).clamp(min=1e-3)
    return F.relu(0.5 - share).mean()


def binary(mask: Mask) -> Scalar:
    """Return the mean of min(m, 1 - m) over the mean of m: the share of the object that is half transparent."""
    return torch.minimum(mask, 1 - mask).mean() / batch_mean(mask.detach().mean()).clamp(min=0.02)


def coverage(boxes: Float[Tensor, "m 4"], side: int) -> Float[Tensor, "side side"]:
    """Return, for each pixel, the share of boxes that cover its centre."""
    return inside(boxes, side).mean((0, 1))


def containment(mask: Mask, boxes: Float[Tensor, "m 4"]) -> Scalar:
    """Return the share of the masks that lies where no real box of the batch does (statistics of boxes, not pairs)."""
    outside = (batch_mean(coverage(boxes, mask.shape[-1])) == 0).float()
    return (mask * outside).mean() / batch_mean(mask.detach().mean()).clamp(min=1 / mask.numel())


def relief(image: Image, mask: Mask) -> Float[Tensor, "n 1 h w"]:
    """Return the object in grey, its brightness of mean 0 and deviation 1 inside the mask, and 0 outside."""
    grey, weight = image.mean(1, keepdim=True), mask.sum((2, 3), keepdim=True).clamp(min=1)
    grey = (grey - (grey * mask).sum((2, 3), keepdim=True) / weight) * mask
    return grey / ((grey.square()).sum((2, 3), keepdim=True) / weight + 0.01).sqrt()


def shading_consistency(parent: Image, image: Image, mask: Mask) -> Scalar:
    """Return how far the shape's picture is, in the mask, from the finished one without colour: shape as clay, which
    the paper leaves to chance. The finished picture learns nothing from it."""
    grey = image.detach().mean(1, keepdim=True)
    mask = mask.detach()
    return ((parent - grey).abs() * mask).mean() / batch_mean(mask.mean()).clamp(min=0.02)


def perimeter(mask: Mask, most: float) -> Scalar:
    """Return how far the length of each mask's outline, over the root of its area, is above `most`, mean over pictures.

    Lengths go along rows and columns: a square has 4, a disc 4.5, a shirt with sleeves 6 to 7, lace 15 and more.
    """
    length = mask.diff(dim=2).abs().sum((1, 2, 3)) + mask.diff(dim=3).abs().sum((1, 2, 3))
    return F.relu(length / mask.sum((1, 2, 3)).clamp(min=1).sqrt() - most).mean()


def inside(boxes: Float[Tensor, "n 4"], side: int) -> Float[Tensor, "n 1 side side"]:
    """Return 1 for the pixels whose centre each box covers, 0 for the others."""
    centre = (torch.arange(side, device=boxes.device) + 0.5) / side
    x0, y0, x1, y1 = boxes.unbind(1)
    wide = (centre >= x0[:, None]) & (centre <= x1[:, None])
    high = (centre >= y0[:, None]) & (centre <= y1[:, None])
    return (high[:, None, :, None] & wide[:, None, None, :]).float()


def box_projection(mask: Mask, boxes: Boxes) -> Scalar:
    """Return how far each mask is from touching all sides of its box and leaving none (projections, BoxInst Eq. 2).

    The mask's largest value in each row and in each column is held against the box's, mean absolute difference.
    """
    target = inside(boxes, mask.shape[-1])
    rows = (mask.amax(3) - target.amax(3)).abs().mean()
    return rows + (mask.amax(2) - target.amax(2)).abs().mean()


def multiscale_l1(fake: Image, real: Image) -> Float[Tensor, " n"]:
    """Return the mean absolute difference of each picture's pixels, at full size and halved twice."""
    total = (fake - real).abs().mean((1, 2, 3))
    for _ in range(2):
        fake, real = F.avg_pool2d(fake, 2), F.avg_pool2d(real, 2)
        total = total + (fake - real).abs().mean((1, 2, 3))
    return total


def scale_gradient(x: Tensor, share: float) -> Tensor:
    """Return `x`, through which only `share` of the gradient flows back."""
    return x * share + x.detach() * (1 - share)


def two_candidates(shares: Float[Tensor, "n kinds"], rng: torch.Generator) -> Int[Tensor, "n 2"]:
    """Return two different kinds a row, drawn by its shares without replacement (Gumbel top-2, Kool et al. 2019)."""
    noise = -rand(*shares.shape, rng=rng).clamp(1e-9, 1 - 1e-7).log().neg().log().to(shares.device)
    return (shares.detach().clamp_min(1e-9).log() + noise).topk(2, dim=1).indices


class Usage(nn.Module):
    """How often photos are read as each shape, averaged over about a hundred batches."""

    shares: Tensor

    def __init__(self, kinds: int) -> None:
        super().__init__()
        self.register_buffer("shares", torch.full((kinds,), 1 / kinds))

    @torch.no_grad()
    def update(self, shares: Float[Tensor, "n kinds"]) -> None:
        """Take in the shares of shapes read from photos, each of which counts as its likeliest one."""
        read = F.one_hot(shares.argmax(1), len(self.shares)).float()
        self.shares.lerp_(batch_mean(read.mean(0)), 0.01)

    @property
    def excess(self) -> Float[Tensor, " kinds"]:
        """Return the logarithm of each share over an equal one, within a tenth and ten times."""
        return (self.shares * len(self.shares)).clamp(0.1, 10).log()


def balanced(n: int, kinds: int, rng: torch.Generator) -> Int[Tensor, " n"]:
    """Return `n` draws from `kinds`, each as often as the others, or once more."""
    rounds = -(-n // kinds)
    return torch.cat([torch.randperm(kinds, generator=rng) for _ in range(rounds)])[:n]


def jitter(layer: Float[Tensor, "n c h w"], rng: torch.Generator, *, noise: float = 0.05) -> Float[Tensor, "n c h w"]:
    """Return layers mirrored at random, all shifted alike by up to an eighth, with faint noise: no hidden code."""
    n, side = layer.shape[0], layer.shape[-1]
    flip = (rand(n, rng=rng) < 0.5).to(layer.device)[:, None, None, None]
    layer = torch.where(flip, layer.flip(-1), layer)
    shift = torch.randint(-side // 8, side // 8 + 1, (2,), generator=rng).tolist()
    layer = torch.roll(layer, shift, (2, 3))
    return layer + noise * randn(*layer.shape, rng=rng).to(layer.device)
