"""A discriminator on the features of a frozen, pretrained network (Projected GANs, Sauer et al., NeurIPS 2021).

Paper: hinge loss, batch norm, no penalty; here the logistic loss, no batch norm, and R1 in the space of the mixed
features, because as published it separated a few thousand photos within minutes and the generator learned nothing.
"""

import logging
import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.utils.parametrizations import spectral_norm

from training.devices import autocast, has_bfloat16
from training.nn.backbone import FrozenFeatures, load_backbone
from training.types import Batch, Image, Phase, Step

log = logging.getLogger(__name__)

MIXED = (48, 64, 128, 256)
"""Channels of the four mixed maps."""
WIDTHS = (64, 96, 128, 128)
"""Channels of the four heads."""
Scalar = Float[Tensor, ""]


class RandomMixing(nn.Module):
    """Fixed random 1 x 1 convolutions of each map, and of the next deeper one into it (Projected GANs Sec. 3.2).

    They keep a head from finding the few channels in which real and generated pictures differ most.
    """

    def __init__(self, channels: Sequence[int]) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(0)

        def fixed(out_dim: int, in_dim: int) -> Tensor:
            return torch.randn(out_dim, in_dim, 1, 1, generator=rng) / math.sqrt(in_dim)

        for i, (out_dim, in_dim) in enumerate(zip(MIXED, channels, strict=True)):
            self.register_buffer(f"across{i}", fixed(out_dim, in_dim))
            if i + 1 < len(MIXED):
                self.register_buffer(f"down{i}", fixed(out_dim, MIXED[i + 1]))

    def forward(self, maps: Sequence[Tensor]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the mixed maps, finest first: deeper ones are enlarged and added on the way down."""
        mixed = [F.conv2d(x, getattr(self, f"across{i}").to(x.dtype)) for i, x in enumerate(maps)]
        for i in range(len(mixed) - 2, -1, -1):
            below = F.conv2d(mixed[i + 1], getattr(self, f"down{i}").to(mixed[i].dtype))
            below = F.interpolate(below, size=mixed[i].shape[2:], mode="bilinear", align_corners=False)
            mixed[i] = (mixed[i] + below) * math.sqrt(0.5)
        return mixed


def head(in_dim: int, width: int, side: int) -> nn.Sequential:
    """Return convolutions of stride 2 until the map is under 5 cells wide, then one to a map of logits."""
    layers: list[nn.Module] = []
    if side < 5:
        layers += [spectral_norm(nn.Conv2d(in_dim, width, 3, padding=1)), nn.LeakyReLU(0.2)]
        in_dim = width
    while side >= 5:
        layers += [spectral_norm(nn.Conv2d(in_dim, width, 4, stride=2, padding=1)), nn.LeakyReLU(0.2)]
        in_dim, side = width, side // 2
    return nn.Sequential(*layers, spectral_norm(nn.Conv2d(in_dim, 1, 3, padding=1)))


class ProjectedDiscriminator(nn.Module):
    """Logit maps of four heads, each at its own scale of the standardised features of `FrozenFeatures`.

    Features are computed outside (`FrozenFeatures.raw`), so that one pass of a generated batch serves both sides.
    """

    def __init__(self, features: FrozenFeatures) -> None:
        super().__init__()
        self.features = features
        self.mixing = RandomMixing(features.CHANNELS)
        sides = [features.side // stride for stride in (4, 8, 16, 32)]
        self.heads = nn.ModuleList(head(*each) for each in zip(MIXED, WIDTHS, sides, strict=True))

    def mixed(self, maps: Sequence[Tensor]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the mixed maps, the input of the heads."""
        return self.mixing(maps)

    def logits(self, mixed: Sequence[Tensor]) -> list[Float[Tensor, "n 1 _ _"]]:
        """Return each head's map of logits, high where pictures look real."""
        return [net(x) for net, x in zip(self.heads, mixed, strict=True)]

    def forward(self, maps: Sequence[Tensor]) -> list[Float[Tensor, "n 1 _ _"]]:
        """Return each head's map of logits for the standardised maps of pictures."""
        return self.logits(self.mixed(maps))

    def penalty(self, maps: Sequence[Tensor]) -> Scalar:
        """Return R1 in the space of the mixed features of real pictures, summed over heads: half the squared gradient
        of the mean logit, times the numbers in the map, so that its size does not depend on the head's."""
        terms = []
        for net, x in zip(self.heads, self.mixed(maps), strict=True):
            x = x.detach().float().requires_grad_()
            (gradient,) = torch.autograd.grad(net(x).mean((1, 2, 3)).sum(), x, create_graph=True)
            terms.append(0.5 * x[0].numel() * gradient.square().sum((1, 2, 3)).mean())
        return torch.stack(terms).sum()


def discriminator_loss(real: Sequence[Tensor], fake: Sequence[Tensor]) -> Scalar:
    """Return softplus(-real) + softplus(fake), mean over cells and heads: the discriminator's logistic loss."""
    terms = [F.softplus(-r.float()).mean() + F.softplus(f.float()).mean() for r, f in zip(real, fake, strict=True)]
    return torch.stack(terms).mean()


def generator_loss(fake: Sequence[Tensor]) -> Scalar:
    """Return softplus(-fake), mean over cells and heads: the generator's non-saturating loss."""
    return torch.stack([F.softplus(-f.float()).mean() for f in fake]).mean()


@dataclass(frozen=True, kw_only=True, slots=True)
class ProjectedConfig:
    """Config of the projected discriminator, which is trained in addition to a recipe's own one."""

    weight: float = 0.0
    """Weight of its loss in the generator, relative to 1 of the own discriminator's; 0 trains without it."""
    backbone: Path | None = None
    """File with the weights of MobileNetV2; by default torchvision's published ones, downloaded once."""
    side: int = 96
    """Input side of the backbone in pixels, a multiple of 32; larger is slower."""
    learning_rate: float = 4e-4
    """Adam's, of the projected discriminator."""
    r1: float = 0.003
    """Weight of R1 in feature space; larger prevents the heads from memorising the photos."""
    r1_every: int = 8
    """Steps between penalties."""

    def __post_init__(self) -> None:
        if self.weight < 0:
            raise ValueError(f"projected.weight is {self.weight}; expected 0 or more")
        if self.side < 32 or self.side % 32:
            raise ValueError(f"projected.side is {self.side}; expected a multiple of 32")


def projected_for(config: ProjectedConfig, device: torch.device, *, bf16: bool) -> "Projected | None":
    """Return the projected discriminator of a config; None for weight 0, or, with a warning, if the published weights
    of the backbone cannot be downloaded and no file is given.

    Raises: ValueError for a file that is not a backbone.
    """
    if config.weight == 0:
        return None
    try:
        return Projected(config, device, bf16=bf16)
    except ValueError as error:
        if config.backbone is not None:
            raise
        log.warning("training without the projected discriminator, so pictures will be worse: %s", error)
        return None


class Projected:
    """The projected discriminator's phases and its loss for the generator.

    `look` computes the features of a step's pictures once; the discriminator's phases use them detached, the
    generator's with their graph.
    """

    def __init__(self, config: ProjectedConfig, device: torch.device, *, bf16: bool) -> None:
        self.config, self.device, self.bf16 = config, device, bf16 and has_bfloat16(device)
        features = FrozenFeatures(load_backbone(config.backbone), side=config.side, bf16=self.bf16)
        self.network = ProjectedDiscriminator(features).to(device)
        self.real: list[Tensor] = []
        self.fake: list[Tensor] = []

    @property
    def features(self) -> FrozenFeatures:
        """The feature network, for perceptual losses."""
        return self.network.features

    def phases(self, rate: Callable[[Step], float]) -> list[Phase]:
        """Return the discriminator's update and its lazy penalty; `rate` as in `training.types.Phase`."""
        c = self.config
        optimizer = torch.optim.Adam(self.network.parameters(), lr=c.learning_rate, betas=(0.0, 0.99), fused=True)
        common: dict[str, Any] = {"network": self.network, "optimizer": optimizer, "rate": rate}
        return [
            Phase(name="projected", losses=self.discriminator_losses, **common),
            Phase(name="projected_r1", losses=self.penalty_losses, every=c.r1_every, **common),
        ]

    def look(self, real: Image, fake: Image) -> None:
        """Compute the features of a step's pictures; `fake` with its graph."""
        with torch.no_grad():
            raw = self.features.raw(real)
            self.features.observe(raw)
            self.real = self.features.standardised(raw)
        self.fake = self.features(fake)

    def _logits(self, maps: list[Tensor]) -> list[Tensor]:
        with autocast(self.device, bf16=self.bf16):
            return self.network(maps)

    def discriminator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the logistic loss on the features of real and generated pictures."""
        return {"loss": discriminator_loss(self._logits(self.real), self._logits([x.detach() for x in self.fake]))}

    def penalty_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return R1 on the features of real pictures, in float32."""
        return {"penalty": self.config.r1 * self.network.penalty(self.real)}

    def generator_losses(self) -> dict[str, Tensor]:
        """Return the generator's loss by this discriminator."""
        return {"projected": self.config.weight * generator_loss(self._logits(self.fake))}
