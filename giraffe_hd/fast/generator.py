"""The fast GIRAFFE HD: a 3D object in a box over a background, each drawn from its own codes (paper Sec. 3, Fig. 2).

Same knobs and losses in spirit as the published network (`giraffe_hd.paper`), with other parts: the shape alone makes
volume and mask, the look alone draws, rays are clipped to the box, and the background never touches the object.
"""

import math
import zlib
from dataclasses import replace
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from giraffe_hd.codes import Codes, Layers
from giraffe_hd.fast.config import GeneratorConfig, PoseConfig
from giraffe_hd.fast.renderer import BackgroundRenderer, MaskHead, ObjectRenderer
from training import types
from training.nn.camera import half_width
from training.nn.fields import AMPLITUDE, BALL, DAMPING, RADIUS, ObjectField
from training.nn.layers import EqualLinear, Mapping
from training.nn.ops import triton_works
from training.nn.ops.field import Density, Encoding, Mlp, render_field, stratified_depths
from training.nn.volume import Rays, box_rays, project_composited, render_rays, scatter_rays
from training.runtime.sharded_random import rand, randn
from training.types import Knob, knob_numbers, knob_seeds

OPAQUE = 0.5
"""Opacity from which a ray has a depth: a haze around the object has none."""


def field_as_op(field: ObjectField, w: Float[Tensor, "n style"]) -> tuple[Mlp, Encoding, Density]:
    """Return an object's field as `training.nn.ops.field.render_field` takes it."""
    weights, biases = zip(*(layer.of(w) for layer in field.layers), strict=True)  # type: ignore[operator]
    (sigma, sigma_bias), gain = field.sigma.of(w), math.sqrt(2)  # relu(x) gain = relu(x gain)
    mlp = Mlp(
        entry=gain * weights[0],
        hidden=gain * torch.stack(weights[1:], 1),
        bias=gain * torch.stack(biases, 1),
        sigma=sigma[..., 0],
        sigma_bias=sigma_bias[:, 0],
    )
    encoding = Encoding(field.octaves, amplitude=AMPLITUDE, damping=DAMPING, raw=True, mirror=field.mirror)
    return mlp, encoding, Density(softplus=True, gain=field.density, slope=BALL, radius=RADIUS)


class Generator(types.Generator):
    """Draw layers: object features by volume rendering, object and background by style-based renderers, composite."""

    family = "giraffe_hd"
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = c = config
        self.map_shape = Mapping(c.z_dim, c.w_dim, c.mapping_layers)
        self.map_look = Mapping(c.z_dim, c.w_dim, c.mapping_layers)
        self.map_background = Mapping(c.z_dim, c.w_dim, c.mapping_layers)
        self.field = ObjectField(c.field_dim, c.field_depth, c.octaves, c.w_dim, mirror=c.mirror, density=c.density)
        self.head = EqualLinear(c.field_dim, c.features)  # applied once a ray
        self.object = ObjectRenderer(c.features, c.object_channels, c.w_dim, c.doublings)
        self.mask = MaskHead(c.features, c.mask_channels, c.doublings)
        self.horizon = EqualLinear(1, c.w_dim)  # camera elevation into the background's styles
        self.background = BackgroundRenderer(c.background_channels, c.w_dim, c.background_shape_layers)

    def forward(
        self,
        codes: Codes,
        inject_index: int | None = None,
        *,
        rng: torch.Generator | None = None,
        sigma_noise: float = 0.0,
    ) -> Layers:
        """Return the layers that `codes` describe.

        Object convolutions before `inject_index` are styled by the shape code, the rest by the look (default from the
        config). With `rng`, samples are jittered and the density gets normal noise of deviation `sigma_noise`, as in
        training; without it, the same codes give the same picture.
        """
        inject_index = self.config.inject_index if inject_index is None else inject_index
        w_shape = self.cached("shape", lambda: self.map_shape(codes.z_s_fg), codes.z_s_fg)
        w_look = self.cached("look", lambda: self.map_look(codes.z_a_fg), codes.z_a_fg)

        def body() -> tuple[Tensor, Tensor, Tensor, Tensor]:
            features, alpha, depth, hit = self.volume(codes, w_shape, rng, sigma_noise)
            return features, alpha, depth, self.mask(features, alpha, hit)

        def render() -> Tensor:
            return self.object(features, w_shape, w_look, inject_index)

        pose = (codes.azimuth, codes.elevation, codes.radius, codes.scale, codes.translation, codes.rotation)
        if rng is None:
            features, alpha, depth, mask = self.cached("body", body, codes.z_s_fg, *pose)
            foreground = self.cached(f"foreground {inject_index}", render, codes.z_s_fg, codes.z_a_fg, *pose)
        else:
            features, alpha, depth, mask = body()
            foreground = render()
        behind = (codes.z_s_bg, codes.z_a_bg, codes.elevation)
        background = self.cached("background", lambda: self.draw_background(codes), *behind)
        image = mask * foreground + (1 - mask) * background
        return Layers(image=image, foreground=foreground, background=background, mask=mask, alpha=alpha, depth=depth)

    def volume(
        self, codes: Codes, w: Float[Tensor, "n dim"], rng: torch.Generator | None = None, sigma_noise: float = 0.0
    ) -> tuple[Float[Tensor, "n c r r"], Float[Tensor, "n 1 r r"], Float[Tensor, "n 1 r r"], Float[Tensor, "n 1 r r"]]:
        """Return the object's features, opacity, depth (0 if not half opaque) and which rays cross its box, as maps."""
        rays = box_rays(codes.object_pose, self.config.rays, self.config.pose.fov)
        if triton_works(rays.near.device.type, rays.near.device.index):
            return self._volume_by_op(codes, rays, w, rng, sigma_noise)
        return self._volume_of_hits(codes, rays, w, rng, sigma_noise)

    def _volume_of_hits(
        self, codes: Codes, rays: Rays, w: Tensor, rng: torch.Generator | None, sigma_noise: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `volume` in plain PyTorch, the field evaluated on the rays that cross the box alone."""
        c = self.config
        jitter, noise = self._noise(len(w), rays.near.device, rng, sigma_noise)
        seen = render_rays(self.field, rays, codes.scale[:, :1], w, c.samples, jitter=jitter, noise=noise)
        features = project_composited(self.head, seen.hidden, seen.opacity)
        maps = torch.stack([seen.opacity, seen.depth * (seen.opacity > OPAQUE), torch.ones_like(seen.opacity)], -1)
        features = scatter_rays(features, seen.which, seen.real, c.rays)
        maps = scatter_rays(maps, seen.which, seen.real, c.rays)
        return features, maps[:, :1], maps[:, 1:2], maps[:, 2:]

    def _volume_by_op(
        self, codes: Codes, rays: Rays, w: Tensor, rng: torch.Generator | None, sigma_noise: float
    ) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        """Return `volume` by one kernel over all rays, which does nothing where they miss, and no wait for a count."""
        c = self.config
        jitter, noise = self._noise(len(w), rays.near.device, rng, sigma_noise)
        t, step = stratified_depths(rays.near, rays.far, rays.length / codes.scale[:, :1], c.samples, jitter)
        found = render_field(rays.origin, rays.direction, t, step, *field_as_op(self.field, w), noise)
        features = (
            project_composited(self.head, found.features, found.alpha).transpose(1, 2).unflatten(2, (c.rays, c.rays))
        )
        maps = torch.stack([found.alpha, found.depth * (found.alpha > OPAQUE), rays.hit.to(found.alpha.dtype)], 1)
        maps = maps.unflatten(2, (c.rays, c.rays))
        return features, maps[:, :1], maps[:, 1:2], maps[:, 2:]

    def _noise(
        self, n: int, device: torch.device, rng: torch.Generator | None, sigma_noise: float
    ) -> tuple[Float[Tensor, "n rays samples"] | None, Float[Tensor, "n rays samples"] | None]:
        """Return the samples' jitter and their density's noise, for all rays: which hit depends on the picture."""
        shape = (n, self.config.rays**2, self.config.samples)
        jitter = None if rng is None else rand(*shape, rng=rng).to(device)
        noise = sigma_noise * randn(*shape, rng=rng).to(device) if rng is not None and sigma_noise > 0 else None
        return jitter, noise

    def draw_background(self, codes: Codes) -> types.Image:
        """Return the background alone; it depends on its codes and the camera's elevation, never on the object."""
        view = self.horizon(centred(codes.elevation.rad2deg(), self.config.pose.elevation)[:, None])
        return self.background(self.map_background(codes.z_s_bg) + view, self.map_background(codes.z_a_bg) + view)

    def density(self, codes: Codes, points: Float[Tensor, "n points 3"]) -> Float[Tensor, "n points"]:
        """Return the object's density per world unit at points of its box, 0 outside |p| <= 1."""
        sigma, _ = self.field(points, self.map_shape(codes.z_s_fg))
        return sigma / codes.scale[:, :1] * (points.abs().amax(-1) <= 1)

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels."""
        return self.config.resolution

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Rotation, elevation, size, position, and seeds for shape, look and background."""
        return pose_knobs(self.config.pose) + SEED_KNOBS

    @property
    def fixed_knobs(self) -> tuple[Knob, ...]:
        """The camera's way around the scene, unless the prior varies it, and its distance."""
        return tuple(knob for knob in camera_knobs(self.config.pose) if knob.extended_range)

    def sample(self, n: int, rng: torch.Generator) -> Codes:
        """Draw `n` rows from the prior: normal codes, uniform pose."""
        z = torch.randn(4, n, self.config.z_dim, generator=rng)
        pose = sample_pose(self.config.pose, n, rng)
        codes = Codes(z_s_fg=z[0], z_a_fg=z[1], z_s_bg=z[2], z_a_bg=z[3], **pose)
        return replace(
            codes, **{k: v.to(self.device) for k in pose.keys() | SEED_FIELDS if (v := getattr(codes, k)) is not None}
        )

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        """Return `codes` with one knob turned; see `training.types.Generator.set`."""
        knob = self.knob(name)
        if knob.kind == "seed":
            return set_seed(codes, name, value)
        return set_pose(codes, self.config.pose, name, value)


SEED_FIELDS = {"z_s_fg", "z_a_fg", "z_s_bg", "z_a_bg"}

SEED_KNOBS = (
    Knob(name="shape", label="Shape", kind="seed", high=99_999.0, step=1.0, help="Draws another body."),
    Knob(name="look", label="Look", kind="seed", high=99_999.0, step=1.0, help="Draws other colours on the same body."),
    Knob(name="background", label="Background", kind="seed", high=99_999.0, step=1.0, help="Draws another place."),
)

_DRAWN_BY = {"shape": ("z_s_fg",), "look": ("z_a_fg",), "background": ("z_s_bg", "z_a_bg")}


def pose_knobs(pose: PoseConfig) -> tuple[Knob, ...]:
    """Return the knobs of camera and object; positions are percent of half the picture's width, size is relative."""
    half = half_width(pose.radius, pose.fov) / 100
    middle = sum(pose.scale) / 2
    low, high = pose.rotation
    shown = 45.0 if low <= 45 <= high else round((low + high) / 2, 1)  # two of its sides at once
    knobs = [
        Knob(name="rotation", label="Rotation", kind="angle", unit="°", low=low, high=high, default=shown, step=1.0,
             help="Turns the object on the spot."),
        Knob(name="elevation", label="Camera elevation", kind="angle", unit="°", low=pose.elevation[0],
             high=pose.elevation[1], default=round(sum(pose.elevation) / 2, 1), step=0.5, help="Raises the camera."),
        Knob(name="scale", label="Size", kind="range", unit="×", low=pose.scale[0] / middle,
             high=pose.scale[1] / middle, default=1.0, step=0.01, help="Makes the object larger or smaller."),
    ]  # fmt: skip
    knobs += [knob for knob in camera_knobs(pose) if not knob.extended_range]
    for name, label, span, text in (
        ("x", "Left – right", pose.y, "Moves the object across the picture."),
        ("y", "Down – up", pose.z, "Moves the object up and down."),
        ("depth", "Far – near", pose.x, "Moves the object towards the camera."),
    ):
        if span[1] > span[0]:
            knobs.append(
                Knob(name=name, label=label, kind="range", unit="%", low=span[0] / half, high=span[1] / half,
                     default=sum(span) / 2 / half, step=0.5, help=text)
            )  # fmt: skip
    return tuple(knobs)


def camera_knobs(pose: PoseConfig) -> tuple[Knob, ...]:
    """Return the knobs of the camera beside its elevation, those that training held still with their reach."""
    low, high = pose.azimuth
    middle, near, far = (low + high) / 2, 0.7 * pose.radius, 1.6 * pose.radius
    return (
        Knob(name="azimuth", label="Camera azimuth", kind="angle", unit="°", low=low, high=high, default=middle,
             step=1.0, extended_range=(middle - 180, middle + 180) if low == high else None,
             help="Walks the camera around the scene; the background stays as it is."),
        Knob(name="radius", label="Camera distance", kind="range", low=pose.radius, high=pose.radius,
             default=pose.radius, step=0.01, extended_range=(near, far),
             help="Takes the camera nearer or farther; the background stays as it is."),
    )  # fmt: skip


def sample_pose(pose: PoseConfig, n: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Draw the pose fields of `n` rows of `Codes` from the prior."""

    def uniform(span: tuple[float, float]) -> Tensor:
        return span[0] + (span[1] - span[0]) * torch.rand(n, generator=rng)

    return {
        "azimuth": uniform(pose.azimuth).deg2rad(),
        "elevation": uniform(pose.elevation).deg2rad(),
        "radius": torch.full((n,), pose.radius),
        "scale": uniform(pose.scale)[:, None] * torch.tensor(pose.proportions),
        "translation": torch.stack([uniform(pose.x), uniform(pose.y), uniform(pose.z)], -1),
        "rotation": uniform(pose.rotation).deg2rad(),
    }


def set_pose(codes: Codes, pose: PoseConfig, name: str, value: Any) -> Codes:
    """Return `codes` with the camera or the object moved; `value` in the knob's unit, a number or (n,).

    Raises: ValueError for what is no number, not finite, neither one number nor one a row, or a size not above 0.
    """
    number = knob_numbers(name, value, codes.rotation)
    if name in ("rotation", "elevation", "azimuth"):
        return replace(codes, **{name: number.deg2rad()})
    if name == "radius":
        return replace(codes, radius=number)
    if name == "scale":
        if not (number > 0).all():
            raise ValueError(f"size {float(number.min()):g} cannot be drawn; wanted a number above 0")
        half_length = number * sum(pose.scale) / 2
        return replace(codes, scale=half_length[:, None] * codes.scale.new_tensor(pose.proportions))
    translation = codes.translation.clone()
    translation[:, {"depth": 0, "x": 1, "y": 2}[name]] = number * half_width(pose.radius, pose.fov) / 100
    return replace(codes, translation=translation)


def set_seed(codes: Codes, name: str, value: Any) -> Codes:
    """Return `codes` with a seed knob's latent codes drawn from the whole number `value`, alike in all rows, or from
    one a row.

    Raises: ValueError for anything but a whole number, or as many as rows.
    """
    seeds, drawn = knob_seeds(name, value, len(codes.rotation)), {}
    for field in _DRAWN_BY[name]:
        old = getattr(codes, field)
        sources = [torch.Generator().manual_seed(zlib.crc32(f"{field} {seed}".encode())) for seed in seeds]
        new = torch.cat([torch.randn(1, old.shape[1], generator=rng) for rng in sources])  # no two codes alike
        drawn[field] = new.to(old).expand_as(old)
    return replace(codes, **drawn)


def centred(value: Float[Tensor, " n"], span: tuple[float, float]) -> Float[Tensor, " n"]:
    """Return `value` with the span's ends at -1 and 1; 0 where the span has no width."""
    half = (span[1] - span[0]) / 2
    return (value - sum(span) / 2) / half if half > 0 else torch.zeros_like(value)


def pose_targets(codes: Codes, pose: PoseConfig) -> Float[Tensor, "n 6"]:
    """Return what a pose head should read: sin and cos of the rotation seen, elevation, log scale, y, z in [-1, 1]."""
    seen = codes.rotation + codes.azimuth  # turning the object or walking around it shows the same side
    low, high = (math.log(v) for v in pose.scale)
    return torch.stack(
        [
            seen.sin(),
            seen.cos(),
            centred(codes.elevation.rad2deg(), pose.elevation),
            centred(codes.scale[:, 0].log(), (low, high)),
            centred(codes.translation[:, 1], pose.y),
            centred(codes.translation[:, 2], pose.z),
        ],
        -1,
    )
