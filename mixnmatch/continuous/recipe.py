"""Training of the MixNMatch with continuous codes: it reconstructs photos from their codes, and mixes them.

Each step reconstructs every photo of the batch and generates one mix for each, whose background, pose, shape and
texture are those of four different photos; half of both in code mode, half in feature mode. The discriminators make
mixes look real; reconstruction determines the content of each code. Loss of the paper (the symbols of
`mixnmatch.paper.losses`) -> what takes its place here, names in quotes being the terms of `generator_losses`:

    L_b, L_p  none: "pixels", "perceptual" and "shading" reconstruct the photo, its background and its folds
    L_c       -log D_c(x) - log(1 - D_c(G(y))) on mixes: `discriminator_losses`, "image", and the projected
              discriminator; textures: `patch_losses`, "patches"
    L_bi      none: all codes are read from photos
    L_code    |E_k(G(y)) - y_k|^2 for p and c of a mix: `cycle`, "cycle"
    L_S       the outline and the pose, both read from the photo: "mask", "pose"; the other way round, "feature"
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.codes import Codes, Layers
from mixnmatch.continuous.adapt import adapted
from mixnmatch.continuous.config import TrainConfig
from mixnmatch.continuous.discriminators import PatchDiscriminator, patches
from mixnmatch.continuous.frame import Pose, dilated, hidden, pose_of_masks, pose_of_parts
from mixnmatch.continuous.generator import Generator
from mixnmatch.continuous.stages import folded
from mixnmatch.fast.losses import binary, shading_consistency
from mixnmatch.fast.stages import over
from training import types
from training.batched import rows
from training.devices import autocast
from training.nn.augment import augment, augment_alike
from training.nn.backbone import perceptual_distance
from training.nn.discriminator import Discriminator
from training.nn.gan import decayed, discriminator_loss, generator_loss, learning, r1_penalty
from training.nn.projected_discriminator import projected_for
from training.nn.reconstruction import mask_loss, multiscale_l1
from training.types import Batch, Image, Mask, Phase, Step

Scalar = Float[Tensor, ""]


def outline_of(feature: Float[Tensor, "n feature s s"]) -> Float[Tensor, "n feature s s"]:
    """Return parent features whose mask channels pass no gradient, so that masks are trained by the mask loss alone."""
    return torch.cat([feature[:, :4].detach(), feature[:, 4:]], 1)


def seen_around(background: Image, mask: Mask) -> Image:
    """Return backgrounds that pass gradients only where a photo shows them: outside its object, as `hidden` says.

    Otherwise reconstructions teach them to draw the object's rim, which a soft mask leaves uncovered, and the
    discriminators to draw seams of their own there, so that mixes show that outline beside another object.
    """
    return torch.where(hidden(mask) > 0, background.detach(), background)


@dataclass(kw_only=True, slots=True)
class Shared:
    """What `begin` computes once for all phases of a step."""

    codes: Codes
    """Read from the photos of the batch."""
    reconstruction: Layers
    mixes: Layers
    mixed: Codes
    """The codes of the mixes; the second half uses a parent feature from a photo in place of its z and p."""
    texture_from: Tensor
    """Which photo gave each mix its texture."""
    pose: Pose
    """Read from the photos."""
    masks: Float[Tensor, "twice_n 1 h w"]
    """The masks of the photos by their codes, then those by outline."""
    by_code: Float[Tensor, "more_n 1 h w"]
    """The masks of the photos and of the mixes by codes."""
    shadings: tuple[Float[Tensor, "n shading s s"], Float[Tensor, "n shading s s"]]
    """Of the photos: by codes, and by outline."""


class Recipe:
    """The networks of a training run, their phases and its grids."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device, self.losses = config, device, config.losses
        self.generator = Generator(config.generator)
        self.patch_discriminator = PatchDiscriminator()
        self.networks = nn.ModuleDict(
            {
                "generator": self.generator,
                "discriminator": Discriminator(config.discriminator_channels),
                "patch_discriminator": self.patch_discriminator,
            }
        )
        self.networks.to(device)
        self.projected = projected_for(config.projected, device, bf16=config.loop.bf16)
        if self.projected is not None:
            self.networks["projected"] = self.projected.network
        self.average: types.Generator
        self.shared: Shared
        self.seen: tuple[Image, Image]
        """Photos and mixes after augmentation: the input of the discriminators."""

    def adapt_weights(self, theirs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return another run's weights: those of a shorter shape code are lengthened, and draw the same; backgrounds
        of other cells begin anew."""
        return adapted(theirs, self.networks.state_dict())

    def precision(self) -> torch.autocast:
        """Return the context in which networks compute: bfloat16 where the config allows it."""
        return autocast(self.device, bf16=self.config.loop.bf16)

    def phases(self) -> list[Phase]:
        """Return the phases of one step: discriminators, their lazy R1, then the generator with the encoders."""
        nets, every = self.networks, self.losses.r1_every

        config = self.config
        rate = decayed(round(config.decay_since * config.loop.images), config.loop.images)

        def adam(module: nn.Module) -> torch.optim.Optimizer:
            return torch.optim.Adam(module.parameters(), lr=config.learning_rate, betas=(0.0, 0.99), fused=True)

        phases = [] if self.projected is None else self.projected.phases(rate)
        for name, losses, penalty in (
            ("discriminator", self.discriminator_losses, self.penalty),
            ("patch_discriminator", self.patch_losses, self.patch_penalty),
        ):
            common: dict[str, Any] = {"network": nets[name], "optimizer": adam(nets[name]), "rate": rate}
            phases.append(Phase(name=name, losses=losses, **common))
            phases.append(Phase(name=f"{name}_r1", losses=penalty, every=every, **common))
        G: dict[str, Any] = {"network": self.generator, "optimizer": adam(self.generator), "rate": rate}
        phases.append(Phase(name="generator", losses=self.generator_losses, **G))
        if first := config.background_images:
            for phase in phases:
                phase.since = max(phase.since, first)
            net = nn.ModuleList([self.generator.background, self.generator.background_encoder])
            alone: dict[str, Any] = {"network": net, "optimizer": adam(net), "until": first}
            phases.append(Phase(name="background", losses=self.background_losses, **alone))
        return phases

    def begin(self, batch: Batch, step: Step) -> None:
        """Compute the photos' codes, the reconstructions and the mixes once for all phases.

        Raises: ValueError for a set without masks, or without boxes where they give the objects' frames.
        """
        if batch.mask is None:
            raise ValueError(
                "this recipe needs the objects' masks, and the prepared set has none; prepare it with masks, or let "
                "`python -m training prepare photos` find them"
            )
        if step.images < self.config.background_images:
            return
        generator, image, mask = self.generator, batch.image, batch.mask
        n, z = len(image), self.frames(batch)
        if n < 2:
            raise ValueError("mixes need two photos in each process; give a larger --loop.batch, or fewer processes")
        half = n // 2  # rows before it are generated in code mode, the others in feature mode
        givers = torch.stack([torch.randperm(n, generator=step.rng) for _ in range(4)])
        with learning(generator.parameters()), self.precision():
            logit, shading, pose = generator.extractor.read(image)
            outline = folded(logit, shading, generator.config)
            codes = Codes(
                z=z,
                b=generator.background_encoder(image, mask),
                p=generator.shape_encoder(image, mask, z),
                c=generator.texture_encoder(image, mask, z),
            )
            generator.keep(codes)
            background, place, shape, texture = givers
            mixed = Codes(z=z[place], b=codes.b[background], p=codes.p[shape], c=codes.c[texture])
            both = torch.cat([z, mixed.z[:half]]), torch.cat([codes.p, mixed.p[:half]])
            code_logit, code_shading = generator.shape.outline(*both)
            by_code = folded(code_logit, code_shading, generator.config)
            by_outline = outline_of(outline)
            feature = torch.cat([by_code[:half], by_outline[half:], by_code[n:], by_outline[shape[half:]]])
            frame = torch.cat([z, mixed.z[:half], z[shape[half:]]])
            shown = seen_around(generator.background(codes.b), mask)  # computed once: mixes use the photos' backgrounds
            layers = generator.composed(
                torch.cat([shown, shown[background]]),
                feature,
                frame,
                torch.cat([codes.c, mixed.c]),
            )
            mixed = replace(mixed, z=frame[n:])
        code_masks = torch.sigmoid(code_logit)
        self.shared = Shared(
            codes=codes,
            reconstruction=rows(layers, slice(None, n)),
            mixes=rows(layers, slice(n, None)),
            mixed=mixed,
            texture_from=texture,
            pose=pose,
            masks=torch.cat([code_masks[:n], torch.sigmoid(logit)]),
            by_code=code_masks,
            shadings=(code_shading[:n], shading),
        )
        self.look(image, step)

    def background_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses of the background alone: photos, their own objects before the reconstructed backgrounds."""
        weights, generator, image, mask = self.losses, self.generator, batch.image, batch.mask
        assert mask is not None
        with self.precision():
            background = generator.background(generator.background_encoder(image, mask))
        pasted = over(image, dilated(mask), background)
        terms = {"pixels": weights.pixels * multiscale_l1(pasted, image).mean()}
        if self.projected is not None:
            self.projected.look(image, pasted)
            terms["perceptual"] = weights.perceptual * self.perceptual(len(image))
        return terms

    def perceptual(self, n: int) -> Scalar:
        """Return the distance of the first `n` photos and reconstructions in the features of the pretrained network."""
        assert self.projected is not None
        real, fake = ([x[:n] for x in maps[:3]] for maps in (self.projected.real, self.projected.fake))
        return perceptual_distance(fake, real).mean()

    def frames(self, batch: Batch) -> Pose:
        """Return the photos' poses. Raises: ValueError for a set without the boxes that give them."""
        assert batch.mask is not None
        if self.config.generator.frame == "mask":
            return pose_of_masks(batch.mask)
        if batch.box is None:
            raise ValueError("objects' frames are their boxes, and the set has none; give --generator.frame mask")
        return pose_of_parts(batch.box)

    def look(self, image: Image, step: Step) -> None:
        """Augment photos, reconstructions and mixes, and compute their features for the projected discriminator.

        A photo and its reconstruction get the same augmentation, so that their features can be compared.
        """
        now, chance = self.shared, self.losses.augment
        photos, reconstruction = augment_alike((image, now.reconstruction.image), chance, step.rng)
        self.seen = photos, augment(now.mixes.image, chance, step.rng)
        if self.projected is not None:
            self.projected.look(photos, torch.cat([reconstruction, self.seen[1]]))

    # Discriminators

    def discriminate(self, image: Image) -> Float[Tensor, " n"]:
        """Return the image discriminator's logits."""
        with self.precision():
            return self.networks["discriminator"](image)[0]

    def discriminator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the image discriminator's loss: photos against mixes."""
        real, fake = self.seen
        return {"loss": discriminator_loss(self.discriminate(real), self.discriminate(fake.detach()))}

    def penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return R1 of the image discriminator on photos."""
        image = self.seen[0].detach().requires_grad_()
        logits, _ = self.networks["discriminator"](image)
        return {"penalty": self.losses.r1_image / 2 * r1_penalty(logits, image)}

    def cut(self, image: Image, mask: Mask, step: Step) -> Float[Tensor, "n count 3 p p"]:
        """Return texture patches of pictures."""
        return patches(image, mask, self.losses.n_patches, step.rng)

    def patch_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the patch discriminator's loss: patches of a photo against those of the mix with its texture."""
        net, now, given = self.patch_discriminator, self.shared, self.given(batch)
        with self.precision():
            reference = net.vectors(self.cut(*given, step))
            real = net(self.cut(*given, step), reference)
            fake = net(self.cut(now.mixes.image.detach(), now.mixes.mask, step), reference)
        return {"loss": discriminator_loss(real, fake)}

    def patch_penalty(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return R1 of the patch discriminator on real patches."""
        net, given = self.patch_discriminator, self.given(batch)
        reference = net.vectors(self.cut(*given, step)).detach()
        cut = self.cut(*given, step).detach().requires_grad_()
        return {"penalty": self.losses.r1_patches / 2 * r1_penalty(net(cut, reference).mean(1), cut)}

    def given(self, batch: Batch) -> tuple[Image, Mask]:
        """Return the photos that gave the mixes their texture, with their masks."""
        assert batch.mask is not None
        return batch.image[self.shared.texture_from], batch.mask[self.shared.texture_from]

    # Generator and encoders

    def generator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the losses of the generator and the encoders."""
        weights, now = self.losses, self.shared
        assert batch.mask is not None
        net = self.patch_discriminator
        with self.precision():
            reference = net.vectors(self.cut(*self.given(batch), step)).detach()
            by_patch = net(self.cut(now.mixes.image, now.mixes.mask, step), reference)
        terms = {
            "image": weights.image * generator_loss(self.discriminate(self.seen[1])),
            "patches": weights.patches * generator_loss(by_patch),
            "pixels": weights.pixels * multiscale_l1(now.reconstruction.image, batch.image).mean(),
            "mask": weights.mask * 2 * mask_loss(now.masks, batch.mask.repeat(2, 1, 1, 1)),
            "pose": weights.pose * (now.pose - now.codes.z).abs().mean(),
            "shading": weights.shading
            * shading_consistency(now.reconstruction.parent, batch.image, now.reconstruction.mask),
            "code_size": weights.code_size * sum(getattr(now.codes, k).square().mean() for k in "bpc"),
            "cycle": weights.cycle * self.cycle(),
        }
        if weights.feature > 0:
            terms["feature"] = weights.feature * self.feature(batch.mask)
        if weights.binary > 0:
            terms["binary"] = weights.binary * binary(now.by_code)
        if self.projected is not None:
            terms |= self.projected.generator_losses()
            terms["perceptual"] = weights.perceptual * self.perceptual(len(batch.image))
        return terms

    def feature(self, mask: Mask) -> Scalar:
        """Return the error of the shading by codes, as a share of the mean square of that by outline.

        Both less their averages over 3 and 9 pixels around: folds and prints are compared, and not how bright they are.
        """
        drawn, read = (shading.float() for shading in self.shared.shadings)
        inside, shares = F.avg_pool2d(mask, 2), []
        for side in (3, 9):
            fine, wanted = (
                x - F.avg_pool2d(x, side, 1, side // 2, count_include_pad=False) for x in (drawn, read.detach())
            )
            off, size = ((x.square() * inside).sum() for x in (fine - wanted, wanted))
            shares.append(off / size.clamp_min(1e-3))
        return torch.stack(shares).mean()

    def cycle(self) -> Tensor:
        """Return the squared error of codes read from the mixes: p for mixes in code mode, and the global part of c.

        The map of c is left out, because it moves with the shape, and the details of p, which "feature" compares.
        """
        now, config = self.shared, self.config.generator
        half, size, coarse = len(now.mixed.z) // 2, config.texture_dim, config.code_sizes["p"] - config.details_size
        image, mask, mixed = now.mixes.image, now.mixes.mask.detach(), now.mixed
        with self.precision():
            shape = self.generator.shape_encoder(image[:half], mask[:half], mixed.z[:half])[:, :coarse]
            texture = self.generator.texture_encoder(image, mask, mixed.z)[:, :size]
        shape_off = (shape - mixed.p[:half, :coarse].detach()).square().mean()
        return shape_off + (texture - mixed.c[:, :size].detach()).square().mean()

    @torch.no_grad()
    def grids(self, generator: types.Generator, batch: Batch) -> dict[str, Image]:
        """Return photos with their reconstructions in both modes and masks; mixes of textures; free samples."""
        assert isinstance(generator, Generator)
        photos = batch.image[:8]
        codes = generator.encode(photos)
        feature = generator.shape_feature(photos)
        by_code, by_outline = generator(codes), generator(codes, feature)
        masks = [(layers.mask * 2 - 1).expand(-1, 3, -1, -1) for layers in (by_code, by_outline)]
        shifted = [replace(codes, c=codes.c.roll(k, 0)) for k in range(1, 4)]
        free = generator.sample(32, torch.Generator().manual_seed(1))
        return {
            "photos": torch.cat([photos, by_code.image, by_outline.image, *masks, by_outline.background]),
            "textures": torch.cat([photos, *(generator(mix, feature).image for mix in shifted)]),
            "samples": generator(free).image,
        }
