"""Speed of the field op against plain PyTorch, forward and backward: one JSON line a figure.

python -m tests.benchmarks.field --device cuda

"published" is the network of the paper at 64 x 64 rays, 12 samples of the object (8 layers of 128) and 16 of the
background (4 of 64); "fast" is the fast generator's. On a machine without a GPU the op is plain PyTorch itself.
"""

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal

import torch
import tyro
from torch import Tensor

from tests.benchmarks.rows import floors, graphed, say, timed
from training.nn.ops.field import Composite, Density, Encoding, Mlp, render_field, render_field_reference

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": torch.float32}
PARTS = {
    "object": (Encoding(10, extent=2.0), Density(box=1.1), 8, 128, 5, 12),
    "background": (Encoding(10, extent=12.0), Density(), 4, 64, 0, 16),
    "fast": (
        Encoding(4, amplitude=1.4, damping=0.6, raw=True, mirror=True),
        Density(softplus=True, gain=6.0, slope=4.0, radius=0.7), 3, 64, 0, 10,
    ),
}  # fmt: skip
"""Encoding, density, layers, width, skip, samples."""


@dataclass(frozen=True, kw_only=True)
class Field:
    """Time the op."""

    device: Literal["cuda", "cpu"] = "cuda"
    dtype: Literal["bf16", "fp16", "fp32"] = "bf16"
    batch: int = 1
    rays: int = 64
    """Side of the map; the fast network has half of it."""
    repeats: int = 30

    def run(self) -> None:
        """Print all figures."""
        torch.manual_seed(0)
        if self.device == "cpu":
            torch.set_num_threads(1)
        for what, parts in {"published": ("object", "background"), "fast": ("fast",)}.items():
            made = [self.part(name) for name in parts]
            for backward in (False, True):
                self.compare(what, made, backward)

    def part(self, name: str) -> tuple[tuple, float]:
        """Return arguments of `render_field`, and the FLOPs of one forward pass."""
        encoding, density, layers, width, skip_after, samples = PARTS[name]
        side = self.rays // 2 if name == "fast" else self.rays
        n, rays, dtype = self.batch, side**2, DTYPES[self.dtype]
        m = n if name == "fast" else 1

        def normal(*shape: int, to: torch.dtype = torch.float32) -> Tensor:
            return torch.randn(*shape, device=self.device).to(to).requires_grad_()

        mlp = Mlp(
            entry=normal(m, encoding.size, width, to=dtype),
            hidden=normal(m, layers - 1, width, width, to=dtype).detach().mul(width**-0.5).requires_grad_(),
            bias=normal(n, layers + (skip_after > 0), width), sigma=normal(n, width), sigma_bias=normal(n),
            skip=normal(m, encoding.size, width, to=dtype) if skip_after else None, skip_after=skip_after,
        )  # fmt: skip
        origin = torch.tensor([[[2.7, 0.0, 0.0]]], device=self.device).expand(n, 1, 3)
        direction = torch.randn(n, rays, 3, device=self.device) * 0.1 + torch.tensor([-1.0, 0, 0], device=self.device)
        t = torch.linspace(2.0, 3.4, samples, device=self.device).expand(n, rays, samples).contiguous()
        macs = encoding.size * width * (1 + (skip_after > 0)) + (layers - 1) * width**2 + width
        return (origin, direction, t, torch.full_like(t, 0.1), mlp, encoding, density), 2.0 * macs * t.numel()

    def compare(self, what: str, parts: list[tuple[tuple, float]], backward: bool) -> None:
        """Print the row of one network."""
        flops = sum(each for _, each in parts) * (4 if backward else 1)  # computed again, and twice as much back
        moved = sum(self.moved(args) for args, _ in parts) * (3 if backward else 1)
        dtype = DTYPES[self.dtype]
        works = [partial(self.work, render, parts, backward) for render in (render_field, render_field_reference)]
        ours, eager = timed(*works, device=self.device, repeats=self.repeats)
        figures = {"op_us": 1e6 * ours.wall, "eager_us": 1e6 * eager.wall, "times_faster": eager.wall / ours.wall}
        if self.device == "cpu":
            figures["eager_cpu_us"] = 1e6 * eager.cpu
        if self.device == "cuda" and not backward:
            [replayed] = timed(graphed(works[0]), device=self.device, repeats=self.repeats)
            figures["op_graph_us"] = 1e6 * replayed.wall
        name = f"{what} field, {'forward and backward' if backward else 'forward'}"
        figures |= {"gflop_an_image": flops / self.batch / 1e9} | floors(flops, moved, dtype)
        say(name, self.device, dtype, self.batch, rays=self.rays // (2 if what == "fast" else 1), **figures)

    def work(self, render: Callable[..., Composite], parts: list[tuple[tuple, float]], backward: bool) -> None:
        """Do it once."""
        with torch.set_grad_enabled(backward):
            for args, _ in parts:
                out = render(*args)
                if backward:
                    learnt = [x for x in args[4] if isinstance(x, Tensor)]
                    torch.autograd.grad([out.features, out.alpha], learnt, [out.features.detach(), out.alpha.detach()])

    def moved(self, args: tuple) -> float:
        """Return the bytes that have to be read and written once."""
        _, direction, t, step, mlp, *_ = args
        n, rays, _ = t.shape
        read = sum(x.numel() * x.element_size() for x in (direction, t, step, *mlp) if isinstance(x, Tensor))
        return read + 4.0 * n * rays * (mlp.entry.shape[2] + 2)


if __name__ == "__main__":
    tyro.cli(Field).run()
