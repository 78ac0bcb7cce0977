"""The `fast` MixNMatch: background, then shape, then texture (MixNMatch Sec. 3, stages of FineGAN Sec. 3).

Codes and stages are the papers'; the layers are ours: embedded codes modulate the convolutions instead of being
repeated at every pixel, and a shape is a 3D field or a flat map that the pose z turns, tilts and places. Symbol ->
where it is computed:

    B = G_b(z_background, b), the background: `stages.BackgroundStage`
    f = G_p(z, p), the parent feature: `stages.ParentStage.feature`; P_f, P_m: `stages.ParentStage.forward`
    C_f, C_m from G_c(f, P_m, c): `stages.ChildStage`
    P = P_m P_f + (1 - P_m) B, the parent image, and G(y) = C_m C_f + (1 - C_m) P: `forward`, `stages.over`
    tied codes, p = floor(c N_p / N_c): `sample`
    E: x -> z, b, p, c, z_background (Sec. 3.2): `encoders.Encoders`, `encode`
    S: x -> f, in place of z and p (Sec. 3.4): `feature_extractor.FeatureExtractor`, `shape_feature`
"""

from dataclasses import replace
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mixnmatch.codes import Codes, Layers
from mixnmatch.fast.config import GeneratorConfig
from mixnmatch.fast.encoders import FACTORS, Encoders
from mixnmatch.fast.feature_extractor import FeatureExtractor
from mixnmatch.fast.stages import BackgroundStage, ChildStage, ParentStage, over
from mixnmatch.photo_generator import PhotoGenerator
from training.types import Image


class Generator(PhotoGenerator):
    """Codes to layers (`forward`), photos to codes (`encode`) and photos to parent features (`shape_feature`)."""

    family: ClassVar[str] = "mixnmatch"
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.background = BackgroundStage(config)  # (z_background, b) -> picture
        self.parent = ParentStage(config)  # (z, p) -> f -> foreground P_f, mask P_m
        self.child = ChildStage(config)  # (f, P_m, c) -> foreground C_f, mask C_m
        self.encoders = Encoders(config)  # picture -> z, b, p, c, z_background
        self.extractor = FeatureExtractor(config)  # picture -> f

    def sample(self, n: int, rng: torch.Generator, tied: bool = False) -> Codes:
        """Draw `n` codes from the prior: all independent, or with `tied` p = floor(c N_p / N_c) (FineGAN Sec. 3.2).

        Paper: b = c when tied; here b is always independent.
        """
        config = self.config
        c = torch.randint(config.n_textures, (n,), generator=rng)
        p = torch.randint(config.n_shapes, (n,), generator=rng)
        if tied:
            p = c // (config.n_textures // config.n_shapes)
        b = torch.randint(config.n_backgrounds, (n,), generator=rng)
        z, z_background = torch.randn(2, n, config.z_dim, generator=rng)
        return Codes(
            z=z.to(self.device),
            b=F.one_hot(b, config.n_backgrounds).float().to(self.device),
            p=F.one_hot(p, config.n_shapes).float().to(self.device),
            c=F.one_hot(c, config.n_textures).float().to(self.device),
            z_background=z_background.to(self.device),
        )

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        """Return `codes` with one factor read from a photo, or drawn from a seed, in every row.

        Raises: ValueError for an unknown name, pictures of the wrong size or number, or a seed that is not whole.
        """
        if codes.z_background is None:
            codes = replace(codes, z_background=codes.z)  # as `forward` does; a new z then leaves the background alone
        return super().set(codes, name, value)

    def encode(self, image: Image, factors: tuple[str, ...] = FACTORS) -> Codes:
        """Return E(x) of photos x: z and z_background in [-4, 4], b, p, c as probabilities.

        p is one-hot with `one_shape`; c is raised to `texture_power` and renormalised. Only `factors` (of background,
        pose, shape, texture) are read; the others are zeros.

        Raises: ValueError for an unknown factor, or pictures that are not squares of `resolution`.
        """
        self._check(image)
        codes = self.encoders.codes(image, factors)
        if self.config.one_shape and "shape" in factors:
            codes = replace(codes, p=F.one_hot(codes.p.argmax(1), codes.p.shape[1]).to(codes.p.dtype))
        if self.config.texture_power != 1 and "texture" in factors:
            shares = codes.c**self.config.texture_power
            codes = replace(codes, c=shares / shares.sum(1, keepdim=True))
        return codes

    def shape_feature(self, image: Image) -> Float[Tensor, "n feature s s"]:
        """Return S(x) of photos x: pose and shape together, as a feature map aligned with the pixels.

        Raises: ValueError for pictures that are not squares of `resolution`.
        """
        self._check(image)
        return self.extractor(image)

    def forward(self, codes: Codes, feature: Float[Tensor, "n feature s s"] | None = None) -> Layers:
        """Return the layers of `codes`; a `feature` from `shape_feature` replaces G_p(z, p) (feature mode, Sec.
        3.4)."""
        z_background = codes.z if codes.z_background is None else codes.z_background
        background = self.cached("background", lambda: self.background(z_background, codes.b), z_background, codes.b)
        if feature is None:
            feature = self.cached("shape", lambda: self.parent.feature(codes.z, codes.p), codes.z, codes.p)
        P_f, P_m = self.parent(feature)
        C_f, C_m = self.child(feature, P_m, codes.c)
        parent = over(P_f, P_m, background)
        return Layers(
            image=over(C_f, C_m, parent),
            background=background,
            parent=parent,
            mask=1 - (1 - P_m) * (1 - C_m),
            parent_mask=P_m,
            child_mask=C_m,
        )
