"""A discriminator of texture patches (Swapping Autoencoder, Park et al., NeurIPS 2020, Sec. 3.3)."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.nn.layers import ActivatedConv2d, EqualLinear
from training.runtime.sharded_random import rand
from training.types import Image, Mask

PATCH = 16
"""Side in pixels to which patches are resampled."""


def patches(image: Image, mask: Mask, count: int, rng: torch.Generator) -> Float[Tensor, "n count 3 p p"]:
    """Return `count` square patches of each picture, with 1/8 to 1/4 of its side, around random points of its object.

    Gradients reach the picture, not the mask.
    """
    n, _, side, _ = image.shape
    outside = F.max_pool2d((mask.detach() <= 0.5).float(), 5, stride=1, padding=2)
    weight = 1 - outside.flatten(1) + 1e-6  # centres lie inside the object, at least two pixels from its outline
    # Gumbel top-k: positions without replacement, by weight
    gumbel = -(-rand(n, side * side, rng=rng).clamp(1e-9, 1 - 1e-7).log()).log().to(image.device)
    index = (weight.log() + gumbel).topk(count, dim=1).indices
    x = (index % side + 0.5) / side * 2 - 1
    y = (index // side + 0.5) / side * 2 - 1
    half = (0.125 + 0.125 * rand(n, count, rng=rng)).to(image.device)
    line = (torch.arange(PATCH, device=image.device) + 0.5) * 2 / PATCH - 1
    gx = x[..., None, None] + half[..., None, None] * line[None, None, None, :]
    gy = y[..., None, None] + half[..., None, None] * line[None, None, :, None]
    grid = torch.stack(torch.broadcast_tensors(gx, gy), -1).view(n, count * PATCH, PATCH, 2)
    cut = F.grid_sample(image, grid, padding_mode="reflection", align_corners=False)
    return cut.view(n, 3, count, PATCH, PATCH).transpose(1, 2)


class PatchDiscriminator(nn.Module):
    """Classifies whether a patch has the same texture as reference patches."""

    def __init__(self, width: int = 40) -> None:
        super().__init__()
        self.convs = nn.ModuleList(
            [
                ActivatedConv2d(12, width, 3),
                ActivatedConv2d(width, 2 * width, 3, stride=2),
                ActivatedConv2d(2 * width, 3 * width, 3, stride=2),
            ]
        )
        self.flat = EqualLinear(3 * width * 4, 128, activate=True)
        self.compare = EqualLinear(256, 128, activate=True)
        self.score = EqualLinear(128, 1)

    def vectors(self, cut: Float[Tensor, "n count 3 p p"]) -> Float[Tensor, "n count 128"]:
        """Return a feature vector for each patch."""
        n, count = cut.shape[:2]
        x = F.pixel_unshuffle(cut.flatten(0, 1), 2).contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = conv(x)
        return self.flat(x.flatten(1).float()).view(n, count, -1)

    def forward(
        self, cut: Float[Tensor, "n count 3 p p"], reference: Float[Tensor, "n count 128"]
    ) -> Float[Tensor, "n count"]:
        """Return logits of patches, high where their texture matches the mean of the reference vectors."""
        seen = self.vectors(cut)
        mean = reference.mean(1, keepdim=True).expand_as(seen)
        return self.score(self.compare(torch.cat([seen, mean], 2)))[..., 0]
