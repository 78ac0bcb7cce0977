"""Encoders E: x -> z, b, p, c, z_background (MixNMatch Sec. 3.2).

Paper: four separate networks; here one trunk with a head for each code, which costs less.
"""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.codes import FACTORS, Codes
from mixnmatch.fast.config import GeneratorConfig
from training.nn.discriminator import Features
from training.nn.layers import ActivatedConv2d, EqualLinear
from training.types import Image


class Trunk(nn.Module):
    """Convolutions from a picture to a vector: one pixel unshuffle, then strided convolutions down to 4 x 4."""

    def __init__(self, side: int, dim: int, out_dim: int, *, channels: int = 3, most: int = 4) -> None:
        super().__init__()
        self.fold = ActivatedConv2d(4 * channels, dim, 3)
        side, width, convs = side // 2, dim, []
        while side > 4:
            wider = min(width * 3 // 2, most * dim) // 16 * 16
            convs += [ActivatedConv2d(width, width, 3), ActivatedConv2d(width, wider, 3, stride=2)]
            side, width = side // 2, wider
        self.convs = nn.ModuleList(convs)
        self.last = EqualLinear(width * side * side, out_dim, activate=True)

    def forward(self, image: Float[Tensor, "n c h w"]) -> Float[Tensor, "n out_dim"]:
        """Return one vector a picture."""
        x = F.pixel_unshuffle(image, 2).contiguous(memory_format=torch.channels_last)
        x = self.fold(x)
        for conv in self.convs:
            x = conv(x)
        return self.last(x.flatten(1))


class Encoders(nn.Module):
    """E_z, E_b, E_p, E_c and one for z_background: a shared trunk and a linear head each."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.side = min(config.resolution, config.encoder_side)
        own = config.encoder_channels
        dim = own[-1] if own else 256
        self.trunk = Features(own) if own else Trunk(self.side, config.encoder_dim, dim)
        self.heads = nn.ModuleDict({name: EqualLinear(dim, size) for name, size in config.code_sizes.items()})

    def forward(self, image: Image) -> dict[str, Float[Tensor, "n _"]]:
        """Return, by code, the logits of b, p and c, and z and z_background as 4 tanh(v / 4) (paper: 4 tanh(v))."""
        if image.shape[-1] != self.side:
            image = F.interpolate(image, size=(self.side, self.side), mode="area")
        x = self.trunk.vector(image) if isinstance(self.trunk, Features) else self.trunk(image)
        raw = {name: head(x).float() for name, head in self.heads.items()}
        return {k: 4 * torch.tanh(v / 4) if k.startswith("z") else v for k, v in raw.items()}

    def codes(self, image: Image, factors: tuple[str, ...] = FACTORS) -> Codes:
        """Return the codes of photos; those of factors not asked for are zeros.

        Raises: ValueError for an unknown factor.
        """
        unknown = sorted(set(factors) - set(FACTORS))
        if unknown:
            raise ValueError(f"unknown factor {unknown[0]!r}; the factors are {', '.join(FACTORS)}")
        return as_codes(self(image), factors)


def as_codes(raw: dict[str, Float[Tensor, "n _"]], factors: tuple[str, ...] = FACTORS) -> Codes:
    """Return the encoders' output as codes: softmax over b, p and c; zeros for factors that are not in `factors`."""

    def of(name: str, factor: str) -> Tensor:
        if factor not in factors:
            return torch.zeros_like(raw[name])
        return raw[name] if name.startswith("z") else raw[name].softmax(1)

    return Codes(
        z=of("z", "pose"),
        b=of("b", "background"),
        p=of("p", "shape"),
        c=of("c", "texture"),
        z_background=of("z_background", "background"),
    )
