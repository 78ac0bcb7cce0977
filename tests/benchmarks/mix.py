"""Speed of the published MixNMatch mixing four photos, on given photos in memory: one JSON line a mode.

python -m tests.benchmarks.mix [--device cuda] [--reference CLONE_OF_THE_AUTHORS_PROGRAM]

With `--reference`, what the authors' `eval.py` computes between loading and saving runs in turns with ours, on the
same weights and photos, and the ratio and the difference of the pictures are printed too.
"""

import importlib
import sys
import tempfile
import types
import warnings
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import torch
import tyro
from torch import Tensor, nn

from mixnmatch.paper.generator import Generator
from mixnmatch.paper.official import read
from mixnmatch.paper.presets import CUB
from tests.benchmarks.rows import say, timed


@dataclass(frozen=True, kw_only=True)
class Mix:
    """Time the published MixNMatch."""

    device: Literal["cuda", "cpu"] = "cpu"
    threads: int = 2
    repeats: int = 9
    reference: Path | None = None
    """A clone of github.com/Yuheng-Li/MixNMatch."""

    @torch.no_grad()
    def run(self) -> None:
        """Print all figures."""
        torch.manual_seed(0)
        torch.set_num_threads(self.threads)
        pose, background, shape, texture = (torch.rand(1, 3, 128, 128, device=self.device) * 2 - 1 for _ in range(4))
        theirs = None if self.reference is None else authors(self.reference, self.device)
        ours = (Generator(CUB.generator) if theirs is None else imported(*theirs)).to(self.device).eval()

        def mix(mode: str) -> Tensor:
            behind = ours.encode(background, factors=("background",))
            codes = replace(
                behind,
                p=behind.p if mode == "feature" else ours.encode(shape, factors=("shape",)).p,
                z=behind.z if mode == "feature" else ours.encode(pose, factors=("pose",)).z,
                c=ours.encode(texture, factors=("texture",)).c,
            )
            return ours(codes, feature=ours.shape_feature(shape) if mode == "feature" else None).image

        def their_mix(mode: str) -> Tensor:
            assert theirs is not None
            painter, encoder, extractor = theirs
            z_1, b, _, _ = encoder(background, "softmax")
            c = encoder(texture, "softmax")[3]
            if mode == "feature":
                return painter(z_1, None, c, extractor(shape), b, "feature")[0][2]
            z_2, p = encoder(pose, "softmax")[0], encoder(shape, "softmax")[2]
            return painter(z_1, z_2, c, p, b, "code")[0][2]

        for mode in ("code", "feature"):
            works: list[Callable[[], Any]] = [lambda m=mode: mix(m)]
            if theirs is not None:
                works.append(lambda m=mode: their_mix(m))
            times = timed(*works, device=self.device, repeats=self.repeats)
            figures = {"ms": 1000 * times[0].wall, "cpu_ms": 1000 * times[0].cpu}
            if theirs is not None:
                a, b = mix(mode), their_mix(mode)
                figures |= {
                    "reference_ms": 1000 * times[1].wall, "reference_cpu_ms": 1000 * times[1].cpu,
                    "times_faster": times[1].wall / times[0].wall, "times_less_cpu": times[1].cpu / times[0].cpu,
                    "difference": float((a - b).square().mean().sqrt() / b.std()),
                }  # fmt: skip
            say(f"published MixNMatch, mix of four photos, {mode} mode", self.device, torch.float32, 1, **figures)


def authors(clone: Path, device: str) -> tuple[nn.Module, nn.Module, nn.Module]:
    """Return the authors' generator, encoder and feature extractor with random weights, ready to evaluate."""
    sys.path.insert(0, str(clone / "code"))
    sizes = types.SimpleNamespace(
        SUPER_CATEGORIES=20, FINE_GRAINED_CATEGORIES=200,
        GAN=types.SimpleNamespace(Z_DIM=100, GF_DIM=64, DF_DIM=64, R_NUM=2),
    )  # fmt: skip
    sys.modules["config"] = types.SimpleNamespace(cfg=sizes)  # type: ignore[assignment]  # theirs wants packages of its own
    warnings.simplefilter("ignore")  # theirs are of 2020
    model = importlib.import_module("model_eval")
    networks = model.G_NET(), model.Encoder(), model.FeatureExtractor(3, 16)
    painter, encoder, extractor = (network.eval().to(device) for network in networks)
    return painter, encoder, extractor


def imported(painter: nn.Module, encoder: nn.Module, extractor: nn.Module) -> Generator:
    """Return our generator with the authors' weights."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / name for name in ("G.pth", "E.pth", "EX.pth")]
        for path, network in zip(paths, (painter, encoder, extractor), strict=True):
            torch.save({f"module.{key}": tensor for key, tensor in network.state_dict().items()}, path)
        return read(*paths)


if __name__ == "__main__":
    tyro.cli(Mix).run()
