"""Speed of the published GIRAFFE HD, whole and its volume stage alone: one JSON line a figure.

python tests/benchmarks/volume.py --batch 1 [--device cuda] [--reference CLONE_OF_THE_AUTHORS_PROGRAM]

With `--reference`, the authors' program runs in turns with ours, on the same weights and codes, and the ratio and the
difference of the pictures are printed too. Their compiled ops are used where they build, plain PyTorch elsewhere.
"""

import argparse
import importlib
import json
import math
import shutil
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F
import tyro
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from giraffe_hd.codes import Codes
from giraffe_hd.paper.generator import Generator
from giraffe_hd.paper.official import read
from giraffe_hd.paper.presets import SETS, train_config
from giraffe_hd.paper.prior import elevation_of
from training.nn.layers import upfirdn2d


@dataclass(frozen=True, kw_only=True)
class Volume:
    """Time the published generator."""

    set: str = "compcar"
    size: int = 256
    batch: int = 1
    device: str = "cpu"
    threads: int = 2
    repeats: int = 7
    processor: bool = False
    """On a busy CPU: count the processor's seconds, not the clock's."""
    bf16: bool = False
    """Ours with its renderers in bfloat16."""
    reference: Path | None = None
    """A clone of github.com/AustinXY/GIRAFFEHD."""

    def say(self, what: str, **figures: Any) -> None:
        """Print one line."""
        where = torch.cuda.get_device_name() if self.device == "cuda" else f"CPU, {self.threads} threads"
        dtype = "bfloat16" if self.bf16 else "float32"
        about = {"set": self.set, "size": self.size, "batch": self.batch, "device": where, "dtype": dtype}
        about |= {"clock": "processor" if self.processor else "wall"}
        print(json.dumps({"what": what, **about, "torch": torch.__version__, **figures}), flush=True)

    def seconds(self, *works: Callable[[], Any]) -> list[float]:
        """Return the median time of each work, done in turns."""
        found: list[list[float]] = [[] for _ in works]
        clock = time.process_time if self.processor else time.perf_counter
        for i in range(self.repeats + 1):
            for times, work in zip(found, works, strict=True):
                if self.device == "cuda":
                    torch.cuda.synchronize()
                start = clock()
                work()
                if self.device == "cuda":
                    torch.cuda.synchronize()
                if i > 0:  # the first time warms up
                    times.append(clock() - start)
        return [sorted(times)[len(times) // 2] for times in found]

    @torch.no_grad()
    def run(self) -> None:
        """Print all figures."""
        torch.manual_seed(0)
        torch.set_num_threads(self.threads)
        theirs = None if self.reference is None else authors(self.reference, self)
        if theirs is None:
            ours = Generator(train_config(self.set, self.size).generator).to(self.device).eval()
            codes = ours.sample(self.batch, torch.Generator().manual_seed(0))
        else:
            ours, codes = imported(theirs, self)
        ours.precision = torch.bfloat16 if self.bf16 else torch.float32

        def volume() -> tuple[Tensor, Tensor]:
            w = ours.styles(codes)
            return ours.object_features(codes, w).features, ours.background_features(codes, w)

        works = {"volume stage": volume, "whole picture": lambda: ours(codes).image}
        for name, work in works.items():
            with FlopCounterMode(display=False) as counter:
                work()
            flops = counter.get_total_flops() / self.batch / 1e9
            if theirs is None:
                [mine] = self.seconds(work)
                self.say(name, gflop=flops, ms=1000 * mine, pictures_per_second=self.batch / mine)
                continue
            model, rep = theirs
            their = their_work(model, rep, name, ours.config.default_inject_index)
            with FlopCounterMode(display=False) as counter:
                their()
            mine, other = self.seconds(work, their)
            self.say(
                name,
                gflop=flops,
                ms=1000 * mine,
                pictures_per_second=self.batch / mine,
                reference_gflop=counter.get_total_flops() / self.batch / 1e9,
                reference_ms=1000 * other,
                times_faster=other / mine,
                difference=difference(work(), their()),
            )


@torch.no_grad()
def authors(clone: Path, args: Volume, *, density: float = 20.0) -> tuple[Any, list[Tensor]]:
    """Return the authors' generator with random weights, and codes in their form.

    The density's weights are multiplied by `density`, so that there is something to see in an untrained volume.
    """
    sys.path.insert(0, str(clone))
    if args.device != "cuda" or shutil.which("nvcc") is None:
        sys.modules |= {"op": stand_in(), "op.conv2d_gradfix": stand_in().conv2d_gradfix}
    warnings.simplefilter("ignore")  # theirs are of 2021
    model = importlib.import_module("model").GIRAFFEHDGenerator(device=args.device, **settings(args))
    model.vol_generator.decoder.dense_layers.sigma_out.weight.mul_(density)
    return model.eval().to(args.device), [r.to(args.device) for r in model.get_rand_rep(args.batch)]


def settings(args: Volume) -> dict[str, Any]:
    """Return our config as the authors' arguments."""
    config = SETS[args.set].generator
    prior = config.prior
    return {
        "z_dim": config.z_dim,
        "z_dim_bg": config.z_dim_bg,
        "size": args.size,
        "resolution_vol": config.volume.resolution,
        "feat_dim": config.feat_dim,
        "range_u": list(prior.u),
        "range_v": list(prior.v),
        "fov": prior.fov,
        "scale_range_min": list(prior.scale_min),
        "scale_range_max": list(prior.scale_max),
        "translation_range_min": list(prior.translation_min),
        "translation_range_max": list(prior.translation_max),
        "rotation_range": list(prior.rotation),
        "bg_translation_range_min": list(prior.background_translation_min),
        "bg_translation_range_max": list(prior.background_translation_max),
        "bg_rotation_range": list(prior.background_rotation),
        "grf_use_mlp": config.grf_use_mlp,
        "pos_share": config.pos_share,
        "fg_gen_mask": config.fg_gen_mask,
    }


def imported(theirs: tuple[Any, list[Tensor]], args: Volume) -> tuple[Generator, Codes]:
    """Return our generator with the authors' weights, and their codes in our form."""
    model, rep = theirs
    arguments = settings(args)
    arguments["res_vol"] = arguments.pop("resolution_vol")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "authors.pt"
        torch.save({"g_ema": model.state_dict(), "args": argparse.Namespace(**arguments)}, path)
        ours = read(path).to(args.device)
    z_s_fg, z_a_fg, z_s_bg, z_a_bg, u, v, radius, scale, translation, rotation = rep
    codes = Codes(
        z_s_fg=z_s_fg,
        z_a_fg=z_a_fg,
        z_s_bg=z_s_bg,
        z_a_bg=z_a_bg,
        azimuth=2 * math.pi * u[:, 0],
        elevation=elevation_of(v[:, 0]),
        radius=radius[:, 0],
        scale=scale,
        translation=translation,
        rotation=2 * math.pi * rotation[:, 0],
    )
    return ours, codes


def their_work(model: Any, rep: list[Tensor], what: str, inject_index: int) -> Callable[[], Any]:
    """Return the authors' way to do the same."""

    def volume() -> tuple[Tensor, Tensor]:
        w = [model.styles[i // 2](z) for i, z in enumerate(rep[:4])]
        fg = model.vol_generator([*w, *rep[4:]], mode="eval", not_render_background=True)
        return fg, model.vol_generator([*w, *rep[4:]], mode="eval", only_render_background=True)

    if what == "volume stage":
        return volume
    return lambda: model(list(rep), inject_index=inject_index, mode="eval")[0]


def stand_in() -> Any:
    """Return the authors' `op` package without compiled code."""

    def fused_leaky_relu(x: Tensor, bias: Tensor | None = None) -> Tensor:
        x = x if bias is None else x + bias.view(1, -1, *[1] * (x.ndim - 2))
        return F.leaky_relu(x, 0.2) * math.sqrt(2)

    class FusedLeakyReLU(nn.Module):
        def __init__(self, channels: int, bias: bool = True) -> None:
            super().__init__()
            self.bias = nn.Parameter(torch.zeros(channels)) if bias else None

        def forward(self, x: Tensor) -> Tensor:
            return fused_leaky_relu(x, self.bias)

    def resample(x: Tensor, kernel: Tensor, up: int = 1, down: int = 1, pad: tuple[int, int] = (0, 0)) -> Tensor:
        return upfirdn2d(x, kernel, up=up, down=down, pad=pad)

    module: Any = types.ModuleType("op")
    module.FusedLeakyReLU, module.fused_leaky_relu, module.upfirdn2d = FusedLeakyReLU, fused_leaky_relu, resample
    gradfix: Any = types.ModuleType("op.conv2d_gradfix")
    gradfix.conv2d, gradfix.conv_transpose2d = F.conv2d, F.conv_transpose2d
    module.conv2d_gradfix = gradfix
    return module


def difference(ours: Any, theirs: Any) -> float:
    """Return the largest root mean square difference over the standard deviation of theirs."""
    pairs = zip(ours, theirs, strict=True) if isinstance(ours, tuple) else [(ours, theirs)]
    return max(float((a.float() - b).square().mean().sqrt() / b.std()) for a, b in pairs)


if __name__ == "__main__":
    tyro.cli(Volume).run()
