"""How GIRAFFE learns (Niemeyer and Geiger, CVPR 2021, Sec. 3.4)."""

import torch
from torch import nn

from giraffe_hd.giraffe2021.config import TrainConfig
from giraffe_hd.giraffe2021.discriminator import DCDiscriminator
from giraffe_hd.giraffe2021.generator import Generator
from training import types
from training.batched import rows
from training.nn.gan import discriminator_loss, generator_loss, r1_penalty
from training.runtime.sharded_random import sampled
from training.types import Batch, Image, Phase, Step


class Recipe:
    """GIRAFFE: an adversarial loss and R1, nothing else."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.generator = Generator(config.generator).to(device)
        self.discriminator = DCDiscriminator(config.generator.resolution).to(device)
        self.networks = nn.ModuleDict({"generator": self.generator, "discriminator": self.discriminator})
        self.shown = self.generator.sample(32, torch.Generator().manual_seed(0))

    def phases(self) -> list[Phase]:
        """Return generator, then discriminator with R1, as the authors order them."""
        c = self.config
        g = torch.optim.RMSprop(self.generator.parameters(), lr=c.learning_rate)
        d = torch.optim.RMSprop(self.discriminator.parameters(), lr=c.discriminator_learning_rate)
        return [
            Phase(name="G", network=self.generator, optimizer=g, losses=self.generator_losses),
            Phase(name="D", network=self.discriminator, optimizer=d, losses=self.discriminator_losses),
        ]

    def begin(self, batch: Batch, step: Step) -> None:
        """Nothing is shared: each network's step draws its own pictures."""

    def generator_losses(self, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Return the adversarial term."""
        return {"adversarial": generator_loss(self.discriminator(self._draw(batch, step)))}

    def discriminator_losses(self, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Return the adversarial term and the gradient penalty, for pictures in [0, 1] as the authors take them."""
        with torch.no_grad():
            fake = self._draw(batch, step)
        image = batch.image.detach().requires_grad_()
        real = self.discriminator(image)
        # by the chain rule the gradient for a picture in [0, 1] is twice that for ours in [-1, 1]
        penalty = 4 * r1_penalty(real, image)
        return {"adversarial": discriminator_loss(real, self.discriminator(fake)), "r1": self.config.r1 * penalty}

    def grids(self, generator: types.Generator, batch: Batch) -> dict[str, Image]:
        """Return samples, and their objects' masks."""
        eights = [generator(rows(self.shown, slice(i, i + 8))) for i in range(0, 32, 8)]
        masks = [(layers.mask * 2 - 1).expand(-1, 3, -1, -1) for layers in eights]
        return {"samples": torch.cat([layers.image for layers in eights]), "masks": torch.cat(masks)}

    def _draw(self, batch: Batch, step: Step) -> Image:
        codes = sampled(lambda n: self.generator.sample(n, step.rng), batch.image.shape[0], step.rng)
        return self.generator(codes, rng=step.rng).image
