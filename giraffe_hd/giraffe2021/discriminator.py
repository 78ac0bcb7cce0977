"""Discriminators: StyleGAN2's residual one for GIRAFFE HD, DCGAN's for GIRAFFE. Tensors are named as the authors'."""

import math
from itertools import pairwise

import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.types import Image


class DCDiscriminator(nn.Module):
    """D of GIRAFFE (Sec. 3.4; DCGAN): convolutions that halve the size down to 4 x 4, without normalisation."""

    def __init__(self, size: int, n_feat: int = 512) -> None:
        super().__init__()
        n_layers = int(math.log2(size)) - 2
        channels = [3, *(n_feat // 2**k for k in range(n_layers - 1, -1, -1))]
        self.blocks = nn.ModuleList(
            nn.Conv2d(before, after, 4, stride=2, padding=1, bias=False) for before, after in pairwise(channels)
        )
        self.conv_out = nn.Conv2d(n_feat, 1, 4, bias=False)

    def forward(self, image: Image) -> Float[Tensor, " n"]:
        """Return logits, high for real; the weights know pictures in [0, 1], which is where this maps them."""
        x: Tensor = (image + 1) / 2
        for block in self.blocks:
            x = F.leaky_relu(block(x), 0.2)
        return self.conv_out(x).flatten()
