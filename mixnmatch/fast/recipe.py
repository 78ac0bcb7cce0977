"""How the `fast` MixNMatch learns (MixNMatch Sec. 3): critics, then painter, encoders and readers; then features.

One forward pass of the painter and one of the encoders a step; every phase reads them.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mixnmatch.codes import Codes, Layers
from mixnmatch.fast.config import TrainConfig
from mixnmatch.fast.discriminators import FeatureCritic, PairCritic, PatchCritic, Readers
from mixnmatch.fast.encoders import as_codes
from mixnmatch.fast.generator import Generator, placing, pose_features
from mixnmatch.fast.init_from_giraffe import adopted, fits, reading
from mixnmatch.fast.losses import (
    Usage,
    area,
    balanced,
    binary,
    box_fit,
    child_area,
    clay,
    containment,
    inside,
    jitter,
    outline,
    relief,
    rivals,
    share_gradient,
    shrunk,
    unlike,
    unlike_maps,
    weighted_mean,
)
from training.batched import repeat, rows
from training.nn.augment import KINDS, AdaptiveChance, augment
from training.nn.discriminator import Critic, bounded
from training.nn.gan import (
    Rates,
    discriminator_loss,
    generator_loss,
    learning_rate,
    r1_gamma,
    r1_penalty,
    rates_of,
    slow_down,
)
from training.runtime.distributed import batch_mean
from training.runtime.sharded_random import own, rand, randn, share
from training.types import Batch, Image, Phase, Step


@dataclass(kw_only=True, slots=True)
class Shared:
    """What the phases of one step have in common."""

    codes: Codes
    free: int
    """How many rows of the whole batch are free: its last ones; those before are tied."""
    free_here: int
    """How many of them are in this share of the batch."""
    feature: Tensor
    layers: Layers
    alone: Tensor
    """The first painted objects on flat colours, for a share of the batch: nothing behind them tells their pose."""
    encoded: dict[str, Tensor] | None
    """What the encoders say of the real pictures; None before the pair critic needs it."""
    photo_pose: Tensor | None = None
    """What the image critic reads of their poses, once it has looked."""


class Recipe:
    """The networks of a training run, their phases and its grids."""

    mask_options = {  # noqa: RUF012 (read only)
        "nothing": "--losses.area, --losses.area-range",
        "everything": "--losses.containment, --losses.area",
        "soft": "--losses.binary, --losses.binary-ramp",
        "alike": "--losses.pose, --losses.code-z, --losses.info-shape",
    }

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device, self.losses = config, device, config.losses
        made = config.generator
        self.generator = Generator(made)
        self.networks = nn.ModuleDict(
            {
                "generator": self.generator,
                "readers": Readers(made),
                "background_critic": PatchCritic(config.patch_dim, config.patch_field),
                "image_critic": Critic(
                    config.critic_channels,
                    made.pose.placed if self.reads_pose else 0,
                    turns=made.pose.kind == "turn",
                ),
                "pair_critic": PairCritic(made),
                "feature_critic": FeatureCritic(made.feature_dim),
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
        self.rates: list[Rates] = []
        self.painter: torch.optim.Optimizer
        """Its last group are the object's parameters."""
        self.gauges: dict[str, Tensor] = {}
        """Values for the log that are no losses."""

    @property
    def reads_pose(self) -> bool:
        """Whether the image critic reads the pose."""
        return max(self.losses.pose) > 0

    @property
    def chance(self) -> float:
        """Chance of each augmentation now."""
        return float(self.adaptive.chance) if self.adaptive else self.losses.augment

    @property
    def now(self) -> Shared:
        """What `begin` prepared for this step."""
        assert self.shared is not None, "begin() comes before the phases"
        return self.shared

    def precision(self) -> torch.autocast:
        """Return the context in which networks compute: bfloat16 where the config allows it."""
        return torch.autocast(self.device.type, torch.bfloat16, enabled=self.config.loop.bf16)

    def adopt(self, theirs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return what another run has learnt under our names: a GIRAFFE HD's object, its painter and its critic.

        Encoders that look as the critic does begin with what it sees, unless they were there.
        """
        ours = adopted(theirs, self.config.generator) if fits(theirs) else dict(theirs)
        return ours if "generator.encoders.trunk.read.weight" in ours else ours | reading(ours)

    def settling(self, ends: tuple[float, float], step: Step) -> float:
        """Return a weight on its way from its first value to its last one."""
        return ends[0] + (ends[1] - ends[0]) * step.ramp(*self.losses.settling_ramp)

    def phases(self) -> list[Phase]:
        """Return the updates of one step: critics, the first stage, then the second stage beside or after it."""
        config, weights, nets = self.config, self.losses, self.networks
        until, since = config.first_stage_until, config.feature_since

        usual = learning_rate(config.generator.resolution)
        painting = usual if config.learning_rate is None else config.learning_rate
        judging = usual if config.critic_learning_rate is None else config.critic_learning_rate

        def adam(module: nn.Module, rate: float = painting, apart: nn.Module | None = None) -> torch.optim.Optimizer:
            last = [] if apart is None else list(apart.parameters())
            kept = {id(p) for p in last}
            groups = [{"params": [p for p in module.parameters() if id(p) not in kept]}]
            groups += [{"params": last}] if last else []
            optimizer = torch.optim.Adam(groups, lr=rate, betas=(0.0, 0.99), fused=True)
            self.rates.append(rates_of(optimizer))
            return optimizer

        critics = {
            "background_critic": (self.background_critic, self.background_penalty),
            "image_critic": (self.image_critic, self.image_penalty),
            "pair_critic": (self.pair_critic, self.pair_penalty),
        }
        phases = []
        for name, (losses, penalty) in critics.items():
            optimizer = adam(nets[name], rate=judging)
            start = weights.pair_ramp[0] if name == "pair_critic" else 0
            phases.append(
                Phase(name=name, network=nets[name], optimizer=optimizer, losses=losses, since=start, until=until)
            )
            phases.append(
                Phase(
                    name=f"{name}_r1",
                    network=nets[name],
                    optimizer=optimizer,
                    losses=penalty,
                    every=weights.r1_every,
                    since=start,
                    until=until,
                )
            )
        generator = self.generator
        first = nn.ModuleList(
            [generator.background, generator.parent, generator.child, generator.encoders, nets["readers"]]
        )
        solid = nn.ModuleList([generator.parent.space, generator.parent.embed, generator.child])
        self.painter = adam(first, apart=solid)
        phases.append(
            Phase(name="generator", network=first, optimizer=self.painter, losses=self.first_stage, until=until)
        )
        phases.append(
            Phase(
                name="feature_critic",
                network=nets["feature_critic"],
                optimizer=adam(nets["feature_critic"], rate=judging / 10),
                losses=self.feature_critic,
                every=2,
                since=since,
            )
        )
        phases.append(
            Phase(
                name="extractor",
                network=generator.extractor,
                optimizer=adam(generator.extractor),
                losses=self.second_stage,
                every=2,
                since=since,
            )
        )
        return phases

    def begin(self, batch: Batch, step: Step) -> None:
        """Draw codes, paint them and encode the real pictures, once for all phases."""
        painter = self.generator
        end = self.config.loop.images
        slow_down(self.rates, round(self.config.decay_since * end), end, step)
        if step.images < self.config.object_since:
            self.painter.param_groups[-1]["lr"] = 0.0
        codes, free, here = self.draw(batch.image.shape[0], step)
        learns = self.config.first_stage_until is None or step.images < self.config.first_stage_until
        painter.requires_grad_(learns)
        with self.precision(), torch.set_grad_enabled(learns):
            feature = painter.parent.feature(codes.z, codes.p, step.rng)
            layers = painter(codes, feature=feature)
            encoded = painter.encoders(batch.image) if step.images >= self.losses.pair_ramp[0] else None
            alone = self.alone(layers, step)
        painter.requires_grad_(False)
        self.shared = Shared(
            codes=codes,
            free=free,
            free_here=here,
            feature=feature.detach(),
            layers=layers,
            alone=alone,
            encoded=encoded,
        )

    def alone(self, layers: Layers, step: Step) -> Image:
        """Return the first objects of a batch on flat colours, as many as `pose_alone` says."""
        if not self.reads_pose:
            return layers.image[:0]
        m = max(1, round(len(layers.image) * self.losses.pose_alone))
        m = m if m < 4 else m - m % 4  # whole groups for the critic's minibatch deviation
        flat = rand(m, 3, 1, 1, rng=step.rng).to(self.device) * 2 - 1
        return layers.image[:m] + (1 - layers.mask[:m]) * (flat - layers.background[:m])

    def draw(self, n: int, step: Step) -> tuple[Codes, int, int]:
        """Return `n` codes, every p, c and b about equally often, and the last rows of the whole batch free.

        Also, how many rows of the whole batch are free, and how many of these are among the `n`.
        """
        config = self.config.generator
        low, high = self.losses.free_share
        n *= share(step.rng)[1]  # the whole batch is drawn, this share of it kept
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
        kept = own(torch.arange(n), step.rng)
        return rows(codes, kept), free, int((kept >= n - free).sum())

    # Critics

    def scene(self, batch: Batch) -> tuple[Image, Tensor]:
        """Return the real view for the background critic, and 1 for each of its cells that sees no object."""
        image, boxes = batch.image, batch.box
        if batch.scene is not None:
            image, boxes = batch.scene, batch.scene_box
        if boxes is None:
            raise ValueError(
                "this recipe needs the object's boxes, and the prepared set has none; prepare it with boxes"
            )
        critic = self.networks["background_critic"]
        assert isinstance(critic, PatchCritic)
        return image, critic.clear_of(shrunk(boxes, self.config.patch_shrink))

    def background_critic(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Real patches outside the boxes against painted ones; background against object (MixNMatch Eq. 1)."""
        critic, weights = self.networks["background_critic"], self.losses
        image, clear = self.scene(batch)
        with self.precision():
            real, kind = critic(image)
            painted, _ = critic(self.now.layers.background.detach())
        told = weighted_mean(F.softplus(-real), clear) + F.softplus(painted).mean()
        return {
            "loss": told,
            "kind": weights.background_class * F.binary_cross_entropy_with_logits(kind, clear),
        }

    def background_penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """R1 on the cells that see no object."""
        image, clear = self.scene(batch)
        image = image.detach().requires_grad_()
        real, _ = self.networks["background_critic"](image)
        logits = (real * clear).sum((1, 2)) / clear.sum((1, 2)).clamp(min=1)
        return {"penalty": self.losses.r1_background / 2 * r1_penalty(logits, image)}

    def judge(self, image: Image, step: Step) -> tuple[Tensor, Tensor]:
        """Return the image critic's logits and poses of pictures; late enough, logits given the pose."""
        kinds = ("colour",) if self.reads_pose else KINDS  # a shift would teach wrong places
        with self.precision():
            return self.networks["image_critic"](
                augment(image, self.chance, step.rng, kinds), step.ramp(*self.losses.condition_ramp)
            )

    def pose_losses(self, read: Tensor, alone: Image, step: Step) -> dict[str, Tensor]:
        """Return the errors of the poses read from finished pictures and from objects on flat colours.

        Paper: none; here what keeps the fronts of all shapes the same way round (InfoGAN Eq. 5 for the pose).
        """
        if not self.reads_pose:
            return {}
        weight = self.settling(self.losses.pose, step)
        true = placing(self.now.codes.z, self.config.generator.pose)
        with self.precision():
            _, read_alone = self.networks["image_critic"](alone)
        return {
            "pose": weight * (read - true).square().mean(),
            "pose_alone": weight * (read_alone - true[: len(alone)]).square().mean(),
        }

    def image_critic(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Real pictures against finished ones."""
        real, self.now.photo_pose = self.judge(batch.image, step)
        painted, read = self.judge(self.now.layers.image.detach(), step)
        if self.adaptive is not None:
            self.gauges = self.adaptive.update(real)
        return {"loss": discriminator_loss(real, painted), **self.pose_losses(read, self.now.alone.detach(), step)}

    def image_penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """R1 of the image critic."""
        kinds = ("colour",) if self.reads_pose else KINDS
        image = augment(batch.image, self.chance, step.rng, kinds).detach().requires_grad_()
        gamma = self.losses.r1_image
        if gamma is None:
            gamma = r1_gamma(self.config.generator.resolution, self.config.loop.batch)
        logits, _ = self.networks["image_critic"](image, step.ramp(*self.losses.condition_ramp))
        return {"penalty": gamma / 2 * r1_penalty(logits, image)}

    def painted_codes(self) -> dict[str, Tensor]:
        """Return the drawn codes as the pair critic and the encoders' losses see them."""
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
        """Return the codes of the real pictures in the same form."""
        assert self.now.encoded is not None
        codes = as_codes(self.now.encoded)
        assert codes.z_background is not None
        return {"z": codes.z, "b": codes.b, "p": codes.p, "c": codes.c, "z_background": codes.z_background}

    def pair_critic(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """(real picture, its encoded code) against (painted picture, its drawn code) (MixNMatch Eq. 3)."""
        critic = self.networks["pair_critic"]
        encoded = {name: code.detach() for name, code in self.encoded_codes().items()}
        with self.precision():
            real = critic(augment(batch.image, self.chance, step.rng), encoded, step.rng)
            painted = self.now.layers.image.detach()
            drawn = critic(augment(painted, self.chance, step.rng), self.painted_codes(), step.rng)
        return {"loss": discriminator_loss(drawn, real)}

    def pair_penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """R1 of the pair critic on painted pairs."""
        image = self.now.layers.image.detach().requires_grad_()
        codes = {name: code.detach().requires_grad_() for name, code in self.painted_codes().items()}
        logits = self.networks["pair_critic"](image, codes, step.rng)
        return {"penalty": self.losses.r1_pair / 2 * r1_penalty(logits, image, *codes.values())}

    # First stage: painter, encoders and readers

    def first_stage(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return all that the painter, the encoders and the readers learn from."""
        weights, layers = self.losses, self.now.layers
        with self.precision():
            real, kind = self.networks["background_critic"](layers.background)
        logits, read = self.judge(layers.image, step)
        terms = {
            "background": weights.background * generator_loss(real),
            "background_class": weights.background_class * generator_loss(kind),
            "image": weights.image * generator_loss(logits),
        }
        terms |= self.pose_losses(read, self.now.alone, step)
        terms |= self.info(step) | self.masks(batch, step) | self.code_losses(step) | self.told_pose(batch, step)
        if step.images >= weights.rebuild_since:
            terms |= self.rebuilt(batch, step)
        ramp = step.ramp(*weights.pair_ramp)
        if ramp > 0:
            with self.precision():
                critic, chance = self.networks["pair_critic"], self.chance
                drawn = critic(augment(layers.image, chance, step.rng), self.painted_codes(), step.rng)
                encoded = critic(augment(batch.image, chance, step.rng), self.encoded_codes(), step.rng)
            terms["pair"] = weights.pair * ramp * (generator_loss(-drawn) + generator_loss(encoded))
        return terms

    def info(self, step: Step) -> dict[str, Tensor]:
        """Return the cross entropies of p, c and b read from their layers."""
        weights, layers, codes = self.losses, self.now.layers, self.now.codes
        child = layers.image - (1 - layers.child_mask) * layers.parent  # the texture's foreground, masked
        # paper: shape is read from the parent's foreground; the child's covers it, so here from what will be seen
        seen = jitter(torch.cat([relief(layers.image, layers.mask), layers.parent_mask, child], 1), step.rng)
        with self.precision():
            p, c, b = self.networks["readers"](
                seen[:, :1], seen[:, 1:2], seen[:, 2:], jitter(layers.background, step.rng)
            )
        return {
            "info_shape": self.settling(weights.info_shape, step) * F.cross_entropy(p, codes.p),
            "info_texture": weights.info_texture * F.cross_entropy(c, codes.c),
            "info_background": weights.info_background * F.cross_entropy(b, codes.b),
            "clay": weights.clay * clay(layers.parent, layers.image, layers.parent_mask),
        }

    def masks(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses against masks that are everywhere, nowhere, or half transparent."""
        weights, layers = self.losses, self.now.layers
        terms = {
            "area": weights.area * area(layers.mask, weights.area_range),
            "child_area": weights.child_area * child_area(layers.child_mask, layers.parent_mask),
            "outline": weights.outline * outline(layers.parent_mask, weights.outline_most),
            "binary": weights.binary * step.ramp(*weights.binary_ramp) * binary(layers.parent_mask),
        }
        if batch.box is not None:
            terms["containment"] = weights.containment * containment(layers.parent_mask, batch.box)
        return terms

    def code_losses(self, step: Step) -> dict[str, Tensor]:
        """Return what the encoders miss of free codes in the pictures painted from them (MixNMatch Sec. 3.2)."""
        weights, count = self.losses, self.now.free / share(step.rng)[1]  # a share may hold one more or less
        if count == 0:
            return {}
        painted = self.now.layers.image
        if self.now.free_here == 0:  # of this part; the terms are named as the others' are
            names = ("code_z", "code_b", "code_p", "code_c", "code_z_background")
            return {name: painted.new_zeros(()) for name in names}
        image = share_gradient(painted, weights.code_to_painter)
        image = (image + 0.05 * randn(*image.shape, rng=step.rng).to(image.device))[len(painted) - self.now.free_here :]
        with self.precision():
            raw = self.generator.encoders(image)
        codes = rows(self.now.codes, slice(len(painted) - len(image), None))
        assert codes.z_background is not None
        pose = self.config.generator.pose

        def squares(a: Tensor, b: Tensor) -> Tensor:
            return (a - b).square().mean(1).sum()

        return {
            "code_z": weights.code_z * squares(raw["z"], pose_features(codes.z, pose)) / count,
            "code_b": weights.code_b * F.cross_entropy(raw["b"], codes.b, reduction="sum") / count,
            "code_p": weights.code_p * F.cross_entropy(raw["p"], codes.p, reduction="sum") / count,
            "code_c": weights.code_c * F.cross_entropy(raw["c"], codes.c, reduction="sum") / count,
            "code_z_background": 0.5 * weights.code_b * squares(raw["z_background"], codes.z_background) / count,
        }

    def told_pose(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return how far the poses that the encoders read from photos are from what the image critic reads.

        Paper: none; here the critic, which has seen every painted picture with its pose, tells them of real ones.
        """
        encoded, pose = self.now.encoded, self.config.generator.pose
        if not self.losses.told_pose or not self.reads_pose or encoded is None:
            return {}
        with torch.no_grad():
            told = self.judge(batch.image, step)[1] if self.now.photo_pose is None else self.now.photo_pose
        told = bounded(told.detach(), 1.0, turns=pose.kind == "turn")
        return {"told_pose": self.losses.told_pose * (placing(encoded["z"], pose) - told).square().mean()}

    def rebuilt(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return how far half of the real pictures are from what is painted from the codes read from them.

        Paper: none; here the shortest way to codes that fit photos. Inside the box the background learns nothing from
        it, so that it can't paint the object; the mask is held against the box.
        """
        weights, n = self.losses, (batch.image.shape[0] + 1) // 2
        image = batch.image[:n]
        painter = self.generator
        with self.precision():
            raw = (
                painter.encoders(image) if self.now.encoded is None else {k: v[:n] for k, v in self.now.encoded.items()}
            )
        codes, terms = as_codes(raw | {"z": share_gradient(raw["z"], weights.rebuilt_to_pose)}), {}
        rivalry = painter.config.one_shape and painter.config.n_shapes > 1
        with torch.no_grad():
            true = self.perceived(image) if rivalry or weights.perceived else []
        if rivalry:
            better, worse = self.likelier(true, codes, step)
            if self.usage is not None:
                self.usage.update(codes.p)
            codes = replace(codes, p=F.one_hot(better, codes.p.shape[1]).float())
            lead = (raw["p"].gather(1, better[:, None]) - raw["p"].gather(1, worse[:, None]))[:, 0]
            terms["rival"] = weights.rival * F.softplus(-lead).mean()
        with self.precision():
            layers = painter(codes)
        painted = layers.image
        if batch.box is not None:
            object_box = inside(batch.box[:n], image.shape[-1])
            seen = 1 - layers.mask
            painted = painted - object_box * seen * (layers.background - layers.background.detach())
            terms["box_fit"] = weights.box_fit * box_fit(layers.parent_mask, batch.box[:n])
        terms["rebuilt"] = weights.rebuilt * unlike(painted, image).mean()
        if weights.perceived:
            terms["perceived"] = weights.perceived * unlike_maps(self.perceived(painted), true).mean()
        return terms

    @torch.no_grad()
    def likelier(self, true: list[Tensor], codes: Codes, step: Step) -> tuple[Tensor, Tensor]:
        """Return the better and the worse of two shapes, drawn by the photos' shares, at rebuilding each photo, of
        which the image critic sees `true`.

        Paper: none; here the encoders' classes and the painter's shapes settle as clusters and their means do.
        """
        pair = rivals(codes.p, step.rng)
        kinds = F.one_hot(pair, codes.p.shape[1]).float()
        with self.precision():
            both = [self.generator(replace(codes, p=kinds[:, i])).image for i in (0, 1)]
        off = torch.stack([unlike_maps(self.perceived(painted), true) for painted in both], 1)
        if self.usage is not None:
            apart = batch_mean((off[:, 0] - off[:, 1]).abs().mean())
            off = off + self.losses.even * apart * self.usage.excess[pair]
        return pair.gather(1, off.argmin(1, keepdim=True))[:, 0], pair.gather(1, off.argmax(1, keepdim=True))[:, 0]

    def perceived(self, image: Image) -> list[Tensor]:
        """Return what the image critic sees of pictures, at a half, a quarter and an eighth of their size."""
        critic = self.networks["image_critic"]
        assert isinstance(critic, Critic)
        with self.precision():
            return critic.maps(image)[:3]

    # Second stage: feature mode

    def feature_critic(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Painted features against those extracted from photos."""
        critic = self.networks["feature_critic"]
        with self.precision():
            with torch.no_grad():
                extracted = self.generator.extractor(batch.image)
            return {"loss": discriminator_loss(critic(self.now.feature), critic(extracted))}

    def second_stage(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """L1 to the features of painted pictures; on photos, features that look painted (MixNMatch Eq. 5).

        Paper: no more than that; here half of the photos are rebuilt from their features too, with the texture and the
        background that the encoders read, and their masks are held against the boxes.
        """
        weights, painter, n = self.losses, self.generator, (batch.image.shape[0] + 1) // 2
        with self.precision():
            read = painter.extractor(self.now.layers.image.detach())
            features = painter.extractor(batch.image)
            logits = self.networks["feature_critic"](features)
            with torch.no_grad():
                codes = painter.encode(batch.image[:n])
            layers = painter(codes, feature=features[:n])
        terms = {
            "l1": weights.feature * F.l1_loss(read.float(), self.now.feature.float()),
            "critic": weights.feature_critic * generator_loss(logits),
            "rebuilt": weights.feature_rebuilt * unlike(layers.image, batch.image[:n]).mean(),
        }
        if batch.box is not None:
            terms["box_fit"] = weights.feature_rebuilt * box_fit(layers.parent_mask, batch.box[:n])
        return terms

    # What to look at

    def grids(self, generator: Generator, batch: Batch) -> dict[str, Image]:
        """Return samples with their layers, one factor varied a row, and real photos rebuilt and mixed."""
        rng = torch.Generator().manual_seed(7)
        codes = generator.sample(24, rng)
        layers = generator(rows(codes, slice(0, 16)))
        parts = [layers.image, layers.background[:8], layers.parent[:8], layers.mask[:8].expand(-1, 3, -1, -1) * 2 - 1]
        samples = torch.cat(parts)
        still = repeat(rows(codes, 0), 8)
        turned = rows(codes, slice(8, 16))
        shapes = torch.arange(8, device=still.p.device) % still.p.shape[1]
        varied = [
            generator(replace(still, b=turned.b, z_background=turned.z_background)).image,
            generator(replace(still, z=turned.z)).image,
            generator(replace(still, p=torch.eye(still.p.shape[1], device=still.p.device)[shapes])).image,
            generator(replace(still, c=turned.c)).image,
        ]
        real = batch.image[:8]
        read = generator.encode(real)
        other = rows(read, [(i + 1) % len(real) for i in range(len(real))])
        rebuilt = generator(read)
        photos = [
            real,
            rebuilt.image,
            rebuilt.mask.expand(-1, 3, -1, -1) * 2 - 1,
            generator(replace(read, c=other.c)).image,
            generator(replace(read, p=other.p)).image,
            generator(replace(read, z=other.z)).image,
            generator(replace(read, b=other.b, z_background=other.z_background)).image,
            generator(read, feature=generator.shape_feature(real)).image,
        ]
        return {"samples": samples, "factors": torch.cat(varied), "photos": torch.cat(photos)}
