"""The photo encoder: which codes and which pose a photo shows, so that training can reconstruct it (VAE/GAN, Larsen et
al. 2016).

It serves training alone. Rows of a batch are generated from what it reads; comparing them with their photos tells the
generator what an object is made of, which a discriminator alone takes many more pictures to tell.
"""

from typing import NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor, nn

from giraffe_hd.codes import Codes
from giraffe_hd.fast.config import GeneratorConfig, PoseConfig
from giraffe_hd.fast.prior import uncentred
from giraffe_hd.fast.reader import pose_read
from training.nn.discriminator import Features
from training.nn.layers import EqualLinear
from training.runtime.sharded_random import randn
from training.types import Image

START = -4.0
"""Log variance of an untrained encoder: at 0, the noise hides what it reads, and the codes stay unused."""
LATENT: tuple[str, ...] = ("z_s_fg", "z_a_fg", "z_s_bg", "z_a_bg")


class Reading(NamedTuple):
    """What the encoder reads, a row a photo."""

    pose: Float[Tensor, "n 6"]
    """As `giraffe_hd.fast.prior.pose_targets`."""
    mean: Float[Tensor, "n four_z"]
    """Of the normal distribution of the four latent codes, one after the other."""
    log_variance: Float[Tensor, "n four_z"]


class PhotoEncoder(nn.Module):
    """Convolutions down to 4 x 4, a vector, then pose, mean and variance of the codes."""

    def __init__(self, config: GeneratorConfig, channels: tuple[int, ...]) -> None:
        super().__init__()
        self.config = config
        self.trunk = Features(channels)
        self.pose = EqualLinear(channels[-1], 6)
        self.mean = EqualLinear(channels[-1], len(LATENT) * config.z_dim)
        self.log_variance = EqualLinear(channels[-1], len(LATENT) * config.z_dim)

    def forward(self, image: Image) -> Reading:
        """Return what photos show."""
        h = self.trunk.vector(image)
        log_variance = self.log_variance(h).float() + START
        return Reading(self.pose(h).float(), self.mean(h).float(), log_variance.clamp(-8, 2))

    def codes(self, read: Reading, rng: torch.Generator | None = None) -> Codes:
        """Return codes drawn from what was read (VAE Eq. 4), without `rng` their means; poses are kept inside the
        prior. Differentiable."""
        latent = read.mean
        if rng is not None:
            latent = latent + randn(*latent.shape, rng=rng).to(latent.device) * (read.log_variance / 2).exp()
        parts = dict(zip(LATENT, latent.chunk(len(LATENT), 1), strict=True))
        return Codes(**parts, **pose_of(read.pose, self.config.pose))


def pose_of(read: Float[Tensor, "n 6"], pose: PoseConfig) -> dict[str, Tensor]:
    """Return the pose fields of `Codes` that a reading gives; what it does not tell is the middle of the prior."""
    seen = pose_read(torch.cat([read[:, :2], read[:, 2:].clamp(-1, 1)], 1), pose)
    n, (low, high) = len(read), (torch.deg2rad(read.new_tensor(end)) for end in pose.rotation)
    middle = {axis: uncentred(read.new_zeros(n), getattr(pose, axis)) for axis in ("azimuth", "x")}
    return {
        "azimuth": middle["azimuth"].deg2rad(),
        "elevation": seen.elevation,
        "radius": read.new_full((n,), pose.radius),
        "scale": seen.scale[:, None] * read.new_tensor(pose.proportions),
        "translation": torch.stack([middle["x"], seen.y, seen.z], -1),
        "rotation": seen.rotation if pose.rotation[1] - pose.rotation[0] >= 360 else seen.rotation.clamp(low, high),
    }
