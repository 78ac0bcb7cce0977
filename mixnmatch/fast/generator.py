"""The `fast` MixNMatch: draw a background, a shape, its texture (MixNMatch Sec. 3, stages of FineGAN Sec. 3).

Codes and stages are the papers'. The parts are ours: codes are embedded and modulate the convolutions instead of being
copied over the picture, and a shape lives in a space of its own which the pose turns, tilts and places.
"""

import math
from dataclasses import replace
from itertools import pairwise
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from mixnmatch.codes import Codes, Layers
from mixnmatch.fast.config import GeneratorConfig, PoseConfig
from mixnmatch.fast.encoders import FACTORS, Encoders
from mixnmatch.fast.feature_extractor import FeatureExtractor
from mixnmatch.fast.solid import Solid, uniform
from mixnmatch.photo_generator import PhotoGenerator
from training.nn.layers import EqualConv2d, EqualLinear, ModulatedConv2d, leaky
from training.types import Image, Mask

FACTOR_FIELDS: dict[str, tuple[str, ...]] = {
    "background": ("b", "z_background"),
    "pose": ("z",),
    "shape": ("p",),
    "texture": ("c",),
}
"""Knob -> the codes it sets."""


def over(foreground: Image, mask: Mask, behind: Image) -> Image:
    """Return mask * foreground + (1 - mask) * behind (FineGAN Eq. 1)."""
    return torch.lerp(behind, foreground, mask)


def pose_features(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> Float[Tensor, "n z_dim"]:
    """Return what of z can be seen: the direction of (z0, z1) without its length under a `turn`, all else as it is.

    A direction is scaled to length sqrt(2), so that every entry has unit variance.
    """
    if pose.kind == "plane":
        return z
    turn = F.normalize(z[:, :2], dim=1) * math.sqrt(2)
    return torch.cat([turn, z[:, 2:]], 1)


def placing(z: Float[Tensor, "n z_dim"], pose: PoseConfig) -> Float[Tensor, "n placed"]:
    """Return the numbers of z that place the object, each in [-1, 1]: a direction as cosine and sine, the others by
    their distribution function."""
    if pose.kind == "plane":
        return 2 * torch.special.ndtr(z[:, : pose.n_placing]) - 1
    return torch.cat([F.normalize(z[:, :2], dim=1), 2 * torch.special.ndtr(z[:, 2 : pose.n_placing]) - 1], 1)


class BackgroundStage(nn.Module):
    """(z_background, b) -> picture of what is behind the object: style convolutions from 4 pixels up."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        dim = config.background_dim
        self.embed = EqualLinear(config.n_backgrounds, config.style_dim)
        self.embed.scale = 1.0  # one code is on: its column is the embedding
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
        """Return the background alone."""
        style = self.mapping(torch.cat([self.embed(b), z], 1))
        x = self.start.expand(z.shape[0], -1, -1, -1).contiguous(memory_format=torch.channels_last)
        for conv, bias in zip(self.convs, self.biases, strict=True):
            x = styled(conv, bias, double(x), style)
        return torch.tanh(self.to_rgb(x).float())


def styled(
    conv: nn.Module, bias: Float[Tensor, "1 c 1 1"], x: Float[Tensor, "n d h w"], style: Float[Tensor, "n style"]
) -> Float[Tensor, "n c h w"]:
    """Return a modulated convolution with its bias and `leaky`, in the convolution's own precision."""
    y = conv(x, style)
    return leaky(y + bias.to(y.dtype))


def double(x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h2 w2"]:
    """Return the map at twice the side, bilinear."""
    return F.interpolate(x, scale_factor=2, mode="bilinear", align_corners=False)


def smooth_noise(n: int, config: GeneratorConfig) -> Float[Tensor, "n c depth height width"]:
    """Return normal noise of 4 cells along each axis, enlarged to the volume: noise of single cells would stay in the
    shapes as camouflage for the first 10,000 pictures. The occupancy's is weaker by `config.occupancy_noise`."""
    coarse = [min(4, cells) for cells in config.volume]
    noise = torch.randn(n, config.volume_dim + 1, *coarse)
    noise[:, 0] *= config.occupancy_noise
    return F.interpolate(noise, size=config.volume, mode="trilinear", align_corners=False)


class Flat(nn.Module):
    """(z, p) -> a flat shape as the camera sees it: how much of each cell it covers, and its features there.

    Each shape is a map of features with an occupancy, learned directly, that the pose bends, rolls and places.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config, self.pose = config, config.pose
        self.common = nn.Parameter(0.5 * smooth_noise(1, config))
        self.own = nn.Parameter(config.shape_noise * smooth_noise(config.n_shapes, config))
        axes = [(torch.arange(n) + 0.5) / n * 2 - 1 if n > 1 else torch.zeros(1) for n in config.volume]
        radius = torch.stack(torch.meshgrid(*axes, indexing="ij")).square().sum(0).sqrt()
        self.register_buffer("start", 6 * (0.8 - radius))  # occupancy starts as an ellipsoid
        self.bend = EqualLinear(config.z_dim, 2 * 4 * 4)

    start: Tensor

    @property
    def side(self) -> int:
        """Cells along the side of the map this returns: half the picture's."""
        return self.config.resolution // 2

    def volume(self, p: Float[Tensor, "n n_shapes"]) -> Float[Tensor, "n c depth height width"]:
        """Return each picture's shape at rest: occupancy first, then features."""
        own = (p.float() @ self.own.flatten(1)).view(-1, *self.own.shape[1:])
        volume = self.common + own
        if self.config.mirror:
            volume = (volume + volume.flip(4)) * math.sqrt(0.5)
        occupancy = torch.sigmoid(4 * volume[:, :1] + self.start)
        return torch.cat([occupancy, volume[:, 1:]], 1)

    def forward(self, z: Float[Tensor, "n z_dim"], p: Float[Tensor, "n n_shapes"]) -> Float[Tensor, "n c s s"]:
        """Return the covered share in [0, 1] as the first channel, then the features."""
        with torch.autocast(z.device.type, enabled=False):  # positions need float32
            return self._placed(z.float(), self.volume(p))

    def _placed(self, z: Tensor, volume: Tensor) -> Tensor:
        """Bend, roll, stretch and place a flat shape in the picture."""
        size = uniform(z[:, 1], self.pose.scale)
        stretch = (self.pose.aspect * z[:, 2] / 2).exp()
        grid = self._place(z, (size * stretch)[:, None, None], (size / stretch)[:, None, None])
        angle = (self.pose.roll * z[:, 0]).deg2rad()[:, None, None]
        x, y = grid.unbind(-1)
        grid = torch.stack([x * angle.cos() + y * angle.sin(), y * angle.cos() - x * angle.sin()], -1)
        bend = self.pose.bend * torch.tanh(self.bend(z).view(-1, 2, 4, 4))
        bend = F.grid_sample(bend, grid / 1.5, padding_mode="border", align_corners=True)
        x = volume[:, :, 0]
        x = torch.cat([x[:, :1], x[:, :1] * x[:, 1:]], 1)
        return F.grid_sample(x, grid + bend.permute(0, 2, 3, 1), align_corners=False)

    def _place(self, z: Tensor, width: Tensor, height: Tensor) -> Tensor:
        """Return, for each cell of the picture, its place in the object's frame of half `width` and half `height`."""
        line = ((torch.arange(self.side, device=z.device) + 0.5) / self.side) * 2 - 1
        x = line.view(1, 1, -1) - uniform(z[:, 3], self.pose.shift_x)[:, None, None]
        y = line.view(1, -1, 1) - uniform(z[:, 4], self.pose.shift_y)[:, None, None]
        return torch.stack(torch.broadcast_tensors(x / width, y / height), -1)


class ParentStage(nn.Module):
    """(z, p) -> parent feature -> the shape's foreground and mask."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        style, n_placing = config.style_dim, config.pose.n_placing
        self.n_placing = n_placing
        self.embed = EqualLinear(config.n_shapes, style)
        self.embed.scale = 1.0  # one code is on: its column is the embedding
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
        self.up = EqualConv2d(config.feature_dim, config.texture_dim // 2, 3)
        self.head = EqualConv2d(config.texture_dim // 2, 2, 3)

    def feature(
        self, z: Float[Tensor, "n z_dim"], p: Float[Tensor, "n n_shapes"], rng: torch.Generator | None = None
    ) -> Float[Tensor, "n feature s s"]:
        """Return the parent feature, half the picture's side; its first channel is the rough mask in [0, 1].

        `rng` jitters a solid's samples, as in training.
        """
        style = self.embed(p) + self.free(z[:, self.n_placing :])
        if isinstance(self.space, Solid):
            return self.space(z, style, rng)
        seen = self.space(z, p).contiguous(memory_format=torch.channels_last)
        x = styled(self.first, self.biases[0], seen, style)
        x = styled(self.second, self.biases[1], x, style)
        return torch.cat([seen[:, :1].to(x.dtype), x], 1)

    def forward(self, feature: Float[Tensor, "n feature s s"]) -> tuple[Image, Mask]:
        """Return the shape's foreground and mask: the rough mask, sharpened by what the feature adds."""
        x = self.head(leaky(self.up(double(feature.contiguous(memory_format=torch.channels_last))))).float()
        rough = double(feature[:, :1].float())
        # paper: a foreground in colour; here grey, so that all colour of the object is the texture's
        return torch.tanh(x[:, :1]).expand(-1, 3, -1, -1), torch.sigmoid(12 * (rough - 0.5) + 4 * torch.tanh(x[:, 1:]))


class ChildStage(nn.Module):
    """(parent feature, c) -> the texture's foreground and mask, the mask inside the shape's."""

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
        """Return the texture's foreground and its mask."""
        style = self.embed(c)
        x = feature.contiguous(memory_format=torch.channels_last)
        for i, (conv, bias) in enumerate(zip(self.convs, self.biases, strict=True)):
            x = styled(conv, bias, double(x) if i == self.doubled else x, style)
        x = (self.head(x, style) + self.tint(style).to(x.dtype)[:, :, None, None]).float()
        # paper: a mask of its own that may leave the shape; here a share of the shape's mask, mostly all of it at first
        return torch.tanh(x[:, :3]), parent_mask * torch.sigmoid(x[:, 3:] + 3)


class Generator(PhotoGenerator):
    """Four codes in, layers out; photos in, codes out."""

    family: ClassVar[str] = "mixnmatch"
    factor_fields: ClassVar[dict[str, tuple[str, ...]]] = FACTOR_FIELDS
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
