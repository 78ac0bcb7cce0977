"""How the published MixNMatch learns: a first stage of codes (Sec. 3.2, 3.3), a second of features (Sec. 3.4).

Each phase minimises the sum that the published program minimises, in the same order, for the same networks; the symbols
are those of `mixnmatch.paper.losses`. Two defects of that program are not copied: it continued from the averaged
weights after every epoch, where here the training loop keeps the average apart; and it stopped at sets without boxes.
"""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.codes import Codes
from mixnmatch.paper.config import TrainConfig
from mixnmatch.paper.discriminators import BackgroundDiscriminator, ChildDiscriminator, PairCritics, ParentDiscriminator
from mixnmatch.paper.encoders import CODES
from mixnmatch.paper.feature_extractor import FeatureDiscriminator
from mixnmatch.paper.generator import Generated, Generator
from mixnmatch.paper.layers import initialise
from mixnmatch.paper.losses import (
    as_fake,
    as_real,
    background_cells,
    background_discriminator_loss,
    code_losses,
    gradient_penalty,
)
from training.batched import fields_of
from training.runtime.sharded_random import rand, randn, sampled
from training.types import Batch, Boxes, Image, Mask, Phase, Step


@dataclass(frozen=True, kw_only=True, slots=True)
class FirstStage:
    """What the phases of a step of the first stage share."""

    codes: Codes
    """y: drawn from the prior, tied."""
    fake: Generated
    """G(y)."""
    read: dict[str, Tensor]
    """E(x) of the real pictures x: z, and b, p, c after softmax."""


@dataclass(frozen=True, kw_only=True, slots=True)
class SecondStage:
    """What the phases of a step of the second stage share."""

    image: Image
    """G(y) for free codes y."""
    feature: Float[Tensor, "n feature h w"]
    """f, the parent feature it was generated from."""
    read: Float[Tensor, "n feature h w"]
    """S(x) of the real pictures x."""


class Recipe:
    """Both stages of the published training, one after the other."""

    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.config = config
        width, sizes = config.discriminator_width, config.generator
        self.generator = Generator(sizes)
        self.background_discriminator = BackgroundDiscriminator(width)  # D_b
        self.parent_discriminator = ParentDiscriminator(width // 2, sizes.n_shapes)  # D_p
        self.child_discriminator = ChildDiscriminator(width, sizes.n_textures)  # D_c
        self.pair_critics = PairCritics(sizes, config.pair_width)
        self.feature_discriminator = FeatureDiscriminator(sizes, config.feature_discriminator_width)
        self.networks = nn.ModuleDict(
            {
                "generator": self.generator,
                "background_discriminator": self.background_discriminator,
                "parent_discriminator": self.parent_discriminator,
                "child_discriminator": self.child_discriminator,
                "pair_critics": self.pair_critics,
                "feature_discriminator": self.feature_discriminator,
            }
        )
        for name, network in self.networks.items():
            if name != "pair_critics":  # the published program leaves these at PyTorch's default
                initialise(network)
        self.networks.to(device)
        self.average: Generator = self.generator
        """The averaged generator, set by the training loop; the second stage starts from it."""
        self._first: FirstStage | None = None
        self._second: SecondStage | None = None

    def phases(self) -> list[Phase]:
        """Return D_b, D_c, the pair critics and G with E; then the feature discriminator and the feature extractor."""
        end = self.config.first_stage
        # D_p and the code head of D_c learn with G and E: they classify generated layers only.
        D_c = nn.ModuleList([self.child_discriminator.trunk, self.child_discriminator.real])
        G_and_E = nn.ModuleList(
            [self.generator.stages(), self.generator.encoders, self.parent_discriminator, self.child_discriminator.code]
        )
        phases = [
            self._phase(
                "background_discriminator",
                self.background_discriminator,
                self.background_discriminator_losses,
                until=end,
            ),
            self._phase("child_discriminator", D_c, self.child_discriminator_losses, until=end),
            self._phase("pair_critics", self.pair_critics, self.pair_critics_losses, until=end),
            self._phase("generator", G_and_E, self.generator_losses, until=end),
        ]
        extractor = self.generator.extractor
        if extractor is not None:
            phases += [
                self._phase(
                    "feature_discriminator", self.feature_discriminator, self.feature_discriminator_losses, since=end
                ),
                self._phase("extractor", extractor, self.extractor_losses, since=end),
            ]
        return phases

    def begin(self, batch: Batch, step: Step) -> None:
        """Draw codes, generate and read the real pictures, once for all phases of the step."""
        self._first = self._second = None
        self.networks.train()
        if step.images < self.config.first_stage:
            self._first = self._begin_first(batch, step)
        elif self.generator.extractor is not None:
            if step.images < self.config.first_stage + self.config.loop.batch:
                self.generator.load_state_dict(self.average.state_dict())
            self._second = self._begin_second(batch, step)

    def _begin_first(self, batch: Batch, step: Step) -> FirstStage:
        G = self.generator
        codes = self._first_codes(len(batch.image), step)
        # The graph is made here and used in the phase `generator`, the only one in which G and E learn.
        learning = nn.ModuleList([G.stages(), G.encoders]).requires_grad_(True)
        fake = G.generate(codes)
        read = {k: G.encoders.code(batch.image, k) for k in CODES}
        learning.requires_grad_(False)
        return FirstStage(codes=codes, fake=fake, read=read)

    def _begin_second(self, batch: Batch, step: Step) -> SecondStage:
        G = self.generator
        assert G.extractor is not None
        G.eval()
        G.extractor.train()
        with torch.no_grad():
            fake = G.generate(self._second_codes(len(batch.image), step))
        G.extractor.requires_grad_(True)  # as in the first stage: the graph is used in the phase `extractor`
        read = G.extractor(batch.image)
        G.extractor.requires_grad_(False)
        return SecondStage(image=fake.layers.image, feature=fake.feature, read=read)

    def _sample(self, n: int, step: Step, *, tied: bool) -> Codes:
        return sampled(lambda whole: self.generator.sample(whole, step.rng, tied=tied), n, step.rng)

    def _first_codes(self, n: int, step: Step) -> Codes:
        """Return tied codes; after `free_start`, a share of the rows (`free_share`) has independent b and p."""
        config = self.config
        codes = self._sample(n, step, tied=True)
        share = config.free_share * step.ramp(config.free_start, config.free_full)
        if share == 0:
            return codes
        free = self._sample(n, step, tied=False)
        row = (rand(n, 1, rng=step.rng) < share).to(codes.b.device)
        return replace(codes, b=torch.where(row, free.b, codes.b), p=torch.where(row, free.p, codes.p))

    def _second_codes(self, n: int, step: Step) -> Codes:
        """Return free codes; in a share of batches (`soft_shapes`) p is a softmax of noise, soft as E_p's output is."""
        codes = self._sample(n, step, tied=False)
        if torch.rand((), generator=step.rng) >= self.config.soft_shapes:
            return codes
        return replace(codes, p=randn(*codes.p.shape, rng=step.rng).softmax(1).to(codes.p))

    def background_discriminator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_b of D_b: real against generated background patches; background against object ones."""
        scene, box = (batch.image, batch.box) if batch.scene is None else (batch.scene, batch.scene_box)
        cells = background_cells(self._boxes(scene, box))
        real, background = self.background_discriminator(scene)
        fake, _ = self.background_discriminator(self.first.fake.layers.background.detach())
        of_real, of_background = background_discriminator_loss(real, fake, background, cells)
        return {"real": self.config.losses.background * of_real, "background": of_background}

    def child_discriminator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_c of D_c's real/fake head: -log D_c(x) - log(1 - D_c(G(y)))."""
        fake = self.first.fake.layers.image.detach()
        return {
            "real": as_real(self.child_discriminator.realness(batch.image)),
            "fake": as_fake(self.child_discriminator.realness(fake)),
        }

    def pair_critics_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_bi of the critics: sum_k D_k(G(y), y_k) - D_k(x, E_k(x)), and the gradient penalty (Sec. 3.2)."""
        first = self.first
        real = (batch.image, {k: code.detach() for k, code in first.read.items()})
        fake = (first.fake.layers.image.detach(), fields_of(first.codes))
        penalty = gradient_penalty(self.pair_critics, real, fake, step.rng)
        return {
            "read": -self.pair_critics(*real, step.rng),
            "fake": self.pair_critics(*fake, step.rng),
            "penalty": self.config.losses.gradient_penalty * penalty,
        }

    def generator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return G's and E's side of L_b + L_p + L_c - L_bi + L_code; D_p and D_c's code head minimise L_p, L_c too."""
        first, weights, G = self.first, self.config.losses, self.generator
        codes, fake, layers = first.codes, first.fake, first.fake.layers
        with torch.no_grad():
            free = self._sample(len(batch.image), step, tied=False)
            of_free = G(free).image
        read = {k: G.encoders(of_free, k) for k in CODES}
        shape = self.parent_discriminator(_masked(fake.parent_foreground, layers.parent_mask))
        texture = self.child_discriminator(_masked(fake.child_foreground, layers.child_mask))
        background_real, background_class = self.background_discriminator(layers.background)
        in_code = code_losses(read, free)
        return {
            "shape": F.cross_entropy(shape, codes.p),
            "texture": F.cross_entropy(texture, codes.c),
            "background_real": weights.background * as_real(background_real),
            "background_class": as_real(background_class),
            "image_real": as_real(self.child_discriminator.realness(layers.image)),
            "pairs_read": self.pair_critics(batch.image, first.read, step.rng),
            "pairs_fake": -self.pair_critics(layers.image, fields_of(codes), step.rng),
            **{f"code_{k}": getattr(weights, k) * in_code[k] for k in CODES},
        }

    def feature_discriminator_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_S of D_f: -log D_f(f) - log(1 - D_f(S(x))), f of generated pictures, x real ones (Sec. 3.4)."""
        second = self.second
        return {
            "fake": as_real(self.feature_discriminator(second.feature)),
            "read": as_fake(self.feature_discriminator(second.read.detach())),
        }

    def extractor_losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        """Return L_S of S: |S(G(y)) - f| and -log D_f(S(x)), x real pictures (Sec. 3.4)."""
        second = self.second
        assert self.generator.extractor is not None
        back = F.l1_loss(self.generator.extractor(second.image), second.feature)
        return {"real": as_real(self.feature_discriminator(second.read)), "feature": self.config.losses.feature * back}

    @torch.no_grad()
    def grids(self, generator: Generator, batch: Batch) -> dict[str, Image]:
        """Return layers of tied and of free codes, and reconstructed and mixed photos, eight pictures a row."""
        rng = torch.Generator().manual_seed(0)
        pictures = {"tied": _rows(generator.sample(8, rng), generator)}
        pictures["free"] = _rows(generator.sample(8, rng, tied=False), generator)
        photos = batch.image[torch.arange(8) % len(batch.image)]
        codes = generator.encode(photos)
        other = {"b": codes.b.roll(1, 0), "z_background": codes.z.roll(1, 0), "c": codes.c.roll(2, 0)}
        photo_rows = [photos, generator(codes).image, generator(replace(codes, **other)).image]
        if generator.extractor is not None:
            photo_rows.append(generator(codes, feature=generator.shape_feature(photos)).image)
        return pictures | {"photos": torch.cat(photo_rows)}

    @property
    def first(self) -> FirstStage:
        """What `begin` prepared for this step of the first stage."""
        assert self._first is not None, "begin() comes first, and the first stage is over at `first_stage` pictures"
        return self._first

    @property
    def second(self) -> SecondStage:
        """What `begin` prepared for this step of the second stage."""
        assert self._second is not None, "begin() comes first, and the second stage begins at `first_stage` pictures"
        return self._second

    def _boxes(self, scene: Image, box: Boxes | None) -> Boxes:
        unknown = scene.new_tensor(self.config.box_where_unknown).expand(len(scene), 4)
        return unknown if box is None else box

    def _phase(
        self,
        name: str,
        network: nn.Module,
        losses: Callable[[Batch, Step], dict[str, Tensor]],
        since: int = 0,
        until: int | None = None,
    ) -> Phase:
        config = self.config
        rate = config.feature_discriminator_rate if name == "feature_discriminator" else config.learning_rate
        adam = torch.optim.Adam(network.parameters(), rate, (config.beta1, config.beta2))
        return Phase(name=name, network=network, optimizer=adam, losses=losses, since=since, until=until)


def _masked(foreground: Image, mask: Mask) -> Image:
    """Return the input of D_p and D_c's code head: the foreground times its mask, grey where the mask is 0."""
    return foreground * mask


def _rows(codes: Codes, generator: Generator) -> Image:
    layers = generator(codes)
    mask = (2 * layers.mask - 1).expand_as(layers.image)
    return torch.cat([layers.image, layers.parent, layers.background, mask])
