"""The object's feature field: points in its box and a shape code in, density and features out (GIRAFFE Sec. 3.1)."""

import math
from collections.abc import Mapping
from itertools import pairwise
from typing import NamedTuple

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.nn.layers import EqualLinear
from training.nn.ops.field import Density, Encoding, Mlp, encode
from training.nn.styled import TriPlanes, on_planes, style_of

AMPLITUDE, DAMPING = 1.4, 0.6
"""Octave k of the positional encoding is scaled by AMPLITUDE * DAMPING^k: undamped, ten samples a ray alias."""
GAIN = math.sqrt(2)
"""Of every ReLU, which keeps the variance."""
BALL, RADIUS = 4.0, 0.7
"""BALL (RADIUS - |p|) is added to the density: an untrained field is an ellipsoid."""


def positional_encoding(p: Float[Tensor, "n points 3"], octaves: int) -> Float[Tensor, "n points d"]:
    """Return p and the damped sin(2^k pi p), cos(2^k pi p) for k < octaves  (NeRF Eq. 4): d = 3 + 6 octaves."""
    return encode(p, Encoding(octaves, amplitude=AMPLITUDE, damping=DAMPING, raw=True))


def with_inputs(weights: Mapping[str, Tensor], prefix: str, octaves: int, planes: int = 0) -> dict[str, Tensor]:
    """Return a state whose `ObjectField`, named `prefix`, reads at least so many octaves and features of planes; its
    shapes stay the same.

    Weights of what is new are 0 at first (`positional_encoding` has the sines of each axis, then the cosines; the
    planes' features come last).
    """
    found, entry = dict(weights), f"{prefix}layers.0."
    written = found.get(f"{prefix}planes.write.weight")
    had_planes = 0 if written is None else written.shape[1]
    dims = len(found.get(f"{entry}weight", ())) - had_planes
    had = (dims - 3) // 6
    octaves, planes = max(octaves, had), max(planes, had_planes)
    if dims != 3 + 6 * had or (octaves, planes) == (had, had_planes):
        return found
    waves = 3 + torch.arange(6)[:, None] * octaves + torch.arange(had)
    kept = torch.cat([torch.arange(3), waves.flatten(), 3 + 6 * octaves + torch.arange(had_planes)])
    for name, start in (("weight", 0.0), ("modulation.weight", 0.0), ("modulation.bias", 1.0)):
        old = found[entry + name]
        found[entry + name] = old.new_full((3 + 6 * octaves + planes, *old.shape[1:]), start)
        found[entry + name][kept] = old
    return found


class ModulatedLinear(nn.Module):
    """The weights W(w), demodulated (StyleGAN2 Eq. 3), and the bias b(w) that a style w gives a linear layer."""

    def __init__(self, in_dim: int, out_dim: int, style_dim: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.randn(in_dim, out_dim))
        self.modulation = EqualLinear(style_dim, in_dim, bias=1.0)
        self.shift = EqualLinear(style_dim, out_dim)

    def forward(
        self, w: Float[Tensor, "n style"], gain: float = 1.0
    ) -> tuple[Float[Tensor, "n in_dim out_dim"], Float[Tensor, "n out_dim"]]:
        """Return gain W(w) and gain b(w)."""
        weight = self.weight * self.modulation(w)[:, :, None]
        weight = weight * (gain * torch.rsqrt(weight.square().sum(1, keepdim=True) + 1e-8))
        return weight, gain * self.shift(w)


def linear(
    x: Float[Tensor, "n points in_dim"], weight: Float[Tensor, "n in_dim out_dim"], bias: Float[Tensor, "n out_dim"]
) -> Float[Tensor, "n points out_dim"]:
    """Return x W + b, one batched product, in the precision of x."""
    return torch.baddbmm(bias[:, None].to(x.dtype), x, weight.to(x.dtype))


class FieldWeights(NamedTuple):
    """What a style makes of a field."""

    layers: list[tuple[Tensor, Tensor]]
    """Weights and bias of each layer, the density's last."""
    planes: Float[Tensor, "n c s s"] | None = None


class ObjectField(nn.Module):
    """sigma(p, w) and h(p, w): a modulated MLP that starts as an ellipsoid; with `mirror`, symmetric left and right.

    With `planes` it reads, beside the waves of a point, its features on three planes; their channels at 4, 8, ... cells
    and the features of each plane.
    """

    def __init__(
        self,
        hidden: int,
        depth: int,
        octaves: int,
        style_dim: int,
        *,
        mirror: bool,
        density: float,
        planes: tuple[int, ...] = (),
        plane_features: int = 16,
    ) -> None:
        super().__init__()
        self.octaves, self.mirror, self.density = octaves, mirror, density
        self.planes = TriPlanes(planes, plane_features, style_dim) if planes else None
        dims = [3 + 6 * octaves + (self.planes.features if self.planes else 0)] + [hidden] * depth
        self.layers = nn.ModuleList(ModulatedLinear(i, o, style_dim) for i, o in pairwise(dims))
        self.sigma = ModulatedLinear(hidden, 1, style_dim)

    @property
    def n_styles(self) -> int:
        """Layers that a style each can be given: those of the points, the density's, the planes'."""
        return len(self.layers) + 1 + (self.planes.n_styles if self.planes else 0)

    def weights(self, w: Float[Tensor, "n *layers style"]) -> FieldWeights:
        """Return each layer's weights and bias under a style, and the planes.

        `w` is one style for all layers, or one for each. relu(x) gain = relu(x gain): the gain is in the weights.
        """
        hidden = [layer(style_of(w, i), GAIN) for i, layer in enumerate(self.layers)]
        layers = [*hidden, self.sigma(style_of(w, len(self.layers)))]
        return FieldWeights(layers, None if self.planes is None else self.planes(w, len(layers)))

    def forward(
        self,
        p: Float[Tensor, "n points 3"],
        w: Float[Tensor, "n *layers style"],
        noise: Float[Tensor, "n points"] | None = None,
    ) -> tuple[Float[Tensor, "n points"], Float[Tensor, "n points hidden"]]:
        """Return `at` of a style; see `weights`."""
        return self.at(p, self.weights(w), noise)

    def at(
        self,
        p: Float[Tensor, "n points 3"],
        weights: FieldWeights,
        noise: Float[Tensor, "n points"] | None = None,
    ) -> tuple[Float[Tensor, "n points"], Float[Tensor, "n points hidden"]]:
        """Return density per half-length of the object, at least 0, and hidden features, for p in [-1, 1]^3.

        `noise` is added to the density before its softplus (NeRF Appendix A).
        """
        p = p.float()
        if self.mirror:
            p = torch.stack([p[..., 0], p[..., 1].abs(), p[..., 2]], -1)
        x = positional_encoding(p, self.octaves)
        if torch.is_autocast_enabled(x.device.type):
            x = x.to(torch.get_autocast_dtype(x.device.type))
        ((entry, bias), *hidden, sigma), waves = weights.layers, x.shape[-1]
        x = linear(x, entry[:, :waves], bias)
        if weights.planes is not None:
            half = torch.stack([p[..., 0], 2 * p[..., 1] - 1, p[..., 2]], -1) if self.mirror else p
            x = torch.baddbmm(x, on_planes(weights.planes, half).to(x.dtype), entry[:, waves:].to(x.dtype))
        x = x.relu_()
        for layer in hidden:
            x = linear(x, *layer).relu_()
        raw = linear(x, *sigma)[..., 0].float() + BALL * (RADIUS - p.norm(dim=-1))
        if noise is not None:
            raw = raw + noise
        return self.density * F.softplus(raw), x

    def as_op(self, w: Float[Tensor, "n *layers style"]) -> tuple[Mlp, Encoding, Density]:
        """Return the field of each picture's code as `training.nn.ops.field.render_field` takes it.

        Raises: ValueError for a field with planes, which that kernel does not read.
        """
        if self.planes is not None:
            raise ValueError("the kernel renders fields without planes; this one has planes")
        *hidden, (sigma, sigma_bias) = self.weights(w).layers
        weights, biases = zip(*hidden, strict=True)
        mlp = Mlp(
            entry=weights[0],
            hidden=torch.stack(weights[1:], 1),
            bias=torch.stack(biases, 1),
            sigma=sigma[..., 0],
            sigma_bias=sigma_bias[:, 0],
        )
        encoding = Encoding(self.octaves, amplitude=AMPLITUDE, damping=DAMPING, raw=True, mirror=self.mirror)
        return mlp, encoding, Density(softplus=True, gain=self.density, slope=BALL, radius=RADIUS)
