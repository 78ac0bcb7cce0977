"""Random small networks and rays of both families, for the tests of the field op."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from training.nn.ops.field import Composite, Density, Encoding, Mlp, stratified_depths

FAMILIES = {
    "paper": (Encoding(10, extent=2.0), Density(box=1.1)),
    "fast": (
        Encoding(4, amplitude=1.4, damping=0.6, raw=True, mirror=True),
        Density(softplus=True, gain=6.0, slope=4.0, radius=0.7),
    ),
}
"""Encoding and density of the published field and of the fast one."""

CASES = {
    "paper float32": {"family": "paper", "rays": 19, "samples": 3},
    "fast float32": {"family": "fast", "rays": 21, "samples": 2, "noise": True},
    "paper float16": {"family": "paper", "rays": 18, "samples": 2, "dtype": torch.float16, "seed": 1},
    "fast float16": {"family": "fast", "rays": 17, "samples": 2, "dtype": torch.float16},
    "one ray, one sample": {"family": "fast", "rays": 1, "samples": 1, "n": 1},
    "shared weights, one image": {"family": "paper", "rays": 5, "samples": 2, "n": 1},
    "one layer": {"family": "fast", "layers": 1, "rays": 3, "samples": 2},
    "skip after the last": {"family": "paper", "layers": 2, "skip_after": 2, "rays": 4, "samples": 2},
    "skip after the first": {"family": "paper", "layers": 2, "skip_after": 1, "rays": 4, "samples": 2},
    "no skip, endless last step": {"family": "paper", "layers": 2, "skip_after": 0, "rays": 4, "endless": True},
    "box behind the camera": {"family": "fast", "rays": 4, "samples": 2, "behind": True},
    "no rays": {"family": "fast", "rays": 0, "samples": 2},
}
"""What the kernels are run on; widths are small, because the interpreter is slow and a width is a constant to it."""


@dataclass(frozen=True, kw_only=True)
class FieldCase:
    """Arguments of `render_field`, and what its outputs' gradients are."""

    geometry: tuple[Tensor, Tensor, Tensor, Tensor]
    mlp: Mlp
    encoding: Encoding
    density: Density
    noise: Tensor | None
    grads: Composite

    def to(self, device: torch.device) -> "FieldCase":
        """Return the case on a device."""

        def move(x: Tensor) -> Tensor:
            return x.to(device)

        origin, direction, t, step = map(move, self.geometry)
        noise = None if self.noise is None else move(self.noise)
        features, alpha, distance = map(move, self.grads)
        return replace(
            self, geometry=(origin, direction, t, step), mlp=each(self.mlp, move), noise=noise,
            grads=Composite(features, alpha, distance),
        )  # fmt: skip


def field_case(
    family: str,
    *,
    n: int = 2,
    rays: int = 19,
    samples: int = 3,
    width: int = 16,
    layers: int = 4,
    skip_after: int | None = None,
    dtype: torch.dtype = torch.float32,
    noise: bool = False,
    behind: bool = False,
    endless: bool = False,
    octaves: int | None = None,
    seed: int = 0,
) -> FieldCase:
    """Return a random case: rays from a camera near +x through and beside the box, some of which miss it."""
    rng = torch.Generator().manual_seed(seed)

    def normal(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=rng)

    encoding, density = FAMILIES[family]
    encoding = encoding._replace(octaves=octaves or encoding.octaves)
    encoded = encoding.size
    shared = family == "paper"
    m = 1 if shared else n
    skip_after = (2 if shared else 0) if skip_after is None else skip_after
    mlp = Mlp(
        entry=(normal(m, encoded, width) * (2 / encoded) ** 0.5).to(dtype),
        hidden=(normal(m, layers - 1, width, width) * (2 / width) ** 0.5).to(dtype),
        bias=0.3 * normal(n, layers + (skip_after > 0), width),
        sigma=normal(n, width) * 3 / width**0.5,
        sigma_bias=normal(n),
        skip=(normal(m, encoded, width) * encoded**-0.5).to(dtype) if skip_after else None,
        skip_after=skip_after,
    )
    origin = torch.tensor([-2.5 if behind else 2.5, 0.3, 0.2]) + 0.1 * normal(n, 1, 3)
    direction = torch.tensor([-1.0, 0.0, 0.0]) + 0.3 * normal(n, rays, 3) * torch.tensor([0.1, 1.0, 1.0])
    faces = torch.stack([(-1 - origin) / direction, (1 - origin) / direction])
    near, far = faces.amin(0).amax(-1).clamp_min(0), faces.amax(0).amin(-1)
    t, step = stratified_depths(near, far, torch.ones(rays), samples, torch.rand(n, rays, samples, generator=rng))
    if endless:
        step = torch.cat([step[..., :-1], 1e10 * step[..., -1:]], -1)
    grads = Composite(normal(n, rays, width), normal(n, rays), normal(n, rays))
    noises = normal(n, rays, samples) if noise else None
    return FieldCase(
        geometry=(origin, direction, t, step), mlp=mlp, encoding=encoding, density=density, noise=noises, grads=grads
    )


def each(mlp: Mlp, change: Callable[[Tensor], Tensor]) -> Mlp:
    """Return the network with each of its tensors changed."""
    return mlp._replace(**{k: change(v) for k, v in mlp._asdict().items() if isinstance(v, Tensor)})


def leaves_of(mlp: Mlp, dtype: torch.dtype | None = None) -> Mlp:
    """Return the same network with tensors that gather gradients."""
    return each(mlp, lambda x: x.detach().to(dtype or x.dtype).requires_grad_())


def run(render: Callable[..., Composite], case: FieldCase, dtype: torch.dtype | None = None) -> dict[str, Tensor]:
    """Return outputs and gradients of a case by name; in `dtype`, or as the case has it."""

    origin, direction, t, step = (x.to(dtype or x.dtype) for x in case.geometry)
    noise = None if case.noise is None else case.noise.to(dtype or case.noise.dtype)
    mlp = leaves_of(case.mlp, dtype)
    out = render(origin, direction, t, step, mlp, case.encoding, case.density, noise)
    learnt = {k: v for k, v in mlp._asdict().items() if isinstance(v, Tensor)}
    grads = [g.to(o.dtype) for g, o in zip(case.grads, out, strict=True)]
    found = torch.autograd.grad(list(out), list(learnt.values()), grads, allow_unused=True, materialize_grads=True)
    return {k: v.detach() for k, v in out._asdict().items()} | {f"d {k}": g for k, g in zip(learnt, found, strict=True)}


def differences(ours: dict[str, Tensor], exact: dict[str, Tensor]) -> dict[str, float]:
    """Return |ours - exact| / |exact| of each tensor (over 1 where exact is 0); infinite where ours is not finite."""
    found = {}
    for name, wanted in exact.items():
        have = ours[name].double().cpu()
        assert have.shape == wanted.shape, f"{name} is {tuple(have.shape)}, not {tuple(wanted.shape)}"
        size = float(wanted.cpu().norm())
        error = float((have - wanted.cpu()).norm()) / (size if size > 0 else 1.0)
        found[name] = error if bool(torch.isfinite(have).all()) else float("inf")
    return found
