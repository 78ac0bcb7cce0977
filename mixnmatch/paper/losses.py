"""Losses of the published MixNMatch (Sec. 3) and of FineGAN (Sec. 3), each a mean over the batch.

x is a photo, y = (z, b, p, c) a draw from the prior, G(y) its picture with layers B, P_f, P_m, C_f, C_m, f the parent
feature (the symbols of `mixnmatch.paper.generator`), and E(x) the codes read from x. Symbol -> where it is computed;
methods are those of `mixnmatch.paper.recipe.Recipe`, names in quotes are the terms that they return:

    L_b    -log D_b(x) on patches outside the box, -log(1 - D_b(B)); patches classified as background or object
           (FineGAN Sec. 3): `background_discriminator_loss`; G: `generator_losses`, "background_..."
    L_p    -log D_p(p | P_f P_m): shape codes read from the parent's masked foreground; `generator_losses`, "shape"
    L_c    -log D_c(c | C_f C_m): texture codes; `generator_losses`, "texture";
           -log D_c(x) - log(1 - D_c(G(y))): `child_discriminator_losses`; G: `generator_losses`, "image_real"
    L_bi   sum over k in z, b, p, c of D_k(G(y), y_k) - D_k(x, E_k(x)) (Sec. 3.2; one D_k a code, Sec. 3.3): pairs of
           image and code; `pair_critics_losses`, by the critics of `PairCritics`, with the penalty `gradient_penalty`;
           G and E minimise the negative: `generator_losses`, "pairs_read", "pairs_fake"
    L_code |E_z(G(y)) - z| and -log E_k(y_k | G(y)) for k in b, p, c, on free codes y (Sec. 3.3): `code_losses`
    L_S    |S(G(y)) - f| and -log D_f(f) - log(1 - D_f(S(x))): the second stage (Sec. 3.4);
           `extractor_losses`, `feature_discriminator_losses`

G and E minimise their side of L_b + L_p + L_c - L_bi + L_code, weighted by `LossConfig`. D_b, D_p, D_c, D_f give
logits: softplus(-x) = -log sigmoid(x) is the published binary cross entropy. The D_k of L_bi are Wasserstein critics.
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
    """Return mean -log sigmoid(logits): -log D(x) of a discriminator on real inputs, -log D(G(y)) of the generator."""
    return F.softplus(-logits).mean()


def as_fake(logits: Float[Tensor, "..."]) -> Float[Tensor, ""]:
    """Return mean -log(1 - sigmoid(logits)): -log(1 - D(G(y))) of a discriminator on generated inputs."""
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
    """Return D_b's two terms of L_b, with w = `cells`, 1 on patches outside the box:

    sum w -log D_b(x) / sum w + mean -log(1 - D_b(B)), and the cross entropy of w under D_b's classes, mean over
    patches. `real` and `background` are its logits of the photo, `fake` those of the generated background B. In a batch
    without background patches the first sum is 0.
    """
    of_real = batch_mean((cells * F.softplus(-real)).mean()) / batch_mean(cells.mean()).clamp(min=1 / cells.numel())
    return of_real + as_fake(fake), F.binary_cross_entropy_with_logits(background, cells)


def gradient_penalty(
    critics: PairCritics,
    real: tuple[Image, Mapping[str, Tensor]],
    fake: tuple[Image, Mapping[str, Tensor]],
    rng: torch.Generator,
) -> Float[Tensor, ""]:
    """Return the penalty of L_bi: sum_k mean (|grad_x D_k| - 1)^2 + mean (|grad_y D_k| - 1)^2 (WGAN-GP, Gulrajani et
    al. 2017).

    The gradients are taken at t real + (1 - t) fake, t uniform for each row of the picture and of each code. Every
    critic gets its own copy of the pictures, so that one call of autograd yields all eight gradients.
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
    """Return the terms of L_code by code: mean |E_z(G(y)) - z|, and mean -log E_k(y_k | G(y)) for b, p and c (Sec.
    3.3).

    `read` holds E_z's values and the logits of the other encoders.
    """
    return {k: F.l1_loss(read[k], codes.z) if k == "z" else F.cross_entropy(read[k], getattr(codes, k)) for k in CODES}
