"""The three stages of the `fast` MixNMatch: background, parent (shape), child (texture) (FineGAN Sec. 3)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.fast.config import GeneratorConfig
from mixnmatch.fast.flat import Flat
from mixnmatch.fast.solid import Solid
from training.nn.layers import ActivatedConv2d, EqualConv2d, EqualLinear, ModulatedConv2d
from training.types import Image, Mask


def over(foreground: Image, mask: Mask, behind: Image) -> Image:
    """Return P = P_m P_f + (1 - P_m) B, or the same of the child over P (FineGAN Sec. 3)."""
    return torch.lerp(behind, foreground, mask)


class BackgroundStage(nn.Module):
    """G_b: (z_background, b) -> B, by modulated convolutions from a learned 4 x 4 map up."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        dim = config.background_dim
        self.embed = EqualLinear(config.n_backgrounds, config.style_dim)
        self.embed.scale = 1.0  # of a one-hot code, whose column is the embedding
        self.mapping = EqualLinear(config.style_dim + config.z_dim, config.style_dim, activate=True)
        self.start = nn.Parameter(torch.randn(1, dim, 4, 4))
        widths, size = [dim], 4
        while size < config.resolution:
            size *= 2
            widths.append({8: dim, 16: dim * 3 // 4, 32: dim // 2}.get(size, max(16, dim * 16 // size)))
        self.convs = nn.ModuleList([ModulatedConv2d(i, o, 3, config.style_dim) for i, o in pairwise(widths)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(1, o, 1, 1)) for o in widths[1:]])
        self.to_rgb = EqualConv2d(widths[-1], 3, 3)

    def forward(self, z: Float[Tensor, "n z_dim"], b: Float[Tensor, "n n_backgrounds"]) -> Image:
        """Return B in [-1, 1]."""
        style = self.mapping(torch.cat([self.embed(b), z], 1))
        x = self.start.expand(z.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for conv, bias in zip(self.convs, self.biases, strict=True):
            x = conv.activated(double(x), style, bias)  # type: ignore[operator]
        return torch.tanh(self.to_rgb(x).float())


class ParentStage(nn.Module):
    """G_p: (z, p) -> f (`feature`), then the heads f -> P_f, P_m (`forward`)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        style, n_placing = config.style_dim, config.pose.n_placing
        self.n_placing = n_placing
        self.embed = EqualLinear(config.n_shapes, style)
        self.embed.scale = 1.0  # of a one-hot code, whose column is the embedding
        self.free = EqualLinear(config.z_dim - n_placing, style)
        if config.pose.kind == "turn":
            self.space: Solid | Flat = Solid(config)
        else:
            self.space = Flat(config)
            self.first = ModulatedConv2d(config.volume_dim + 1, config.shape_dim, 3, style)
            self.second = ModulatedConv2d(config.shape_dim, config.feature_dim - 1, 3, style)
            self.biases = nn.ParameterList(
                [nn.Parameter(torch.zeros(1, n, 1, 1)) for n in (config.shape_dim, config.feature_dim - 1)]
            )
        self.up = ActivatedConv2d(config.feature_dim, config.texture_dim // 2, 3)
        self.head = EqualConv2d(config.texture_dim // 2, 2, 3)

    def feature(
        self, z: Float[Tensor, "n z_dim"], p: Float[Tensor, "n n_shapes"], rng: torch.Generator | None = None
    ) -> Float[Tensor, "n feature s s"]:
        """Return f at half the picture's side; its first channel is a coarse mask in [0, 1].

        With `rng` the samples along a solid's rays are jittered, as in training.
        """
        style = self.embed(p) + self.free(z[:, self.n_placing :])
        if isinstance(self.space, Solid):
            return self.space(z, style, rng)
        seen = self.space(z, p).contiguous(memory_format=torch.channels_last)
        x = self.first.activated(seen, style, self.biases[0])
        x = self.second.activated(x, style, self.biases[1])
        return torch.cat([seen[:, :1].to(x.dtype), x], 1)

    def forward(self, feature: Float[Tensor, "n feature s s"]) -> tuple[Image, Mask]:
        """Return P_f in [-1, 1], and P_m = sigmoid(12 (coarse - 1/2) + 4 tanh(correction))."""
        x = self.head(self.up(double(feature.contiguous(memory_format=torch.channels_last)))).float()
        coarse = double(feature[:, :1].float())
        # paper: P_f in colour; here grey, so that only the texture code gives the object's colours
        return torch.tanh(x[:, :1]).expand(-1, 3, -1, -1), torch.sigmoid(12 * (coarse - 0.5) + 4 * torch.tanh(x[:, 1:]))


class ChildStage(nn.Module):
    """G_c with its heads: (f, P_m, c) -> C_f, C_m, with C_m <= P_m."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        style, dim = config.style_dim, config.texture_dim
        self.embed = EqualLinear(config.n_textures, style)
        self.embed.scale = 1.0
        widths = (config.feature_dim, dim, dim // 2, dim // 2)
        self.doubled = config.texture_doubled
        self.convs = nn.ModuleList([ModulatedConv2d(i, o, 3, style) for i, o in pairwise(widths)])
        self.biases = nn.ParameterList([nn.Parameter(torch.zeros(1, o, 1, 1)) for o in widths[1:]])
        self.head = ModulatedConv2d(widths[-1], 4, 3, style, demodulate=False)
        self.tint = EqualLinear(style, 4)

    def forward(
        self, feature: Float[Tensor, "n feature s s"], parent_mask: Mask, c: Float[Tensor, "n n_textures"]
    ) -> tuple[Image, Mask]:
        """Return C_f in [-1, 1] and C_m in [0, 1]."""
        style = self.embed(c)
        x = feature.contiguous(memory_format=torch.channels_last)
        for i, (conv, bias) in enumerate(zip(self.convs, self.biases, strict=True)):
            x = conv.activated(double(x) if i == self.doubled else x, style, bias)  # type: ignore[operator]
        x = (self.head(x, style) + self.tint(style).to(x.dtype)[:, :, None, None]).float()
        # paper: C_m is independent of P_m; here C_m = P_m sigmoid(.), so that a texture stays inside its shape
        return torch.tanh(x[:, :3]), parent_mask * torch.sigmoid(x[:, 3:] + 3)


def double(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Return the map at twice the side, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)
