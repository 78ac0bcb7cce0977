"""Losses of the discriminators: D_b, D_c, the D_k of image-code pairs and D_f (symbols: `mixnmatch.fast.losses`)."""

import torch
import torch.nn.functional as F
from torch import Tensor

from mixnmatch.fast.discriminators import PatchDiscriminator
from mixnmatch.fast.losses import (
    shrunk,
    weighted_mean,
)
from mixnmatch.fast.step import Context
from training.nn.augment import KINDS, augment
from training.nn.gan import (
    discriminator_loss,
    r1_gamma,
    r1_penalty,
)
from training.types import Batch, Image, Step


class DiscriminatorLosses(Context):
    """Phases in which discriminators learn; those called `..._penalty` are R1, due every few steps."""

    def scene(self, batch: Batch) -> tuple[Image, Tensor]:
        """Return D_b's view of the photos, and 1 for each of its cells outside the box, else 0.

        Raises: ValueError for a set without boxes.
        """
        image, boxes = batch.image, batch.box
        if batch.scene is not None:
            image, boxes = batch.scene, batch.scene_box
        if boxes is None:
            raise ValueError(
                "this recipe needs the object's boxes, and the prepared set has none; prepare it with boxes"
            )
        discriminator = self.networks["background_discriminator"]
        assert isinstance(discriminator, PatchDiscriminator)
        return image, discriminator.clear_of(shrunk(boxes, self.config.patch_shrink))

    def background_discriminator(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_b of D_b: -log D_b(x) on patches outside the box, -log(1 - D_b(B)); background against object."""
        discriminator, weights = self.networks["background_discriminator"], self.losses
        image, clear = self.scene(batch)
        with self.precision():
            real, kind = discriminator(image)
            fake, _ = discriminator(self.now.layers.background.detach())
        loss = weighted_mean(F.softplus(-real), clear) + F.softplus(fake).mean()
        return {
            "loss": loss,
            "kind": weights.background_class * F.binary_cross_entropy_with_logits(kind, clear),
        }

    def background_penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return R1 of D_b on the patches outside the box."""
        image, clear = self.scene(batch)
        image = image.detach().requires_grad_()
        real, _ = self.networks["background_discriminator"](image)
        logits = (real * clear).sum((1, 2)) / clear.sum((1, 2)).clamp(min=1)
        return {"penalty": self.losses.r1_background / 2 * r1_penalty(logits, image)}

    def image_discriminator(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_c of the image discriminator, -log D_c(x) - log(1 - D_c(G(y))), and its pose errors."""
        real, self.now.photo_pose = self.discriminate(batch.image, step)
        fake, read = self.discriminate(self.now.layers.image.detach(), step)
        if self.adaptive is not None:
            self.scalars = self.adaptive.update(real)
        return {
            "loss": discriminator_loss(real, fake),
            **self.pose_losses(read, self.now.on_flat_background.detach(), step),
        }

    def image_penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return R1 of the image discriminator on photos."""
        kinds = ("colour",) if self.reads_pose else KINDS
        image = augment(batch.image, self.chance, step.rng, kinds).detach().requires_grad_()
        gamma = self.losses.r1_image
        if gamma is None:
            gamma = r1_gamma(self.config.generator.resolution, self.config.loop.batch)
        logits, _ = self.networks["image_discriminator"](image, step.ramp(*self.losses.condition_ramp))
        return {"penalty": gamma / 2 * r1_penalty(logits, image)}

    def pair_discriminator(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_bi of the D_k: -log D_k(G(y), y_k) - log(1 - D_k(x, E_k(x))), mean over k (Sec. 3.2)."""
        discriminator = self.networks["pair_discriminator"]
        encoded = {name: code.detach() for name, code in self.encoded_codes().items()}
        with self.precision():
            real = discriminator(augment(batch.image, self.chance, step.rng), encoded, step.rng)
            fake = self.now.layers.image.detach()
            drawn = discriminator(augment(fake, self.chance, step.rng), self.generated_codes(), step.rng)
        # these logits are high for generated pairs, so generated pairs take the place of real pictures
        return {"loss": discriminator_loss(drawn, real)}

    def pair_penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return R1 of the D_k on generated pairs, with respect to the picture and the codes."""
        image = self.now.layers.image.detach().requires_grad_()
        codes = {name: code.detach().requires_grad_() for name, code in self.generated_codes().items()}
        logits = self.networks["pair_discriminator"](image, codes, step.rng)
        return {"penalty": self.losses.r1_pair / 2 * r1_penalty(logits, image, *codes.values())}

    def feature_discriminator(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_S of D_f: -log D_f(f) - log(1 - D_f(S(x))) (Sec. 3.4)."""
        discriminator = self.networks["feature_discriminator"]
        with self.precision():
            with torch.no_grad():
                extracted = self.generator.extractor(batch.image)
            return {"loss": discriminator_loss(discriminator(self.now.feature), discriminator(extracted))}
