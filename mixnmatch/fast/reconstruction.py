"""Photos rebuilt from the codes read from them, and which of two shapes stands for each photo.

Paper: none of it; here the shortest way to codes that fit photos.
"""

from dataclasses import replace

import torch
import torch.nn.functional as F
from torch import Tensor

from mixnmatch.codes import Codes
from mixnmatch.fast.encoders import as_codes
from mixnmatch.fast.losses import (
    box_fit,
    inside,
    rivals,
    share_gradient,
    unlike,
)
from mixnmatch.fast.step import Context
from training.nn.backbone import perceptual_distance
from training.runtime.distributed import batch_mean
from training.types import Batch, Step


class Reconstruction(Context):
    """Losses of photos against what is drawn from their codes."""

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
            terms["perceived"] = weights.perceived * perceptual_distance(self.perceived(painted), true).mean()
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
        off = torch.stack([perceptual_distance(self.perceived(painted), true) for painted in both], 1)
        if self.usage is not None:
            apart = batch_mean((off[:, 0] - off[:, 1]).abs().mean())
            off = off + self.losses.even * apart * self.usage.excess[pair]
        return pair.gather(1, off.argmin(1, keepdim=True))[:, 0], pair.gather(1, off.argmax(1, keepdim=True))[:, 0]
