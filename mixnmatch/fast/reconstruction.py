"""Reconstruction of photos from their own codes, and the assignment of a shape to each photo.

Paper: none; here they make codes read from photos usable.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mixnmatch.codes import Codes
from mixnmatch.fast.encoders import as_codes
from mixnmatch.fast.losses import (
    box_projection,
    inside,
    scale_gradient,
    two_candidates,
)
from mixnmatch.fast.step import Context
from training.nn.backbone import perceptual_distance
from training.nn.reconstruction import multiscale_l1
from training.runtime.distributed import batch_mean
from training.types import Batch, Step


class Reconstruction(Context):
    """Losses of photos x against G(E(x))."""

    def reconstruction(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the distances of x to G(E(x)) for half of the photos x, and of the mask to the photo's box.

        Paper: none. Inside the box no gradient reaches the background, so that it does not learn to draw the object.
        """
        weights, n = self.losses, (batch.image.shape[0] + 1) // 2
        image = batch.image[:n]
        generator = self.generator
        with self.precision():
            raw = (
                generator.encoders(image)
                if self.now.encoded is None
                else {k: v[:n] for k, v in self.now.encoded.items()}
            )
        codes, terms = as_codes(raw | {"z": scale_gradient(raw["z"], weights.reconstruction_to_pose)}), {}
        assigns = generator.config.one_shape and generator.config.n_shapes > 1
        with torch.no_grad():
            true = self.discriminator_features(image) if assigns or weights.feature_matching else []
        if assigns:
            better, worse = self.best_shape(true, codes, step)
            if self.usage is not None:
                self.usage.update(codes.p)
            codes = replace(codes, p=F.one_hot(better, codes.p.shape[1]).float())
            lead = (raw["p"].gather(1, better[:, None]) - raw["p"].gather(1, worse[:, None]))[:, 0]
            terms["shape_assignment"] = weights.shape_assignment * F.softplus(-lead).mean()
        with self.precision():
            layers = generator(codes)
        fake = layers.image
        if batch.box is not None:
            object_box = inside(batch.box[:n], image.shape[-1])
            seen = 1 - layers.mask
            fake = fake - object_box * seen * (layers.background - layers.background.detach())
            terms["box_projection"] = weights.box_projection * box_projection(layers.parent_mask, batch.box[:n])
        terms["reconstruction"] = weights.reconstruction * multiscale_l1(fake, image).mean()
        if weights.feature_matching:
            terms["feature_matching"] = (
                weights.feature_matching * perceptual_distance(self.discriminator_features(fake), true).mean()
            )
        return terms

    @torch.no_grad()
    def best_shape(self, true: list[Tensor], codes: Codes, step: Step) -> tuple[Tensor, Tensor]:
        """Return the shape that reconstructs each photo better, and the one that does so worse, of two candidates.

        Candidates are drawn by the photo's shape probabilities; `true` holds the image discriminator's features of the
        photos, in which reconstructions are compared. Paper: none; here the encoders' classes and the generator's
        shapes converge as in k-means, to clusters and their means.
        """
        pair = two_candidates(codes.p, step.rng)
        kinds = F.one_hot(pair, codes.p.shape[1]).float()
        with self.precision():
            both = [self.generator(replace(codes, p=kinds[:, i])).image for i in (0, 1)]
        off = torch.stack([perceptual_distance(self.discriminator_features(fake), true) for fake in both], 1)
        if self.usage is not None:
            apart = batch_mean((off[:, 0] - off[:, 1]).abs().mean())
            off = off + self.losses.usage_balance * apart * self.usage.excess[pair]
        return pair.gather(1, off.argmin(1, keepdim=True))[:, 0], pair.gather(1, off.argmax(1, keepdim=True))[:, 0]
