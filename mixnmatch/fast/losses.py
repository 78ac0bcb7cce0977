"""Losses of the `fast` MixNMatch: where each of the paper's is computed, and the functions that they are made of.

Paper: binary cross entropy and WGAN-GP; here the non-saturating logistic loss with lazy R1, and losses on the masks,
of which the paper has none. Symbols are those of `mixnmatch.paper.losses`: x is a photo, y = (z, b, p, c, z_background)
a draw from the prior, G(y) its picture with layers B, P_f, P_m, C_f, C_m, f the parent feature. D and G are methods of
`DiscriminatorLosses` and `GeneratorLosses`, names in quotes are the terms that they return:

    L_b    -log D_b(x) on patches outside the box, -log(1 - D_b(B)); patches classified as background or object
           D: `background_discriminator`; G: `first_stage`, "background", "background_class"
    L_p    -log D_p(p | grey object, mask), L_c: -log D_c(c | C_f C_m), and the same for b: G: `code_classification`
    L_c    -log D_c(x) - log(1 - D_c(G(y))): D: `image_discriminator`; G: `first_stage`, "image"
    L_bi   mean over k of -log D_k(G(y), y_k) - log(1 - D_k(x, E_k(x))): D: `pair_discriminator`; G and E, with D_k and
           1 - D_k exchanged: `first_stage`, "pair"
    L_code |E_z(G(y)) - z|^2 and -log E_k(y_k | G(y)) for k in b, p, c, on free codes y: G: `code_losses`
    L_S    |S(G(y)) - f| and -log D_f(f) - log(1 - D_f(S(x))): G: `second_stage`; D: `feature_discriminator`
    R1     gamma / 2 E |grad D|^2: D: the methods called `..._penalty`

All other terms are not in the paper; their docstrings in `LossConfig` and in the methods say what each is for.
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
    """Return 1 for the cells of a patch discriminator whose patch misses the object's box, 0 for the others.

    Cell k sees the pixels [`stride` k, `stride` k + `field`) of `side`.
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
    """Return relu(1/2 - area of C_m / area of P_m), mean over pictures: 0 where the texture covers half of the
    shape."""
    share = child.sum((1, 2, 3)) / parent.sum((1, 2, 3)).clamp(min=1e-3)
    return F.relu(0.5 - share).mean()


def binary(mask: Mask) -> Scalar:
    """Return mean min(m, 1 - m) / mean m: how half-transparent the object is, relative to its area."""
    return torch.minimum(mask, 1 - mask).mean() / batch_mean(mask.detach().mean()).clamp(min=0.02)


def coverage(boxes: Float[Tensor, "m 4"], side: int) -> Float[Tensor, "side side"]:
    """Return, for each pixel, the share of boxes that cover its centre."""
    return inside(boxes, side).mean((0, 1))


def containment(mask: Mask, boxes: Float[Tensor, "m 4"]) -> Scalar:
    """Return the share of the masks outside the union of the batch's real boxes, which belong to other pictures."""
    outside = (batch_mean(coverage(boxes, mask.shape[-1])) == 0).float()
    return (mask * outside).mean() / batch_mean(mask.detach().mean()).clamp(min=1 / mask.numel())


def relief(image: Image, mask: Mask) -> Float[Tensor, "n 1 h w"]:
    """Return the grey object, brightness normalised to mean 0 and standard deviation 1 inside the mask, 0 outside."""
    grey, weight = image.mean(1, keepdim=True), mask.sum((2, 3), keepdim=True).clamp(min=1)
    grey = (grey - (grey * mask).sum((2, 3), keepdim=True) / weight) * mask
    return grey / ((grey.square()).sum((2, 3), keepdim=True) / weight + 0.01).sqrt()


def shading_consistency(parent: Image, image: Image, mask: Mask) -> Scalar:
    """Return the L1 distance, inside the mask, of the parent's grey picture to the final picture without colour.

    Paper: none; here P_f shows the object's shading. No gradient reaches the final picture.
    """
    grey = image.detach().mean(1, keepdim=True)
    mask = mask.detach()
    return ((parent - grey).abs() * mask).mean() / batch_mean(mask.mean()).clamp(min=0.02)


def perimeter(mask: Mask, most: float) -> Scalar:
    """Return relu(perimeter / sqrt(area) - `most`) of each mask, mean over pictures.

    The perimeter is measured along rows and columns: a square has 4, a disc 4.5, a shirt with sleeves 6 to 7, a mask
    full of holes 15 or more.
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
    """Return the distance of each mask's projections to its box's (BoxInst Eq. 2): 0 if the mask just fills its box.

    A projection is the largest value in each row, or in each column; the distance is the mean absolute difference.
    """
    target = inside(boxes, mask.shape[-1])
    rows = (mask.amax(3) - target.amax(3)).abs().mean()
    return rows + (mask.amax(2) - target.amax(2)).abs().mean()


def scale_gradient(x: Tensor, share: float) -> Tensor:
    """Return `x` unchanged; its gradient is multiplied by `share`."""
    return x * share + x.detach() * (1 - share)


def two_candidates(shares: Float[Tensor, "n kinds"], rng: torch.Generator) -> Int[Tensor, "n 2"]:
    """Return two different classes a row, drawn by its probabilities without replacement (Gumbel top-2, Kool et al.
    2019)."""
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
        """Update the averages with a batch of shape probabilities, each counted as its most likely shape."""
        read = F.one_hot(shares.argmax(1), len(self.shares)).float()
        self.shares.lerp_(batch_mean(read.mean(0)), 0.01)

    @property
    def excess(self) -> Float[Tensor, " kinds"]:
        """Return log(share * number of shapes), the share's ratio to uniform use clamped to [0.1, 10]."""
        return (self.shares * len(self.shares)).clamp(0.1, 10).log()


def balanced(n: int, kinds: int, rng: torch.Generator) -> Int[Tensor, " n"]:
    """Return `n` draws from `kinds` classes; how often they are drawn differs by at most one."""
    rounds = -(-n // kinds)
    return torch.cat([torch.randperm(kinds, generator=rng) for _ in range(rounds)])[:n]


def jitter(layer: Float[Tensor, "n c h w"], rng: torch.Generator, *, noise: float = 0.05) -> Float[Tensor, "n c h w"]:
    """Return layers mirrored at random, shifted together by up to an eighth of the side, with noise added.

    So the generator cannot encode a class in single pixels.
    """
    n, side = layer.shape[0], layer.shape[-1]
    flip = (rand(n, rng=rng) < 0.5).to(layer.device)[:, None, None, None]
    layer = torch.where(flip, layer.flip(-1), layer)
    shift = torch.randint(-side // 8, side // 8 + 1, (2,), generator=rng).tolist()
    layer = torch.roll(layer, shift, (2, 3))
    return layer + noise * randn(*layer.shape, rng=rng).to(layer.device)
