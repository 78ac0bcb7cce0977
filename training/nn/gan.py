"""Adversarial training: the logistic loss, R1, and StyleGAN2-ADA's default rates and schedules."""

import contextlib
from collections.abc import Callable, Iterable, Iterator

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.types import Step

Scalar = Float[Tensor, ""]


def generator_loss(fake: Float[Tensor, "*n"]) -> Scalar:
    """Return the non-saturating loss, mean softplus(-D(G(z)))  (GAN Sec. 3; L_adv of GIRAFFE HD Sec. 3.3)."""
    return F.softplus(-fake).mean()


def discriminator_loss(real: Float[Tensor, "*n"], fake: Float[Tensor, "*n"]) -> Scalar:
    """Return mean softplus(-D(x)) + mean softplus(D(G(z)))."""
    return F.softplus(-real).mean() + F.softplus(fake).mean()


def r1_penalty(logits: Tensor, *inputs: Tensor) -> Scalar:
    """Return the squared gradient norm of the logits with respect to the inputs, mean over pictures.

    Mescheder et al. 2018 Eq. 9 without its factor gamma / 2.
    """
    gradients = torch.autograd.grad(logits.sum(), inputs, create_graph=True)
    squares = [gradient.float().square().sum(tuple(range(1, gradient.ndim))) for gradient in gradients]
    return torch.stack(squares).sum(0).mean()


def learning_rate(size: int) -> float:
    """Return Adam's usual learning rate for equalised networks of pictures of `size` (StyleGAN2-ADA Appendix C)."""
    return 2.5e-3 if size < 1024 else 2e-3


def r1_gamma(size: int, batch: int) -> float:
    """Return the usual weight of R1, 0.0002 size^2 / batch (StyleGAN2-ADA Appendix C)."""
    return 0.0002 * size**2 / batch


def decayed(since: int, until: int) -> Callable[[Step], float]:
    """Return a `Phase.rate` that falls, linearly from `since` to `until` pictures, to a tenth."""
    return lambda step: 1 - 0.9 * step.ramp(since, until)


@contextlib.contextmanager
def learning(parameters: Iterable[nn.Parameter]) -> Iterator[None]:
    """Enable gradients of the parameters inside the block; outside of it they are disabled."""
    parameters = list(parameters)
    for parameter in parameters:
        parameter.requires_grad_(True)
    try:
        yield
    finally:
        for parameter in parameters:
            parameter.requires_grad_(False)
