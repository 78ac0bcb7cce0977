"""A discriminator of whole pictures that also reads the pose, and compares pictures of like pose (PoF3D Sec. 3.3)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.nn.layers import EqualConv2d, EqualLinear, MinibatchStddev, leaky
from training.types import Image


def check_levels(channels: tuple[int, ...], side: int, name: str) -> None:
    """Raise ValueError, saying what to do, if `Features` of these channels do not end at 4 pixels for pictures of
    `side`; `name` is the option that gives the channels."""
    if len(channels) < 2 or 4 * 2 ** len(channels) != side:
        raise ValueError(
            f"{name} has {len(channels)} levels, pictures of {side} pixels need {max(2, side.bit_length() - 3)}: each "
            f"halves them, down to 4"
        )


class Features(nn.Module):
    """Convolutions from a picture down to 4 x 4, then a vector as long as the last of `channels`.

    `channels` are those at half the picture's size and each halving after. With `deviation`, how far the pictures of a
    batch differ is seen too.
    """

    def __init__(self, channels: tuple[int, ...], *, deviation: bool = False) -> None:
        super().__init__()
        first, *_, last = channels
        self.read = EqualConv2d(12, first, 3)
        self.levels = nn.ModuleList(
            nn.ModuleList([EqualConv2d(i, i, 3), EqualConv2d(i, o, 3)]) for i, o in pairwise(channels)
        )
        self.stddev = MinibatchStddev() if deviation else nn.Identity()
        self.mix = EqualConv2d(last + deviation, last, 3)
        self.flat = EqualLinear(last * 16, last, activate=True)

    def maps(self, image: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return what is seen at half the picture's size and each halving after."""
        x = leaky(self.read(F.pixel_unshuffle(image, 2).contiguous(memory_format=torch.channels_last)))
        seen = [x]
        for keep, widen in self.levels:  # type: ignore[misc]
            x = leaky(widen(F.avg_pool2d(leaky(keep(x)), 2)))
            seen.append(x)
        return seen

    def vector(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n last"]:
        """Return what is seen of each picture."""
        return self.flat(leaky(self.mix(self.stddev(self.maps(image)[-1]))).flatten(1).float())


class Discriminator(Features):
    """A score, the pose, and a score given the pose; `pose_dim` numbers are read, the first two, where things turn, a
    direction."""

    def __init__(self, channels: tuple[int, ...], pose_dim: int = 0, *, turns: bool = True) -> None:
        super().__init__(channels, deviation=True)
        last = channels[-1]
        self.score = EqualLinear(last, 1)
        self.pose_dim, self.turns = pose_dim, turns
        if pose_dim:
            self.pose = EqualLinear(last, pose_dim)
            self.given = EqualLinear(pose_dim, last)

    def forward(self, image: Image, condition: float = 0.0) -> tuple[Float[Tensor, " n"], Float[Tensor, "n pose_dim"]]:
        """Return logits (high: real) and the pose read from the picture.

        `condition` in [0, 1] weighs how far the logit is a comparison among pictures of the pose read.
        """
        h = self.vector(image)
        logit = self.score(h)[:, 0]
        if not self.pose_dim:
            return logit, h[:, :0]
        pose = self.pose(h)
        if condition > 0:
            read = bounded(pose.detach(), 1.5, turns=self.turns)  # of reals and fakes alike, as the head reads them
            logit = logit + condition * (self.given(read) * h).mean(1)
        return logit, pose


def bounded(pose: Float[Tensor, "n pose_dim"], most: float, *, turns: bool) -> Float[Tensor, "n pose_dim"]:
    """Return poses as read with every number within +-`most`; where things turn, the first two as a direction."""
    if not turns:
        return pose.clamp(-most, most)
    return torch.cat([F.normalize(pose[:, :2], dim=1), pose[:, 2:].clamp(-most, most)], 1)
