"""Feature networks of FID and its relatives (Parmar et al. 2022): clean-fid's Inception, torchvision's MobileNetV2, or
any TorchScript file."""

import functools
import hashlib
import io
import logging
import platform
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, UInt8
from torch import Tensor, nn
from torch.nn.functional import interpolate

from training.devices import out_of_memory
from training.files import file_sha256, read_plain_file
from training.metrics.weights import WeightsMissingError, cache_dir, download, keep
from training.nn.backbone import MobileNetV2, load_backbone

log = logging.getLogger(__name__)

INCEPTION_URL = (
    "https://nvlabs-fi-cdn.nvidia.com/stylegan2-ada-pytorch/pretrained/metrics/inception-2015-12-05.pt"  # clean-fid's
)
INCEPTION_SHA256 = "f58cb9b6ec323ed63459aa4fb441fe750cfe39fafad6da5cb504a16f19e958f4"
MOST_INCEPTION = 200_000_000
"""Bytes of a file that may be it; it has half of them."""
INCEPTION_SIDE = 299
REMEDY = (
    "Fetch that file on a machine with internet and pass it with --weights FILE, or compare with any TorchScript "
    "network by --features FILE (the result is then called FD, not FID)."
)
TORCHVISION = Path("torchvision")
"""In place of a file's name: MobileNetV2 with torchvision's published weights, downloaded once."""
TORCHVISION_REMEDY = (
    "Put torchvision's mobilenet_v2-b0353104.pth from a machine with internet into ~/.cache/torch/hub/checkpoints, or "
    "give a TorchScript network by --features FILE."
)


@dataclass(frozen=True, kw_only=True, slots=True)
class Features:
    """A network from 8-bit pictures to feature vectors."""

    network: Any
    """A module, on the device that pictures are moved to."""
    device: torch.device
    inception: bool
    """Whether this is FID's own network with clean-fid's resize; any other sees [0, 1] at the pictures' size."""
    digest: str
    """SHA-256 of the network's file, so that statistics of different networks are never compared."""
    stem: str
    """Name of the network's file without its ending."""

    @property
    def frechet_name(self) -> str:
        """`FID` for Inception, else `FD-<stem>`."""
        return "FID" if self.inception else f"FD-{self.stem}"

    @property
    def kernel_name(self) -> str:
        """`KID` for Inception, else `KD-<stem>`."""
        return "KID" if self.inception else f"KD-{self.stem}"

    @property
    def dim(self) -> int:
        """Length of a feature vector."""
        return self(torch.zeros(1, 64, 64, 3, dtype=torch.uint8)).shape[1]

    @torch.inference_mode()
    def __call__(self, pictures: UInt8[Tensor, "n h w 3"]) -> Float[Tensor, "n d"]:
        """Return one float32 vector a picture, on the network's device."""
        # larger batches make a CPU spend half of its time on page faults
        parts = pictures.split(4) if self.device.type == "cpu" else (pictures,)
        return torch.cat([self._vectors(part.to(self.device).permute(0, 3, 1, 2).float()) for part in parts])

    def _vectors(self, pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n d"]:
        if self.inception:
            return self.network.layers(resize_clean(pixels).sub_(128).div_(128)).flatten(1).float()
        return self.network(pixels.div_(255)).flatten(1).float()


def resize_clean(pixels: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 3 299 299"]:
    """Return pictures resized for Inception: Pillow's bicubic on floats, without quantisation (clean-fid's 'clean')."""
    side = INCEPTION_SIDE
    wide = torch.cat([pixels[..., lo:hi] @ w.T for lo, hi, w in _bands(pixels.shape[3], side, pixels.device)], 3)
    tall = torch.cat([w @ wide[:, :, lo:hi] for lo, hi, w in _bands(pixels.shape[2], side, pixels.device)], 2)
    return tall.clamp_(0, 255)


@functools.lru_cache(maxsize=8)
def _bands(size: int, side: int, device: torch.device) -> list[tuple[int, int, Tensor]]:
    """Return the matrix that resizes a line of `size` pixels to `side`, cut into bands of rows and their few columns.

    Each band is its first and last column and a dense matrix: small matrix products take a third of the time of one
    large sparse one.
    """
    # antialias=True is Pillow's filter: support widened when shrinking, cubic with a = -0.5
    lines = torch.eye(size, dtype=torch.float64)[None, None]
    matrix = interpolate(lines, (side, size), mode="bicubic", antialias=True, align_corners=False)[0, 0]
    bands = []
    for rows in matrix.split(32):
        read = rows.abs().sum(0).nonzero().flatten()
        lo, hi = int(read[0]), int(read[-1]) + 1
        bands.append((lo, hi, rows[:, lo:hi].float().to(device)))
    return bands


def load_features(
    *, features: Path | None = None, weights: Path | None = None, device: torch.device | str = "cpu"
) -> Features:
    """Return the network to compare with, by default FID's Inception.

    `features` is any TorchScript file, a MobileNetV2 as a .tflite file, or `TORCHVISION`.

    Inception is looked for at `weights`, in this toolkit's cache and where clean-fid keeps its own; then downloaded.

    Raises: ValueError if a named file is missing or not TorchScript; WeightsMissingError if published weights are not
    available.
    """
    if features == TORCHVISION:
        return _torchvision(torch.device(device))
    if features is not None and features.suffix == ".tflite":
        return _mobilenet(load_backbone(features), features.stem, torch.device(device))
    path = features or weights or find_inception()
    if not path.is_file():
        raise ValueError(f"no file {path}: a TorchScript network was expected there")
    content = path.read_bytes()  # read once, so that the bytes that were checked are those that run
    digest = hashlib.sha256(content).hexdigest()
    if features is None and digest != INCEPTION_SHA256:
        if weights is None:
            raise ValueError(f"{path} is not the published Inception (its sha256 differs); remove it. {REMEDY}")
        log.warning("%s is not the published Inception: compare its FID only with FID by the same file", path)
    network = _load(path, content, torch.device(device))
    if features is None and not hasattr(network, "layers"):
        raise ValueError(f"{path} is not FID's Inception (it has no 'layers'); pass other networks with --features")
    return Features(
        network=network, device=torch.device(device), inception=features is None, digest=digest, stem=path.stem
    )


class PooledFeatures(nn.Module):
    """Pictures in [0, 1] -> the 1280 numbers under MobileNetV2's classifier, read at 224 px."""

    def __init__(self, backbone: MobileNetV2) -> None:
        super().__init__()
        self.backbone = backbone

    def forward(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n 1280"]:
        """Return one vector a picture."""
        image = interpolate(image, (224, 224), mode="bilinear", antialias=True, align_corners=False)
        return self.backbone(image * 2 - 1)


def _torchvision(device: torch.device) -> Features:
    """Return torchvision's MobileNetV2 as a feature network."""
    try:
        backbone = load_backbone()
    except ValueError as problem:
        raise WeightsMissingError(f"{str(problem).partition(';')[0]}. {TORCHVISION_REMEDY}") from None
    return _mobilenet(backbone, "mobilenet_v2_torchvision", device)


def _mobilenet(backbone: MobileNetV2, name: str, device: torch.device) -> Features:
    """Return a MobileNetV2 as a feature network; its digest is that of its weights."""
    digest = hashlib.sha256()
    for tensor in backbone.state_dict().values():
        digest.update(tensor.contiguous().numpy().tobytes())
    network = PooledFeatures(backbone).to(device).eval()
    return Features(network=network, device=device, inception=False, digest=digest.hexdigest(), stem=name)


def find_inception() -> Path:
    """Return the path of FID's Inception in the user's cache, from where clean-fid keeps its own or downloaded.

    A TorchScript file runs as a program, and a temporary folder is writable for all, so only the published file is
    accepted from there.
    """
    ours = cache_dir() / "inception-2015-12-05.pt"
    theirs = Path("." if platform.system() == "Windows" else "/tmp") / ours.name  # where clean-fid keeps it
    if not (ours.is_file() and file_sha256(ours) == INCEPTION_SHA256):
        try:
            content = read_plain_file(theirs, MOST_INCEPTION)
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() == INCEPTION_SHA256:
            return keep(ours, content)
        if content:
            log.warning("%s is not the published Inception and is left alone", theirs)
    return download(INCEPTION_URL, ours, digest=INCEPTION_SHA256, what="The Inception weights of FID", remedy=REMEDY)


def _load(path: Path, content: bytes, device: torch.device) -> Any:
    try:
        with warnings.catch_warnings():
            # the published Inception exists as TorchScript only, so its loader stays until torch drops it
            warnings.filterwarnings("ignore", message=".*torch.jit.load.* is deprecated", category=FutureWarning)
            warnings.filterwarnings("ignore", message=".*torch.jit.load.* is deprecated", category=DeprecationWarning)
            return torch.jit.load(io.BytesIO(content), map_location=device).eval()
    except RuntimeError as problem:
        if out_of_memory(problem):
            raise
        raise ValueError(f"{path} is not a TorchScript file: {str(problem).splitlines()[0]}") from None
