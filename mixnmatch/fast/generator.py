"""The `fast` MixNMatch: draw a background, a shape, its texture (MixNMatch Sec. 3, stages of FineGAN Sec. 3).

Codes and stages are the papers'. The parts are ours: codes are embedded and modulate the convolutions instead of being
copied over the picture, and a shape lives in a space of its own which the pose turns, tilts and places.
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
    """Four codes in, layers out; photos in, codes out."""

    family: ClassVar[str] = "mixnmatch"
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.background = BackgroundStage(config)  # (z_background, b) -> picture
        self.parent = ParentStage(config)  # (z, p) -> feature -> foreground P_f, mask P_m
        self.child = ChildStage(config)  # (feature, c) -> foreground C_f, mask C_m
        self.encoders = Encoders(config)  # picture -> z, b, p, c, z_background
        self.extractor = FeatureExtractor(config)  # picture -> parent feature

    def sample(self, n: int, rng: torch.Generator, tied: bool = False) -> Codes:
        """Draw `n` codes from the prior: all free, or `tied`: the shape is the one its texture belongs to.

        Tied textures belong to shapes in runs, p = floor(c / (N_c / N_p)) (FineGAN Sec. 3.2).
        """
        config = self.config
        c = torch.randint(config.n_textures, (n,), generator=rng)
        p = torch.randint(config.n_shapes, (n,), generator=rng)
        if tied:
            p = c // (config.n_textures // config.n_shapes)
        b = torch.randint(config.n_backgrounds, (n,), generator=rng)  # paper: b = c when tied; here free from the start
        z, z_background = torch.randn(2, n, config.z_dim, generator=rng)
        return Codes(
            z=z.to(self.device),
            b=F.one_hot(b, config.n_backgrounds).float().to(self.device),
            p=F.one_hot(p, config.n_shapes).float().to(self.device),
            c=F.one_hot(c, config.n_textures).float().to(self.device),
            z_background=z_background.to(self.device),
        )

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        """Return `codes` with a factor read from a photo, or drawn anew from a seed, in every row.

        Raises: ValueError for an unknown name, pictures of the wrong size or number, or a seed that is not whole.
        """
        if codes.z_background is None:
            codes = replace(codes, z_background=codes.z)  # as it is generated; a turn then leaves the background alone
        return super().set(codes, name, value)

    def encode(self, image: Image, factors: tuple[str, ...] = FACTORS) -> Codes:
        """Return the codes of photos: z, z_background real numbers, b, p, c shares that sum to 1; p, with `one_shape`,
        as a single 1, and c by `texture_power` nearer to one.

        Only `factors` (of background, pose, shape, texture) are read; the others are zeros.

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
        """Return the parent feature read from photos: pose and shape together, aligned with the pixels.

        Raises: ValueError for pictures that are not squares of `resolution`.
        """
        self._check(image)
        return self.extractor(image)

    def forward(self, codes: Codes, feature: Float[Tensor, "n feature s s"] | None = None) -> Layers:
        """Draw back to front; a `feature` from `shape_feature` takes the place of z and p (feature mode)."""
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
