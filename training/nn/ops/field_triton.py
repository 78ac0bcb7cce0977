"""Kernels of `training.nn.ops.field`: a program takes a tile of one image's rays and walks along their samples.

At each sample the tile's points are encoded, go through the MLP as matrix products and are added to the rays, all in
registers; weights come from the cache, and samples where no ray of the tile is inside are skipped. The backward
kernel walks the same way, computing layers anew and keeping one sample's at a time in a scratch of its own. Gradients
of weights are summed in a slab that each program owns, and slabs are summed afterwards: no atomics, the same every run.
"""

import math
from typing import NamedTuple, no_type_check

import torch
import triton
import triton.language as tl
from torch import Tensor

from training.nn.ops import interpreting

PROGRAMS = 256
"""Slabs of weight gradients, at most, unless there are more images: about two programs a multiprocessor."""


@triton.jit
@no_type_check
def _encode(x, y, z, amplitude, log2_damping, OCTAVES: tl.constexpr, RAW: tl.constexpr, COLUMNS: tl.constexpr):
    """Return the encoding of a tile of points, already divided by the extent; columns beyond it are 0."""
    c = tl.arange(0, COLUMNS)
    if RAW:
        q = tl.maximum(c - 3, 0)
        used = (c >= 3) & (c < 3 + 6 * OCTAVES)
        cosine, octave = q // (3 * OCTAVES), q % OCTAVES
        axis = tl.where(c < 3, c, (q % (3 * OCTAVES)) // OCTAVES)
    else:
        used = c < 6 * OCTAVES
        cosine, octave, axis = (c % 6) // 3, c // 6, c % 3
    octave = tl.where(used, octave, 0)
    gain = tl.where(used, amplitude * tl.exp2(octave.to(tl.float32) * log2_damping), 0.0)
    p = tl.where((axis == 0)[None, :], x[:, None], tl.where((axis == 1)[None, :], y[:, None], z[:, None]))
    # sin(pi u): u is exact, a power of two times p, and so is what is left of it after whole turns
    u = p * (1 << octave).to(tl.float32)[None, :]
    u = u - 2.0 * tl.floor(u * 0.5 + 0.5) + 0.5 * cosine.to(tl.float32)[None, :]
    half_turns = tl.floor(u + 0.5)
    r = u - half_turns
    r2 = r * r
    sine = 0.0821458866 + r2 * (-0.00737043094 + r2 * 0.000466302806)  # Taylor's, 6e-10 off at a quarter turn
    sine = r * (3.14159265 + r2 * (-5.16771278 + r2 * (2.55016404 + r2 * (-0.599264529 + r2 * sine))))
    odd = half_turns - 2.0 * tl.floor(half_turns * 0.5)
    value = gain[None, :] * (1.0 - 2.0 * odd) * sine
    if RAW:
        value = tl.where((c < 3)[None, :], p, value)
    return value


@triton.jit
@no_type_check
def _points(origin, direction, t, step, at, image, live, s, n_samples, box):
    """Return a sample of each ray: point, depth, step, and whether it counts."""
    depth = tl.load(t + at * n_samples + s, mask=live, other=0.0)
    dt = tl.load(step + at * n_samples + s, mask=live, other=0.0)
    x = tl.load(origin + image * 3) + depth * tl.load(direction + at * 3, mask=live, other=0.0)
    y = tl.load(origin + image * 3 + 1) + depth * tl.load(direction + at * 3 + 1, mask=live, other=0.0)
    z = tl.load(origin + image * 3 + 2) + depth * tl.load(direction + at * 3 + 2, mask=live, other=0.0)
    counts = (dt > 0) & (tl.maximum(tl.maximum(tl.abs(x), tl.abs(y)), tl.abs(z)) <= box)
    return tl.where(counts, x, 0.0), tl.where(counts, y, 0.0), tl.where(counts, z, 0.0), depth, dt, counts


@triton.jit
@no_type_check
def _square(start, row, column, WIDTH: tl.constexpr):
    return start + row[:, None] * WIDTH + column[None, :]


@triton.jit
@no_type_check
def _layers(
    h, hidden, bias, kept, first, last, WIDTH: tl.constexpr, BLOCK: tl.constexpr, KEEP: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Return h after hidden layers `first` to `last`, storing each output where they are to be kept."""
    column = tl.arange(0, WIDTH)
    for layer in range(first, last):
        weight = tl.load(_square(hidden + layer * WIDTH * WIDTH, column, column, WIDTH))
        h = tl.dot(h, weight, input_precision=PRECISION) + tl.load(bias + (layer + 1) * WIDTH + column)[None, :]
        h = tl.maximum(h, 0.0).to(weight.dtype)
        if KEEP:
            tl.store(_square(kept + (layer + 1) * BLOCK * WIDTH, tl.arange(0, BLOCK), column, WIDTH), h)
    return h


@triton.jit
@no_type_check
def _field(
    encoded, entry, hidden, skip, bias, kept, ENCODED: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr,
    LAYERS: tl.constexpr, SKIP_AFTER: tl.constexpr, BLOCK: tl.constexpr, KEEP: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the last layer of encoded points."""
    column, code = tl.arange(0, WIDTH), tl.arange(0, COLUMNS)
    row = tl.arange(0, BLOCK)
    weight = tl.load(_square(entry, code, column, WIDTH), mask=(code < ENCODED)[:, None], other=0.0)
    h = tl.dot(encoded, weight, input_precision=PRECISION) + tl.load(bias + column)[None, :]
    h = tl.maximum(h, 0.0).to(weight.dtype)
    if KEEP:
        tl.store(_square(kept, row, column, WIDTH), h)
    if SKIP_AFTER > 0:
        h = _layers(h, hidden, bias, kept, 0, SKIP_AFTER - 1, WIDTH, BLOCK, KEEP, PRECISION)
        weight = tl.load(_square(skip, code, column, WIDTH), mask=(code < ENCODED)[:, None], other=0.0)
        again = tl.dot(encoded, weight, input_precision=PRECISION) + tl.load(bias + LAYERS * WIDTH + column)[None, :]
        h = (h.to(tl.float32) + again).to(weight.dtype)
        if KEEP:
            tl.store(_square(kept + LAYERS * BLOCK * WIDTH, row, column, WIDTH), h)
        h = _layers(h, hidden, bias, kept, SKIP_AFTER - 1, LAYERS - 1, WIDTH, BLOCK, KEEP, PRECISION)
    else:
        h = _layers(h, hidden, bias, kept, 0, LAYERS - 1, WIDTH, BLOCK, KEEP, PRECISION)
    return h


@triton.jit
@no_type_check
def _raw_density(
    h, x, y, z, sigma, sigma_bias, noise, place, live, slope, radius, WIDTH: tl.constexpr, NOISE: tl.constexpr
):
    """Return what the density's activation is applied to."""
    raw = tl.sum(h.to(tl.float32) * tl.load(sigma + tl.arange(0, WIDTH))[None, :], 1) + tl.load(sigma_bias)
    raw += slope * (radius - tl.sqrt(x * x + y * y + z * z))
    if NOISE:
        raw += tl.load(noise + place, mask=live, other=0.0)
    return raw


@triton.jit
@no_type_check
def _activate(raw, SOFTPLUS: tl.constexpr):
    if SOFTPLUS:
        return tl.maximum(raw, 0.0) + tl.log(1.0 + tl.exp(-tl.abs(raw)))
    return tl.maximum(raw, 0.0)


@triton.jit
@no_type_check
def _slope(raw, SOFTPLUS: tl.constexpr):
    """Return the derivative of `_activate`."""
    if SOFTPLUS:
        return tl.sigmoid(raw)
    return (raw > 0).to(tl.float32)


@triton.jit
@no_type_check
def _opacity(optical):
    """Return 1 - exp(-optical), also where it is small."""
    return tl.where(optical < 0.01, optical * (1.0 - optical * (0.5 - optical / 6.0)), 1.0 - tl.exp(-optical))


@triton.jit
@no_type_check
def forward_kernel(  # noqa: D103 (see `forward`)
    origin, direction, t, step, noise, entry, hidden, skip, bias, sigma, sigma_bias, features, alpha, distance,
    n_rays, n_samples, extent, amplitude, log2_damping, gain, slope, radius, box,
    OCTAVES: tl.constexpr, RAW: tl.constexpr, MIRROR: tl.constexpr, SOFTPLUS: tl.constexpr, NOISE: tl.constexpr,
    OWN_WEIGHTS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, LAYERS: tl.constexpr,
    SKIP_AFTER: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    ENCODED: tl.constexpr = 6 * OCTAVES + 3 * RAW
    BIASES: tl.constexpr = LAYERS + (SKIP_AFTER > 0)
    image = tl.program_id(1).to(tl.int64)
    ray = tl.program_id(0) * BLOCK + tl.arange(0, BLOCK)
    live = ray < n_rays
    at = image * n_rays + ray
    column = tl.arange(0, WIDTH)
    if OWN_WEIGHTS:
        entry += image * ENCODED * WIDTH
        hidden += image * (LAYERS - 1) * WIDTH * WIDTH
        skip += image * ENCODED * WIDTH
    bias += image * BIASES * WIDTH
    gathered = tl.zeros([BLOCK, WIDTH], tl.float32)
    opacity = tl.zeros([BLOCK], tl.float32)
    moment = tl.zeros([BLOCK], tl.float32)
    spent = tl.zeros([BLOCK], tl.float32)  # optical depth between the camera and the sample
    for s in range(n_samples):
        x, y, z, depth, dt, counts = _points(origin, direction, t, step, at, image, live, s, n_samples, box)
        if tl.max(counts.to(tl.int32), 0) > 0:
            py = y
            if MIRROR:
                py = tl.abs(y)
            encoded = _encode(x / extent, py / extent, z / extent, amplitude, log2_damping, OCTAVES, RAW, COLUMNS).to(
                entry.dtype.element_ty
            )
            h = _field(
                encoded,
                entry,
                hidden,
                skip,
                bias,
                entry,
                ENCODED,
                COLUMNS,
                WIDTH,
                LAYERS,
                SKIP_AFTER,
                BLOCK,
                False,
                PRECISION,
            )
            raw = _raw_density(
                h,
                x,
                y,
                z,
                sigma + image * WIDTH,
                sigma_bias + image,
                noise,
                at * n_samples + s,
                live,
                slope,
                radius,
                WIDTH,
                NOISE,
            )
            optical = tl.where(counts, gain * _activate(raw, SOFTPLUS) * dt, 0.0)
            share = tl.exp(-spent) * _opacity(optical)
            spent += optical
            gathered += share[:, None] * h.to(tl.float32)
            opacity += share
            moment += share * depth
    tl.store(features + at[:, None] * WIDTH + column[None, :], gathered, mask=live[:, None])
    tl.store(alpha + at, opacity, mask=live)
    tl.store(distance + at, moment, mask=live)


@triton.jit
@no_type_check
def _add(place, value, mask=None):
    tl.store(place, tl.load(place, mask=mask) + value, mask=mask)


@triton.jit
@no_type_check
def _layers_back(
    grad, hidden, kept, slab_hidden, slab_bias, first, last, WIDTH: tl.constexpr, LAYERS: tl.constexpr,
    SKIP_AFTER: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Return the gradient before hidden layers `first` to `last`, adding those of their weights to the slab."""
    column, row = tl.arange(0, WIDTH), tl.arange(0, BLOCK)
    for i in range(first, last):
        layer = first + last - 1 - i
        after = tl.load(_square(kept + (layer + 1) * BLOCK * WIDTH, row, column, WIDTH))
        grad = tl.where(after > 0, grad, 0.0)
        _add(slab_bias + (layer + 1) * WIDTH + column, tl.sum(grad, 0))
        grad_low = grad.to(after.dtype)
        place = tl.where(layer == SKIP_AFTER - 1, LAYERS, layer)  # what came in, with the skip if it was added there
        before = tl.load(_square(kept + place * BLOCK * WIDTH, row, column, WIDTH))
        square = _square(layer * WIDTH * WIDTH, column, column, WIDTH)
        _add(slab_hidden + square, tl.dot(tl.trans(before), grad_low, input_precision=PRECISION))
        grad = tl.dot(grad_low, tl.trans(tl.load(hidden + square)), input_precision=PRECISION)
    return grad


@triton.jit
@no_type_check
def backward_kernel(  # noqa: D103 (see `backward`)
    grad_features, grad_alpha, grad_distance, features, alpha, distance,
    origin, direction, t, step, noise, entry, hidden, skip, bias, sigma, sigma_bias,
    slab_entry, slab_hidden, slab_skip, slab_bias, slab_sigma, slab_sigma_bias, kept,
    n_rays, n_samples, n_tiles, extent, amplitude, log2_damping, gain, slope, radius, box,
    OCTAVES: tl.constexpr, RAW: tl.constexpr, MIRROR: tl.constexpr, SOFTPLUS: tl.constexpr, NOISE: tl.constexpr,
    OWN_WEIGHTS: tl.constexpr, COLUMNS: tl.constexpr, WIDTH: tl.constexpr, LAYERS: tl.constexpr,
    SKIP_AFTER: tl.constexpr, BLOCK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    ENCODED: tl.constexpr = 6 * OCTAVES + 3 * RAW
    BIASES: tl.constexpr = LAYERS + (SKIP_AFTER > 0)
    image = tl.program_id(1).to(tl.int64)
    slab = image * tl.num_programs(0) + tl.program_id(0)
    column, code, row = tl.arange(0, WIDTH), tl.arange(0, COLUMNS), tl.arange(0, BLOCK)
    if OWN_WEIGHTS:
        entry += image * ENCODED * WIDTH
        hidden += image * (LAYERS - 1) * WIDTH * WIDTH
        skip += image * ENCODED * WIDTH
    bias += image * BIASES * WIDTH
    slab_entry += slab * ENCODED * WIDTH
    slab_hidden += slab * (LAYERS - 1) * WIDTH * WIDTH
    slab_skip += slab * ENCODED * WIDTH
    slab_bias += slab * BIASES * WIDTH
    slab_sigma += slab * WIDTH
    kept += slab * BIASES * BLOCK * WIDTH
    in_code = (code < ENCODED)[:, None]
    by_code = _square(0, code, column, WIDTH)
    sigma_row = tl.load(sigma + image * WIDTH + column)
    for tile in range(tl.program_id(0), n_tiles, tl.num_programs(0)):
        ray = tile * BLOCK + row
        live = ray < n_rays
        at = image * n_rays + ray
        wide = at[:, None] * WIDTH + column[None, :]
        d_features = tl.load(grad_features + wide, mask=live[:, None], other=0.0)
        d_alpha = tl.load(grad_alpha + at, mask=live, other=0.0)
        d_distance = tl.load(grad_distance + at, mask=live, other=0.0)
        # what the whole ray's light is worth; less what was gathered so far, it is what lies behind a sample
        behind = tl.sum(d_features * tl.load(features + wide, mask=live[:, None], other=0.0), 1)
        behind += d_alpha * tl.load(alpha + at, mask=live, other=0.0)
        behind += d_distance * tl.load(distance + at, mask=live, other=0.0)
        spent = tl.zeros([BLOCK], tl.float32)
        for s in range(n_samples):
            x, y, z, depth, dt, counts = _points(origin, direction, t, step, at, image, live, s, n_samples, box)
            if tl.max(counts.to(tl.int32), 0) > 0:
                py = y
                if MIRROR:
                    py = tl.abs(y)
                encoded = _encode(
                    x / extent, py / extent, z / extent, amplitude, log2_damping, OCTAVES, RAW, COLUMNS
                ).to(entry.dtype.element_ty)
                h = _field(
                    encoded,
                    entry,
                    hidden,
                    skip,
                    bias,
                    kept,
                    ENCODED,
                    COLUMNS,
                    WIDTH,
                    LAYERS,
                    SKIP_AFTER,
                    BLOCK,
                    True,
                    PRECISION,
                ).to(tl.float32)
                raw = _raw_density(
                    h,
                    x,
                    y,
                    z,
                    sigma + image * WIDTH,
                    sigma_bias + image,
                    noise,
                    at * n_samples + s,
                    live,
                    slope,
                    radius,
                    WIDTH,
                    NOISE,
                )
                optical = tl.where(counts, gain * _activate(raw, SOFTPLUS) * dt, 0.0)
                share = tl.exp(-spent) * _opacity(optical)
                spent += optical
                worth = tl.sum(d_features * h, 1) + d_alpha + d_distance * depth
                behind -= share * worth
                # d share_j / d sigma_s: more light taken here, less left behind. Where none is left that is exactly 0,
                # which a difference of sums is not, and a last step may be 1e10 long
                light = tl.exp(-spent)
                left = tl.where((light > 1e-30) & (s + 1 < n_samples), behind, 0.0)
                d_raw = gain * dt * (light * worth - left)
                d_raw = tl.where(counts, d_raw * _slope(raw, SOFTPLUS), 0.0)
                _add(slab_sigma + column, tl.sum(d_raw[:, None] * h, 0))
                _add(slab_sigma_bias + slab, tl.sum(d_raw, 0))
                grad = share[:, None] * d_features + d_raw[:, None] * sigma_row[None, :]
                tl.debug_barrier()  # layers that one thread stored, another reads
                if SKIP_AFTER > 0:
                    grad = _layers_back(
                        grad,
                        hidden,
                        kept,
                        slab_hidden,
                        slab_bias,
                        SKIP_AFTER - 1,
                        LAYERS - 1,
                        WIDTH,
                        LAYERS,
                        SKIP_AFTER,
                        BLOCK,
                        PRECISION,
                    )
                    _add(slab_bias + LAYERS * WIDTH + column, tl.sum(grad, 0))
                    d_skip = tl.dot(tl.trans(encoded), grad.to(encoded.dtype), input_precision=PRECISION)
                    _add(slab_skip + by_code, d_skip, in_code)
                    grad = _layers_back(
                        grad,
                        hidden,
                        kept,
                        slab_hidden,
                        slab_bias,
                        0,
                        SKIP_AFTER - 1,
                        WIDTH,
                        LAYERS,
                        SKIP_AFTER,
                        BLOCK,
                        PRECISION,
                    )
                else:
                    grad = _layers_back(
                        grad,
                        hidden,
                        kept,
                        slab_hidden,
                        slab_bias,
                        0,
                        LAYERS - 1,
                        WIDTH,
                        LAYERS,
                        SKIP_AFTER,
                        BLOCK,
                        PRECISION,
                    )
                first = tl.load(_square(kept, row, column, WIDTH))
                grad = tl.where(first > 0, grad, 0.0)
                _add(slab_bias + column, tl.sum(grad, 0))
                d_entry = tl.dot(tl.trans(encoded), grad.to(encoded.dtype), input_precision=PRECISION)
                _add(slab_entry + by_code, d_entry, in_code)
                tl.debug_barrier()  # before the next sample's layers take their place


class Launch(NamedTuple):
    """How a kernel is cut for a network."""

    constants: dict
    """Values of the kernel's constexpr arguments."""
    block: int
    """Rays a program."""
    options: dict
    """What the compiler is told."""


def launch(
    network: tuple[int, int, int],
    skip_after: int,
    encoding: list[float],
    density: list[float],
    *,
    dtype: torch.dtype,
    noise: bool,
    own_weights: bool,
    programs: int,
) -> Launch:
    """Return how to run a network of (encoded, layers, width): small tiles where large ones would leave a GPU idle.

    `programs` is how many tiles of 16 rays there are.
    """
    encoded, layers, width = network
    octaves, _, _, _, raw, mirror = encoding
    block = 64 * 64 // max(width, 64)  # with more rays, ptxas runs out of registers
    block //= 2 if dtype == torch.float32 else 1
    while block > 16 and programs * 16 < PROGRAMS * block:
        block //= 2
    precision = "ieee"  # of half precision operands it says nothing
    if dtype == torch.float32 and not interpreting():
        precision = "tf32x3" if torch.get_float32_matmul_precision() == "highest" else "tf32"
    constants = {
        "OCTAVES": int(octaves),
        "RAW": bool(raw),
        "MIRROR": bool(mirror),
        "SOFTPLUS": bool(density[0]),
        "NOISE": noise,
        "OWN_WEIGHTS": own_weights,
        "COLUMNS": max(16, triton.next_power_of_2(encoded)),
        "WIDTH": width,
        "LAYERS": layers,
        "SKIP_AFTER": skip_after,
        "BLOCK": block,
        "PRECISION": precision,
    }
    # one stage: the next sample's layers must not be fetched before they are stored
    return Launch(constants, block, {"num_warps": 8 if block * width >= 2048 else 4, "num_stages": 1})


def _scalars(encoding: list[float], density: list[float]) -> list[float]:
    _, extent, amplitude, damping, _, _ = encoding
    return [extent, amplitude, math.log2(damping), *density[1:]]


def _prepare(inputs: tuple[Tensor | None, ...], skip_after: int, encoding: list[float], density: list[float]):
    """Return contiguous inputs, the sizes (n, rays, samples) and the launch."""
    made = [None if x is None else x.contiguous() for x in inputs]
    _, _, t, _, noise, entry, hidden, _, bias, _, _ = made
    assert t is not None and entry is not None and hidden is not None and bias is not None
    n, rays, samples = t.shape
    network = (entry.shape[1], hidden.shape[1] + 1, entry.shape[2])
    cut = launch(
        network,
        0 if inputs[7] is None else skip_after,
        encoding,
        density,
        dtype=entry.dtype,
        noise=noise is not None,
        own_weights=entry.shape[0] > 1,
        programs=n * triton.cdiv(rays, 16),
    )
    # an argument that a kernel does not read still has to be a tensor
    made = [entry if x is None else x for x in made]
    return made, (n, rays, samples), cut


def forward(
    inputs: tuple[Tensor | None, ...], skip_after: int, encoding: list[float], density: list[float]
) -> tuple[Tensor, Tensor, Tensor]:
    """Return features, alpha and distance of `giraffe_hd::field_composite`, whose arguments these are."""
    tensors, (n, rays, samples), cut = _prepare(inputs, skip_after, encoding, density)
    t, width = tensors[2], cut.constants["WIDTH"]
    features, alpha, distance = t.new_empty(n, rays, width), t.new_empty(n, rays), t.new_empty(n, rays)
    arguments = [*tensors, features, alpha, distance, rays, samples, *_scalars(encoding, density)]
    if n * rays:
        with torch.cuda.device_of(t):
            forward_kernel[(triton.cdiv(rays, cut.block), n)](*arguments, **cut.constants, **cut.options)
    return features, alpha, distance


def backward(
    grads: tuple[Tensor, ...],
    outputs: tuple[Tensor, ...],
    inputs: tuple[Tensor | None, ...],
    skip_after: int,
    encoding: list[float],
    density: list[float],
) -> tuple[Tensor, Tensor, Tensor, Tensor, Tensor, Tensor]:
    """Return the gradients of entry, hidden, skip (empty where there is none), bias, sigma and sigma_bias."""
    tensors, (n, rays, samples), cut = _prepare(inputs, skip_after, encoding, density)
    t, entry, hidden, bias, sigma = tensors[2], tensors[5], tensors[6], tensors[8], tensors[9]
    tiles = triton.cdiv(rays, cut.block)
    each = max(1, min(tiles, PROGRAMS // max(n, 1)))  # programs an image
    m = entry.shape[0]

    def slab(*shape: int) -> Tensor:
        return torch.zeros(n * each, *shape, device=t.device)

    with_skip = inputs[7] is not None
    slabs = [
        slab(*entry.shape[1:]), slab(*hidden.shape[1:]), slab(*entry.shape[1:]) if with_skip else slab(),
        slab(*bias.shape[1:]), slab(*sigma.shape[1:]), slab(),
    ]  # fmt: skip
    kept = torch.empty(n * each, bias.shape[1], cut.block, entry.shape[2], dtype=entry.dtype, device=t.device)
    given = [x.contiguous() for x in (*grads, *outputs)]
    arguments = [*given, *tensors, *slabs, kept, rays, samples, tiles, *_scalars(encoding, density)]
    if n * rays:
        with torch.cuda.device_of(t):
            backward_kernel[(each, n)](*arguments, **cut.constants, **cut.options)

    def total(x: Tensor, images: int) -> Tensor:
        return x.unflatten(0, (images, -1)).sum(1)

    d_entry, d_hidden, d_skip, d_bias, d_sigma, d_sigma_bias = slabs
    return (
        total(d_entry, m).to(entry.dtype), total(d_hidden, m).to(entry.dtype),
        total(d_skip, m).to(entry.dtype) if with_skip else t.new_empty(0),
        total(d_bias, n), total(d_sigma, n), total(d_sigma_bias, n),
    )  # fmt: skip
