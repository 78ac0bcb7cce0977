"""Volume rendering of one object: rays clipped to its box, a few samples inside, features composited along each ray.

Density is zero outside the box by definition, so nothing is evaluated there; and since the field's head is affine it
is applied once a ray, after compositing: sum_s w_s (A h_s + b) = A (sum_s w_s h_s) + (sum_s w_s) b.
"""

import math
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from training.nn.camera import box_points, look_at, pixel_plane, rotation_z
from training.nn.fields import ObjectField
from training.nn.layers import EqualLinear
from training.nn.ops import triton_works
from training.nn.ops.field import ray_weights, render_field, stratified_depths

MOST_SAMPLES = 1 << 13
"""Samples on which a field is evaluated at once: 2 MB for each activation, which stay in a core's caches."""
OPAQUE = 0.5
"""Opacity from which a ray has a depth, so that haze around the object has none."""


class ObjectPose(NamedTuple):
    """A camera and an object's box, one row a picture; lengths in world units, angles in radians."""

    azimuth: Float[Tensor, " n"]
    """Camera: 0 on the +x side, counter-clockwise seen from above."""
    elevation: Float[Tensor, " n"]
    """Camera: 0 at the horizon."""
    radius: Float[Tensor, " n"]
    """Distance of the camera from the origin."""
    scale: Float[Tensor, "n 3"]
    """Half-extents of the box along its own axes."""
    translation: Float[Tensor, "n 3"]
    """Centre of the box."""
    rotation: Float[Tensor, " n"]
    """Angle of p_box = Rz(rotation) (p - translation) / scale."""


class BoxRays(NamedTuple):
    """Rays in the coordinates of the object's box: p(t) = origin + t direction, t the depth along the view axis."""

    origin: Float[Tensor, "n 1 3"]
    direction: Float[Tensor, "n rays 3"]
    near: Float[Tensor, "n rays"]
    far: Float[Tensor, "n rays"]
    """Where the ray enters and leaves the box; far <= near where it misses."""
    length: Float[Tensor, " rays"]
    """World length of one unit of t."""

    @property
    def hit(self) -> Bool[Tensor, "n rays"]:
        """Whether the ray crosses the box in front of the camera."""
        return self.far > self.near


def box_rays(pose: ObjectPose, size: int, fov: float) -> BoxRays:
    """Return the rays through the centres of size x size pixels, clipped to the box |p| <= 1 by the slab test."""
    with torch.autocast(pose.azimuth.device.type, enabled=False):  # in bfloat16 rays are off by half a pixel
        x, y = pixel_plane(size, device=pose.azimuth.device)
        tan = math.tan(math.radians(fov) / 2)
        local = torch.stack([x * tan, y * tan, -torch.ones_like(x)], -1).view(-1, 3)
        camera = look_at(pose.azimuth, pose.elevation)
        eye = camera[:, None, :, 2] * pose.radius[:, None, None]
        origin = box_points(eye, pose.scale, pose.translation, pose.rotation)
        world = local @ camera.transpose(1, 2)
        direction = world @ rotation_z(pose.rotation).transpose(1, 2) / pose.scale[:, None]
        direction = torch.where(direction.abs() < 1e-6, direction.new_tensor(1e-6), direction)  # parallel to a face
        faces = torch.stack([(-1 - origin) / direction, (1 - origin) / direction])
        near = faces.amin(0).amax(-1).clamp_min(0)
        return BoxRays(origin, direction, near, faces.amax(0).amin(-1), local.norm(dim=-1))


def pick(rays: BoxRays, most: int | None = None) -> tuple[Int[Tensor, "n k"], Bool[Tensor, "n k"]]:
    """Return indices of the rays that hit, padded to the largest number of hits in the batch, and which are real.

    `most` fixes k in advance, so that a GPU need not synchronise for the count.
    """
    hit = rays.hit
    if most is None:
        most = max(8, -(-int(hit.sum(1).max()) // 8) * 8)
    real, index = hit.to(torch.uint8).topk(min(most, hit.shape[1]), dim=1)
    return index, real.bool()


def scatter_rays(
    values: Float[Tensor, "n k c"], index: Int[Tensor, "n k"], real: Bool[Tensor, "n k"], size: int
) -> Float[Tensor, "n c size size"]:
    """Return per-ray values as a map, 0 where no ray hit."""
    n, _, c = values.shape
    flat = values.new_zeros(n, size * size, c)
    flat = flat.scatter(1, index[..., None].expand(-1, -1, c), values * real[..., None].to(values.dtype))
    return flat.transpose(1, 2).reshape(n, c, size, size)


class RenderedRays(NamedTuple):
    """Composited values of the rays in `which`; `real` is False for padding."""

    hidden: Float[Tensor, "n k hidden"]
    """Features of the field, composited."""
    opacity: Float[Tensor, "n k"]
    depth: Float[Tensor, "n k"]
    """Mean depth, each sample with its weight; `spread` is the variance around it: 0 for a hard surface."""
    spread: Float[Tensor, "n k"]
    which: Int[Tensor, "n k"]
    real: Bool[Tensor, "n k"]


def render_rays(
    field: ObjectField,
    rays: BoxRays,
    length: Float[Tensor, "n 1"],
    w: Float[Tensor, "n *layers style"],
    samples: int,
    *,
    jitter: Float[Tensor, "n rays samples"] | None = None,
    noise: Float[Tensor, "n rays samples"] | None = None,
) -> RenderedRays:
    """Return a field composited along the rays that cross its box.

    Steps are divided by `length`, half the object's length in world units, so that opacity does not depend on size.
    `jitter` in [0, 1) is the position of a sample in its bin, `noise` is added to the density.
    """
    index, real = pick(rays)
    near, far = rays.near.gather(1, index), rays.far.gather(1, index)
    direction = rays.direction.gather(1, index[..., None].expand(-1, -1, 3))
    n, k = index.shape
    if jitter is not None:
        jitter = jitter.gather(1, index[..., None].expand(n, k, samples))
    if noise is not None:
        noise = noise.gather(1, index[..., None].expand(n, k, samples))
    t, step = stratified_depths(near, far, rays.length[index] / length, samples, jitter)
    layers = field.weights(w)

    def composited(part: slice) -> tuple[Tensor, Tensor, Tensor, Tensor]:
        points = rays.origin[:, None] + direction[:, part, None] * t[:, part, :, None]
        sigma, hidden = field.at(points.flatten(1, 2), layers, None if noise is None else noise[:, part].flatten(1))
        weights = ray_weights(sigma.view(n, -1, samples), step[:, part])
        composed = torch.einsum("nks,nksh->nkh", weights.to(hidden.dtype), hidden.view(*weights.shape, -1))
        opacity, depths = weights.sum(2), t[:, part]
        depth = (weights * depths).sum(2) / opacity.clamp_min(1e-6)
        spread = (weights * (depths - depth[..., None]).square()).sum(2) / opacity.clamp_min(1e-6)
        return composed, opacity, depth, spread

    # in parts: with gradients all is kept anyhow, and a GPU has more to do at once
    whole = torch.is_grad_enabled() or rays.near.is_cuda
    most = k if whole else max(1, MOST_SAMPLES // (n * samples))
    parts = [composited(slice(start, start + most)) for start in range(0, max(1, k), most)]
    composed, opacity, depth, spread = (torch.cat(column, 1) for column in zip(*parts, strict=True))
    return RenderedRays(composed, opacity, depth, spread, index, real)


def project_composited(
    head: EqualLinear, composed: Float[Tensor, "n rays hidden"], opacity: Float[Tensor, "n rays"]
) -> Float[Tensor, "n rays c"]:
    """Return an affine head on composited hidden features: sum_s w_s (A h_s + b) = A sum_s w_s h_s + b sum_s w_s."""
    features = composed @ (head.weight * head.scale).T.to(composed.dtype)
    return features + opacity[..., None].to(features.dtype) * head.bias


class ObjectMaps(NamedTuple):
    """A rendered object as maps of rays."""

    features: Float[Tensor, "n c r r"]
    """The field's features through an affine head, composited."""
    alpha: Float[Tensor, "n 1 r r"]
    """Opacity, in [0, 1]."""
    depth: Float[Tensor, "n 1 r r"]
    """Mean depth along the view axis, world units; 0 where the object is not half opaque."""
    hit: Float[Tensor, "n 1 r r"]
    """1 where the ray crosses the object's box."""
    spread: Float[Tensor, "n 1 r r"] | None
    """Variance of the depth along each ray; None where the kernel rendered, which does not give it."""


def render_object(
    field: ObjectField,
    head: EqualLinear,
    rays: BoxRays,
    length: Float[Tensor, "n 1"],
    w: Float[Tensor, "n *layers style"],
    samples: int,
    *,
    jitter: Float[Tensor, "n rays samples"] | None = None,
    noise: Float[Tensor, "n rays samples"] | None = None,
) -> ObjectMaps:
    """Return a field rendered as square maps of rays; arguments as for `render_rays`.

    On a GPU one kernel handles all rays of a field without planes and skips those that miss, without synchronisation;
    in plain PyTorch the field is evaluated only on the rays that cross the box.
    """
    side = math.isqrt(rays.near.shape[1])
    if field.planes is None and triton_works(rays.near.device.type, rays.near.device.index):
        t, step = stratified_depths(rays.near, rays.far, rays.length / length, samples, jitter)
        found = render_field(rays.origin, rays.direction, t, step, *field.as_op(w), noise)
        features = project_composited(head, found.features, found.alpha).transpose(1, 2).unflatten(2, (side, side))
        maps = torch.stack([found.alpha, found.depth * (found.alpha > OPAQUE), rays.hit.to(found.alpha.dtype)], 1)
        alpha, depth, hit = maps.unflatten(2, (side, side)).split(1, 1)
        return ObjectMaps(features, alpha, depth, hit, None)
    seen = render_rays(field, rays, length, w, samples, jitter=jitter, noise=noise)
    features = project_composited(head, seen.hidden, seen.opacity)
    depth = seen.depth * (seen.opacity > OPAQUE)
    maps = torch.stack([seen.opacity, depth, torch.ones_like(seen.opacity), seen.spread], -1)
    features = scatter_rays(features, seen.which, seen.real, side)
    return ObjectMaps(features, *scatter_rays(maps, seen.which, seen.real, side).split(1, 1))
