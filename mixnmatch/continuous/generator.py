"""MixNMatch with continuous codes: background, pose, shape and texture are read from photos.

Paper (MixNMatch Sec. 3): b, p and c are one-hot classes; here they are vectors and maps. The pose z is the object's
box, p its outline and folds inside that box, c its colours with a coarse map of where they are, b a map of the photo
without the object. Symbols are those of `mixnmatch.fast.generator`; a single mask serves parent and child, C_m = P_m.
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from mixnmatch.codes import FACTOR_TABLE, FACTORS, Codes, Layers
from mixnmatch.continuous.config import GeneratorConfig
from mixnmatch.continuous.encoders import BackgroundEncoder, Outline, ShapeEncoder, TextureEncoder
from mixnmatch.continuous.frame import pose_of_masks
from mixnmatch.continuous.stages import BackgroundStage, ShapeStage, TextureStage, unfolded
from mixnmatch.fast.stages import over
from mixnmatch.photo_generator import PhotoGenerator
from training.batched import fields_of
from training.invertible import Inverted, OnProgress
from training.types import Image


class Generator(PhotoGenerator):
    """Codes to layers (`forward`), photos to codes (`encode`) and photos to parent features (`shape_feature`)."""

    family: ClassVar[str] = "mixnmatch_continuous"
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.steps = 0
        """Steps of optimisation after encoding."""
        self.background = BackgroundStage(config)  # b -> picture
        self.shape = ShapeStage(config)  # (z, p) -> parent feature -> foreground P_f, mask P_m
        self.texture = TextureStage(config)  # (parent feature, c) -> foreground C_f
        self.extractor = Outline(config)  # picture -> parent feature, box
        self.background_encoder = BackgroundEncoder(config)
        self.shape_encoder = ShapeEncoder(config)
        self.texture_encoder = TextureEncoder(config)
        for name, size in config.code_sizes.items():
            self.register_buffer(f"bank_{name}", torch.zeros(config.bank, size, dtype=torch.float16))
        self.register_buffer("banked", torch.zeros((), dtype=torch.long))

    banked: Tensor

    def keep(self, codes: Codes) -> None:
        """Store the codes of photos for `sample`, replacing the oldest ones."""
        n = len(codes.z)
        rows = (int(self.banked) + torch.arange(n)) % self.config.bank
        for name in self.config.code_sizes:
            bank = getattr(self, f"bank_{name}")
            bank[rows] = getattr(codes, name).detach().to(bank)
        self.banked += n

    def sample(self, n: int, rng: torch.Generator) -> Codes:
        """Draw `n` codes, each factor from a random one of the stored photos; normal noise before there are any."""
        known = min(int(self.banked), self.config.bank)
        codes = {}
        for name, size in self.config.code_sizes.items():
            if known:
                codes[name] = getattr(self, f"bank_{name}")[torch.randint(known, (n,), generator=rng)].float()
            else:
                codes[name] = (0.1 * torch.randn(n, size, generator=rng)).to(self.device)
        return Codes(**codes)

    def encode(self, image: Image, factors: tuple[str, ...] = FACTORS) -> Codes:
        """Return E(x) of photos x; codes of factors that are not asked for are zeros.

        With `steps`, they are optimised so that the photos' own colours and outlines come back.

        Raises: ValueError for an unknown factor, or pictures that are not squares of `resolution`.
        """
        if not self.steps:
            return self.read(image, factors)
        found = self.invert(image, steps=self.steps).codes
        fields = {name for factor in factors for name in FACTOR_TABLE[factor].fields}
        codes = {k: v if k in fields else torch.zeros_like(v) for k, v in fields_of(found).items() if v is not None}
        return replace(found, **codes)

    def with_steps(self, steps: int) -> "Generator":
        """Return this generator with codes of photos optimised so many steps; weights are shared.

        Raises: ValueError for fewer than 0.
        """
        if steps < 0:
            raise ValueError(f"got {steps} steps; expected 0 or more")
        other = self.copied(results=24, steps=steps)
        assert isinstance(other, Generator)
        return other

    @property
    def can_invert(self) -> bool:
        """Always: the encoders are its own."""
        return True

    def invert(
        self, photo: Image, *, progress: OnProgress | None = None, apart: bool = True, **options: Any
    ) -> Inverted:
        """Return the optimised codes of photos, each for itself in any case; see `mixnmatch.continuous.invert.invert`.

        Raises: ValueError for an unknown option, or pictures that are not squares of `resolution`.
        """
        from mixnmatch.continuous.invert import InvertOptions, invert

        self._check(photo)
        try:
            chosen = InvertOptions(**options)
        except TypeError as error:
            raise ValueError(f"an inversion has no such option ({error})") from error
        return invert(self, photo, options=chosen, progress=progress)

    def read(self, image: Image, factors: tuple[str, ...] = FACTORS) -> Codes:
        """Return what the encoders read from photos, as `encode` without steps."""
        self._check(image)
        if unknown := sorted(set(factors) - set(FACTORS)):
            raise ValueError(f"unknown factor {unknown[0]!r}; the factors are {', '.join(FACTORS)}")
        feature, z = self.extractor(image)
        mask = unfolded(feature)
        codes = {name: image.new_zeros(len(image), size) for name, size in self.config.code_sizes.items()}
        if "pose" in factors:
            codes["z"] = z
        if "background" in factors:
            codes["b"] = self.background_encoder(image, mask)
        if "shape" in factors:
            codes["p"] = self.shape_encoder(image, mask, z)
        if "texture" in factors:
            codes["c"] = self.texture_encoder(image, mask, z)
        return Codes(**codes)

    def shape_feature(self, image: Image) -> Float[Tensor, "n feature s s"]:
        """Return S(x) of photos x: pose and shape together, as a feature map aligned with the pixels.

        Where frames are no boxes of masks, z stands in four further channels. Raises: ValueError for pictures that are
        not squares of `resolution`.
        """
        self._check(image)
        feature, z = self.extractor(image)
        if self.config.frame == "mask":
            return feature
        return torch.cat([feature, z[:, :, None, None].expand(-1, -1, *feature.shape[2:])], 1)

    def forward(
        self,
        codes: Codes,
        feature: Float[Tensor, "n feature s s"] | None = None,
    ) -> Layers:
        """Return the layers of `codes`; a `feature` from `shape_feature` replaces G_p(z, p) (feature mode, Sec.
        3.4)."""
        if feature is None:
            z, feature = codes.z, self.cached("shape", lambda: self.shape.feature(codes.z, codes.p), codes.z, codes.p)
        elif self.config.frame == "mask":
            z = pose_of_masks(unfolded(feature))
        else:
            feature, z = feature[:, :-4], feature[:, -4:, 0, 0]
        background = self.cached("background", lambda: self.background(codes.b), codes.b)
        return self.composed(background, feature, z, codes.c)

    def composed(self, background: Image, feature: Tensor, z: Tensor, c: Tensor) -> Layers:
        """Return the layers of a background B and an object given by f, z and c."""
        P_f, P_m = self.shape(feature)
        C_f = self.texture(feature, z, c)
        return Layers(
            image=over(C_f, P_m, background),
            background=background,
            parent=over(P_f, P_m, background),
            mask=P_m,
            parent_mask=P_m,
            child_mask=P_m,
        )
