"""A toy generator and small networks that the distances are tested on."""

import warnings
from dataclasses import dataclass
from pathlib import Path

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.metrics.fid import drawn
from training.pictures import to_pil
from training.types import Generator, Image, Knob


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyCodes:
    z: Float[Tensor, "n 8"]


@dataclass(frozen=True, kw_only=True, slots=True)
class ToyLayers:
    image: Image


class Toy(Generator):
    """Eight numbers in, a smooth 16 px picture out."""

    family = "toy"
    resolution = 16  # type: ignore[assignment]

    def __init__(self, contrast: float = 0.3) -> None:
        super().__init__()
        rng = torch.Generator().manual_seed(1)
        self.basis = nn.Parameter(contrast * torch.randn(8, 3, 16, 16, generator=rng))

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return ()

    def sample(self, n: int, rng: torch.Generator) -> ToyCodes:
        return ToyCodes(z=torch.randn(n, 8, generator=rng))

    def set(self, codes: ToyCodes, name: str, value: object) -> ToyCodes:
        raise ValueError(f"no knob {name!r}")

    def forward(self, codes: ToyCodes) -> ToyLayers:
        return ToyLayers(image=torch.tanh(torch.einsum("nk,kchw->nchw", codes.z, self.basis)))


class SmallNetwork(nn.Module):
    """Random convolutions and a mean: n x 3 x h x w -> n x d."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 8, 5, stride=4), nn.ReLU(), nn.Conv2d(8, dim, 3, stride=2), nn.ReLU(), nn.AdaptiveAvgPool2d(1)
        )

    def forward(self, x: Tensor) -> Tensor:
        return self.layers(x).flatten(1)


def scripted(network: nn.Module, path: Path) -> Path:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated; the published Inception is TorchScript all the same
        torch.jit.save(torch.jit.script(network.eval()), path)
    return path


def prepared(folder: Path, n: int, *, seed: int = 5, split: str = "train") -> Path:
    """Write a prepared set of `n` of the toy's pictures, a little paler."""
    (folder / "images").mkdir(parents=True)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    pictures = torch.cat(list(drawn(Toy(0.2), n, seed=seed)))
    for i, picture in enumerate(to_pil(pictures)):
        picture.save(folder / "images" / f"{i:04}.png")
        lines.append(f"{i:04}.png,{split},toy,16,16,2,2,14,14")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return folder


class RandomInception(nn.Module):
    """The interface of the published file: `layers` turns 299 px pictures in [-1, 1] into 2048 features."""

    def __init__(self) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(3, 32, 24, stride=18), nn.ReLU(), nn.Conv2d(32, 128, 4, stride=3), nn.ReLU(), nn.Flatten(),
            nn.AdaptiveAvgPool1d(2048),
        )  # fmt: skip

    def forward(self, x: Tensor, return_features: bool = True) -> Tensor:
        return self.layers(x)
