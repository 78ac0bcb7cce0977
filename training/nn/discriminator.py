"""A discriminator of whole pictures that also predicts the pose, and is conditional on it (PoF3D Sec. 3.3)."""

from itertools import pairwise

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from training.nn.layers import ActivatedConv2d, EqualLinear, MinibatchStddev
from training.types import Image


def check_levels(channels: tuple[int, ...], side: int, name: str) -> None:
    """Raise ValueError unless `Features` of these channels end at 4 pixels for pictures of `side`; `name` is the option
    of the channels."""
    if len(channels) < 2 or 4 * 2 ** len(channels) != side:
        raise ValueError(
            f"{name} has {len(channels)} levels, pictures of {side} pixels need {max(2, side.bit_length() - 3)}: each "
            f"halves them, down to 4"
        )


class Features(nn.Module):
    """Convolutions from a picture down to 4 x 4, then a vector as long as the last of `channels`.

    `channels` are those at half the picture's side and each halving after. With `deviation`, the minibatch standard
    deviation is appended.
    """

    def __init__(self, channels: tuple[int, ...], *, deviation: bool = False) -> None:
        super().__init__()
        first, *_, last = channels
        self.read = ActivatedConv2d(12, first, 3)
        self.levels = nn.ModuleList(
            nn.ModuleList([ActivatedConv2d(i, i, 3), ActivatedConv2d(i, o, 3)]) for i, o in pairwise(channels)
        )
        self.stddev = MinibatchStddev() if deviation else nn.Identity()
        self.mix = ActivatedConv2d(last + deviation, last, 3)
        self.flat = EqualLinear(last * 16, last, activate=True)

    def maps(self, image: Float[Tensor, "n 3 h w"]) -> list[Float[Tensor, "n _ _ _"]]:
        """Return the feature maps at half the picture's side and each halving after."""
        x = self.read(F.pixel_unshuffle(image, 2).contiguous(memory_format=torch.channels_last))
        seen = [x]
        for keep, widen in self.levels:  # type: ignore[misc]
            x = widen(F.avg_pool2d(keep(x), 2))
            seen.append(x)
        return seen

    def vector(self, image: Float[Tensor, "n 3 h w"]) -> Float[Tensor, "n last"]:
        """Return a feature vector for each picture."""
        return self.flat(self.mix(self.stddev(self.maps(image)[-1])).flatten(1).float())


class Discriminator(Features):
    """A logit, the pose (`pose_dim` numbers, with `turns` the first two a direction), and a logit given the pose."""

    def __init__(self, channels: tuple[int, ...], pose_dim: int = 0, *, turns: bool = True) -> None:
        super().__init__(channels, deviation=True)
        last = channels[-1]
        self.score = EqualLinear(last, 1)
        self.pose_dim, self.turns = pose_dim, turns
        if pose_dim:
            self.pose = EqualLinear(last, pose_dim)
            self.given = EqualLinear(pose_dim, last)

    def forward(self, image: Image, condition: float = 0.0) -> tuple[Float[Tensor, " n"], Float[Tensor, "n pose_dim"]]:
        """Return logits (high: real) and the predicted pose.

        `condition` in [0, 1] is the weight of the part of the logit that is conditional on the predicted pose.
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
    """Return poses with every number clamped to +-`most`; with `turns`, the first two normalised to a direction."""
    if not turns:
        return pose.clamp(-most, most)
    return torch.cat([F.normalize(pose[:, :2], dim=1), pose[:, 2:].clamp(-most, most)], 1)
