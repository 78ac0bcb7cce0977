"""Encoders E of the published MixNMatch (Sec. 3.2): four networks, one for each code."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.layers import Halve, conv3, leaky_block, trunk
from training.types import Image

CODES = ("z", "b", "p", "c")
"""Pose, background, shape, texture."""
Z_RANGE = 4.0
"""Bound of |E_z(x)|: four standard deviations of the prior."""


class Encoders(nn.Module):
    """E_z, E_b, E_p and E_c: the same layers but for the last, no shared weights; each can be evaluated alone."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.model_z = _encoder(config.encoder_width, config.z_dim)
        self.model_b = _encoder(config.encoder_width, config.n_backgrounds)
        self.model_p = _encoder(config.encoder_width, config.n_shapes)
        self.model_c = _encoder(config.encoder_width, config.n_textures)

    def forward(self, image: Image, factor: str) -> Float[Tensor, "n dim"]:
        """Return one encoder's output for 128 px pictures: z = 4 tanh(.), or the logits of b, p or c."""
        code = getattr(self, f"model_{factor}")(image).flatten(1)
        return Z_RANGE * torch.tanh(code) if factor == "z" else code

    def code(self, image: Image, factor: str) -> Float[Tensor, "n dim"]:
        """Return E_k(x) as G takes it: z, or the softmax over b, p or c."""
        read = self(image, factor)
        return read if factor == "z" else read.softmax(1)


def _encoder(width: int, code_dim: int) -> nn.Sequential:
    return nn.Sequential(
        trunk(width, 1, 2, 4, 8),  # 64 64 64 -> 512 8 8
        leaky_block(Halve(8 * width, 16 * width), 16 * width),  # 1024 4 4
        leaky_block(conv3(16 * width, 8 * width), 8 * width),
        leaky_block(conv3(8 * width, 8 * width), 8 * width),
        nn.Conv2d(8 * width, code_dim, 4),
    )
