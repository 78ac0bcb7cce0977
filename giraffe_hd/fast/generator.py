"""The fast GIRAFFE HD: a 3D object in a box over a background, each drawn from its own codes (paper Sec. 3, Fig. 2).

Same knobs and losses in spirit as the published network (`giraffe_hd.paper`), with other parts: the shape alone makes
volume and mask, the look alone draws, rays are clipped to the box, and the background never touches the object.

Symbol of the paper -> where it is computed (the same table as in `giraffe_hd.paper.generator`):

    z_s, z_a of object and background -> w = M(z): `map_shape`, `map_look`, `map_background`
    scene -> box, and the rays that hit it: `training.nn.volume.box_rays`
    h_fg, the object's feature field: `training.nn.fields.ObjectField`; the background has none, it is drawn in 2D
    V_fg, its 2D feature map: `Generator.volume`; sum_s w_s h_s along rays (NeRF Eq. 3): `volume.render_object`
    R_fg: `renderer.ObjectRenderer`; R_bg: `renderer.BackgroundRenderer`, by `Generator.draw_background`
    mask M, from the shape alone: `renderer.MaskHead`; there is no refinement of the object's picture
    I = M F + (1 - M) B: `Generator.forward`
"""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn

from giraffe_hd.codes import Codes, Layers, TrainingLayers
from giraffe_hd.fast.config import GeneratorConfig
from giraffe_hd.fast.prior import (
    DRAWN_BY,
    SEED_FIELDS,
    SEED_KNOBS,
    camera_knobs,
    centred,
    pose_knobs,
    pose_values,
    sample_pose,
    set_pose,
    set_seed,
)
from giraffe_hd.fast.renderer import BackgroundRenderer, MaskHead, ObjectRenderer, window
from training import types
from training.invertible import Inverted, OnProgress
from training.nn.fields import ObjectField
from training.nn.layers import EqualLinear, FittedCodes, Mapping
from training.nn.volume import ObjectMaps, box_rays, render_object
from training.resize import resized
from training.runtime.sharded_random import rand, randn
from training.types import Knob

RESULTS = {1: 24, 2: 12, 4: 6, 8: 3}
"""Times as many rays a side -> parts of pictures kept: the object's features at 512 pixels are 50 MB."""


def _offsets(codes: Codes, layers: slice) -> tuple[Tensor, ...]:
    """Return the rows of the codes' styles that are a part's, as a list of one; an empty one where there are none."""
    return () if codes.styles is None else (codes.styles[:, layers],)


def _styled(w: Float[Tensor, "n dim"], offsets: tuple[Tensor, ...]) -> Float[Tensor, "n *layers dim"]:
    """Return the style of each layer where they differ, else the one of all."""
    return w[:, None] + offsets[0] if offsets else w


class Generator(types.Generator):
    """Draw layers: object features by volume rendering, object and background by style-based renderers, composite."""

    family = "giraffe_hd"
    config: GeneratorConfig

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config = c = config
        self.finer = 1
        """How many times as many rays a side as in training."""
        self.map_shape = Mapping(c.z_dim, c.w_dim, c.mapping_layers)
        self.map_look = Mapping(c.z_dim, c.w_dim, c.mapping_layers)
        self.map_background = Mapping(c.z_dim, c.w_dim, c.mapping_layers)
        fits = {part: FittedCodes(c.z_dim * len(fields)) for part, fields in DRAWN_BY.items()}
        self.fits = nn.ModuleDict(fits if c.fitted_codes else {})
        """The distributions that the latent codes of each seed knob are drawn from, where they are not normal."""
        planes = {"planes": c.plane_channels, "plane_features": c.plane_features}
        self.field = ObjectField(
            c.field_dim, c.field_depth, c.octaves, c.w_dim, mirror=c.mirror, density=c.density, **planes
        )
        self.head = EqualLinear(c.field_dim, c.features)  # applied once a ray
        self.object = ObjectRenderer(c.features, c.object_channels, c.w_dim, c.doublings)
        self.mask = MaskHead(c.features, c.mask_channels, c.doublings)
        self.horizon = EqualLinear(1, c.w_dim)  # camera elevation into the background's styles
        self.background = BackgroundRenderer(
            c.background_channels, c.w_dim, c.background_shape_layers, detailed=c.detailed_background
        )

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
        own = {part: _offsets(codes, layers) for part, layers in self.style_layers.items()}

        def body() -> tuple[ObjectMaps, Tensor, tuple[slice, slice] | None]:
            maps = self.volume(codes, _styled(w_shape, own["shape"]), rng, sigma_noise)
            seen = self._seen(maps)
            draw = partial(self.mask, finer=self.finer)
            return maps, self._within(seen, draw, maps.features, maps.alpha, maps.hit), seen

        def render() -> Tensor:
            w = [_styled(w, own["look"]) for w in (w_shape, w_look)]
            return self._within(seen, lambda x: self.object(x, *w, inject_index, self.finer), maps.features)

        pose = (codes.azimuth, codes.elevation, codes.radius, codes.scale, codes.translation, codes.rotation)
        if rng is None:
            shape = (codes.z_s_fg, *own["shape"], *pose)
            maps, mask, seen = self.cached("body", body, *shape)
            foreground = self.cached(f"foreground {inject_index}", render, *shape, codes.z_a_fg, *own["look"])
        else:
            maps, mask, seen = body()
            foreground = render()
        behind = (codes.z_s_bg, codes.z_a_bg, codes.elevation, *own["background"])
        background = self.cached("background", lambda: self.draw_background(codes), *behind)
        image = mask * foreground + (1 - mask) * background
        drawn = {"image": image, "foreground": foreground, "background": background, "mask": mask}
        if rng is not None:
            return TrainingLayers(**drawn, alpha=maps.alpha, depth=maps.depth, spread=maps.spread)
        return Layers(**drawn, alpha=maps.alpha, depth=maps.depth)

    def _seen(self, maps: ObjectMaps) -> tuple[slice, slice] | None:
        """Return the rows and columns of rays that the object's pixels depend on; None for all, where all are drawn:
        with gradients, and on a GPU, which would have to be waited for."""
        if torch.is_grad_enabled() or maps.hit.is_cuda:
            return None
        return window(maps.hit, self.finer * self.object.reach)

    def _within(
        self, seen: tuple[slice, slice] | None, draw: Callable[..., Tensor], *maps: Float[Tensor, "n _ r r"]
    ) -> Float[Tensor, "n _ h w"]:
        """Return what `draw` makes of the maps of rays, 0 outside `seen`."""
        if seen is None:
            return draw(*maps)
        drawn, times = draw(*(x[:, :, *seen] for x in maps)), 2**self.config.doublings
        side = times * self.rays
        whole = drawn.new_zeros(*drawn.shape[:2], side, side)
        whole[:, :, *(slice(times * each.start, times * each.stop) for each in seen)] = drawn
        return whole

    def volume(
        self,
        codes: Codes,
        w: Float[Tensor, "n *layers dim"],
        rng: torch.Generator | None = None,
        sigma_noise: float = 0.0,
    ) -> ObjectMaps:
        """Return the object's features, opacity, depth (0 if not half opaque) and which rays cross its box, as maps."""
        c = self.config
        rays = box_rays(codes.object_pose, self.rays, c.pose.fov)
        jitter, noise = self._noise(len(w), rays.near.device, rng, sigma_noise)
        return render_object(self.field, self.head, rays, codes.scale[:, :1], w, c.samples, jitter=jitter, noise=noise)

    def _noise(
        self, n: int, device: torch.device, rng: torch.Generator | None, sigma_noise: float
    ) -> tuple[Float[Tensor, "n rays samples"] | None, Float[Tensor, "n rays samples"] | None]:
        """Return the samples' jitter and their density's noise, for all rays: which hit depends on the picture."""
        shape = (n, self.rays**2, self.config.samples)
        jitter = None if rng is None else rand(*shape, rng=rng).to(device)
        noise = sigma_noise * randn(*shape, rng=rng).to(device) if rng is not None and sigma_noise > 0 else None
        return jitter, noise

    def draw_background(self, codes: Codes) -> types.Image:
        """Return the background alone; it depends on its codes and the camera's elevation, never on the object."""
        view = self.horizon(centred(codes.elevation.rad2deg(), self.config.pose.elevation)[:, None])
        own = _offsets(codes, self.style_layers["background"])
        styles = (_styled(self.map_background(z) + view, own) for z in (codes.z_s_bg, codes.z_a_bg))
        drawn = self.background(*styles)
        return drawn if self.finer == 1 else resized(drawn, self.resolution)

    def density(self, codes: Codes, points: Float[Tensor, "n points 3"]) -> Float[Tensor, "n points"]:
        """Return the object's density per world unit at points of its box, 0 outside |p| <= 1."""
        own = _offsets(codes, self.style_layers["shape"])
        sigma, _ = self.field(points, _styled(self.map_shape(codes.z_s_fg), own))
        return sigma / codes.scale[:, :1] * (points.abs().amax(-1) <= 1)

    @property
    def style_layers(self) -> dict[str, slice]:
        """Rows of `Codes.styles` by the seed knob whose codes they differ from: field, object, background."""
        shape = self.field.n_styles
        look = shape + self.object.n_layers + 1
        return {
            "shape": slice(0, shape),
            "look": slice(shape, look),
            "background": slice(look, look + len(self.background.convs) + 1),
        }

    @property
    def parts(self) -> tuple[str, ...]:
        """What of a picture can be drawn anew, or taken from another: the seed knobs."""
        return tuple(DRAWN_BY)

    def part_codes(self, codes: Codes, part: str) -> dict[str, Tensor]:
        """Return the fields of a part: its latent codes and, where codes have styles, those of its layers, flat."""
        fields = {name: getattr(codes, name) for name in DRAWN_BY[part]}
        if codes.styles is not None:
            fields["styles"] = codes.styles[:, self.style_layers[part]].flatten(1)
        return fields

    def with_part(self, codes: Codes, part: str, fields: dict[str, Tensor]) -> Codes:
        """Return `codes` with a part's fields, as `part_codes` gives them: a row each, or one for all rows.

        Without styles among them, those of the part differ by nothing.

        Raises: ValueError for another part, or fields that do not fit.
        """
        if part not in self.style_layers:
            raise ValueError(f"no part {part!r}; a picture has {', '.join(self.style_layers)}")
        layers, n = self.style_layers[part], len(codes.azimuth)
        sizes = {name: getattr(codes, name).shape[1] for name in DRAWN_BY[part]}
        wanted = sizes | {"styles": (layers.stop - layers.start) * self.config.w_dim}
        for name, rows in fields.items():
            if name not in wanted or rows.shape[1:] != (wanted[name],) or len(rows) not in (1, n):
                raise ValueError(f"codes of {part} do not fit this generator: got {name[:40]} {tuple(rows.shape)}")
        if missing := sizes.keys() - fields.keys():
            raise ValueError(f"codes of {part} lack {', '.join(sorted(missing))}")
        latent = {name: fields[name].expand(n, -1) for name in sizes}
        if codes.styles is None and "styles" not in fields:
            return replace(codes, **latent)
        styles = self.no_styles(codes) if codes.styles is None else codes.styles.clone()
        styles[:, layers] = fields["styles"].unflatten(1, (-1, self.config.w_dim)) if "styles" in fields else 0
        return replace(codes, **latent, styles=styles)

    def take(self, codes: Codes, part: str, other: Codes) -> Codes:
        """Return `codes` with the shape, look or background of `other`. Raises: ValueError for another part."""
        if part not in self.style_layers:
            raise ValueError(f"no part {part!r}; a picture has {', '.join(self.style_layers)}")
        return self.with_part(codes, part, self.part_codes(other, part))

    def knob_values(self, codes: Codes) -> dict[str, Tensor]:
        """Return where the knobs that are numbers stand, in their units; the inverse of `set`."""
        values = pose_values(codes, self.config.pose)
        return {knob.name: values[knob.name] for knob in self.knobs if knob.name in values}

    @property
    def can_invert(self) -> bool:
        """Whether there is a pose reader beside the file that this generator was read from."""
        from giraffe_hd.fast.reader import reader_path

        return self.source is not None and reader_path(self.source) is not None

    def invert(
        self,
        photo: types.Image,
        *,
        progress: OnProgress | None = None,
        apart: bool = False,
        reader: Any = None,
        turned: bool = False,
        sharpen: bool | int = False,
        **options: Any,
    ) -> Inverted:
        """Return the codes of photos of one object, or with `apart` of one object each; see `giraffe_hd.invert.invert`.

        `reader` is by default the one beside the file that this generator was read from; other `options` are those of
        `giraffe_hd.invert.InvertOptions`.

        Raises: ValueError where there is no reader, or for an unknown option.
        """
        from giraffe_hd.invert import InvertOptions, invert, reader_of

        try:
            chosen = InvertOptions(sharpen=30 if sharpen is True else int(sharpen), **options)
        except TypeError as error:
            raise ValueError(f"an inversion has no such option ({error})") from error
        reader = reader_of(self) if reader is None else reader
        which = torch.arange(len(photo)) if apart else None
        return invert(self, reader, photo, which=which, turned=turned, options=chosen, progress=progress)

    def layer_styles(self, codes: Codes) -> tuple[Tensor, Tensor, Tensor]:
        """Return the styles of the field, then those of the 2D renderer by the shape and by the look.

        They are `n layers dim`, or `n dim` where all layers have the same.
        """
        own = {part: _offsets(codes, layers) for part, layers in self.style_layers.items()}
        shape, look = self.map_shape(codes.z_s_fg), self.map_look(codes.z_a_fg)
        return _styled(shape, own["shape"]), _styled(shape, own["look"]), _styled(look, own["look"])

    def no_styles(self, codes: Codes) -> Float[Tensor, "n layers dim"]:
        """Return styles that differ by nothing, for the rows of `codes`."""
        return codes.z_s_fg.new_zeros(len(codes.azimuth), self.style_layers["background"].stop, self.config.w_dim)

    @property
    def resolution(self) -> int:
        """Side of the picture in pixels."""
        return self.finer * self.config.resolution

    @property
    def rays(self) -> int:
        """Side of the ray map."""
        return self.finer * self.config.rays

    def at(self, resolution: int) -> types.Generator:
        """Return this generator drawing pictures of another side; see `training.types.Generator.at`.

        It renders up to eight times as many rays a side; the convolutions behind them are dilated, so that each sees
        the same patch of the object, and the background is enlarged.
        """
        own = self.config.resolution
        finer = next((times for times in (1, 2, 4) if times * own >= resolution), 8)
        drawn = self if finer == self.finer else self.copied(finer=finer, results=RESULTS[finer])
        return types.Generator.at(drawn, resolution)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        """Rotation, elevation, size, position, and seeds for shape, look and background."""
        return pose_knobs(self.config.pose) + SEED_KNOBS

    @property
    def fixed_knobs(self) -> tuple[Knob, ...]:
        """The camera's way around the scene, unless the prior varies it, and its distance."""
        return tuple(knob for knob in camera_knobs(self.config.pose) if knob.extended_range)

    def sample(self, n: int, rng: torch.Generator) -> Codes:
        """Draw `n` rows from the prior: codes normal or as fitted to photos, uniform pose."""
        z = torch.randn(4, n, self.config.z_dim, generator=rng)
        pose = sample_pose(self.config.pose, n, rng)
        codes = Codes(z_s_fg=z[0], z_a_fg=z[1], z_s_bg=z[2], z_a_bg=z[3], **pose)
        drawn = {k: v.to(self.device) for k in pose.keys() | SEED_FIELDS if (v := getattr(codes, k)) is not None}
        return self._fitted(replace(codes, **drawn), *self.fits)

    @torch.no_grad()
    def _fitted(self, codes: Codes, *parts: str) -> Codes:
        """Return codes whose normal latent codes of some parts became such as the photos' are."""
        for part in parts:
            z = torch.cat([getattr(codes, name) for name in DRAWN_BY[part]], 1)
            drawn = self.fits[part](z).chunk(len(DRAWN_BY[part]), 1)
            codes = replace(codes, **dict(zip(DRAWN_BY[part], drawn, strict=True)))
        return codes

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        """Return `codes` with one knob turned; see `training.types.Generator.set`."""
        knob = self.knob(name)
        if knob.kind == "seed":
            drawn = set_seed(codes, name, value)
            drawn = self._fitted(drawn, name) if name in self.fits else drawn
            return self.take(codes, name, replace(drawn, styles=None))
        return set_pose(codes, self.config.pose, name, value)
