"""Training of the `fast` MixNMatch (MixNMatch Sec. 3): the networks, their phases and what a step draws.

`begin` runs the generator and the encoders once a step, and all phases use the result.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixnmatch.codes import Codes, Layers
from mixnmatch.fast.config import TrainConfig
from mixnmatch.fast.discriminator_losses import DiscriminatorLosses
from mixnmatch.fast.discriminators import CodeClassifiers, FeatureDiscriminator, PairDiscriminator, PatchDiscriminator
from mixnmatch.fast.generator import Generator
from mixnmatch.fast.generator_losses import GeneratorLosses
from mixnmatch.fast.grids import grids
from mixnmatch.fast.init_from_giraffe import check_fit, encoder_weights, from_giraffe, is_giraffe
from mixnmatch.fast.losses import (
    Usage,
    balanced,
)
from mixnmatch.fast.step import Shared
from training import types
from training.batched import rows
from training.nn.augment import AdaptiveChance
from training.nn.discriminator import Discriminator
from training.nn.gan import (
    decayed,
    learning_rate,
)
from training.runtime.sharded_random import local_rows, rand, shard_of
from training.types import Batch, Image, Phase, Step

Losses = Callable[[Batch, Step], dict[str, Tensor]]


def adam(module: nn.Module, learning_rate: float, apart: nn.Module | None = None) -> torch.optim.Optimizer:
    """Return Adam over a module's parameters; those of `apart` are in a second group."""
    last = [] if apart is None else list(apart.parameters())
    kept = {id(p) for p in last}
    groups = [{"params": [p for p in module.parameters() if id(p) not in kept]}]
    groups += [{"params": last}] if last else []
    return torch.optim.Adam(groups, lr=learning_rate, betas=(0.0, 0.99), fused=True)


class Recipe(DiscriminatorLosses, GeneratorLosses):
    """The networks of a training run, their phases and its grids."""

    mask_advice = {  # noqa: RUF012 (read only)
        "nothing": "--losses.area, --losses.area-range",
        "everything": "--losses.containment, --losses.area",
        "soft": "--losses.binary, --losses.binary-ramp",
        "alike": "--losses.pose, --losses.code-z, --losses.shape-classification",
    }

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device, self.losses = config, device, config.losses
        made = config.generator
        self.generator = Generator(made)
        self.networks = nn.ModuleDict(
            {
                "generator": self.generator,
                "code_classifiers": CodeClassifiers(made),
                "background_discriminator": PatchDiscriminator(config.patch_dim, config.patch_field),
                "image_discriminator": Discriminator(
                    config.discriminator_channels,
                    made.pose.n_placing if self.reads_pose else 0,
                    turns=made.pose.kind == "turn",
                ),
                "pair_discriminator": PairDiscriminator(made),
                "feature_discriminator": FeatureDiscriminator(made.feature_dim),
            }
        )
        target = config.losses.augment_target
        self.usage = Usage(made.n_shapes) if made.one_shape else None
        if self.usage is not None:
            self.networks["usage"] = self.usage
        self.adaptive = None if target is None else AdaptiveChance(target)
        if self.adaptive is not None:
            self.networks["augment"] = self.adaptive
        self.networks.to(device)
        self.shared: Shared | None = None
        self.scalars: dict[str, Tensor] = {}

    def adapt_weights(self, theirs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return another run's weights under this recipe's names; of a GIRAFFE HD its object, renderer and
        discriminator.

        Encoders built as the discriminator are initialised from it, unless the run has encoders of its own.
        Raises: ValueError for an incomplete GIRAFFE HD, or one of other sizes.
        """
        ours = dict(theirs)
        if is_giraffe(theirs):
            ours = from_giraffe(theirs, self.config.generator)
            check_fit(ours, self.networks)
        return ours if "generator.encoders.trunk.read.weight" in ours else ours | encoder_weights(ours)

    def phases(self) -> list[Phase]:
        """Return the phases of one step: discriminators with their R1, the first stage, the second stage."""
        config, weights, nets, generator = self.config, self.losses, self.networks, self.generator
        usual = learning_rate(config.generator.resolution)
        of_generator = usual if config.learning_rate is None else config.learning_rate
        rate = decayed(round(config.decay_since * config.loop.images), config.loop.images)
        first = nn.ModuleList(
            [generator.background, generator.parent, generator.child, generator.encoders, nets["code_classifiers"]]
        )
        return [
            *self._with_r1("background_discriminator", self.background_discriminator, self.background_penalty),
            *self._with_r1("image_discriminator", self.image_discriminator, self.image_penalty),
            *self._with_r1(
                "pair_discriminator", self.pair_discriminator, self.pair_penalty, since=weights.pair_ramp[0]
            ),
            Phase(
                name="generator", network=first, losses=self.first_stage, until=config.first_stage_until,
                optimizer=adam(first, of_generator, apart=self._object()), rate=self._rates_with_object(rate),
            ),
            Phase(
                name="feature_discriminator", network=nets["feature_discriminator"],
                losses=self.feature_discriminator, every=2, since=config.feature_since,
                optimizer=adam(nets["feature_discriminator"], self.discriminator_rate / 10), rate=rate,
            ),
            Phase(
                name="extractor", network=generator.extractor, losses=self.second_stage, every=2,
                optimizer=adam(generator.extractor, of_generator), rate=rate, since=config.feature_since,
            ),
        ]  # fmt: skip

    @property
    def discriminator_rate(self) -> float:
        """Learning rate of the discriminators."""
        given = self.config.discriminator_learning_rate
        return learning_rate(self.config.generator.resolution) if given is None else given

    def _with_r1(self, name: str, losses: Losses, penalty: Losses, *, since: int = 0) -> list[Phase]:
        """Return the phases of a discriminator's loss and of its lazy R1, which share an optimizer."""
        config, network = self.config, self.networks[name]
        common: dict[str, Any] = {
            "network": network,
            "optimizer": adam(network, self.discriminator_rate),
            "rate": decayed(round(config.decay_since * config.loop.images), config.loop.images),
            "since": since,
            "until": config.first_stage_until,
        }
        return [
            Phase(name=name, losses=losses, **common),
            Phase(name=f"{name}_r1", losses=penalty, every=self.losses.r1_every, **common),
        ]

    def _object(self) -> nn.ModuleList:
        """Return the networks of the object: shapes and textures."""
        parent = self.generator.parent
        return nn.ModuleList([parent.space, parent.embed, self.generator.child])

    def _rates_with_object(self, rate: Callable[[Step], float]) -> Callable[[Step], tuple[float, float]]:
        """Return the factors of the learning rates of the other networks and of the object, which is 0 before
        `object_since`."""
        return lambda step: (rate(step), 0.0 if step.images < self.config.object_since else rate(step))

    def begin(self, batch: Batch, step: Step) -> None:
        """Draw codes y, and compute G(y) and E(x) once for all phases."""
        generator = self.generator
        codes, free, here = self.draw(batch.image.shape[0], step)
        learns = self.config.first_stage_until is None or step.images < self.config.first_stage_until
        generator.requires_grad_(learns)
        with self.precision(), torch.set_grad_enabled(learns):
            feature = generator.parent.feature(codes.z, codes.p, step.rng)
            layers = generator(codes, feature=feature)
            encoded = generator.encoders(batch.image) if step.images >= self.losses.pair_ramp[0] else None
            on_flat_background = self.on_flat_background(layers, step)
        generator.requires_grad_(False)
        self.shared = Shared(
            codes=codes,
            free=free,
            free_here=here,
            feature=feature.detach(),
            layers=layers,
            on_flat_background=on_flat_background,
            encoded=encoded,
        )

    def on_flat_background(self, layers: Layers, step: Step) -> Image:
        """Return the first objects of a batch on random flat colours: the share `pose_on_flat_background` of the
        batch."""
        if not self.reads_pose:
            return layers.image[:0]
        m = max(1, round(len(layers.image) * self.losses.pose_on_flat_background))
        m = m if m < 4 else m - m % 4  # whole groups for the discriminator's minibatch deviation
        flat = rand(m, 3, 1, 1, rng=step.rng).to(self.device) * 2 - 1
        return layers.image[:m] + (1 - layers.mask[:m]) * (flat - layers.background[:m])

    def draw(self, n: int, step: Step) -> tuple[Codes, int, int]:
        """Return `n` codes, how many rows of the global batch are free, and how many of those are among the `n`.

        Each p, c and b is drawn about equally often. The last rows of the global batch are free, the others tied.
        """
        config = self.config.generator
        low, high = self.losses.free_share
        n *= shard_of(step.rng)[1]  # draw the global batch; `local_rows` below keeps this process's rows
        free = round(n * (low + (high - low) * step.ramp(*self.losses.free_ramp)))
        codes = self.generator.sample(n, step.rng)
        c = balanced(n, config.n_textures, step.rng)
        p = balanced(n, config.n_shapes, step.rng)
        tied = torch.arange(n) < n - free
        p = torch.where(tied, c // (config.n_textures // config.n_shapes), p)
        b = balanced(n, config.n_backgrounds, step.rng)

        def one_hot(index: Tensor, kinds: int) -> Tensor:
            return F.one_hot(index, kinds).float().to(self.device)

        codes = replace(
            codes,
            b=one_hot(b, config.n_backgrounds),
            p=one_hot(p, config.n_shapes),
            c=one_hot(c, config.n_textures),
        )
        kept = local_rows(torch.arange(n), step.rng)
        return rows(codes, kept), free, int((kept >= n - free).sum())

    def grids(self, generator: types.Generator, batch: Batch) -> dict[str, Image]:
        """Return samples with their layers, one factor varied a row, and real photos reconstructed and mixed."""
        assert isinstance(generator, Generator)
        return grids(generator, batch)
