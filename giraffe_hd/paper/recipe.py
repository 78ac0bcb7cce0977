"""How GIRAFFE HD (Xue et al., CVPR 2022, Sec. 3.3 and 4) and GIRAFFE (2021, Sec. 3.4) learn."""

from dataclasses import dataclass, field, replace

import torch
from torch import nn

from giraffe_hd.codes import Codes
from giraffe_hd.fast.losses import binarisation
from giraffe_hd.giraffe2021.generator import Generator as GiraffeGenerator
from giraffe_hd.paper.config import GeneratorConfig, GiraffeConfig
from giraffe_hd.paper.discriminator import DCDiscriminator, Discriminator, ResidualBlock
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.losses import bbox_containment, coverage
from giraffe_hd.paper.renderer import StyledConv
from training import types
from training.batched import repeat, rows
from training.config import DataConfig, LoopConfig
from training.nn.gan import discriminator_loss, generator_loss, r1_penalty
from training.runtime.sharded_random import sampled
from training.types import Batch, Image, Phase, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All that training GIRAFFE HD depends on; the authors' values, loss weights being CompCar's."""

    family: str = "giraffe_hd_paper"
    loop: LoopConfig = field(default_factory=LoopConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator_multiplier: int = 2
    """Channel multiplier of the discriminator."""
    lr: float = 5e-4
    """Adam's, of both networks; the mapping networks' layers slow themselves down."""
    r1: float = 10.0
    r1_every: int = 16
    bbox: float = 14.0
    """Weight of containment in the projected box."""
    bbox_pad: float = 0.1
    bbox_pad_ramp: int = 160_000
    """Pictures over which the box's margin grows to `bbox_pad`: 10,000 steps of 16."""
    cvg: float = 14.0
    min_ratio: float = 0.3
    """Weight of coverage, and the share of all pixels that masks should cover."""
    bin: float = 4.0
    """Weight of binarisation."""
    recompute: bool = False
    """Compute activations of the renderers and the discriminator twice instead of keeping them: less memory."""

    def __post_init__(self) -> None:
        if self.data.size != self.generator.size:
            raise ValueError(
                f"pictures of {self.data.size} px cannot train a generator of {self.generator.size}; give data.size "
                f"and generator.size the same value"
            )
        if self.loop.batch > 4 and self.loop.batch % 4:
            raise ValueError(
                f"loop.batch is {self.loop.batch}; the discriminator compares groups of 4, so 4, 8, 12, ..."
            )


class Recipe:
    """GIRAFFE HD: a critic of whole pictures, and three losses on the mask."""

    mask_options = {"nothing": "--cvg, --min-ratio", "everything": "--bbox", "soft": "--bin"}  # noqa: RUF012 (read only)

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.generator = Generator(config.generator).to(device)
        self.discriminator = Discriminator(config.generator.size, config.discriminator_multiplier).to(device)
        self.networks = nn.ModuleDict({"generator": self.generator, "discriminator": self.discriminator})
        if config.loop.bf16:
            self.generator.precision = torch.bfloat16
        for module in self.networks.modules():
            if isinstance(module, StyledConv | ResidualBlock):
                module.recompute = config.recompute
        self.shown = self.generator.sample(40, torch.Generator().manual_seed(0))

    def phases(self) -> list[Phase]:
        """Return discriminator, R1 on every 16th step as a step of its own, generator."""
        c = self.config
        # authors' program: neither rate nor betas are corrected for the lazy R1, unlike StyleGAN2's; kept
        d = torch.optim.Adam(self.discriminator.parameters(), lr=c.lr, betas=(0.0, 0.99))
        g = torch.optim.Adam(self.generator.parameters(), lr=c.lr, betas=(0.0, 0.99))
        return [
            Phase(name="D", network=self.discriminator, optimizer=d, losses=self.discriminator_losses),
            Phase(name="R1", network=self.discriminator, optimizer=d, losses=self.r1_losses, every=c.r1_every),
            Phase(name="G", network=self.generator, optimizer=g, losses=self.generator_losses),
        ]

    def begin(self, batch: Batch, step: Step) -> None:
        """Nothing is shared: each network's step draws its own pictures."""

    def judge(self, image: Image) -> torch.Tensor:
        """Return the discriminator's logits (n,), in bfloat16 inside where the run wants it."""
        with torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.loop.bf16):
            return self.discriminator(image).float()

    def discriminator_losses(self, batch: Batch, step: Step) -> dict[str, torch.Tensor]:
        """Return the adversarial term, on fresh pictures."""
        with torch.no_grad():
            fake = self.generator(self._draw(batch, step), rng=step.rng).image
        return {"adversarial": discriminator_loss(self.judge(batch.image), self.judge(fake))}

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
            "adversarial": generator_loss(self.judge(layers.image)),
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


@dataclass(frozen=True, kw_only=True, slots=True)
class GiraffeTrainConfig:
    """All that training GIRAFFE (2021) depends on; the authors' values."""

    family: str = "giraffe"
    loop: LoopConfig = field(default_factory=LoopConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generator: GiraffeConfig = field(default_factory=GiraffeConfig)
    lr_generator: float = 5e-4
    """RMSprop's; the authors halve it at 256 px."""
    lr_discriminator: float = 1e-4
    r1: float = 10.0
    """Of the whole penalty, not of its half, in every step."""

    def __post_init__(self) -> None:
        if self.data.size != self.generator.size:
            raise ValueError(
                f"pictures of {self.data.size} px cannot train a generator of {self.generator.size}; give data.size "
                f"and generator.size the same value"
            )


class GiraffeRecipe:
    """GIRAFFE: an adversarial loss and R1, nothing else."""

    def __init__(self, config: GiraffeTrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.generator = GiraffeGenerator(config.generator).to(device)
        self.discriminator = DCDiscriminator(config.generator.size).to(device)
        self.networks = nn.ModuleDict({"generator": self.generator, "discriminator": self.discriminator})
        self.shown = self.generator.sample(32, torch.Generator().manual_seed(0))

    def phases(self) -> list[Phase]:
        """Return generator, then discriminator with R1, as the authors order them."""
        c = self.config
        g = torch.optim.RMSprop(self.generator.parameters(), lr=c.lr_generator)
        d = torch.optim.RMSprop(self.discriminator.parameters(), lr=c.lr_discriminator)
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
