"""How the fast GIRAFFE HD learns: discriminator, lazy R1 and generator share one drawing of each batch."""

from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import gaussian_nll_loss, max_pool2d

from giraffe_hd.codes import Codes, Layers, TrainingLayers
from giraffe_hd.fast.config import TrainConfig
from giraffe_hd.fast.encoder import LATENT, START, PhotoEncoder, Reading
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.losses import binarisation, coverage, pose_error, surface_spread
from giraffe_hd.fast.prior import DRAWN_BY, pose_targets
from giraffe_hd.fast.reader import reader_from_discriminator
from training import types
from training.batched import repeat, rows, stack
from training.devices import autocast
from training.nn.augment import AdaptiveChance, augment, augment_alike
from training.nn.backbone import perceptual_distance
from training.nn.discriminator import Discriminator
from training.nn.fields import with_inputs
from training.nn.gan import (
    decayed,
    discriminator_loss,
    generator_loss,
    learning,
    learning_rate,
    r1_gamma,
    r1_penalty,
)
from training.nn.projected_discriminator import projected_for
from training.nn.reconstruction import divergence, mask_loss, multiscale_l1, roughness
from training.nn.volume import box_rays, render_rays
from training.runtime.sharded_random import rand, sampled
from training.types import Batch, Image, Mask, Phase, Step


def reconstructed_rows(n: int, share: float) -> slice:
    """Return which of `n` pictures are reconstructed: the last ones, at least one, and not all. Raises: ValueError for
    a single picture."""
    if n < 2:
        raise ValueError(
            "a batch of one picture has no room for a photo and a drawn code; make --loop.batch at least twice "
            "--loop.accumulate times the processes, or give --reconstruction.share 0"
        )
    return slice(n - min(n - 1, max(1, round(n * share))), n)


class Recipe:
    """Networks, phases and grids of one training run."""

    mask_advice = {  # noqa: RUF012 (read only)
        "nothing": "--coverage-weight, --coverage",
        "everything": "--coverage, the second number",
        "soft": "--binarisation-weight, --binarisation-ramp",
        "alike": "--pose-weight",
    }

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config, self.device = config, device
        self.generator = Generator(config.generator).to(device)
        self.discriminator = Discriminator(config.discriminator.channels, config.discriminator.pose_dim).to(
            device, memory_format=torch.channels_last
        )  # type: ignore[call-overload]
        self.networks = nn.ModuleDict({"generator": self.generator, "discriminator": self.discriminator})
        self.encoder: PhotoEncoder | None = None
        if config.reconstruction.share > 0:
            encoder = PhotoEncoder(config.generator, config.reconstruction.channels)
            if config.reconstruction.since > 0:
                nn.init.constant_(encoder.log_variance.bias, -START)  # it knows nothing yet: a variance of 1
            self.networks["encoder"] = self.encoder = encoder.to(device, memory_format=torch.channels_last)  # type: ignore[call-overload]
        self.adaptive = None if config.augment_target is None else AdaptiveChance(config.augment_target).to(device)
        if self.adaptive is not None:
            self.networks["augment"] = self.adaptive
        self.projected = projected_for(config.projected, device, bf16=config.loop.bf16)
        if self.projected is not None:
            self.networks["projected"] = self.projected.network
        self.scalars: dict[str, Tensor] = {}
        """Values for the log that are no losses."""
        self.average: types.Generator
        self.codes: Codes
        self.photos = slice(0, 0)
        """Rows of the batch that are reconstructed: fakes and photos correspond."""
        self.read: Reading
        """What the encoder read from these photos."""
        self.fake: Layers
        self.on_flat_background: Image
        self.cut_out: Image
        """Real objects on flat colours."""
        self.places: Image
        """Generated backgrounds, objects' silhouettes of photos covered by flat colours."""
        self.real_places: Image
        """The photos, so covered."""

    def adapt_weights(self, theirs: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
        """Return another run's weights; a field of fewer octaves, or without planes, gets what it lacks, and
        draws the same.

        Of a run without an encoder, the discriminator's trunk and pose head serve an encoder of the same channels.
        """
        planes = self.generator.field.planes
        n_planes = 0 if planes is None else planes.features
        found = with_inputs(theirs, "generator.field.", self.config.generator.octaves, n_planes)
        c = self.config
        has_encoder = any(name.startswith("encoder.") for name in found)
        if self.encoder is None or has_encoder or c.reconstruction.channels != c.discriminator.channels:
            return found
        of_discriminator = (name for name in found if name.startswith("discriminator."))
        discriminator = {name.removeprefix("discriminator."): found[name] for name in of_discriminator}
        if "pose.weight" in discriminator:
            reader = reader_from_discriminator(discriminator, c.generator.pose)
            found |= {f"encoder.{name}": w for name, w in reader.state_dict().items()}
        return found

    def phases(self) -> list[Phase]:
        """Return discriminator, R1 every few steps, generator."""
        c = self.config
        lr = learning_rate(c.generator.resolution) if c.learning_rate is None else c.learning_rate
        discriminator = torch.optim.Adam(self.discriminator.parameters(), lr=lr, betas=(0.0, 0.99), fused=True)
        mapping = [p for name, p in self.generator.named_parameters() if name.startswith("map_")]
        others = [p for name, p in self.generator.named_parameters() if not name.startswith("map_")]
        encoder = [] if self.encoder is None else [{"params": list(self.encoder.parameters())}]
        groups = [{"params": others}, {"params": mapping, "lr": lr * c.mapping_rate}, *encoder]
        generator = torch.optim.Adam(groups, lr=lr, betas=(0.0, 0.99), fused=True)
        rate = decayed(round(c.decay_since * c.loop.images), c.loop.images)
        D: dict[str, Any] = {"network": self.discriminator, "optimizer": discriminator, "rate": rate}
        return [
            *([] if self.projected is None else self.projected.phases(rate)),
            Phase(name="D", losses=self.discriminator_losses, **D),
            Phase(name="R1", losses=self.r1_losses, every=c.r1_every, **D),
            Phase(name="G", network=self.drawing, optimizer=generator, losses=self.generator_losses, rate=rate),
        ]

    @property
    def drawing(self) -> nn.ModuleList:
        """The networks behind the generated pictures."""
        return nn.ModuleList([self.generator] if self.encoder is None else [self.generator, self.encoder])

    def begin(self, batch: Batch, step: Step) -> None:
        """Draw one batch of fakes, with its graph: the discriminator learns from it before the generator does."""
        n = batch.image.shape[0]
        self.codes = sampled(lambda whole: self.generator.sample(whole, step.rng), n, step.rng)
        self.photos = slice(n, n)
        noise = 1 - step.ramp(0, self.config.sigma_noise_until)
        with learning(self.drawing.parameters()), self.autocast():
            if self.encoder is not None:
                if batch.mask is None and self.config.reconstruction.mask > 0:
                    raise ValueError(
                        "masks of reconstructions are compared, but the set has no masks; prepare it with masks, or "
                        "give --reconstruction.mask 0"
                    )
                if step.images >= self.config.reconstruction.since:
                    self.read_photos(self.encoder, batch, step)
            self.fake = self.generator(self.codes, rng=step.rng, sigma_noise=noise)
        if self.projected is not None:
            chance = float(self.adaptive.chance) if self.adaptive else 0.0
            self.projected.look(*augment_alike((batch.image, self.fake.image), chance, step.rng))
        early, late = self.config.object_pose_share
        m = max(1, round(n * (early + step.ramp(*self.config.pose_ramp) * (late - early))))
        m = m if m < 4 else m - m % 4  # whole groups for the discriminator's minibatch deviation
        mask = self.fake.mask[:m]  # no horizon to read the elevation from
        self.on_flat_background = self.on_flat_colour(self.fake.foreground[:m], mask, step)
        if self.config.cutouts > 0:
            if batch.mask is None:
                raise ValueError(
                    "cut-outs are compared, but the set has no masks; prepare it with masks, or give --cutouts 0"
                )
            places = max(1, m // 2)
            self.on_flat_background = self.seen(self.on_flat_background, step)
            self.cut_out = self.seen(self.on_flat_colour(batch.image[:m], batch.mask[:m], step), step)
            around = 1 - max_pool2d(batch.mask[-places:], 5, stride=1, padding=2)  # no fur is left of the object
            real = self.on_flat_colour(batch.image[-places:], around, step)
            fake = self.on_flat_colour(self.fake.background[:places], around, step)  # of drawn codes
            self.places = self.seen(fake, step)
            self.real_places = self.seen(real, step)

    def read_photos(self, encoder: PhotoEncoder, batch: Batch, step: Step) -> None:
        """Put codes read from photos in place of the last ones drawn."""
        self.photos = reconstructed_rows(len(batch.image), self.config.reconstruction.share)
        self.read = encoder(batch.image[self.photos])
        self.fit_codes()
        self.codes = stack([rows(self.codes, slice(0, self.photos.start)), encoder.codes(self.read, step.rng)])

    def fit_codes(self) -> None:
        """Move the distributions of the latent codes towards those of the codes just read."""
        parts = (x.detach().chunk(len(LATENT), 1) for x in (self.read.mean, self.read.log_variance.exp()))
        mean, variance = (dict(zip(LATENT, x, strict=True)) for x in parts)
        share = self.config.reconstruction.fit
        for part, fit in self.generator.fits.items():
            means, variances = (torch.cat([x[name] for name in DRAWN_BY[part]], 1) for x in (mean, variance))
            fit.update(means, variances, share)  # type: ignore[operator]

    def on_flat_colour(self, image: Image, mask: Mask, step: Step) -> Image:
        """Return objects on plain backgrounds of random colours."""
        flat = rand(len(image), 3, 1, 1, rng=step.rng).to(self.device) * 2 - 1
        return mask * image + (1 - mask) * flat

    def autocast(self) -> torch.autocast:
        """Return the context of bfloat16 arithmetic, if the config wants it."""
        return autocast(self.device, bf16=self.config.loop.bf16)

    def seen(self, image: Image, step: Step) -> Image:
        """Return pictures as the discriminator gets them: recoloured, where it has become too sure of a small set."""
        return augment(image, float(self.adaptive.chance), step.rng, ("colour",)) if self.adaptive else image

    def discriminate(self, image: Image, step: Step) -> tuple[Float[Tensor, " n"], Float[Tensor, "n pose_dim"]]:
        """Return logits and poses; late enough, logits given the pose."""
        c = self.config
        condition = step.ramp(c.condition_since, c.condition_full)
        with self.autocast():
            return self.discriminator(image, condition)

    def pose_losses(self, read: Tensor, read_on_flat: Tensor, step: Step) -> dict[str, Tensor]:
        """Return the errors of the poses read from pictures and from objects on a flat colour."""
        c = self.config
        true = pose_targets(self.codes, c.generator.pose).detach()
        late = step.ramp(*c.pose_ramp)
        weights = tuple(a + late * (b - a) for a, b in zip(c.pose_weights, c.pose_weights_late, strict=True))
        return {
            "pose": c.pose_weight * pose_error(read, true, weights),
            "pose_on_flat_background": c.pose_weight * pose_error(read_on_flat, true[: len(read_on_flat)], weights),
        }

    def discriminator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return adversarial and pose terms of the discriminator."""
        fake, read = self.discriminate(self.seen(self.fake.image.detach(), step), step)
        real, _ = self.discriminate(self.seen(batch.image, step), step)
        if self.adaptive is not None:
            self.scalars = self.adaptive.update(real)
        fake_on_flat, read_on_flat = self.discriminate(self.on_flat_background.detach(), step)
        terms = {"adversarial": discriminator_loss(real, fake), **self.pose_losses(read, read_on_flat, step)}
        if self.config.cutouts > 0:
            real_on_flat, _ = self.discriminate(self.cut_out, step)
            terms["cutouts"] = self.config.cutouts * discriminator_loss(real_on_flat, fake_on_flat)
            real_place, fake_place = (self.discriminate(x, step)[0] for x in (self.real_places, self.places.detach()))
            terms["places"] = self.config.cutouts * discriminator_loss(real_place, fake_place)
        return terms

    def r1_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return the gradient penalty on real pictures, in float32."""
        image = self.seen(batch.image, step).detach().requires_grad_()
        c = self.config
        logit, _ = self.discriminator(image, step.ramp(c.condition_since, c.condition_full))
        gamma = r1_gamma(c.generator.resolution, c.loop.batch) if c.r1 is None else c.r1
        return {"r1": gamma / 2 * r1_penalty(logit, image)}

    def generator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return adversarial, pose and mask terms of the generator."""
        c, layers = self.config, self.fake
        hit = box_rays(self.codes.object_pose, c.generator.rays, c.generator.pose.fov).hit.view_as(layers.alpha).float()
        logit, read = self.discriminate(self.seen(layers.image, step), step)
        logit_on_flat, read_on_flat = self.discriminate(self.on_flat_background, step)
        apart = {}
        if c.cutouts > 0:
            place, _ = self.discriminate(self.places, step)
            apart = {"cutouts": c.cutouts * generator_loss(logit_on_flat), "places": c.cutouts * generator_loss(place)}
        return {
            "adversarial": generator_loss(logit),
            **self.pose_losses(read, read_on_flat, step),
            **apart,
            "coverage": c.coverage_weight * coverage(layers.alpha, hit, c.coverage),
            "binarisation": c.binarisation_weight * step.ramp(*c.binarisation_ramp) * binarisation(layers.mask),
            **({"surface": c.surface_weight * self.softness()} if c.surface_weight > 0 else {}),
            **(self.projected.generator_losses() if self.projected is not None else {}),
            **({} if self.encoder is None else self.reconstruction_losses(self.encoder, batch)),
        }

    def softness(self) -> Tensor:
        """Return how soft the objects' surfaces are; where the rays did not tell, from half as many a side."""
        c, codes, length = self.config.generator, self.codes, self.codes.scale[:, :1]
        if isinstance(self.fake, TrainingLayers) and self.fake.spread is not None:
            return surface_spread(self.fake.alpha.flatten(1), self.fake.spread.flatten(1), length)
        rays = box_rays(codes.object_pose, max(1, c.rays // 2), c.pose.fov)
        with self.autocast():
            styles, *_ = self.generator.layer_styles(codes)
            seen = render_rays(self.generator.field, rays, length, styles, c.samples)
        return surface_spread(seen.real * seen.opacity, seen.spread, length)

    def reconstruction_losses(self, encoder: PhotoEncoder, batch: Batch) -> dict[str, Tensor]:
        """Return what the encoder misreads of generated pictures, and how far reconstructions are from their photos."""
        weights, photos, fake, real = self.config.reconstruction, self.photos, self.fake, batch.image[self.photos]
        terms = {"cycle": weights.cycle * self.misread(encoder)}
        if photos.start == photos.stop:
            return terms
        mask = fake.mask[photos] if batch.mask is None else batch.mask[photos]
        composed = mask * fake.foreground[photos] + (1 - mask) * fake.background[photos]
        terms["pixels"] = weights.pixels * multiscale_l1(composed, real).mean()
        terms["divergence"] = weights.divergence * divergence(self.read.mean, self.read.log_variance)
        if weights.mask > 0 and batch.mask is not None:
            terms["mask"] = weights.mask * mask_loss(fake.mask[photos], batch.mask[photos])
        if weights.behind > 0:
            terms["behind"] = weights.behind * roughness(fake.background[photos], mask.detach())
        if self.projected is not None:
            ours, theirs = ([x[photos] for x in maps[:3]] for maps in (self.projected.fake, self.projected.real))
            terms["perceptual"] = weights.perceptual * perceptual_distance(ours, theirs).mean()
        return terms

    def misread(self, encoder: PhotoEncoder) -> Tensor:
        """Return the error of codes and poses that the encoder reads from generated pictures.

        Before photos are reconstructed it is the codes' likelihood, so that codes read from photos are at first as far
        apart as drawn ones; after, their squared error, as the noise is then the reconstructions' to choose.
        """
        drawn = slice(0, self.photos.start)
        with self.autocast():
            read = encoder(self.fake.image[drawn].detach())
        codes = torch.cat([getattr(self.codes, name)[drawn] for name in LATENT], 1)
        pose = (read.pose - pose_targets(rows(self.codes, drawn), self.config.generator.pose)).square().mean()
        if self.photos.start == self.photos.stop:
            return pose + gaussian_nll_loss(read.mean, codes, read.log_variance.exp())
        return pose + (read.mean - codes).square().mean()

    def grids(self, generator: types.Generator, batch: Batch) -> dict[str, Image]:
        """Return samples; a turn; and the layers, shape and look of a few objects."""
        assert isinstance(generator, Generator)
        shown = generator.sample(64, torch.Generator().manual_seed(0))
        few = rows(shown, slice(0, 4))
        turn = repeat(few, 8)
        low, high = self.config.generator.pose.rotation
        steps = torch.arange(8, device=self.device) / (
            8 if high - low >= 360 else 7
        )  # a whole turn ends where it began
        turn = replace(turn, rotation=(low + (high - low) * steps).deg2rad().repeat(4))
        eight = rows(shown, slice(0, 8))
        one = repeat(rows(shown, 0), 8)
        layers = generator(eight)
        shapes = generator(replace(one, z_s_fg=shown.z_s_fg[8:16]))
        looks = generator(replace(one, z_a_fg=shown.z_a_fg[8:16]))
        mask = (layers.mask * 2 - 1).expand(-1, 3, -1, -1)
        photos = {} if self.encoder is None else {"photos": self.reconstructed(self.encoder, generator, batch)}
        return photos | {
            "samples": generator(rows(shown, slice(8, 40))).image,
            "turn": generator(turn).image,
            "layers": torch.cat([layers.image, layers.foreground, mask, layers.background, shapes.image, looks.image]),
        }

    def reconstructed(self, encoder: PhotoEncoder, generator: Generator, batch: Batch) -> Image:
        """Return photos, their reconstructions and masks, and both turned to the ends of the prior."""
        photos = batch.image[:8]
        codes = encoder.codes(encoder(photos))
        ends = (codes.rotation.new_full((len(photos),), end).deg2rad() for end in self.config.generator.pose.rotation)
        drawn = generator(codes)
        turned = [generator(replace(codes, rotation=end)).image for end in ends]
        return torch.cat([photos, drawn.image, (drawn.mask * 2 - 1).expand(-1, 3, -1, -1), *turned])
