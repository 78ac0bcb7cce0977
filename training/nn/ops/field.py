"""A neural field and its compositing along rays as one op (GIRAFFE Sec. 3.1-3.2, NeRF Eq. 3).

Points on rays are encoded, pass through a small conditioned MLP and are composited, without a tensor of points in
memory: `field_triton.py` does it in one kernel on an NVIDIA GPU, `render_field_reference` defines the result and
computes it elsewhere. The MLP covers both families: per-image biases carry the published field's codes, and
weights that each image has for itself, W = diag(s) W diag(d), the modulated layers of the fast one. Generators use
it where its kernels run, and plain PyTorch elsewhere.
"""

import math
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from training.nn.ops import triton_works


class Encoding(NamedTuple):
    """Positional encoding (NeRF Eq. 4): amplitude damping^k sin, cos(2^k pi p / extent) for k < octaves."""

    octaves: int
    extent: float = 1.0
    """Points are divided by this first."""
    amplitude: float = 1.0
    damping: float = 1.0
    raw: bool = False
    """Put p itself first, then all sines and all cosines, axis by axis; else octave by octave sines, then cosines."""
    mirror: bool = False
    """Encode |y| for y, so that the object is symmetric left and right."""

    @property
    def size(self) -> int:
        """Length of an encoded point."""
        return 6 * self.octaves + (3 if self.raw else 0)


class Density(NamedTuple):
    """sigma = gain * a(raw + noise + slope (radius - |p|)), zero where a coordinate of p is beyond `box`."""

    softplus: bool = False
    """a is softplus; else ReLU."""
    gain: float = 1.0
    slope: float = 0.0
    radius: float = 0.0
    """With a slope, an untrained field is a ball of this radius, in the coordinates of p."""
    box: float = math.inf


class Mlp(NamedTuple):
    """ReLU layers x -> relu(x W + b), one row of biases an image; weights (1, ...) are shared, (n, ...) are not.

    After layer `skip_after` (1 is the entry) the encoded point comes in once more: h + x W_skip + b_skip.
    """

    entry: Float[Tensor, "m encoded width"]
    hidden: Float[Tensor, "m layers width width"]
    """The layers after the entry."""
    bias: Float[Tensor, "n biases width"]
    """Of the entry, the layers after it and, last, of the skip if there is one."""
    sigma: Float[Tensor, "n width"]
    """raw density = h . sigma + sigma_bias."""
    sigma_bias: Float[Tensor, " n"]
    skip: Float[Tensor, "m encoded width"] | None = None
    skip_after: int = 0


class Composite(NamedTuple):
    """Composited values of each ray, w_s the weight of sample s (NeRF Eq. 3)."""

    features: Float[Tensor, "n rays width"]
    """sum_s w_s h_s."""
    alpha: Float[Tensor, "n rays"]
    """sum_s w_s, in [0, 1]."""
    distance: Float[Tensor, "n rays"]
    """sum_s w_s t_s: the mean depth times alpha."""

    @property
    def depth(self) -> Float[Tensor, "n rays"]:
        """Mean depth, weighted by opacity; 0 where nothing is."""
        return self.distance / self.alpha.clamp_min(1e-6)


def stratified_depths(
    near: Float[Tensor, "n rays"],
    far: Float[Tensor, "n rays"],
    length: Float[Tensor, "*n rays"],
    samples: int,
    jitter: Float[Tensor, "n rays samples"] | None = None,
) -> tuple[Float[Tensor, "n rays samples"], Float[Tensor, "n rays samples"]]:
    """Return depths and step lengths of `samples` equal bins of [near, far]; steps of rays that miss are 0.

    Each bin is sampled at its centre, or at `jitter` in [0, 1]; `length` is the world length of a unit of depth.
    """
    hit = far > near
    near, span = torch.where(hit, near, 0), torch.where(hit, far - near, 0)
    part = torch.arange(samples, device=near.device, dtype=near.dtype)
    t = near[..., None] + span[..., None] * ((part + (0.5 if jitter is None else jitter)) / samples)
    return t, (span * length / samples)[..., None].expand_as(t)


def encode(p: Float[Tensor, "*n 3"], encoding: Encoding) -> Float[Tensor, "*n encoded"]:
    """Return the positional encoding of points."""
    p = p / encoding.extent
    if encoding.mirror:
        p = torch.stack([p[..., 0], p[..., 1].abs(), p[..., 2]], -1)
    octave = torch.arange(encoding.octaves, device=p.device, dtype=p.dtype)
    frequency, gain = 2.0**octave * math.pi, encoding.amplitude * encoding.damping**octave
    if encoding.raw:
        angle = (p[..., None] * frequency).flatten(-2)
        gain = gain.repeat(3)
        return torch.cat([p, angle.sin() * gain, angle.cos() * gain], -1)
    angle = p[..., None, :] * frequency[:, None]
    return (torch.stack([angle.sin(), angle.cos()], -2) * gain[:, None, None]).flatten(-3)


def ray_weights(sigma: Float[Tensor, "*n samples"], step: Float[Tensor, "*n samples"]) -> Float[Tensor, "*n samples"]:
    """Return each sample's weight w_s = (1 - exp(-sigma_s d_s)) exp(-sum_{t<s} sigma_t d_t)  (NeRF Eq. 3)."""
    optical = sigma * step
    before = F.pad(optical[..., :-1].cumsum(-1), (1, 0))  # exclusive sum, which leaves out an infinite last step
    return -torch.expm1(-optical) * torch.exp(-before)


def render_field_reference(
    origin: Float[Tensor, "n 1 3"],
    direction: Float[Tensor, "n rays 3"],
    t: Float[Tensor, "n rays samples"],
    step: Float[Tensor, "n rays samples"],
    mlp: Mlp,
    encoding: Encoding,
    density: Density,
    noise: Float[Tensor, "n rays samples"] | None = None,
) -> Composite:
    """Return `render_field` in plain PyTorch, differentiable any number of times in every tensor."""
    dtype = mlp.entry.dtype
    exact = torch.promote_types(dtype, torch.float32)  # points, density and compositing are never in half precision
    n, rays, samples = t.shape
    p = (origin[:, :, None] + direction[:, :, None] * t[..., None]).to(exact)
    counts = (step > 0) & (p.abs().amax(-1) <= density.box)
    p = torch.where(counts[..., None], p, 0).flatten(1, 2)  # a ray that misses may be anywhere
    with torch.autocast(t.device.type, enabled=False):
        x = encode(p, encoding).to(dtype)
        bias = mlp.bias.to(dtype)[:, :, None]
        h = F.relu(_product(x, mlp.entry, bias[:, 0]))
        for i in range(mlp.hidden.shape[1] + 1):
            if i > 0:
                h = F.relu(_product(h, mlp.hidden[:, i - 1], bias[:, i]))
            if mlp.skip is not None and i + 1 == mlp.skip_after:
                h = h + _product(x, mlp.skip, bias[:, -1])
        raw = (h.to(exact) @ mlp.sigma.to(exact)[..., None])[..., 0] + mlp.sigma_bias.to(exact)[:, None]
        if density.slope:
            raw = raw + density.slope * (density.radius - p.norm(dim=-1))
        raw = raw.view(n, rays, samples)
        if noise is not None:
            raw = raw + noise
        sigma = density.gain * (F.softplus(raw) if density.softplus else F.relu(raw)) * counts
        weights = ray_weights(sigma, step.to(exact).clamp_min(0))
        features = (weights[:, :, None] @ h.to(exact).view(n, rays, samples, h.shape[-1]))[:, :, 0]
        return Composite(features, weights.sum(-1), (weights * t).sum(-1))


def _product(
    x: Float[Tensor, "n points a"], weight: Float[Tensor, "m a b"], bias: Float[Tensor, "n 1 b"]
) -> Float[Tensor, "n points b"]:
    if weight.shape[0] == 1 < x.shape[0]:
        return x @ weight[0] + bias
    return torch.baddbmm(bias, x, weight)


def render_field(
    origin: Float[Tensor, "n 1 3"],
    direction: Float[Tensor, "n rays 3"],
    t: Float[Tensor, "n rays samples"],
    step: Float[Tensor, "n rays samples"],
    mlp: Mlp,
    encoding: Encoding,
    density: Density,
    noise: Float[Tensor, "n rays samples"] | None = None,
) -> Composite:
    """Return hidden features, opacity and distance of rays through a field, all float32 (or float64).

    Points are origin + t direction, in the field's coordinates; `step` is the length that each sample stands for, in
    the unit of 1 / sigma, and 0 where there is none, such as on rays that miss the box (see `stratified_depths`).
    Layers compute in the dtype of the weights, or in autocast's. `noise` is added to the raw density (NeRF Appendix A).

    On a GPU one kernel does it all; its backward pass recomputes activations instead of storing them, and gives
    gradients of `mlp` only. If another tensor requires a gradient, for second derivatives, and for sizes that the
    kernel does not support, the PyTorch reference is used.

    Raises: ValueError if the sizes of `mlp` do not match each other, the images or the encoding.
    """
    _check(mlp, t.shape[0], encoding)
    if torch.is_autocast_enabled(t.device.type):
        to = torch.get_autocast_dtype(t.device.type)
        skip = None if mlp.skip is None else mlp.skip.to(to)
        mlp = mlp._replace(entry=mlp.entry.to(to), hidden=mlp.hidden.to(to), skip=skip)
    geometry = (origin, direction, t, step, noise)
    posed = torch.is_grad_enabled() and any(x is not None and x.requires_grad for x in geometry)
    if posed or not _kernel_knows(mlp, t.device):
        return render_field_reference(origin, direction, t, step, mlp, encoding, density, noise)
    noise = None if noise is None else noise.float()
    return Composite(
        *field_composite(
            origin.float(), direction.float(), t.float(), step.float(), noise, mlp.entry, mlp.hidden, mlp.skip,
            mlp.bias.float(), mlp.sigma.float(), mlp.sigma_bias.float(), mlp.skip_after, list(encoding), list(density),
        )
    )  # fmt: skip


def _check(mlp: Mlp, n: int, encoding: Encoding) -> None:
    m, encoded, width = mlp.entry.shape
    layers = mlp.hidden.shape[1] + 1
    wanted = {
        "entry": (mlp.entry, (m, encoding.size, width)),
        "hidden": (mlp.hidden, (m, layers - 1, width, width)),
        "bias": (mlp.bias, (n, layers + (mlp.skip is not None), width)),
        "sigma": (mlp.sigma, (n, width)),
        "sigma_bias": (mlp.sigma_bias, (n,)),
    }
    if mlp.skip is not None:
        wanted["skip"] = (mlp.skip, (m, encoded, width))
    if m not in (1, n):
        raise ValueError(f"got weights of {m} images with {n} images; give weights of 1, shared, or of {n}")
    for name, (tensor, shape) in wanted.items():
        if tuple(tensor.shape) != shape:
            raise ValueError(
                f"mlp.{name} is {tuple(tensor.shape)}; {n} images, {layers} layers and {encoding.size} encoded numbers "
                f"want {shape}"
            )
    if mlp.skip is not None and not 1 <= mlp.skip_after <= layers:
        raise ValueError(f"the skip comes in after layer {mlp.skip_after}; expected 1 to {layers}")


def _kernel_knows(mlp: Mlp, device: torch.device) -> bool:
    """Return whether the kernel supports these sizes and this precision on this device."""
    width, encoded = mlp.entry.shape[2], mlp.entry.shape[1]
    return (
        width in (16, 32, 64, 128)
        and 3 <= encoded <= 128
        and mlp.entry.dtype in (torch.float32, torch.float16, torch.bfloat16)
        and triton_works(device.type, device.index)
    )


def _reference(inputs: tuple[Tensor | None, ...], skip_after: int, encoding: list[float], density: list[float]):
    origin, direction, t, step, noise, entry, hidden, skip, bias, sigma, sigma_bias = inputs
    mlp = Mlp(entry, hidden, bias, sigma, sigma_bias, skip, skip_after)  # type: ignore[arg-type]
    octaves, extent, amplitude, damping, raw, mirror = encoding
    code = Encoding(int(octaves), extent, amplitude, damping, bool(raw), bool(mirror))
    softplus, *numbers = density
    rest = (mlp, code, Density(bool(softplus), *numbers), noise)
    return render_field_reference(origin, direction, t, step, *rest)  # type: ignore[arg-type]


@torch.library.custom_op("giraffe_hd::field_composite", mutates_args=())
def field_composite(
    origin: Tensor,
    direction: Tensor,
    t: Tensor,
    step: Tensor,
    noise: Tensor | None,
    entry: Tensor,
    hidden: Tensor,
    skip: Tensor | None,
    bias: Tensor,
    sigma: Tensor,
    sigma_bias: Tensor,
    skip_after: int,
    encoding: list[float],
    density: list[float],
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features (n, rays, width), alpha and distance (n, rays), as `render_field` does: the op it is made of.

    Biases and geometry are float32; `encoding` and `density` are the fields of `Encoding` and `Density` in order.
    """
    inputs = (origin, direction, t, step, noise, entry, hidden, skip, bias, sigma, sigma_bias)
    if triton_works(t.device.type, t.device.index):
        from training.nn.ops import field_triton

        return field_triton.forward(inputs, skip_after, encoding, density)
    features, alpha, distance = _reference(inputs, skip_after, encoding, density)
    return features, alpha, distance.contiguous()


@field_composite.register_fake
def _(
    origin, direction, t, step, noise, entry, hidden, skip, bias, sigma, sigma_bias, skip_after, encoding, density
):  # fmt: skip
    n, rays, _ = t.shape
    new = t.new_empty
    return new(n, rays, entry.shape[2]), new(n, rays), new(n, rays)


@torch.library.custom_op("giraffe_hd::field_composite_backward", mutates_args=())
def field_composite_backward(
    grad_features: Tensor,
    grad_alpha: Tensor,
    grad_distance: Tensor,
    features: Tensor,
    alpha: Tensor,
    distance: Tensor,
    origin: Tensor,
    direction: Tensor,
    t: Tensor,
    step: Tensor,
    noise: Tensor | None,
    entry: Tensor,
    hidden: Tensor,
    skip: Tensor | None,
    bias: Tensor,
    sigma: Tensor,
    sigma_bias: Tensor,
    skip_after: int,
    encoding: list[float],
    density: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the kernel's gradients of entry, hidden, skip (empty where there is none), bias, sigma and sigma_bias."""
    from training.nn.ops import field_triton

    inputs = (origin, direction, t, step, noise, entry, hidden, skip, bias, sigma, sigma_bias)
    outputs = (features, alpha, distance)
    grads = (grad_features, grad_alpha, grad_distance)
    return field_triton.backward(grads, outputs, inputs, skip_after, encoding, density)


@field_composite_backward.register_fake
def _(
    grad_features, grad_alpha, grad_distance, features, alpha, distance, origin, direction, t, step, noise, entry,
    hidden, skip, bias, sigma, sigma_bias, skip_after, encoding, density,
):  # fmt: skip
    no_skip = t.new_empty(0) if skip is None else torch.empty_like(skip)
    empty = torch.empty_like
    return empty(entry), empty(hidden), no_skip, empty(bias), empty(sigma), empty(sigma_bias)


def _keep(ctx, inputs, output) -> None:
    tensors, ctx.numbers = inputs[:11], inputs[11:]
    ctx.save_for_backward(*output, *tensors)


def _differentiate(ctx, *grads: Tensor | None):
    outputs, inputs = ctx.saved_tensors[:3], ctx.saved_tensors[3:]
    full = tuple(torch.zeros_like(o) if g is None else g for o, g in zip(outputs, grads, strict=True))
    needed = ctx.needs_input_grad[5:11]
    # where the gradient will be differentiated in turn, or there is no kernel, plain PyTorch goes the way again
    twice = torch.is_grad_enabled()
    if twice or not triton_works(outputs[0].device.type, outputs[0].device.index):
        with torch.enable_grad():
            learnt = [x if twice or x is None else x.detach().requires_grad_() for x in inputs[5:]]
            again = _reference((*inputs[:5], *learnt), *ctx.numbers)
            wanted = [x for x, need in zip(learnt, needed, strict=True) if need and x is not None]
            found = iter(torch.autograd.grad(again, wanted, full, create_graph=twice, allow_unused=True))
        made = [next(found) if need else None for need in needed]
    else:
        made = field_composite_backward(*full, *outputs, *inputs, *ctx.numbers)
        made = [grad if need else None for grad, need in zip(made, needed, strict=True)]
    return *(None,) * 5, *made, *(None,) * 3


field_composite.register_autograd(_differentiate, setup_context=_keep)
