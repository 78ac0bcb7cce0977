"""Encoders E of the published MixNMatch (Sec. 3.2): a network a factor reads its code from a photo."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.layers import Halve, conv3, leaky_block, trunk
from training.types import Image

CODES = ("z", "b", "p", "c")
"""Pose, background, shape, texture."""
Z_RANGE = 4.0
"""Codes z that are read lie within this of 0: four standard deviations of the prior."""


class Encoders(nn.Module):
    """E_z, E_b, E_p and E_c, alike but for their last layer and sharing nothing: each can be asked alone."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.model_z = _encoder(config.encoder_width, config.z_dim)
        self.model_b = _encoder(config.encoder_width, config.n_backgrounds)
        self.model_p = _encoder(config.encoder_width, config.n_shapes)
        self.model_c = _encoder(config.encoder_width, config.n_textures)

    def forward(self, image: Image, factor: str) -> Float[Tensor, "n dim"]:
        """Return what is read of one factor from 128 px pictures: z itself, or the logits of b, p or c."""
        code = getattr(self, f"model_{factor}")(image).flatten(1)
        return Z_RANGE * torch.tanh(code) if factor == "z" else code

    def code(self, image: Image, factor: str) -> Float[Tensor, "n dim"]:
        """Return the code as G takes it: z, or b, p or c as shares that sum to 1."""
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
