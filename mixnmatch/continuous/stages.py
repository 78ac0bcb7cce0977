"""The three stages of the continuous MixNMatch: background, shape, texture (FineGAN Sec. 3)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.continuous.config import CELLS, SHAPE_CELLS, GeneratorConfig
from mixnmatch.continuous.frame import Outside, Pose, placed
from mixnmatch.fast.stages import double
from training.nn.layers import ActivatedConv2d, EqualConv2d, EqualLinear, ModulatedConv2d
from training.types import Image, Mask

OUTSIDE = 10.0
"""The mask's logit outside the object's frame is minus this."""
STEEPER = 2.5
"""Logits of masks drawn over those trained: from given masks that are a pixel or two off, soft ones are learnt."""


def folded(
    logit: Float[Tensor, "n 1 h w"], shading: Float[Tensor, "n shading s s"], config: GeneratorConfig
) -> Float[Tensor, "n feature s s"]:
    """Return f, the mask in four channels (pixel unshuffle), then the shading; clean outlines have `STEEPER` edges."""
    mask = torch.sigmoid(STEEPER * logit if config.clean_outlines else logit)
    return torch.cat([F.pixel_unshuffle(mask, 2), shading], 1)


def unfolded(feature: Float[Tensor, "n feature s s"]) -> Mask:
    """Return P_m from the first four channels of f, at the picture's side (pixel shuffle)."""
    return F.pixel_shuffle(feature[:, :4].float(), 2)


def mirrored_outside(config: GeneratorConfig) -> Outside:
    """Return what shading and texture have outside a frame that objects go beyond: fur that is repeated from its edge
    would become streaks."""
    return "reflection" if config.frame == "box" else "zeros"


class BackgroundStage(nn.Module):
    """G_b: b, a map, -> B, with two convolutions a level."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.cells, channels = config.background_cells, config.background_channels
        levels = (config.resolution // self.cells).bit_length()
        widths = (config.background_widths + (config.background_widths[-1],) * levels)[:levels]
        self.first = nn.ModuleList(ActivatedConv2d(i, o, 3) for i, o in pairwise((channels, *widths)))
        self.second = nn.ModuleList(ActivatedConv2d(o, o, 3) for o in widths)
        self.to_rgb = EqualConv2d(widths[-1], 3, 3)
        self.mean_colours = config.background_cells == 16
        if self.mean_colours:
            nn.init.zeros_(self.to_rgb.weight)  # begins with the mean colours alone

    def forward(self, b: Float[Tensor, "n b"]) -> Image:
        """Return B in [-1, 1]."""
        x = b.view(len(b), -1, self.cells, self.cells).contiguous(memory_format=torch.channels_last)
        for i, (first, second) in enumerate(zip(self.first, self.second, strict=True)):
            x = first(x)
            x = x if i == 0 else double(x)
            x = second(x)
        drawn = self.to_rgb(x).float()
        if self.mean_colours:
            drawn = drawn + F.interpolate(self.colours(b), size=drawn.shape[2:], mode="bilinear").atanh()
        return torch.tanh(drawn)

    def colours(self, b: Float[Tensor, "n b"]) -> Float[Tensor, "n 3 cells cells"]:
        """Return the mean colours of the cells of a code that holds them."""
        return b[:, : 3 * self.cells**2].float().view(-1, 3, self.cells, self.cells).clamp(-0.95, 0.95)


class ShapeStage(nn.Module):
    """G_p: (z, p) -> f (`feature`), decoded in the object's frame and placed by the pose; f -> P_f, P_m (`forward`)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.side = config.resolution // 2
        self.beyond: Outside = "border" if config.frame == "box" else "zeros"
        """Masks of objects that go on outside their frames, as bodies do below heads."""
        widths, shading = config.shape_channels[:4], config.feature_dim - 4
        self.config = config
        self.start = EqualLinear(config.shape_dim, widths[0] * 16, activate=True)
        self.local = EqualConv2d(config.shape_map_channels, widths[2], 3) if config.shape_map_channels else None
        if self.local is not None:
            nn.init.zeros_(self.local.weight)  # begins with what the global part draws
        self.folds = nn.Sequential()
        """From the code's details to shading; empty where it has none."""
        if config.detail_channels:
            width, last = widths[3], EqualConv2d(widths[3], 4 * shading, 3)
            nn.init.zeros_(last.weight)
            self.folds.extend(
                (ActivatedConv2d(config.detail_channels, width, 3), ActivatedConv2d(width, width, 3), last)
            )
        self.convs = nn.ModuleList(ActivatedConv2d(i, o, 3) for i, o in pairwise(widths))
        self.last = EqualConv2d(widths[-1], 1 + shading, 3)
        self.finer, self.details = nn.ModuleList(), nn.ModuleList()
        for i, o in pairwise(config.shape_channels[3:]):
            self.finer.append(nn.Sequential(ActivatedConv2d(i, o, 3), ActivatedConv2d(o, o, 3)))
            details = EqualConv2d(o, 1 + shading, 3)
            nn.init.zeros_(details.weight)  # begins with what 32 cells draw
            self.details.append(details)
        line = (torch.arange(32) + 0.5) / 16 - 1
        radius = (line[None, :] ** 2 + line[:, None] ** 2).sqrt()
        self.register_buffer("ellipse", 4 * (0.8 - radius)[None, None])
        self.read = ActivatedConv2d(config.feature_dim, 24, 3)
        self.shading = EqualConv2d(24, 1, 3)

    ellipse: Tensor

    def feature(self, z: Pose, p: Float[Tensor, "n p"]) -> Float[Tensor, "n feature s s"]:
        """Return f at half the picture's side."""
        return folded(*self.outline(z, p), self.config)

    def outline(
        self, z: Pose, p: Float[Tensor, "n p"]
    ) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n shading s s"]]:
        """Return the logit of the mask, and the shading inside it at half the picture's side."""
        dim, details = self.config.shape_dim, self.config.details_size
        whole, local, folds = p.split((dim, p.shape[1] - dim - details, details), 1)
        x = self.start(whole).view(len(p), -1, 4, 4).contiguous(memory_format=torch.channels_last)
        for conv in self.convs:
            x = double(conv(x))
            if self.local is not None and x.shape[-1] == 16:
                map = local.view(len(p), -1, SHAPE_CELLS, SHAPE_CELLS)
                x = x + self.local(F.interpolate(map, size=(16, 16), mode="bilinear", align_corners=False))
        drawn = self.last(x).float() + F.pad(self.ellipse / 2, (0, 0, 0, 0, 0, len(self.last.weight) - 1))
        for finer, more in zip(self.finer, self.details, strict=True):
            x = finer(double(x))
            drawn = double(drawn) + more(x).float()
        logit = 2 * drawn[:, :1]
        inner = placed(drawn[:, 1:] * torch.sigmoid(logit), z, self.side, outside=mirrored_outside(self.config))
        if self.config.detail_channels:
            cells = self.side // 2
            map = folds.view(len(p), -1, cells, cells).contiguous(memory_format=torch.channels_last)
            inner = inner + placed(
                F.pixel_shuffle(self.folds(map).float(), 2), z, self.side, outside=mirrored_outside(self.config)
            )
        # logits are resampled, not probabilities: between two cells the edge stays as sharp as at one
        return 2 * (placed(logit + OUTSIDE, z, 2 * self.side, outside=self.beyond) - OUTSIDE), inner

    def forward(self, feature: Float[Tensor, "n feature s s"]) -> tuple[Image, Mask]:
        """Return P_f, grey, and P_m."""
        x = self.read(feature.contiguous(memory_format=torch.channels_last))
        grey = torch.tanh(double(self.shading(x)).float())
        return grey.expand(-1, 3, -1, -1), unfolded(feature)


class TextureStage(nn.Module):
    """G_c: (f, z, c) -> C_f."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        wide, narrow = config.texture_widths
        style = config.style_dim
        self.mapping = EqualLinear(config.texture_dim, style, activate=True)
        widths = (config.feature_dim + config.texture_channels, wide, wide)
        self.convs = nn.ModuleList(ModulatedConv2d(i, o, 3, style) for i, o in pairwise(widths))
        self.biases = nn.ParameterList(torch.zeros(1, o, 1, 1) for o in widths[1:])
        self.narrow = ActivatedConv2d(wide, narrow, 3)
        self.fine = ActivatedConv2d(narrow, narrow, 3)
        self.shift = EqualLinear(style, narrow)
        self.to_rgb = EqualConv2d(narrow, 3, 3)
        self.tint = EqualLinear(style, 3)
        if config.texture_colours:
            for layer in (self.to_rgb, self.tint):
                nn.init.zeros_(layer.weight)  # begins with the mean colours alone

    def forward(
        self,
        feature: Float[Tensor, "n feature s s"],
        z: Pose,
        c: Float[Tensor, "n c"],
    ) -> Image:
        """Return C_f in [-1, 1], defined at every pixel of the picture."""
        config = self.config
        style = self.mapping(c[:, : config.texture_dim])
        map = c[:, config.texture_dim :].view(len(c), -1, CELLS, CELLS)
        if config.texture_cells < CELLS:
            few = F.adaptive_avg_pool2d(map, config.texture_cells)
            map = F.interpolate(few, size=(CELLS, CELLS), mode="bilinear", align_corners=False)
        map = placed(map, z, feature.shape[-1], outside=mirrored_outside(config))
        x = torch.cat([feature.float(), map], 1).contiguous(memory_format=torch.channels_last)
        for conv, bias in zip(self.convs, self.biases, strict=True):
            x = conv.activated(x, style, bias)  # type: ignore[operator]
        x = double(self.narrow(x))
        x = self.fine(x, self.shift(style)[:, :, None, None])
        drawn = self.to_rgb(x).float() + self.tint(style)[:, :, None, None]
        if config.texture_colours:
            drawn = drawn + double(map[:, :3].clamp(-0.95, 0.95)).atanh()
        return torch.tanh(drawn)
