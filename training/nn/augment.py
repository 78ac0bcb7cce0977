"""Adaptive discriminator augmentation for small sets (ADA, Karras et al. 2020)."""

from collections.abc import Sequence
from typing import Literal

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.runtime.distributed import batch_mean, size
from training.runtime.sharded_random import rand, shard_of, sharded_generator
from training.types import Image

Kind = Literal["colour", "shift", "cutout"]
KINDS: tuple[Kind, ...] = ("colour", "shift", "cutout")


def augment(image: Image, chance: float, rng: torch.Generator, kinds: Sequence[Kind] = KINDS) -> Image:
    """Return pictures with colour, shift and cutout each applied with probability `chance` (DiffAugment, Zhao et al.
    2020).

    Differentiable. With chance 0 the pictures are returned unchanged and nothing is drawn from `rng`.
    """
    if chance == 0:
        return image
    n, side = image.shape[0], image.shape[-1]

    def draw(*shape: int) -> Tensor:
        return rand(n, *shape, rng=rng).to(image.device)

    chosen = (draw(3) < chance).float() * torch.tensor([float(kind in kinds) for kind in KINDS], device=image.device)
    # colour: brightness by up to 0.25, saturation and contrast by up to a half
    amount = chosen[:, :1, None, None]
    image = image + (draw(1, 1, 1) - 0.5) * 0.5 * amount
    grey = image.mean(1, keepdim=True)
    image = grey + (image - grey) * (1 + (draw(1, 1, 1) - 0.5) * amount)
    level = image.mean((1, 2, 3), keepdim=True)
    image = level + (image - level) * (1 + (draw(1, 1, 1) - 0.5) * amount)
    # shift by up to an eighth, edges repeated
    shift = ((draw(2) - 0.5) * side / 4).round().long() * chosen[:, 1:2].long()
    line = torch.arange(side, device=image.device)
    rows = (line + shift[:, :1]).clamp(0, side - 1)
    columns = (line + shift[:, 1:]).clamp(0, side - 1)
    image = image.gather(2, rows[:, None, :, None].expand_as(image))
    image = image.gather(3, columns[:, None, None, :].expand_as(image))
    # a grey square of half the side
    centre = draw(2) * side
    inside = ((line - centre[:, :1]).abs() < side / 4)[:, :, None] & ((line - centre[:, 1:]).abs() < side / 4)[:, None]
    return image * (1 - inside[:, None] * chosen[:, 2, None, None, None])


def augment_alike(images: Sequence[Image], chance: float, rng: torch.Generator) -> list[Image]:
    """Return batches of pictures with row k of each augmented alike, so that photos and reconstructions correspond."""
    part, parts = shard_of(rng)
    seed = int(torch.randint(2**31, (), generator=rng))
    return [augment(image, chance, sharded_generator(seed, part, parts)) for image in images]


class AdaptiveChance(nn.Module):
    """The probability of augmentations: it rises while r_t = E[sign D(x)] of real pictures x is above its target.

    r_t = 1 for a discriminator that has memorised its training pictures (ADA Sec. 3.2).
    """

    chance: Tensor
    sure: Tensor
    """r_t, averaged over about four batches."""

    def __init__(self, target: float, *, reach: int = 100_000, most: float = 0.8) -> None:
        """`reach`: pictures over which the chance can rise from 0 to 1 (ADA: 500,000); `most`: its limit (ADA: 0.8)."""
        super().__init__()
        if not 0 < target < 1:
            raise ValueError(f"the target of augmentation is {target}; expected between 0 and 1, such as 0.6")
        self.target, self.reach, self.most = target, reach, most
        self.register_buffer("chance", torch.zeros(()))
        self.register_buffer("sure", torch.zeros(()))

    @torch.no_grad()
    def update(self, real: Float[Tensor, " n"]) -> dict[str, Tensor]:
        """Update r_t and the chance by the discriminator's logits of real pictures; return both for the log."""
        self.sure.lerp_(batch_mean(real.sign().float().mean()).to(self.sure), 0.25)
        step = len(real) * size() / self.reach
        self.chance.add_(torch.sign(self.sure - self.target) * step).clamp_(0, self.most)
        return {"augment/chance": self.chance.clone(), "augment/r_t": self.sure.clone()}
