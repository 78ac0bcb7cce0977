"""Losses of G, E, D_p and D_c's code head in the first stage, and of S in the second (symbols:
`mixnmatch.fast.losses`)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mixnmatch.fast.losses import (
    area,
    binary,
    box_projection,
    child_area,
    containment,
    jitter,
    perimeter,
    relief,
    scale_gradient,
    shading_consistency,
)
from mixnmatch.fast.pose import placing, pose_features
from mixnmatch.fast.reconstruction import Reconstruction
from training.batched import rows
from training.nn.augment import augment
from training.nn.discriminator import bounded
from training.nn.gan import generator_loss
from training.nn.reconstruction import multiscale_l1
from training.runtime.sharded_random import randn, shard_of
from training.types import Batch, Step


class GeneratorLosses(Reconstruction):
    """The phases of the generator and the encoders (`first_stage`) and of the feature extractor (`second_stage`)."""

    def first_stage(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return G's and E's side of L_b + L_p + L_c - L_bi + L_code, and the terms that the paper does not have."""
        weights, layers = self.losses, self.now.layers
        with self.precision():
            real, kind = self.networks["background_discriminator"](layers.background)
        logits, read = self.discriminate(layers.image, step)
        terms = {
            "background": weights.background * generator_loss(real),
            "background_class": weights.background_class * generator_loss(kind),
            "image": weights.image * generator_loss(logits),
        }
        terms |= self.pose_losses(read, self.now.on_flat_background, step)
        # in this order, which is that of the step's random draws
        terms |= self.code_classification(step)
        terms |= self.masks(batch, step)
        terms |= self.code_losses(step)
        terms |= self.pose_distillation(batch, step)
        if step.images >= weights.reconstruction_since:
            terms |= self.reconstruction(batch, step)
        ramp = step.ramp(*weights.pair_ramp)
        if ramp > 0:
            with self.precision():
                discriminator, chance = self.networks["pair_discriminator"], self.chance
                drawn = discriminator(augment(layers.image, chance, step.rng), self.generated_codes(), step.rng)
                encoded = discriminator(augment(batch.image, chance, step.rng), self.encoded_codes(), step.rng)
            terms["pair"] = weights.pair * ramp * (generator_loss(-drawn) + generator_loss(encoded))
        return terms

    def code_classification(self, step: Step) -> dict[str, Tensor]:
        """Return -log D_p(p | grey object, mask), -log D_c(c | C_f C_m), the same for b, and `shading_consistency`."""
        weights, layers, codes = self.losses, self.now.layers, self.now.codes
        child = layers.image - (1 - layers.child_mask) * layers.parent  # the texture's foreground, masked
        # paper: p is classified from P_f P_m; C_f covers that, so here from the final picture in grey and the mask
        seen = jitter(torch.cat([relief(layers.image, layers.mask), layers.parent_mask, child], 1), step.rng)
        with self.precision():
            p, c, b = self.networks["code_classifiers"](
                seen[:, :1], seen[:, 1:2], seen[:, 2:], jitter(layers.background, step.rng)
            )
        return {
            "shape_classification": self.annealed(weights.shape_classification, step) * F.cross_entropy(p, codes.p),
            "texture_classification": weights.texture_classification * F.cross_entropy(c, codes.c),
            "background_classification": weights.background_classification * F.cross_entropy(b, codes.b),
            "shading_consistency": weights.shading_consistency
            * shading_consistency(layers.parent, layers.image, layers.parent_mask),
        }

    def masks(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses against masks that fill the picture, vanish, have holes or are half transparent (paper:
        none)."""
        weights, layers = self.losses, self.now.layers
        terms = {
            "area": weights.area * area(layers.mask, weights.area_range),
            "child_area": weights.child_area * child_area(layers.child_mask, layers.parent_mask),
            "perimeter": weights.perimeter * perimeter(layers.parent_mask, weights.perimeter_limit),
            "binary": weights.binary * step.ramp(*weights.binary_ramp) * binary(layers.parent_mask),
        }
        if batch.box is not None:
            terms["containment"] = weights.containment * containment(layers.parent_mask, batch.box)
        return terms

    def code_losses(self, step: Step) -> dict[str, Tensor]:
        """Return L_code: |E_z(G(y)) - z|^2 and -log E_k(y_k | G(y)) for k in b, p, c, on free codes y (Sec. 3.3).

        Paper: L1 for z; here the square, summed over z and averaged over the free rows.
        """
        weights, count = self.losses, self.now.free / shard_of(step.rng)[1]  # a share may hold one more or less
        if count == 0:
            return {}
        fake = self.now.layers.image
        if self.now.free_here == 0:  # of this part; the terms are named as the others' are
            names = ("code_z", "code_b", "code_p", "code_c", "code_z_background")
            return {name: fake.new_zeros(()) for name in names}
        image = scale_gradient(fake, weights.code_to_generator)
        image = (image + 0.05 * randn(*image.shape, rng=step.rng).to(image.device))[len(fake) - self.now.free_here :]
        with self.precision():
            raw = self.generator.encoders(image)
        codes = rows(self.now.codes, slice(len(fake) - len(image), None))
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

    def pose_distillation(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the distance of the encoders' poses of photos to the image discriminator's.

        Paper: none; here the discriminator, which learned poses from generated pictures, gives the targets for photos.
        """
        encoded, pose = self.now.encoded, self.config.generator.pose
        if not self.losses.pose_distillation or not self.reads_pose or encoded is None:
            return {}
        with torch.no_grad():
            target = self.discriminate(batch.image, step)[1] if self.now.photo_pose is None else self.now.photo_pose
        target = bounded(target.detach(), 1.0, turns=pose.kind == "turn")
        return {
            "pose_distillation": self.losses.pose_distillation * (placing(encoded["z"], pose) - target).square().mean()
        }

    def second_stage(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_S of S: |S(G(y)) - f| and -log D_f(S(x)) (Sec. 3.4), and the reconstruction of photos.

        Paper: L_S alone; here half of the photos are also reconstructed from S(x), with the texture and the background
        that the encoders read, and their masks are compared with the boxes.
        """
        weights, generator, n = self.losses, self.generator, (batch.image.shape[0] + 1) // 2
        with self.precision():
            read = generator.extractor(self.now.layers.image.detach())
            features = generator.extractor(batch.image)
            logits = self.networks["feature_discriminator"](features)
            with torch.no_grad():
                codes = generator.encode(batch.image[:n])
            layers = generator(codes, feature=features[:n])
        terms = {
            "l1": weights.feature * F.l1_loss(read.float(), self.now.feature.float()),
            "discriminator": weights.feature_discriminator * generator_loss(logits),
            "reconstruction": weights.feature_reconstruction * multiscale_l1(layers.image, batch.image[:n]).mean(),
        }
        if batch.box is not None:
            terms["box_projection"] = weights.feature_reconstruction * box_projection(layers.parent_mask, batch.box[:n])
        return terms
