"""How GIRAFFE HD (Xue et al., CVPR 2022, Sec. 3.3 and 4) and GIRAFFE (2021, Sec. 3.4) learn."""

from dataclasses import replace

import torch
from torch import nn

from giraffe_hd.codes import Codes
from giraffe_hd.fast.losses import binarisation
from giraffe_hd.paper.config import TrainConfig
from giraffe_hd.paper.discriminator import Discriminator, ResidualBlock
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.losses import bbox_containment, coverage
from giraffe_hd.paper.renderer import StyledConv
from training import types
from training.batched import repeat, rows
from training.devices import autocast, has_bfloat16
from training.nn.gan import discriminator_loss, generator_loss, r1_penalty
from training.runtime.sharded_random import sampled
from training.types import Batch, Image, Phase, Step


class Recipe:
    """GIRAFFE HD: a discriminator of whole pictures, and three losses on the mask."""

    mask_advice = {"nothing": "--cvg, --min-ratio", "everything": "--bbox", "soft": "--bin"}  # noqa: RUF012 (read only)

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.generator = Generator(config.generator).to(device)
        self.discriminator = Discriminator(config.generator.resolution, config.discriminator_multiplier).to(device)
        self.networks = nn.ModuleDict({"generator": self.generator, "discriminator": self.discriminator})
        if config.loop.bf16 and has_bfloat16(device):
            self.generator.precision = torch.bfloat16
        for module in self.networks.modules():
            if isinstance(module, StyledConv | ResidualBlock):
                module.recompute = config.recompute
        self.shown = self.generator.sample(40, torch.Generator().manual_seed(0))

    def phases(self) -> list[Phase]:
        """Return discriminator, R1 on every 16th step as a step of its own, generator."""
        c = self.config
        # authors' program: neither rate nor betas are corrected for the lazy R1, unlike StyleGAN2's; kept
        d = torch.optim.Adam(self.discriminator.parameters(), lr=c.learning_rate, betas=(0.0, 0.99))
        g = torch.optim.Adam(self.generator.parameters(), lr=c.learning_rate, betas=(0.0, 0.99))
        return [
            Phase(name="D", network=self.discriminator, optimizer=d, losses=self.discriminator_losses),
            Phase(name="R1", network=self.discriminator, optimizer=d, losses=self.r1_losses, every=c.r1_every),
            Phase(name="G", network=self.generator, optimizer=g, losses=self.generator_losses),
        ]

    def begin(self, batch: Batch, step: Step) -> None:
        """Nothing is shared: each network's step draws its own pictures."""

    def discriminate(self, image: Image) -> torch.Tensor:
        """Return the discriminator's logits (n,), in bfloat16 inside where the run wants it."""
        with autocast(self.device, bf16=self.config.loop.bf16):
            return self.discriminator(image).float()

    def discriminator_losses(self, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Return the adversarial term, on fresh pictures."""
        with torch.no_grad():
            fake = self.generator(self._draw(batch, step), rng=step.rng).image
        return {"adversarial": discriminator_loss(self.discriminate(batch.image), self.discriminate(fake))}

    def r1_losses(self, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Return r1 / 2 times the gradient penalty on real pictures, in float32."""
        image = batch.image.detach().requires_grad_()
        return {"r1": self.config.r1 / 2 * r1_penalty(self.discriminator(image), image)}

    def generator_losses(self, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Return adversarial, containment, coverage and binarisation terms, on fresh pictures."""
        c = self.config
        codes = self._draw(batch, step)
        layers = self.generator(codes, rng=step.rng)
        silhouette = self.generator.box_silhouette(codes, pad=c.bbox_pad * step.ramp(0, c.bbox_pad_ramp))
        return {
            "adversarial": generator_loss(self.discriminate(layers.image)),
            "bbox": c.bbox * bbox_containment(layers.mask, silhouette),
            "cvg": c.cvg * coverage(layers.mask, c.min_ratio),
            "bin": c.bin * binarisation(layers.mask),
        }

    def grids(self, generator: types.Generator, batch: Batch) -> dict[str, Image]:
        """Return samples, a turn of four objects, the layers of eight, and eight shapes and looks of one."""
        eight, one = rows(self.shown, slice(0, 8)), repeat(rows(self.shown, 0), 8)
        layers = generator(eight)
        shapes = generator(replace(one, z_s_fg=self.shown.z_s_fg[8:16])).image
        looks = generator(replace(one, z_a_fg=self.shown.z_a_fg[8:16])).image
        mask = (layers.mask * 2 - 1).expand(-1, 3, -1, -1)
        return {
            "samples": torch.cat([generator(rows(self.shown, slice(i, i + 8))).image for i in (8, 16, 24, 32)]),
            "turn": torch.cat([generator(turn).image for turn in self._turns(4)]),
            "layers": torch.cat([layers.image, layers.foreground, mask, layers.background, shapes, looks]),
        }

    def _draw(self, batch: Batch, step: Step) -> Codes:
        return sampled(lambda n: self.generator.sample(n, step.rng), batch.image.shape[0], step.rng)

    def _turns(self, n: int) -> list[Codes]:
        """Return `n` shown scenes, each in eight rotations over the prior's range."""
        low, high = self.config.generator.prior.rotation
        share = torch.linspace(0, 1, 9 if high - low == 1 else 8, device=self.device)[:8]
        rotation = 2 * torch.pi * (low + (high - low) * share)
        return [replace(repeat(rows(self.shown, i), 8), rotation=rotation) for i in range(n)]
