"""The pose reader of a generator: rotation, elevation, size and place of the object, read from one picture.

It is the trunk and the pose head of the discriminator that the generator was trained with (InfoGAN, Chen et al. 2016),
without the statistics over a batch, so that a picture is read alike whatever lies beside it.
"""

import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from giraffe_hd.fast.config import PoseConfig
from giraffe_hd.fast.prior import uncentred
from training.checkpoint import load_model
from training.nn.discriminator import Features, check_levels
from training.nn.layers import EqualLinear
from training.resize import resized
from training.types import Image, Model

LEAST_SLOPE = 0.1
"""What is read with less than this slope is not calibrated: it would be noise, enlarged."""
FOLDER = "readers"
"""Folder beside generator files that holds their readers, under the same names."""


@dataclass(frozen=True, kw_only=True, slots=True)
class ReaderConfig:
    """What a reader is built from."""

    resolution: int = 64
    """Side of the pictures that it reads; others are resized."""
    channels: tuple[int, ...] = (64, 96, 160, 224)
    """Those of the discriminator that it was made of."""
    pose: PoseConfig = field(default_factory=PoseConfig)
    """The prior that its readings are relative to."""

    def __post_init__(self) -> None:
        check_levels(self.channels, self.resolution, "channels")


class PoseRead(NamedTuple):
    """What was read, a row a picture; angles in radians, lengths in world units, as in `giraffe_hd.codes.Codes`."""

    rotation: Float[Tensor, " n"]
    elevation: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    """Half the object's length."""
    y: Float[Tensor, " n"]
    """To the right in the picture."""
    z: Float[Tensor, " n"]
    """Up."""
    certainty: Float[Tensor, " n"]
    """Length of the direction that was read: near 1 where the rotation is clear, near 0 where it could be any."""


class PoseReader(Model):
    """Convolutions down to 4 x 4, a vector, six numbers (`giraffe_hd.fast.prior.pose_targets`)."""

    family = "giraffe_hd_reader"
    config: ReaderConfig

    def __init__(self, config: ReaderConfig) -> None:
        super().__init__()
        self.config = config
        self.trunk = Features(config.channels)
        self.pose = EqualLinear(config.channels[-1], 6)

    @property
    def resolution(self) -> int:
        """Side of the pictures that it reads in pixels."""
        return self.config.resolution

    def forward(self, image: Image) -> Float[Tensor, "n 6"]:
        """Return sin and cos of the rotation seen, elevation, log scale, y and z, the ends of the prior at -1 and 1."""
        return self.pose(self.trunk.vector(resized(image, self.resolution))).float()

    @torch.no_grad()
    def read(self, image: Image) -> PoseRead:
        """Return the poses in pictures of any side."""
        return pose_read(self(image), self.config.pose)


def pose_read(read: Float[Tensor, "n 6"], pose: PoseConfig) -> PoseRead:
    """Return the pose that `giraffe_hd.fast.prior.pose_targets` makes these numbers of; its inverse."""
    low, high = (math.log(v) for v in pose.scale)
    return PoseRead(
        rotation=torch.atan2(read[:, 0], read[:, 1]) - math.radians(sum(pose.azimuth) / 2),
        elevation=uncentred(read[:, 2], pose.elevation).deg2rad(),
        scale=uncentred(read[:, 3], (low, high)).exp(),
        y=uncentred(read[:, 4], pose.y),
        z=uncentred(read[:, 5], pose.z),
        certainty=read[:, :2].norm(dim=1),
    )


@torch.no_grad()
def reader_from_discriminator(weights: Mapping[str, Tensor], pose: PoseConfig, deviation: float = 0.0) -> PoseReader:
    """Return the reader in a discriminator's weights (`training.nn.discriminator.Discriminator`).

    The map of the batch's `deviation` becomes part of a bias: what the layer after it added for a typical batch.

    Raises: ValueError if the weights have no pose head.
    """
    if "pose.weight" not in weights or "read.weight" not in weights:
        raise ValueError("this discriminator reads no poses; give a run of a fast GIRAFFE HD preset")
    levels = sorted({int(name.split(".")[1]) for name in weights if name.startswith("levels.")})
    channels = (len(weights["read.weight"]), *(len(weights[f"levels.{i}.1.weight"]) for i in levels))
    reader = PoseReader(ReaderConfig(resolution=4 * 2 ** len(channels), channels=channels, pose=pose))
    state = {f"trunk.{name}": w for name, w in weights.items() if name.split(".")[0] in ("read", "levels", "flat")}
    state |= {name: w for name, w in weights.items() if name.startswith("pose.")}
    mix, last = weights["mix.weight"].float(), channels[-1]
    scale = 1 / math.sqrt(mix.shape[1] * 9)  # of equalised layers, which depends on their inputs
    state["trunk.mix.weight"] = mix[:, :last] * (scale * math.sqrt(last * 9))
    state["trunk.mix.bias"] = weights["mix.bias"].float() + deviation * scale * mix[:, last:].sum((1, 2, 3))
    reader.load_state_dict(state)
    return reader.requires_grad_(False).eval()


@torch.no_grad()
def calibrate(reader: PoseReader, read: Float[Tensor, "n 6"], target: Float[Tensor, "n 6"]) -> None:
    """Make readings right on average at each pose, in place: E[reading | pose] = pose, where it was a + b pose.

    What learns by squared errors reads E[pose | picture], nearer the middle of the prior the less a picture tells:
    b is the share of the variance that it explains. Readings of different objects then differ less than the objects.
    The price is squared errors 1 / b times as large. The rotation of a prior that goes round is left as it is: sin and
    cos shrink alike, and their angle does not.

    `read` and `target` are the reader's numbers and `giraffe_hd.fast.prior.pose_targets` of the same pictures.
    """
    rows = range(2, 6) if _goes_round(reader.config.pose) else (0, *range(2, 6))
    pose = reader.pose
    for row in rows:
        x, y = target[:, row].double(), read[:, row].double()
        b, _ = line(x, y)
        if b > LEAST_SLOPE:
            pose.weight[row] /= b
            pose.bias[row] = (pose.bias[row] - float(y.mean() - b * x.mean()) / pose.lr_mul) / b


def line(x: Float[Tensor, " n"], y: Float[Tensor, " n"]) -> tuple[float, float]:
    """Return the least-squares slope of y on x, and the squared correlation; 0 and 0 where x stands still."""
    x, y = x.double() - x.double().mean(), y.double() - y.double().mean()
    both, spread = (x * y).mean(), x.square().mean()
    return (float(both / spread), float(both.square() / (spread * y.square().mean()))) if spread > 0 else (0.0, 0.0)


def _goes_round(pose: PoseConfig) -> bool:
    """Return whether sides are seen that are half a turn or more apart."""
    return sum(high - low for low, high in (pose.rotation, pose.azimuth)) >= 180


@torch.no_grad()
def relative_to(reader: PoseReader, pose: PoseConfig) -> PoseReader:
    """Return a reader whose numbers are relative to another prior, -1 and 1 at its ends; the poses read stay the same.

    A reader that is trained on for a generator of another prior would otherwise learn numbers that it takes for others.
    Where either prior has a span without width, what is read there starts at its middle.
    """
    before = reader.config.pose
    found = PoseReader(replace(reader.config, pose=pose)).to(reader.device)
    found.load_state_dict(reader.state_dict())
    logs = [tuple(math.log(v) for v in each.scale) for each in (before, pose)]
    spans = {2: (before.elevation, pose.elevation), 3: tuple(logs), 4: (before.y, pose.y), 5: (before.z, pose.z)}
    for row, (old, new) in spans.items():
        half = (new[1] - new[0]) / 2
        gain = (old[1] - old[0]) / 2 / half if half > 0 else 0.0
        found.pose.weight[row] *= gain
        found.pose.bias[row] *= gain
        found.pose.bias[row] += (sum(old) - sum(new)) / 2 / half if half > 0 and gain > 0 else 0.0
    return found.to(memory_format=torch.channels_last).requires_grad_(False).eval()  # type: ignore[call-overload]


def reader_path(checkpoint: Path) -> Path | None:
    """Return where the reader of a generator file lies: readers/NAME or reader.safetensors beside it; None if not."""
    places = (checkpoint.parent / FOLDER / checkpoint.name, checkpoint.parent / "reader.safetensors")
    return next((path for path in places if path.is_file()), None)


def load_reader(path: Path, device: str | torch.device = "cpu") -> PoseReader:
    """Return the reader that a file holds. Raises: training.checkpoint.CheckpointError, ValueError if it is none."""
    reader = load_model(path, device)
    if not isinstance(reader, PoseReader):
        raise ValueError(f"{path.name} holds a {reader.family}; expected a pose reader of `giraffe_hd train-reader`")
    return reader.to(memory_format=torch.channels_last)  # type: ignore[call-overload]


def about(config: ReaderConfig) -> dict[str, object]:
    """Return a config as plain values, for a card."""
    return asdict(config)
