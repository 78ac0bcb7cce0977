"""Losses of the published MixNMatch (Sec. 3) and of FineGAN (Sec. 3), each a mean over the batch.

x is a photo, y = (z, b, p, c) a draw from the prior, G(y) its picture with layers B, P_f, P_m, C_f, C_m, and E(x) the
codes read from x. Symbol -> where it is computed (weights in `LossConfig`, phases in `Recipe`):

    L_b    -log D_b(x) on patches outside the box, -log(1 - D_b(B)); patches classified as background or object
           `background_discriminator_loss`; G's side: `as_real` in `Recipe.generator_losses`
    L_p    -log D_p(p | P_f P_m): shape codes read from the parent's masked foreground; `generator_losses`, "shape"
    L_c    -log D_c(c | C_f C_m): texture codes, "texture"; and D_c(x) against D_c(G(y)): `as_real`, `as_fake`
    L_bi   sum over k in z, b, p, c of D_k(G(y), y_k) - D_k(x, E_k(x)): pairs of image and code, Wasserstein, by the
           critics of `PairCritics`; their gradient penalty: `gradient_penalty`
    L_code |E_z(G(y)) - z| and -log E_k(y_k | G(y)) for k in b, p, c, on free codes y: `code_losses`
    L_S    |S(G(y)) - F(y)|, F the parent feature, and D_F(F(y)) against D_F(S(x)): the second stage (Sec. 3.4),
           `Recipe.extractor_losses`, `Recipe.feature_discriminator_losses`

Discriminators give logits; -log sigmoid(x) = softplus(-x) is the published binary cross entropy.
"""

from collections.abc import Mapping

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mixnmatch.codes import Codes
from mixnmatch.paper.discriminators import CELLS, PATCH, STRIDE, VIEW, PairCritics
from mixnmatch.paper.encoders import CODES
from training.runtime.distributed import batch_mean
from training.runtime.sharded_random import rand
from training.types import Boxes, Image


def as_real(logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the mean of -log sigmoid(logits): the loss of a discriminator, or of G, for taking these for fake."""
    return F.softplus(-logits).mean()


def as_fake(logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return the mean of -log(1 - sigmoid(logits)): the loss of a discriminator for taking these for real."""
    return F.softplus(logits).mean()


def background_cells(box: Boxes) -> Float[Tensor, "n 1 24 24"]:
    """Return 1 for each cell of D_b whose patch misses the box (FineGAN Sec. 3), else 0.

    Patch k spans pixels [4k, 4k + 34]; touching counts as meeting. A box without area has no object in it.
    """
    start = STRIDE * torch.arange(CELLS, device=box.device)  # first pixel of each patch
    x0, y0, x1, y1 = (VIEW * box).unbind(1)

    def meets(low: Float[Tensor, " n"], high: Float[Tensor, " n"]) -> Tensor:
        return (start + PATCH >= low[:, None]) & (start <= high[:, None]) & (high > low)[:, None]

    hit = meets(y0, y1)[:, :, None] & meets(x0, x1)[:, None, :]
    return (~hit)[:, None].to(box.dtype)


def background_discriminator_loss(
    real: Float[Tensor, "n 1 24 24"],
    fake: Float[Tensor, "n 1 24 24"],
    background: Float[Tensor, "n 1 24 24"],
    cells: Float[Tensor, "n 1 24 24"],
) -> tuple[Float[Tensor, ""], Float[Tensor, ""]]:
    """Return D_b's two losses, L_b: real background patches against fake ones, background against object patches.

    `real` and `background` are its logits of the photo, `cells` says which of them are background. A batch without any
    background patch has no real term.
    """
    of_real = batch_mean((cells * F.softplus(-real)).mean()) / batch_mean(cells.mean()).clamp(min=1 / cells.numel())
    return of_real + as_fake(fake), F.binary_cross_entropy_with_logits(background, cells)


def gradient_penalty(
    critics: PairCritics,
    real: tuple[Image, Mapping[str, Tensor]],
    fake: tuple[Image, Mapping[str, Tensor]],
    rng: torch.Generator,
) -> Float[Tensor, ""]:
    """Return WGAN-GP's penalty at random mixes of real and fake pairs: sum of mean (|gradient| - 1)^2.

    The sum is over the four critics, for the picture and for the code of each. Each row of the picture and of each code
    is mixed at its own place. Every critic is given the same pictures as a tensor of its own, so that one call yields
    all eight gradients.
    """

    def mix(a: Tensor, b: Tensor) -> Tensor:
        t = rand(len(a), *[1] * (a.ndim - 1), rng=rng).to(a)
        return t * a.detach() + (1 - t) * b.detach()

    image = mix(real[0], fake[0])
    images = {k: image.clone().requires_grad_() for k in CODES}
    codes = {k: mix(real[1][k], fake[1][k]).requires_grad_() for k in CODES}
    scores = torch.stack([critics[k](images[k], codes[k], rng).sum() for k in CODES]).sum()
    gradients = torch.autograd.grad(scores, [*images.values(), *codes.values()], create_graph=True)
    norms = [(g.flatten(1).square().sum(1) + 1e-16).sqrt() for g in gradients]  # differentiable at 0
    return torch.stack([(norm - 1).square().mean() for norm in norms]).sum()


def code_losses(read: Mapping[str, Tensor], codes: Codes) -> dict[str, Float[Tensor, ""]]:
    """Return how far the codes read from pictures are from those they were generated from (Sec. 3.2).

    L1 for z; cross entropy for b, p and c, of which `read` holds logits.
    """
    return {k: F.l1_loss(read[k], codes.z) if k == "z" else F.cross_entropy(read[k], getattr(codes, k)) for k in CODES}
