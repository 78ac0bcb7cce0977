"""Configs of the published MixNMatch (Sec. 3 and 4): its networks, its losses and its training."""

from dataclasses import dataclass, field
from typing import ClassVar

from training.config import DataConfig, LoopConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """Sizes of the generator, the encoders and the feature extractor; pictures are 128 x 128."""

    n_shapes: int = 20
    """N_p: shapes, the parent categories."""
    n_textures: int = 200
    """N_c: textures, the child categories."""
    n_backgrounds: int = 200
    """N_b: backgrounds; equal to N_c in the paper, where tied codes give each texture its own."""
    z_dim: int = 100
    """Length of the pose code z."""
    width: int = 64
    """Channel unit of G: 8 times this at 4 x 4, half of it at 128 x 128."""
    encoder_width: int = 64
    """Channels after the first layer of each encoder."""
    extractor_width: int = 32
    """Channels after the first layer of the feature extractor."""
    feature_mode: bool = True
    """Whether the feature extractor of the second stage is part of the model (Sec. 3.4)."""

    def __post_init__(self) -> None:
        for name in ("n_shapes", "n_textures", "n_backgrounds", "z_dim"):
            if not 1 <= getattr(self, name) <= 10_000:
                raise ValueError(f"{name} is {getattr(self, name)}; it must be from 1 to 10000")
        for name, unit in (("width", 4), ("encoder_width", 1), ("extractor_width", 1)):
            value = getattr(self, name)
            if not (unit <= value <= 1024 and value % unit == 0):
                raise ValueError(f"{name} is {value}; it must be a multiple of {unit} up to 1024")

    @property
    def feature_dim(self) -> int:
        """Channels of f, the parent feature."""
        return self.width // 4


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the published program's loss terms (symbols: `mixnmatch.paper.losses`); all others are 1."""

    background: float = 10
    """L_b: real against generated background patches, in D_b and in G."""
    gradient_penalty: float = 10
    """L_bi: WGAN-GP's penalty, on each of the eight gradients of the D_k."""
    z: float = 5
    """L_code: L1 error of E_z on pictures of free codes."""
    b: float = 5
    """L_code: cross entropy of E_b."""
    p: float = 10
    """L_code: cross entropy of E_p."""
    c: float = 10
    """L_code: cross entropy of E_c."""
    feature: float = 1
    """L_S: L1 error of S on generated pictures, second stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """Training of the published model: 600 epochs of the first stage, 400 of the second, batches of 12."""

    RENAMED: ClassVar[dict[str, str]] = {
        "feature_critic_rate": "feature_discriminator_rate",
        "critic_width": "discriminator_width",
        "feature_critic_width": "feature_discriminator_width",
        "weights": "losses",
    }
    """Names of earlier versions -> today's."""
    family: str = field(default="mixnmatch_paper", init=False)
    """Which family of models this trains; fixed by the preset."""
    loop: LoopConfig
    data: DataConfig
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    first_stage: int
    """Pictures of the first stage; the second lasts from there to `loop.images`."""
    learning_rate: float = 2e-4
    """Adam's, of every network but the feature discriminator."""
    feature_discriminator_rate: float = 2e-5
    """Adam's, of the feature discriminator D_f."""
    beta1: float = 0.5
    """Adam's decay of the mean gradient."""
    beta2: float = 0.999
    """Adam's decay of the squared gradient."""
    discriminator_width: int = 64
    """Channels after the first layer of D_b and D_c; D_p has half."""
    pair_width: int = 16
    """Channels after the first layer of each pair critic D_k."""
    feature_discriminator_width: int = 32
    """Channels after the first layer of the feature discriminator D_f."""
    soft_shapes: float = 0.2
    """Share of second-stage batches with soft shape codes, like those that E_p reads from photos."""
    box_where_unknown: tuple[float, float, float, float] = (0.3, 0.3, 0.7, 0.7)
    """Object box x0 y0 x1 y1 for sets without boxes, as fractions of the scene: patches outside it count as background.
    The published program stops at such sets."""
    free_share: float = 0.0
    """Share of G's pictures with untied b and p, after `free_full`; 0 in the paper, where G sees tied codes only."""
    free_start: int = 500_000
    """Pictures at which `free_share` begins to rise from 0."""
    free_full: int = 1_000_000
    """Pictures at which `free_share` is reached."""

    def __post_init__(self) -> None:
        if not 0 <= self.free_share <= 1:
            raise ValueError(f"free_share is {self.free_share}; it must be from 0 to 1")
        if not 0 <= self.soft_shapes <= 1:
            raise ValueError(f"soft_shapes is {self.soft_shapes}; it must be from 0 to 1")
        x0, y0, x1, y1 = self.box_where_unknown
        if not (0 <= x0 < x1 <= 1 and 0 <= y0 < y1 <= 1):
            raise ValueError(f"box_where_unknown is {self.box_where_unknown}; it must be x0 < x1 and y0 < y1 in [0, 1]")
        if self.data.size != 128:
            raise ValueError(f"data.size is {self.data.size}; the published model is for 128 px pictures")
