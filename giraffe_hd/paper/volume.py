"""Volume rendering of feature fields (GIRAFFE Sec. 3.2-3.3): exactly the published samples, only where they count.

Density is zero outside an object's box by definition. Rays are therefore clipped to the box (slab test), the field is
evaluated on the samples inside it alone, 5 to 7 % of all, and hidden features are composited before the affine head.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Bool, Float, Int
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.paper.config import VolumeConfig
from giraffe_hd.paper.fields import Condition, FeatureField
from training.nn.camera import box_points, look_at, pixel_plane
from training.nn.ops import triton_works
from training.nn.ops.field import Composite, Density, ray_weights, render_field
from training.runtime.sharded_random import rand, randn
from training.types import Mask

BOX = 1.1
"""Half the side of the cube in which an object has density: the box |p| <= 1 and a margin for soft edges."""
BEHIND = 1e10
"""Length of a ray's last step: whatever has density there is opaque."""


class Rays(NamedTuple):
    """p(t) = camera + t (pixel - camera), t the depth along the view axis."""

    camera: Float[Tensor, "n 1 3"]
    pixel: Float[Tensor, "n rays 3"]
    """Where each ray is at depth 1."""

    @property
    def length(self) -> Float[Tensor, "n rays"]:
        """World length of one unit of depth."""
        return (self.pixel - self.camera).norm(dim=-1)

    def in_boxes(
        self, scale: Float[Tensor, "b 3"], translation: Float[Tensor, "b 3"], rotation: Float[Tensor, " b"]
    ) -> "Rays":
        """Return the rays in the coordinates of each of b boxes, b a multiple of n: a scene's objects in a row."""
        times = scale.shape[0] // self.camera.shape[0]
        camera, pixel = self.camera.repeat_interleave(times, 0), self.pixel.repeat_interleave(times, 0)
        box = (scale, translation, rotation)
        return Rays(box_points(camera, *box), box_points(pixel, *box))


def cast(codes: Codes, fov: float, side: int, *, joint: bool = False) -> Rays:
    """Return the rays of side x side pixels, row by row from the top left, in world coordinates.

    `joint` scales each camera by those beside it in the batch, see `GeneratorConfig.joint_cameras`.
    """
    # paper: the outer rays pass through the picture's border, half a cell out of step with the convolutions; kept,
    # because the published weights have learned it
    x, y = pixel_plane(side, corners=True, device=codes.azimuth.device)
    tan = math.tan(math.radians(fov) / 2)
    local = torch.stack([x * tan, y * tan, -torch.ones_like(x)], -1).view(-1, 3)
    axes = look_at(codes.azimuth, codes.elevation)
    local = local.to(axes.dtype)
    camera = axes[:, None, :, 2] * codes.radius[:, None, None]
    if joint:
        axes = axes * _joint_lengths(codes)[:, None]
    return Rays(camera, local @ axes.transpose(1, 2) + camera)


def _joint_lengths(codes: Codes) -> Float[Tensor, "n 3"]:
    """Return the lengths that the authors' program gives each camera's axes (right, up, back).

    It builds back = eye, right = up x back, up = back x right, dividing each by the longest one in the batch.
    """
    back = codes.radius / codes.radius.max()
    right = codes.elevation.cos() * back
    right = right / right.max()
    up = back * right
    return torch.stack([right, up / up.max(), back], -1)


def depths(config: VolumeConfig, rays: Rays, rng: torch.Generator | None = None) -> Float[Tensor, "n rays samples"]:
    """Return the depths of each ray's samples: evenly spaced, or with `rng` one at random in the cell around each."""
    n, n_rays, _ = rays.pixel.shape
    t = torch.linspace(0, 1, config.n_samples, device=rays.pixel.device, dtype=rays.pixel.dtype)
    t = config.near + t * (config.far - config.near)
    if rng is None:
        return t.expand(n, n_rays, -1)
    middle = (t[1:] + t[:-1]) / 2
    low, high = torch.cat([t[:1], middle]), torch.cat([middle, t[-1:]])
    return low + (high - low) * rand(n, n_rays, len(t), rng=rng).to(t.dtype)


def slab(rays: Rays, half: float) -> tuple[Float[Tensor, "n rays"], Float[Tensor, "n rays"]]:
    """Return the depths at which rays enter and leave the cube |p| <= half; they miss it where they leave first."""
    direction = rays.pixel - rays.camera
    direction = torch.where(direction == 0, direction.new_tensor(1e-20), direction)  # parallel to a face
    one, other = (-half - rays.camera) / direction, (half - rays.camera) / direction
    return torch.minimum(one, other).amax(-1), torch.maximum(one, other).amin(-1)


def inside(rays: Rays, t: Float[Tensor, "n rays samples"], half: float) -> Bool[Tensor, "b rays samples"]:
    """Return which samples lie in the cube |p| <= half; b is a multiple of n."""
    enter, leave = slab(rays, half)
    t = t.repeat_interleave(enter.shape[0] // t.shape[0], 0)
    return (t >= enter[..., None]) & (t <= leave[..., None])


class Clipped(NamedTuple):
    """An object's field along the rays of its scene; outside its box nothing was evaluated."""

    sigma: Float[Tensor, "b rays samples"]
    hidden: Float[Tensor, "points width"]
    place: Int[Tensor, " points"]
    """Place of each evaluated point among all samples, flattened."""

    def composite(self, share: Float[Tensor, "b rays samples"]) -> Float[Tensor, "b rays width"]:
        """Return sum_s share_s h_s of each ray."""
        b, rays, samples = share.shape
        weighted = self.hidden * share.reshape(-1)[self.place][:, None]
        ray = self.place // samples
        if weighted.is_cuda:  # index_add sums in no fixed order there, and pictures would differ in the last bit
            counts = torch.zeros(b * rays, dtype=torch.int64, device=ray.device).index_add(0, ray, torch.ones_like(ray))
            summed = torch.segment_reduce(weighted, "sum", lengths=counts, axis=0, unsafe=True, initial=0)
        else:
            summed = weighted.new_zeros(b * rays, weighted.shape[1]).index_add(0, ray, weighted)
        return summed.view(b, rays, -1)


def render_objects(
    field: FeatureField,
    condition: Condition,
    rays: Rays,
    t: Float[Tensor, "n rays samples"],
    rng: torch.Generator | None = None,
) -> Clipped:
    """Return the field of each box along `rays` (in box coordinates); with `rng`, noise N(0, 1) on density."""
    within = inside(rays, t, BOX)
    _, n_rays, samples = within.shape
    index = within.reshape(-1).nonzero().squeeze(1)
    ray = index // samples
    box = ray // n_rays
    direction = rays.pixel - rays.camera
    per_scene = within.shape[0] // t.shape[0]
    at = t.reshape(-1)[((box // per_scene) * n_rays + ray % n_rays) * samples + index % samples]
    points = rays.camera[box, 0] + at[:, None] * direction.reshape(-1, 3)[ray]
    view = field.view(direction)
    view = None if view is None else view.reshape(-1, view.shape[-1])[ray]
    raw, hidden = field(points, condition.at(box), view)
    if rng is not None:  # as in NeRF Appendix A
        raw = raw + randn(t.shape[0], within.numel() // t.shape[0], rng=rng).flatten()[index]
    sigma = raw.new_zeros(within.numel()).index_put((index,), F.relu(raw)).view(within.shape)
    return Clipped(sigma, hidden, index)


def render_background(
    field: FeatureField,
    condition: Condition,
    rays: Rays,
    t: Float[Tensor, "n rays samples"],
    rng: torch.Generator | None = None,
) -> tuple[Float[Tensor, "n rays samples"], Float[Tensor, "n rays samples width"]]:
    """Return density and hidden features of the background's field on every sample."""
    direction = rays.pixel - rays.camera
    points = rays.camera[:, :, None] + t[..., None] * direction[:, :, None]
    view = field.view(direction)
    view = None if view is None else view.repeat_interleave(t.shape[-1], 1)
    raw, hidden = _in_cache(field, points.flatten(1, 2), condition, view)
    if rng is not None:
        raw = raw + randn(*raw.shape, rng=rng)
    return F.relu(raw).view(t.shape), hidden.view(*t.shape, -1)


def composite_background(
    field: FeatureField,
    condition: Condition,
    rays: Rays,
    t: Float[Tensor, "n rays samples"],
    delta: Float[Tensor, "n rays samples"],
    rng: torch.Generator | None = None,
) -> tuple[Float[Tensor, "n rays width"], Float[Tensor, "n rays"]]:
    """Return `render_background` composited, and alpha; on a CPU some rays at a time, so that all stays in its cache
    (a picture's alone: training draws one noise for all rays)."""
    whole = rng is not None or t.is_cuda or torch.is_grad_enabled()
    most = t.shape[1] if whole else max(1, 4096 // (t.shape[0] * t.shape[2]))
    hidden, alpha = [], []
    for start in range(0, t.shape[1], most):
        part = slice(start, start + most)
        some = Rays(rays.camera, rays.pixel[:, part])
        sigma, h = render_background(field, condition, some, t[:, part], rng)
        weights = ray_weights(sigma, delta[:, part])
        hidden.append((weights[..., None, :] @ h).squeeze(-2))
        alpha.append(weights.sum(-1))
    return torch.cat(hidden, 1), torch.cat(alpha, 1)


def by_op(field: FeatureField, t: Tensor) -> bool:
    """Return whether one kernel renders this field here; with view directions, a layer stands before compositing."""
    return not field.config.use_viewdirs and triton_works(t.device.type, t.device.index)


def render_by_op(
    field: FeatureField,
    condition: Condition,
    rays: Rays,
    t: Float[Tensor, "n rays samples"],
    delta: Float[Tensor, "n rays samples"],
    rng: torch.Generator | None = None,
    *,
    box: float = math.inf,
) -> Composite:
    """Return `render_objects` of one object a scene, or `render_background`, composited; blocks of samples beyond
    `box` cost nothing, and no count is waited for."""
    noise = None if rng is None else randn(t.shape[0], t[0].numel(), rng=rng).view(t.shape)
    direction = rays.pixel - rays.camera
    return render_field(rays.camera, direction, t, delta, *field.as_op(condition), Density(box=box), noise)


def _in_cache(
    field: FeatureField,
    points: Float[Tensor, "n points 3"],
    condition: Condition,
    view: Float[Tensor, "n points width"] | None,
) -> tuple[Float[Tensor, "n points"], Float[Tensor, "n points width"]]:
    """Return the field at `points`; on a CPU, where no gradient is wanted, in parts whose layers stay in its cache."""
    learning = torch.is_grad_enabled() and condition.entry.requires_grad
    most = points.shape[1] if learning or points.is_cuda else max(1, 4096 // points.shape[0])
    views = [None] * points.shape[1] if view is None else view.split(most, 1)
    parts = [field(p, condition.along(), v) for p, v in zip(points.split(most, 1), views, strict=False)]
    if len(parts) == 1:
        return parts[0]
    return torch.cat([raw for raw, _ in parts], 1), torch.cat([hidden for _, hidden in parts], 1)


def steps(t: Float[Tensor, "n rays samples"], length: Float[Tensor, "n rays"]) -> Float[Tensor, "n rays samples"]:
    """Return the world length from each sample to the next; from the last one, without end."""
    delta = torch.cat([t[..., 1:] - t[..., :-1], torch.full_like(t[..., :1], BEHIND)], -1)
    return delta * length[..., None]


def shares(
    sigma: Float[Tensor, "n parts rays samples"], delta: Float[Tensor, "n rays samples"]
) -> Float[Tensor, "n parts rays samples"]:
    """Return each part's share of samples where several overlap: w_s sigma_i / sum_j sigma_j  (GIRAFFE Sec. 3.2)."""
    total = sigma.sum(1)
    weights = ray_weights(total, delta)
    return sigma * (weights / torch.where(total == 0, 1, total))[:, None]


def density(
    field: FeatureField, condition: Condition, points: Float[Tensor, "n points 3"]
) -> Float[Tensor, "n points"]:
    """Return an object's density at points of its box."""
    raw, _ = field.density(points, condition.along())
    return F.relu(raw) * (points.abs().amax(-1) <= BOX)


def box_silhouette(codes: Codes, rays: Rays, size: int, *, config: VolumeConfig, pad: float = 0.1) -> Mask:
    """Return B, the object's box |p| <= 1 + pad as `rays` see it (GIRAFFE HD Sec. 3.3): 1 inside, soft at its rim.

    A box of density 100 is rendered at the rays' resolution, where all its samples count alike, and enlarged to `size`.
    """
    t = depths(config, rays)
    within = inside(rays.in_boxes(codes.scale, codes.translation, codes.rotation), t, 1 + pad)
    delta = steps(t, rays.length)
    delta = torch.cat([delta[..., :-1], torch.zeros_like(delta[..., :1])], -1)
    opacity = -torch.expm1(-100 * (within * delta).sum(-1))
    silhouette = opacity.view(-1, 1, config.resolution, config.resolution)
    if size == config.resolution:
        return silhouette
    return F.interpolate(silhouette, size=(size, size), mode="bilinear", align_corners=False)
