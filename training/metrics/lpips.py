"""LPIPS distance between pictures, and the diversity that each code brings (Zhang et al. 2018)."""

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.batched import rows
from training.files import file_sha256
from training.metrics.knobs import redraw
from training.metrics.weights import WeightsMissingError
from training.types import Generator, Image

TRUNK = "alexnet-owt-7be5be79.pth"
"""LPIPS's trunk as torchvision names it; LPIPS's own layers on top come with its package."""
SMALLEST = 64
"""Smaller pictures are enlarged to this side, as the trunk's last map of a 32 px picture has only one cell."""

Distance = Callable[[Image, Image], Float[Tensor, " n"]]


class Lpips(nn.Module):
    """LPIPS with AlexNet, the package's default: two batches of pictures in [-1, 1] to one distance a pair."""

    def __init__(self, weights: Path | None = None) -> None:
        """Load the trunk from `weights` (torchvision's AlexNet), from torch's cache folder, or by download.

        Raises: WeightsMissingError if it is not available; ValueError if `weights` is another file.
        """
        super().__init__()
        import lpips

        path = weights or Path(torch.hub.get_dir()) / "checkpoints" / TRUNK
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # lpips 0.1.4 asks torchvision for weights by an older argument
            if path.is_file():
                self.network = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False)
                self._fill(path)
            elif weights is not None:
                raise ValueError(f"no file {weights}: torchvision's AlexNet ({TRUNK}) was expected there")
            else:
                self.network = self._downloaded()
        self.requires_grad_(False).eval()
        self.name = "LPIPS" if path.is_file() and file_sha256(path).startswith("7be5be79") else f"LPIPS-{path.stem}"

    def _downloaded(self) -> Any:
        import lpips

        try:
            return lpips.LPIPS(net="alex", verbose=False)
        except OSError as problem:
            reason = getattr(problem, "reason", problem)
            raise WeightsMissingError(
                f"LPIPS's trunk {TRUNK} is not in torch's cache folder and cannot be downloaded ({reason}). "
                f"Fetch https://download.pytorch.org/models/{TRUNK} elsewhere and pass it with --lpips-weights FILE, "
                f"or put it into $TORCH_HOME/hub/checkpoints."
            ) from None

    def _fill(self, path: Path) -> None:
        """Put torchvision's AlexNet into LPIPS's trunk, whose slices keep torchvision's numbers of layers."""
        try:
            state = torch.load(path, weights_only=True, map_location="cpu")
            trunk = self.network.net
            trunk.load_state_dict({k: state[f"features.{k.split('.', 1)[1]}"] for k in trunk.state_dict()})
        except Exception as problem:  # a damaged file may raise pickle, zip, key and size errors
            raise ValueError(f"{path} does not hold torchvision's AlexNet: {str(problem).splitlines()[0]}") from None

    @torch.inference_mode()
    def forward(self, a: Image, b: Image) -> Float[Tensor, " n"]:
        """Return the distance of each pair, on the device of `a`."""
        there, device = a.device, next(self.network.parameters()).device
        a, b = a.to(device), b.to(device)
        if min(a.shape[2:]) < SMALLEST:
            a, b = (interpolate(x, (SMALLEST, SMALLEST), mode="bilinear", align_corners=False) for x in (a, b))
        return self.network(a.float(), b.float()).flatten().to(there)


@torch.inference_mode()
def diversity(generator: Generator, distance: Distance, *, n: int = 128, seed: int = 0) -> dict[str, float]:
    """Return, for each seed knob, the mean distance of pictures that differ in its code alone; `all`: in every code."""
    rng = torch.Generator().manual_seed(seed)
    base = generator.sample(n, rng)
    others = {knob.name: redraw(generator, base, knob, rng) for knob in generator.knobs if knob.kind == "seed"}
    others["all"] = generator.sample(n, rng)
    result: dict[str, float] = {}
    for name, codes in others.items():
        parts = [
            distance(generator(rows(base, part)).image, generator(rows(codes, part)).image).cpu()
            for part in (slice(start, start + 32) for start in range(0, n, 32))
        ]
        result[name] = float(torch.cat(parts).mean())
    return result
