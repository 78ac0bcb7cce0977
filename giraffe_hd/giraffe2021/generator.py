"""GIRAFFE (Niemeyer and Geiger, CVPR 2021): several objects and a background in one volume, then a 2D renderer."""

from dataclasses import dataclass
from itertools import pairwise
from typing import ClassVar

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from giraffe_hd.codes import Codes
from giraffe_hd.giraffe2021.config import GeneratorConfig
from giraffe_hd.paper import prior, volume
from giraffe_hd.paper.fields import FeatureField
from training.types import Image, Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Scene:
    """What GIRAFFE shows: its objects and background meet in the volume, so there are no layers to take apart."""

    image: Image
    mask: Mask
    """Share of the objects in each pixel as the volume sees it: what stands behind the background does not count."""
    alpha: Float[Tensor, "n objects rays_h rays_w"]
    """Each object's share of each ray."""
    depth: Float[Tensor, "n 1 rays_h rays_w"]
    """Mean depth of the objects along the view axis, world units; 0 where no object is seen."""


class NeuralRenderer(nn.Module):
    """pi_neural: features to colours by doublings, 3 x 3 convolutions and RGB skips (GIRAFFE Sec. 3.3)."""

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        channels, side = [config.feat_dim], config.volume.resolution
        while side < config.resolution:
            side = 2 * side
            channels.append(max(channels[-1] // 2, config.min_feat))
        self.conv_layers = nn.ModuleList(nn.Conv2d(before, after, 3, padding=1) for before, after in pairwise(channels))
        self.conv_rgb = nn.ModuleList(nn.Conv2d(c, 3, 3, padding=1) for c in channels)

    def forward(self, x: Float[Tensor, "n c r r"]) -> Image:
        """Return pictures in [-1, 1]."""
        rgb = enlarge(self.conv_rgb[0](x))
        last = len(self.conv_layers) - 1
        for i, conv in enumerate(self.conv_layers):
            x = F.leaky_relu(conv(F.interpolate(x, scale_factor=2)), 0.2)
            rgb = rgb + self.conv_rgb[i + 1](x)
            rgb = enlarge(rgb) if i < last else rgb
        return 2 * torch.sigmoid(rgb) - 1  # authors: [0, 1]; here [-1, 1], as every generator of this project


def enlarge(rgb: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 h2 w2"]:
    """Return colours at twice the size: bilinear, then a (1, 2, 1) x (1, 2, 1) low-pass with mirrored borders."""
    rgb = F.interpolate(rgb, scale_factor=2, mode="bilinear", align_corners=False)
    line = torch.tensor([1.0, 2.0, 1.0], device=rgb.device, dtype=rgb.dtype) / 4
    kernel = torch.outer(line, line).expand(3, 1, 3, 3)
    return F.conv2d(F.pad(rgb, (1, 1, 1, 1), mode="reflect"), kernel, groups=3)


class Generator(prior.PriorGenerator):
    """I = pi_neural(pi_vol(C(h_1, ..., h_N, h_background)))  (GIRAFFE Sec. 3.3), C composing by density."""

    family: ClassVar[str] = "giraffe"
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.object_field = FeatureField(config.object_field())
        self.background_field = FeatureField(config.background_field())
        self.neural_renderer = NeuralRenderer(config)

    def forward(self, codes: Codes, *, rng: torch.Generator | None = None) -> Scene:
        """Return the scene that `codes` describe; the same every time, unless in training mode.

        Training mode draws noise, jitter of samples and a turn of the background from `rng` (a CPU generator; None:
        PyTorch's own).
        """
        config, n = self.config, codes.azimuth.shape[0]
        rng = prior.source(rng, self.device) if self.training else None
        rays = volume.cast(codes, config.prior.fov, config.volume.resolution)
        t = volume.depths(config.volume, rays, rng)
        objects = self.object_field.condition(codes.z_s_fg.reshape(-1, config.z_dim), codes.z_a_fg.flatten(0, -2))
        boxes = rays.in_boxes(codes.scale.reshape(-1, 3), codes.translation.reshape(-1, 3), codes.rotation.reshape(-1))
        clipped = volume.render_objects(self.object_field, objects, boxes, t, rng)
        background = self.background_field.condition(codes.z_s_bg, codes.z_a_bg)
        shift, turn = prior.background_pose(config.prior, n, self.device, rng)
        moved = rays.in_boxes(torch.ones_like(shift), shift, turn)
        sigma_bg, hidden_bg = volume.render_background(self.background_field, background, moved, t, rng)

        sigma = clipped.sigma.unflatten(0, (n, -1))  # (n, objects, rays, samples)
        if codes.presence is not None:
            sigma = sigma * codes.presence[..., None, None]
        delta = volume.steps(t, rays.length)
        share = volume.shares(torch.cat([sigma, sigma_bg[:, None]], 1), delta)
        alpha, alpha_bg = share[:, :-1].sum(-1), share[:, -1].sum(-1)
        composited = clipped.composite(share[:, :-1].flatten(0, 1))
        features = self.object_field.head(composited, alpha.flatten(0, 1), objects).unflatten(0, (n, -1)).sum(1)
        composited = (share[:, -1, :, None] @ hidden_bg).squeeze(-2)
        features = features + self.background_field.head(composited, alpha_bg, background)
        seen = alpha.sum(1)
        depth = (share[:, :-1].sum(1) * t).sum(-1) / seen.clamp_min(1e-6)
        return self._scene(features, alpha, seen, depth)

    def _scene(
        self,
        features: Float[Tensor, "n rays c"],
        alpha: Float[Tensor, "n objects rays"],
        seen: Float[Tensor, "n rays"],
        depth: Float[Tensor, "n rays"],
    ) -> Scene:
        size, sides = self.config.resolution, (self.config.volume.resolution,) * 2
        mask = F.interpolate(seen[:, None].unflatten(2, sides), size=(size, size), mode="bilinear", align_corners=False)
        return Scene(
            image=self.neural_renderer(features.transpose(1, 2).unflatten(2, sides)),
            mask=mask.clamp(0, 1),
            alpha=alpha.unflatten(2, sides),
            depth=depth[:, None].unflatten(2, sides),
        )

    @torch.no_grad()
    def density(self, codes: Codes, points: Float[Tensor, "n points 3"], index: int = 0) -> Float[Tensor, "n points"]:
        """Return the density per world unit of object `index` at points of its box, 0 outside |p| <= 1.1."""
        z_s, z_a = (z if z.ndim == 2 else z[:, index] for z in (codes.z_s_fg, codes.z_a_fg))
        return volume.density(self.object_field, self.object_field.condition(z_s, z_a), points)
