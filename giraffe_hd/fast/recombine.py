"""Pictures for pose readers: a generator's own layers, recombined with other grounds, colours, light and crops.

The pose of such a picture is known, though none was ever labelled, and its look is unlike the set trained on.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, UInt8
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.fast.config import PoseConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.prior import pose_targets
from training.data.backgrounds import background
from training.devices import autocast
from training.nn.camera import half_width
from training.types import Image

PLAIN = 0.3
"""Share of the pictures that stay as the generator draws them: readings of its own pictures stay exact."""
OWN_GROUND = 0.15
"""Share of the recombined pictures that keep their own ground; another sample's is as likely."""
ZOOM, SHIFT, STRETCH, ROLL = 0.17, 0.1, 0.1, 0.05
"""Most by which objects are enlarged (log), moved (half pictures), stretched (log) and rolled (radians)."""
ELEVATED, BODIES, OTHER_LAYERS = 0.25, 0.25, 0.3
"""Most that cameras are raised by (share of the range) and boxes stretched (log); chance of a layer's other style."""
HALF_TURN = 180.0
"""Degrees of rotation from which on all three sides of a box are seen; below, its depth is not."""


@dataclass(frozen=True, slots=True)
class Pool:
    """Layers of samples, and grounds of other kinds; bytes as pictures hold them."""

    foreground: UInt8[Tensor, "n 3 h w"]
    mask: UInt8[Tensor, "n 1 h w"]
    own: UInt8[Tensor, "n 3 h w"]
    """The samples' backgrounds."""
    targets: Float[Tensor, "n 6"]
    """What a reader should read, `giraffe_hd.fast.prior.pose_targets`."""
    grounds: UInt8[Tensor, "m 3 h w"]
    pose: PoseConfig


def varied(generator: Generator, codes: Codes, rng: torch.Generator) -> tuple[Generator, Codes]:
    """Return codes of objects unlike the samples, and what draws them through another lens.

    Boxes are wider, narrower, higher or lower, the camera stands higher or lower than in training, and some layers have
    the styles of the next sample.
    """
    draw = Draw(len(codes.azimuth), rng)
    pose = generator.config.pose
    fov = float(draw.uniform(0.75, 2.2)[0]) * pose.fov  # one a batch: the lens is the generator's
    fov = min(fov, 60.0)
    radius = half_width(pose.radius, pose.fov) / math.tan(math.radians(fov) / 2)
    through = generator.copied(results=1, config=replace(generator.config, pose=replace(pose, fov=fov)))
    assert isinstance(through, Generator)
    reach = math.radians(ELEVATED * (pose.elevation[1] - pose.elevation[0]))
    styles, stop = generator.no_styles(codes), generator.style_layers["look"].stop
    maps = {"shape": generator.map_shape(codes.z_s_fg), "look": generator.map_look(codes.z_a_fg)}
    for part, w in maps.items():
        styles[:, generator.style_layers[part]] = (w.roll(1, 0) - w)[:, None]
    styles[:, :stop] *= draw.chance(OTHER_LAYERS, stop, 1).to(styles)
    return through, replace(
        codes,
        elevation=codes.elevation + draw.uniform(-reach, reach).to(codes.elevation),
        radius=torch.full_like(codes.radius, radius),
        scale=codes.scale * stretched_bodies(pose, draw).to(codes.scale),
        styles=styles,
    )


@torch.no_grad()
def draw_pool(
    generator: Generator, n: int, grounds: int, maps: Sequence[np.ndarray], rng: torch.Generator, *, batch: int = 16
) -> Pool:
    """Return `n` samples' layers, of which the second half is `varied`, and `grounds` pictures without objects: views
    of environment `maps`, and patterns."""
    drawn: dict[str, list[Tensor]] = {"foreground": [], "mask": [], "background": []}
    targets = []
    for start in range(0, n, batch):
        codes, through = generator.sample(min(batch, n - start), rng), generator
        if start >= n / 2:
            through, codes = varied(generator, codes, rng)
        with autocast(generator.device):
            layers = through(codes)
        targets.append(pose_targets(codes, generator.config.pose).float().cpu())
        for name, parts in drawn.items():
            layer = getattr(layers, name).float().cpu()
            parts.append(((layer if name == "mask" else (layer + 1) / 2) * 255).round().clamp(0, 255).byte())
    side, source = generator.resolution, np.random.default_rng(int(torch.randint(2**31, (), generator=rng)))
    others = np.stack([background((side, side), maps, (), source) for _ in range(max(1, grounds))])
    whole = {name: torch.cat(parts) for name, parts in drawn.items()}
    return Pool(
        whole["foreground"],
        whole["mask"],
        whole["background"],
        torch.cat(targets),
        torch.from_numpy(others).permute(0, 3, 1, 2).contiguous(),
        generator.config.pose,
    )


class Draw:
    """Random numbers, a row a picture."""

    def __init__(self, n: int, rng: torch.Generator) -> None:
        self.n, self.rng = n, rng

    def uniform(self, low: float, high: float, *shape: int) -> Tensor:
        """Return numbers of [low, high), (n, *shape)."""
        return low + (high - low) * torch.rand(self.n, *shape, generator=self.rng)

    def normal(self, deviation: float, *shape: int) -> Tensor:
        """Return normal numbers, (n, *shape)."""
        return deviation * torch.randn(self.n, *shape, generator=self.rng)

    def chance(self, share: float, *shape: int) -> Tensor:
        """Return 1 with this chance, else 0, (n, *shape)."""
        return (torch.rand(self.n, *shape, generator=self.rng) < share).float()


def stretched_bodies(pose: PoseConfig, draw: Draw) -> Float[Tensor, "n 3"]:
    """Return factors of boxes' lengths, widths and heights that leave their sizes as they are seen.

    Seen from all sides, an object is as large as it is long. Of one seen from the front the length does not show: it is
    as large as what it covers, so width and height change by inverse factors.
    """
    wide, high = draw.uniform(-BODIES, BODIES, 2, 1).unbind(1)
    if pose.rotation[1] - pose.rotation[0] < HALF_TURN:
        wide, high = (wide - high) / 2, (high - wide) / 2
    return torch.cat([torch.zeros_like(wide), wide, high], 1).exp()


def recombined(pool: Pool, n: int, rng: torch.Generator) -> tuple[Image, Float[Tensor, "n 6"]]:
    """Return `n` pictures and what should be read from them."""
    draw = Draw(n, rng)
    plain = draw.chance(PLAIN, 1, 1, 1)
    ends = torch.where(plain[:, 0, 0, 0] > 0, (len(pool.targets) + 1) // 2, len(pool.targets))
    index = (draw.uniform(0, 1) * ends).long()
    foreground, own = (part[index].float() / 127.5 - 1 for part in (pool.foreground, pool.own))
    mask, targets = pool.mask[index].float() / 255, pool.targets[index].clone()
    placed, moved = moved_objects(torch.cat([foreground, mask], 1), targets, pool.pose, draw)
    other = recoloured(lit(placed[:, :3], draw), draw)
    edge = draw.uniform(1, 3, 1, 1, 1)
    cut = ((placed[:, 3:] - 0.5) * edge + 0.5).clamp(0, 1)  # other renderers have sharper edges
    ground = shaded(recoloured(_grounds(pool, own, draw), draw), cut, draw)
    image = blemished(cut * other + (1 - cut) * ground, draw)
    image = torch.where(plain > 0, mask * foreground + (1 - mask) * own, image)
    targets = torch.where(plain[:, :, 0, 0] > 0, targets, moved)
    mirrored = draw.chance(0.5, 1, 1, 1)
    image = torch.where(mirrored > 0, image.flip(3), image)
    sign = 1 - 2 * mirrored[:, 0, 0, 0]
    targets[:, 0] *= sign  # a mirrored object is turned the other way, left and right
    targets[:, 4] = targets[:, 4] * sign + (1 - sign) / 2 * _middle(pool.pose.y)
    return image, targets


def _middle(span: tuple[float, float]) -> float:
    """Return by how much a mirrored reading of `span` is moved: nothing if the span is symmetric."""
    half = (span[1] - span[0]) / 2
    return -sum(span) / half if half > 0 else 0.0


def _grounds(pool: Pool, own: Image, draw: Draw) -> Image:
    """Return grounds: a few of the samples', each its own or another's, most of other kinds."""
    kind = draw.uniform(0, 1, 1, 1, 1)
    which = torch.randint(len(pool.grounds), (draw.n,), generator=draw.rng)
    other = pool.grounds[which].float() / 127.5 - 1
    other = torch.where(draw.chance(0.5, 1, 1, 1) > 0, other.flip(3), other)
    return torch.where(kind < OWN_GROUND, own, torch.where(kind < 2 * OWN_GROUND, own.roll(1, 0), other))


def moved_objects(
    layers: Float[Tensor, "n c h w"], targets: Float[Tensor, "n 6"], pose: PoseConfig, draw: Draw
) -> tuple[Float[Tensor, "n c h w"], Float[Tensor, "n 6"]]:
    """Return objects enlarged, moved, stretched and rolled a little, and what should then be read."""
    zoom, stretch = draw.uniform(-ZOOM, ZOOM), draw.uniform(-STRETCH, STRETCH)
    right, up, roll = draw.uniform(-SHIFT, SHIFT), draw.uniform(-SHIFT, SHIFT), draw.uniform(-ROLL, ROLL)
    wide, high = (zoom + stretch).exp(), (zoom - stretch).exp()
    c, s = roll.cos(), roll.sin()
    # grid_sample asks where each pixel comes from, y down: x_in = (Rot x_out - shift) / size
    rows = [torch.stack([c / wide, s / wide, -right / wide], 1), torch.stack([-s / high, c / high, up / high], 1)]
    grid = F.affine_grid(torch.stack(rows, 1), list(layers.shape), align_corners=False)
    mask = F.grid_sample(layers[:, 3:], grid, mode="bilinear", padding_mode="zeros", align_corners=False)
    colour = F.grid_sample(layers[:, :3], grid, mode="bilinear", padding_mode="border", align_corners=False)
    half = half_width(pose.radius, pose.fov)
    moved = targets.clone()
    moved[:, 3] += zoom / (math.log(pose.scale[1] / pose.scale[0]) / 2) if pose.scale[1] > pose.scale[0] else 0.0
    for column, span, size, shift in ((4, pose.y, wide, right), (5, pose.z, high, up)):
        if span[1] > span[0]:
            middle, reach = sum(span) / 2, (span[1] - span[0]) / 2
            world = (middle + reach * targets[:, column]) * size + shift * half
            moved[:, column] = (world - middle) / reach
    return torch.cat([colour, mask], 1), moved


def lit(image: Image, draw: Draw) -> Image:
    """Return objects brighter on one side than on the other, as another lamp would make them."""
    line = torch.linspace(-1, 1, image.shape[-1])
    slope = draw.normal(0.3, 2, 1, 1, 1) * draw.chance(0.6, 1, 1, 1, 1)
    gain = (slope[:, 0] * line + slope[:, 1] * line[:, None]).exp()
    return ((image + 1) * gain - 1).clamp(-1, 1)


def recoloured(image: Image, draw: Draw) -> Image:
    """Return pictures with their channels mixed, and other contrast and brightness; a few grey or inverted."""
    mix = torch.eye(3) + draw.normal(0.25, 3, 3)
    mix = torch.where(draw.chance(0.5, 1, 1) > 0, mix[:, torch.randperm(3, generator=draw.rng)], mix)
    mix = torch.where(draw.chance(0.1, 1, 1) > 0, torch.full((3, 3), 1 / 3), mix)
    mix = mix / mix.sum(2, keepdim=True).abs().clamp_min(0.5)  # white stays near white
    mix = torch.where(draw.chance(0.4, 1, 1) > 0, torch.eye(3), mix)
    image = torch.einsum("nij,njhw->nihw", mix, image)
    image = (image * draw.normal(0.3, 1, 1, 1).exp() + draw.normal(0.2, 1, 1, 1)).clamp(-1, 1)
    curve = ((image + 1) / 2).clamp_min(1e-3) ** draw.normal(0.5, 1, 1, 1).exp() * 2 - 1
    image = torch.where(draw.chance(0.5, 1, 1, 1) > 0, curve, image)
    return torch.where(draw.chance(0.1, 1, 1, 1) > 0, -image, image)


def shaded(ground: Image, mask: Tensor, draw: Draw) -> Image:
    """Return grounds with a soft shadow beneath some of the objects."""
    drop, side = image_share(mask, 0.04), image_share(mask, 0.14)
    blurred = F.avg_pool2d(mask, side | 1, 1, (side | 1) // 2, count_include_pad=False)
    shadow = F.pad(blurred, (0, 0, drop, 0))[:, :, : mask.shape[2]]
    dark = draw.uniform(0.1, 0.7, 1, 1, 1) * draw.chance(0.4, 1, 1, 1)
    return (ground + 1) * (1 - dark * shadow) - 1


def image_share(image: Tensor, share: float) -> int:
    """Return a share of a picture's side in whole pixels, 1 at least."""
    return max(1, round(share * image.shape[-1]))


def blemished(image: Image, draw: Draw) -> Image:
    """Return pictures of other contrast, blurred or sharpened, with noise, as other cameras take them."""
    image = image * draw.normal(0.2, 1, 1, 1).exp() + draw.normal(0.1, 1, 1, 1)
    smooth = F.avg_pool2d(F.pad(image, (1, 1, 1, 1), mode="replicate"), 3, 1)
    image = image + draw.uniform(-0.8, 0.8, 1, 1, 1) * draw.chance(0.5, 1, 1, 1) * (smooth - image)
    noise = torch.randn(image.shape, generator=draw.rng)
    return (image + draw.uniform(0, 0.12, 1, 1, 1) * draw.chance(0.5, 1, 1, 1) * noise).clamp(-1, 1)


def as_dict(pool: Pool) -> dict[str, Any]:
    """Return how many samples and grounds a pool holds."""
    return {"samples": len(pool.targets), "grounds": len(pool.grounds)}
