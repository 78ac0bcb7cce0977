"""The published MixNMatch with a few channels, and photos for it."""

import torch
from torch import Tensor

from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.encoders import CODES
from training.types import Image

TINY = GeneratorConfig(n_shapes=3, n_textures=6, n_backgrounds=6, z_dim=5, width=4, encoder_width=2, extractor_width=2)


def seeded(seed: int = 0) -> torch.Generator:
    return torch.Generator().manual_seed(seed)


def photos(n: int = 4, seed: int = 0) -> Image:
    return torch.rand(n, 3, 128, 128, generator=seeded(seed)) * 2 - 1


def pairs(n: int = 3, seed: int = 0) -> tuple[Image, dict[str, Tensor]]:
    rng = seeded(seed)
    dims = (TINY.z_dim, TINY.n_backgrounds, TINY.n_shapes, TINY.n_textures)
    codes = {k: torch.randn(n, dim, generator=rng) for k, dim in zip(CODES, dims, strict=True)}
    return photos(n, seed), codes
