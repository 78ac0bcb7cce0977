"""Losses of the generator, the encoders and the code classifiers (MixNMatch Sec. 3), and of the feature extractor."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mixnmatch.fast.generator import placing, pose_features
from mixnmatch.fast.losses import (
    area,
    binary,
    box_fit,
    child_area,
    clay,
    containment,
    jitter,
    outline,
    relief,
    share_gradient,
    unlike,
)
from mixnmatch.fast.reconstruction import Reconstruction
from training.batched import rows
from training.nn.augment import augment
from training.nn.discriminator import bounded
from training.nn.gan import (
    generator_loss,
)
from training.runtime.sharded_random import randn, share
from training.types import Batch, Step


class GeneratorLosses(Reconstruction):
    """The two phases in which the generator and what reads photos learn."""

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
        # in this order, which is that of the step's random draws
        terms |= self.info(step)
        terms |= self.masks(batch, step)
        terms |= self.code_losses(step)
        terms |= self.told_pose(batch, step)
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
