"""Encoders E: x -> z, b, p, c (MixNMatch Sec. 3.2; continuous codes here) and S: x -> f (Sec. 3.4).

Each encoder's input is limited to its factor: the background encoder does not see the object, the shape encoders no
colour, the texture encoder no outline.
"""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float
from torch import Tensor, nn

from mixnmatch.continuous.config import GeneratorConfig
from mixnmatch.continuous.frame import Pose, cropped, dilated, filled, hidden
from mixnmatch.continuous.stages import folded
from training.imaging.fill import mirror_filled, smoothly_filled
from training.nn.layers import ActivatedConv2d, EqualConv2d, EqualLinear, leaky
from training.types import Image, Mask

SHAPE_SIDE = 48
"""Input side of the shape encoder in pixels."""
TEXTURE_SIDE = 32
"""Input side of the texture encoder in pixels."""


def small(image: Float[Tensor, "n c h w"], side: int = 64) -> Float[Tensor, "n c side side"]:
    """Return pictures reduced to the encoders' input side by area averaging."""
    return image if image.shape[-1] == side else F.interpolate(image, size=(side, side), mode="area")


def grey(image: Image) -> Float[Tensor, "n 1 h w"]:
    """Return the brightness of each picture, normalised to mean 0 and standard deviation 1."""
    x = image.float().mean(1, keepdim=True)
    x = x - x.mean((2, 3), keepdim=True)
    return x / (x.square().mean((2, 3), keepdim=True) + 0.01).sqrt()


def bounded(code: Tensor) -> Tensor:
    """Return 4 tanh(x / 4), which lies in (-4, 4)."""
    return 4 * torch.tanh(code.float() / 4)


class Down(nn.Module):
    """Convolutions that halve the side: a pixel unshuffle, then two convolutions a level."""

    def __init__(self, channels: int, widths: tuple[int, ...]) -> None:
        super().__init__()
        self.fold = ActivatedConv2d(4 * channels, widths[0], 3)
        self.keep = nn.ModuleList(ActivatedConv2d(i, i, 3) for i, _ in pairwise(widths))
        self.halve = nn.ModuleList(ActivatedConv2d(i, o, 3, stride=2) for i, o in pairwise(widths))

    def forward(self, x: Float[Tensor, "n c h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the maps of all levels, finest first."""
        x = self.fold(F.pixel_unshuffle(x, 2).contiguous(memory_format=torch.channels_last))
        seen = [x]
        for keep, halve in zip(self.keep, self.halve, strict=True):
            x = halve(keep(x))
            seen.append(x)
        return seen


class BackgroundEncoder(nn.Module):
    """E_b: a photo without its object to a map of codes; in its place stands the floor beside it, mirrored."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = config.encoder_widths
        self.down = Down(4, widths)
        self.wider = ActivatedConv2d(widths[-1], widths[-1], 3, stride=2)
        self.around = ActivatedConv2d(widths[-1], widths[-1], 3)
        self.join = ActivatedConv2d(2 * widths[-1], widths[-1], 3)
        self.finer = ActivatedConv2d(sum(widths[-2:]), widths[-2], 3) if config.background_cells == 16 else None
        self.last = EqualConv2d(widths[-1] if self.finer is None else widths[-2], config.background_channels, 1)

    def forward(self, image: Image, mask: Mask) -> Float[Tensor, "n b"]:
        """Return b, the code of the pixels outside the mask, which is first dilated by two pixels."""
        photo = mirror_filled(small(image), hidden(small(mask)))
        nowhere = torch.zeros_like(photo[:, :1])  # the hole, which weights from before expect; now nothing is missing
        *_, fine, x = self.down(torch.cat([photo, nowhere], 1))
        wide = self.around(self.wider(x))
        wide = F.interpolate(wide, size=x.shape[2:], mode="bilinear", align_corners=False)
        x = self.join(torch.cat([x, wide], 1))
        if self.finer is None:
            return bounded(self.last(x).flatten(1))
        x = F.interpolate(x, size=fine.shape[2:], mode="bilinear", align_corners=False)
        x = bounded(self.last(self.finer(torch.cat([x, fine], 1))))
        return torch.cat([F.adaptive_avg_pool2d(photo, x.shape[-1]), x[:, 3:]], 1).flatten(1)


class ShapeEncoder(nn.Module):
    """E_p: the grey object, cropped to its frame, to the shape code: a global vector, then its maps."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = (config.encoder_widths[0], *config.encoder_widths[1:], config.encoder_widths[-1])
        self.down = Down(1, widths)
        cells = SHAPE_SIDE // 2 ** len(widths)
        self.last = EqualLinear(widths[-1] * cells**2, 192, activate=True)
        self.code = EqualLinear(192, config.shape_dim)
        if config.shape_map_channels:
            self.local = ActivatedConv2d(sum(widths[1:]), widths[1], 3)
            self.map = EqualConv2d(widths[1], config.shape_map_channels, 1)
        self.has_map, self.has_details = config.shape_map_channels > 0, config.detail_channels > 0
        if self.has_details:
            width = widths[0]
            self.details = nn.Sequential(
                ActivatedConv2d(16, width, 3),
                ActivatedConv2d(width, width, 3),
                EqualConv2d(width, config.detail_channels, 1),
            )

    def forward(self, image: Image, mask: Mask, z: Pose) -> Float[Tensor, "n p"]:
        """Return p, the shape code of the object whose box is the pose `z`; its details are those inside the mask."""
        _, fine, *coarser = self.down(grey(cropped(small(image), z, SHAPE_SIDE)))
        parts = [self.code(self.last(coarser[-1].flatten(1).float()))]
        if self.has_map:
            wide = [F.interpolate(x, size=fine.shape[2:], mode="bilinear", align_corners=False) for x in coarser]
            parts.append(self.map(self.local(torch.cat([fine, *wide], 1))).flatten(1))
        if self.has_details:
            inside = cropped(within(grey(image), mask > 0.5), z, image.shape[-1])
            parts.append(self.details(F.pixel_unshuffle(inside, 4)).flatten(1))
        return torch.cat([bounded(part) for part in parts], 1)


class TextureEncoder(nn.Module):
    """E_c: the object's pixels, cropped to its frame, to the texture code: a global vector, then a coarse map."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = config.encoder_widths[1:]
        self.down = Down(3, widths)
        self.mean = EqualLinear(2 * widths[-1] + 6, config.texture_dim)
        self.map = EqualConv2d(widths[-1], config.texture_channels, 1)
        self.colours = config.texture_colours

    def forward(self, image: Image, mask: Mask, z: Pose) -> Float[Tensor, "n c"]:
        """Return c, the texture code of the pixels inside the mask, `z` the pose of its box."""
        solid = (small(mask) > 0.5).float()
        inside = cropped(solid, z, TEXTURE_SIDE)
        pixels = cropped(filled(small(image), solid), z, TEXTURE_SIDE)
        *_, x = self.down(pixels)
        parts = []
        for map in (x.float(), pixels):
            weight = F.adaptive_avg_pool2d(inside, map.shape[-1]) + 1e-4
            weight = weight / weight.sum((2, 3), keepdim=True)
            mean = (map * weight).sum((2, 3), keepdim=True)
            spread = ((map - mean).square() * weight).sum((2, 3)) + 1e-4
            parts += [mean.flatten(1), spread.sqrt()]
        whole = self.mean(torch.cat(parts, 1))
        map = bounded(self.map(x))
        if self.colours:
            map = torch.cat([smoothly_filled(pixels, inside, map.shape[-1]), map[:, 3:]], 1)
        return torch.cat([bounded(whole), map.flatten(1)], 1)


class Outline(nn.Module):
    """S and E_z: a photo to its object's mask, box and parent feature.

    The shading inside the outline (folds, seams) is read from the grey picture by convolutions of small receptive
    field.
    """

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        widths = (*config.encoder_widths, config.encoder_widths[-1])
        self.mask = UNet(3, widths, 8)
        self.edge = EqualConv2d(8, 1, 3)
        self.box = EqualLinear(widths[-1] * 16, 4)
        self.seams = nn.ModuleList([ActivatedConv2d(4, 32, 3), ActivatedConv2d(32, 32, 3)])
        self.feature = EqualConv2d(32, config.feature_dim - 4, 3)
        self.config = config

    def forward(self, image: Image) -> tuple[Float[Tensor, "n feature s s"], Pose]:
        """Return f at half the picture's side, and z, the pose of the object's box."""
        logit, shading, pose = self.read(image)
        return folded(logit, shading, self.config), pose

    def read(self, image: Image) -> tuple[Float[Tensor, "n 1 h w"], Float[Tensor, "n shading s s"], Pose]:
        """Return the logit of the mask, the shading at half the picture's side, and the pose."""
        coarse, deepest = self.mask(small(image))
        wide = F.interpolate(leaky(coarse), scale_factor=2, mode="bilinear", align_corners=False)
        logit = 2 * self.edge(wide).float()
        x = grey(small(image, min(128, image.shape[-1])))
        x = F.pixel_unshuffle(within(x, logit > 0) if self.config.clean_outlines else x, 2)
        for conv in self.seams:
            x = conv(x)
        shading = self.feature(x).float()
        if (side := image.shape[-1]) != logit.shape[-1]:
            logit = F.interpolate(logit, size=(side, side), mode="bilinear", align_corners=False)
        if side // 2 != shading.shape[-1]:
            shading = F.interpolate(shading, size=(side // 2, side // 2), mode="bilinear", align_corners=False)
        box = self.box(deepest.flatten(1).float())
        return logit, shading, torch.cat([torch.tanh(box[:, :2] / 2), box[:, 2:] / 2 - 0.4], 1)


def within(shown: Float[Tensor, "n c s s"], mask: Bool[Tensor, "n 1 h w"]) -> Float[Tensor, "n c s s"]:
    """Return pictures whose objects, without the last 64th of the side at their edges, go on smoothly all around."""
    outside = F.interpolate(dilated(1 - mask.float(), 1), size=shown.shape[2:])
    around = smoothly_filled(shown, 1 - outside, 32)
    return torch.lerp(shown, F.interpolate(around, size=shown.shape[2:], mode="bilinear", align_corners=False), outside)


class UNet(nn.Module):
    """A U-Net whose output has half the side of its input."""

    def __init__(self, channels: int, widths: tuple[int, ...], out_dim: int) -> None:
        super().__init__()
        self.down = Down(channels, widths)
        self.up = nn.ModuleList(ActivatedConv2d(o + i, i, 3) for i, o in reversed(list(pairwise(widths))))
        self.last = EqualConv2d(widths[0], out_dim, 3)

    def forward(self, x: Float[Tensor, "n c h w"]) -> tuple[Float[Tensor, "n d h2 w2"], Float[Tensor, "n e h3 w3"]]:
        """Return the output map, and the deepest map of the encoder."""
        *skips, deepest = self.down(x)
        y = deepest
        for conv, skip in zip(self.up, reversed(skips), strict=True):
            y = F.interpolate(y, scale_factor=2, mode="nearest")
            y = conv(torch.cat([y, skip], 1))
        return self.last(y), deepest
