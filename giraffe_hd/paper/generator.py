"""GIRAFFE HD (Xue et al., CVPR 2022, Sec. 3): object and background, each rendered in 3D, then in 2D, then blended.

Symbol -> where it is computed:

    z_s, z_a of object and background -> w = M(z): `Generator.styles`
    scene -> box: p_box = Rz(rotation) (p - translation) / scale: `volume.Rays.in_boxes`
    h_fg, h_bg, the feature fields: `fields.FeatureField`; sum_s w_s h_s along rays: `volume.ray_weights` (NeRF Eq. 3)
    V_fg, V_bg, 2D feature maps: `object_features`, `background_features`
    R_fg, R_bg, style-based renderers: `renderer.StyleRenderer`; layers before `inject_index` see w_s, the rest w_a
    residual and mask M by the refinement renderer, styled by w_a of the background: `renderer.RefinementRenderer`
    F = tanh(R_fg(V_fg) + residual), B = tanh(R_bg(V_bg)), I = M F + (1 - M) B: `Generator.forward`
"""

from typing import ClassVar, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from giraffe_hd.codes import Codes, Layers
from giraffe_hd.paper import prior, volume
from giraffe_hd.paper.config import GeneratorConfig
from giraffe_hd.paper.fields import FeatureField
from giraffe_hd.paper.renderer import RefinementRenderer, StyleRenderer, mapping_network
from training.types import Image, Mask


class Styles(NamedTuple):
    """The mapped codes w = M(z)."""

    s_fg: Float[Tensor, "n dim"]
    a_fg: Float[Tensor, "n dim"]
    s_bg: Float[Tensor, "n dim_bg"]
    a_bg: Float[Tensor, "n dim_bg"]


class FeatureMap(NamedTuple):
    """What volume rendering of the object gives: features, and what the layers show of its density."""

    features: Float[Tensor, "n feat_dim r r"]
    alpha: Float[Tensor, "n 1 r r"]
    depth: Float[Tensor, "n 1 r r"]


class Generator(prior.PriorGenerator):
    """I = M * F + (1 - M) * B  (GIRAFFE HD Sec. 3.2), F and B from separate fields and renderers."""

    family: ClassVar[str] = "giraffe_hd_paper"
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = config
        self.mapping_fg = mapping_network(config.z_dim, config.n_mlp, config.lr_mlp)
        self.mapping_bg = mapping_network(config.z_dim_bg, config.n_mlp, config.lr_mlp)
        self.object_field = FeatureField(config.object_field())
        self.background_field = FeatureField(config.background_field())
        self.fg_renderer = StyleRenderer(config, config.z_dim, 4 if config.fg_gen_mask else 3)
        self.bg_renderer = StyleRenderer(config, config.z_dim_bg, 3)
        self.refine_renderer = RefinementRenderer(config, 3 if config.fg_gen_mask else 4)
        self.precision = torch.float32
        """Of the renderers' feature maps; volume rendering, colours and masks are float32 always."""

    def forward(self, codes: Codes, inject_index: int | None = None, rng: torch.Generator | None = None) -> Layers:
        """Return the layers that `codes` describe; the same every time, unless in training mode.

        Layers of the foreground renderer before `inject_index` are styled by the shape code, the rest by the appearance
        code; None takes the config's index, in training mode one at random. Training mode also draws noise, jitter of
        samples and a shift of the background, from `rng` (a CPU generator; None: PyTorch's own).
        """
        if inject_index is None:
            inject_index = self._mixed_index(rng) if self.training else self.config.default_inject_index
        rng = prior.source(rng, self.device) if self.training else None
        z = (codes.z_s_fg, codes.z_a_fg, codes.z_s_bg, codes.z_a_bg)
        w = self.cached("styles", lambda: self.styles(codes), *z)
        camera, box = (codes.azimuth, codes.elevation, codes.radius), (codes.scale, codes.translation, codes.rotation)
        obj = self.cached("object", lambda: self.object_features(codes, w, rng), *z[:2], *camera, *box)
        rgb, features = self.fg_renderer(self._to_render(obj.features), w.s_fg, w.a_fg, inject_index, rng)
        residual = self.refine_renderer(features, w.a_bg, rng)
        height = [codes.translation[:, 2]] if self.config.pos_share else []
        background = self.cached("background", lambda: self.render_background(codes, w, rng), *z[2:], *camera, *height)
        foreground = torch.tanh(rgb[:, :3] + residual[:, :3])
        mask = torch.sigmoid((rgb if self.config.fg_gen_mask else residual)[:, 3:])
        image = foreground * mask + background * (1 - mask)
        return Layers(
            image=image, foreground=foreground, background=background, mask=mask, alpha=obj.alpha, depth=obj.depth
        )

    def styles(self, codes: Codes) -> Styles:
        """Return w = M(z) of all four codes; shape and appearance of a layer share a mapping network."""
        n = codes.z_s_fg.shape[0]
        fg = self.mapping_fg(torch.cat([codes.z_s_fg, codes.z_a_fg]))
        bg = self.mapping_bg(torch.cat([codes.z_s_bg, codes.z_a_bg]))
        return Styles(fg[:n], fg[n:], bg[:n], bg[n:])

    def object_features(self, codes: Codes, w: Styles, rng: torch.Generator | None = None) -> FeatureMap:
        """Return the volume-rendered object V_fg; with `rng`, with training's noise."""
        z = (w.s_fg, w.a_fg) if self.config.grf_use_mlp else (codes.z_s_fg, codes.z_a_fg)
        condition = self.object_field.condition(*z)
        rays = self._rays(codes)
        t = volume.depths(self.config.volume, rays, rng)
        boxes, delta = rays.in_boxes(codes.scale, codes.translation, codes.rotation), volume.steps(t, rays.length)
        if volume.by_op(self.object_field, t):
            hidden, alpha, distance = volume.render_by_op(
                self.object_field, condition, boxes, t, delta, rng, box=volume.BOX
            )
        else:
            samples = volume.render_objects(self.object_field, condition, boxes, t, rng)
            weights = volume.ray_weights(samples.sigma, delta)
            hidden, alpha, distance = samples.composite(weights), weights.sum(-1), (weights * t).sum(-1)
        features = self.object_field.head(hidden, alpha, condition)
        depth = distance / alpha.clamp_min(1e-6)
        return FeatureMap(self._as_map(features), self._as_map(alpha[..., None]), self._as_map(depth[..., None]))

    def background_features(
        self, codes: Codes, w: Styles, rng: torch.Generator | None = None
    ) -> Float[Tensor, "n feat_dim r r"]:
        """Return the volume-rendered background V_bg; with `rng`, with training's noise."""
        z = (w.s_bg, w.a_bg) if self.config.grf_use_mlp else (codes.z_s_bg, codes.z_a_bg)
        condition = self.background_field.condition(*z)
        rays = self._rays(codes)
        t = volume.depths(self.config.volume, rays, rng)
        shift, turn = prior.background_pose(self.config.prior, len(t), self.device, rng)
        if self.config.pos_share:
            shift = torch.cat([shift[:, :2], codes.translation[:, 2:]], 1)
        moved = rays.in_boxes(torch.ones_like(shift), shift, turn)
        delta = volume.steps(t, rays.length)
        if volume.by_op(self.background_field, t):
            composited, alpha, _ = volume.render_by_op(self.background_field, condition, moved, t, delta, rng)
        else:
            composited, alpha = volume.composite_background(self.background_field, condition, moved, t, delta, rng)
        return self._as_map(self.background_field.head(composited, alpha, condition))

    def render_background(self, codes: Codes, w: Styles, rng: torch.Generator | None = None) -> Image:
        """Return B in [-1, 1]; of the object it knows its height at most (`pos_share`)."""
        features = self.background_features(codes, w, rng)
        return torch.tanh(self.bg_renderer(self._to_render(features), w.a_bg, w.a_bg, 0, rng)[0])

    def box_silhouette(self, codes: Codes, pad: float = 0.1) -> Mask:
        """Return the projected box |p| <= 1 + pad at the picture's size (GIRAFFE HD Sec. 3.3)."""
        config = self.config
        return volume.box_silhouette(codes, self._rays(codes), config.resolution, config=config.volume, pad=pad)

    @torch.no_grad()
    def density(self, codes: Codes, points: Float[Tensor, "n points 3"]) -> Float[Tensor, "n points"]:
        """Return the object's density per world unit at points of its box, 0 outside |p| <= 1.1."""
        w = self.styles(codes)
        z = (w.s_fg, w.a_fg) if self.config.grf_use_mlp else (codes.z_s_fg, codes.z_a_fg)
        return volume.density(self.object_field, self.object_field.condition(*z), points)

    def _to_render(self, features: Tensor) -> Tensor:
        """Return a feature map in the renderers' precision, channels last, as convolutions like it best."""
        return features.to(self.precision).contiguous(memory_format=torch.channels_last)

    def _rays(self, codes: Codes) -> volume.Rays:
        config = self.config
        return volume.cast(codes, config.prior.fov, config.volume.resolution, joint=config.joint_cameras)

    def _as_map(self, rays: Float[Tensor, "n rays c"]) -> Float[Tensor, "n c r r"]:
        side = self.config.volume.resolution
        return rays.transpose(1, 2).unflatten(2, (side, side))

    def _mixed_index(self, rng: torch.Generator | None) -> int:
        """Return a training step's inject index (style mixing, StyleGAN Sec. 3.1)."""
        n_latent = self.config.n_latent
        mixed = float(torch.rand((), generator=rng)) < self.config.mix_prob
        index = int(torch.randint(n_latent, (), generator=rng))
        return index if mixed else n_latent  # past the last layer: the shape code styles them all
