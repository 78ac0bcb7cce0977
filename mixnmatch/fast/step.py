"""State that the phases of one training step share, and helpers for the losses of the `fast` MixNMatch."""

from dataclasses import dataclass

import torch
from torch import Tensor, nn

from mixnmatch.codes import Codes, Layers
from mixnmatch.fast.config import LossConfig, TrainConfig
from mixnmatch.fast.encoders import as_codes
from mixnmatch.fast.generator import Generator
from mixnmatch.fast.losses import (
    Usage,
)
from mixnmatch.fast.pose import placing, pose_features
from training.devices import autocast
from training.nn.augment import KINDS, AdaptiveChance, augment
from training.nn.discriminator import Discriminator
from training.types import Image, Step


@dataclass(kw_only=True, slots=True)
class Shared:
    """What `begin` computes once for all phases of a step."""

    codes: Codes
    free: int
    """How many rows of the global batch have free codes, its last ones; the others are tied."""
    free_here: int
    """How many of them are in this process's batch."""
    feature: Tensor
    layers: Layers
    on_flat_background: Tensor
    """The first generated objects on flat colours, so that the background cannot reveal their pose."""
    encoded: dict[str, Tensor] | None
    """The encoders' output on the real pictures; None before the pair discriminator is trained."""
    photo_pose: Tensor | None = None
    """Poses of the real pictures as the image discriminator predicts them; None before its phase ran."""


class Context:
    """A run's networks and config, and the shared state of the current step."""

    config: TrainConfig
    losses: LossConfig
    device: torch.device
    generator: Generator
    networks: nn.ModuleDict
    usage: Usage | None
    adaptive: AdaptiveChance | None
    shared: Shared | None
    scalars: dict[str, Tensor]
    """Values for the log other than losses."""

    @property
    def reads_pose(self) -> bool:
        """Whether the image discriminator predicts the pose."""
        return max(self.losses.pose) > 0

    @property
    def chance(self) -> float:
        """Current probability of each augmentation."""
        return float(self.adaptive.chance) if self.adaptive else self.losses.augment

    @property
    def now(self) -> Shared:
        """What `begin` prepared for this step."""
        assert self.shared is not None, "begin() comes before the phases"
        return self.shared

    def precision(self) -> torch.autocast:
        """Return the context in which networks compute: bfloat16 where the config allows it."""
        return autocast(self.device, bf16=self.config.loop.bf16)

    def annealed(self, ends: tuple[float, float], step: Step) -> float:
        """Return a weight at `step`: linear between its two values over `annealing_ramp`."""
        return ends[0] + (ends[1] - ends[0]) * step.ramp(*self.losses.annealing_ramp)

    def discriminate(self, image: Image, step: Step) -> tuple[Tensor, Tensor]:
        """Return the image discriminator's logits (n,) and poses (n, n_placing); after `condition_ramp` logits given
        the pose."""
        kinds = ("colour",) if self.reads_pose else KINDS  # a shift would change the pose
        with self.precision():
            return self.networks["image_discriminator"](
                augment(image, self.chance, step.rng, kinds), step.ramp(*self.losses.condition_ramp)
            )

    def pose_losses(self, read: Tensor, on_flat_background: Image, step: Step) -> dict[str, Tensor]:
        """Return the squared errors of the poses predicted from G(y) and from objects on flat colours.

        Paper: none; here they keep the front of all shapes at the same rotation (InfoGAN's mutual information, for z).
        """
        if not self.reads_pose:
            return {}
        weight = self.annealed(self.losses.pose, step)
        true = placing(self.now.codes.z, self.config.generator.pose)
        with self.precision():
            _, read_on_flat = self.networks["image_discriminator"](on_flat_background)
        return {
            "pose": weight * (read - true).square().mean(),
            "pose_on_flat_background": weight * (read_on_flat - true[: len(on_flat_background)]).square().mean(),
        }

    def discriminator_features(self, image: Image) -> list[Tensor]:
        """Return the image discriminator's feature maps at a half, a quarter and an eighth of the pictures' side."""
        discriminator = self.networks["image_discriminator"]
        assert isinstance(discriminator, Discriminator)
        with self.precision():
            return discriminator.maps(image)[:3]

    def generated_codes(self) -> dict[str, Tensor]:
        """Return the drawn codes y in the form that the pair discriminator takes."""
        codes, pose = self.now.codes, self.config.generator.pose
        assert codes.z_background is not None
        return {
            "z": pose_features(codes.z, pose),
            "b": codes.b,
            "p": codes.p,
            "c": codes.c,
            "z_background": codes.z_background,
        }

    def encoded_codes(self) -> dict[str, Tensor]:
        """Return the codes E(x) of the real pictures in the same form."""
        assert self.now.encoded is not None
        codes = as_codes(self.now.encoded)
        assert codes.z_background is not None
        return {"z": codes.z, "b": codes.b, "p": codes.p, "c": codes.c, "z_background": codes.z_background}
