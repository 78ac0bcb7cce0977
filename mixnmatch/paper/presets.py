"""How the published MixNMatch is trained on CUB-200-2011, Stanford Dogs and Stanford Cars (Sec. 4)."""

from dataclasses import dataclass, field, replace

from mixnmatch.paper.config import GeneratorConfig
from training.config import DataConfig, LoopConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class LossWeights:
    """Weights of the terms that the published program sums; all others are 1."""

    background: float = 10
    """Real against fake of background patches, in D_b and in G."""
    gradient_penalty: float = 10
    """WGAN-GP's penalty, on each of the eight gradients of the pair critics."""
    z: float = 5
    """Reading back z (L1), then b, p and c (cross entropy), from pictures of free codes."""
    b: float = 5
    p: float = 10
    c: float = 10
    feature: float = 1
    """Reading back the parent feature (L1), second stage."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """How the published model learns: 600 epochs of the first stage, 400 of the second, batches of 12."""

    family: str = "mixnmatch_paper"
    loop: LoopConfig
    data: DataConfig
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    weights: LossWeights = field(default_factory=LossWeights)
    first_stage: int
    """Pictures of the first stage; the second goes on from there to `loop.images`."""
    learning_rate: float = 2e-4
    """Adam's, of every network but the feature critic."""
    feature_critic_rate: float = 2e-5
    beta1: float = 0.5
    beta2: float = 0.999
    critic_width: int = 64
    """Channels after the first layer of D_b and D_c; D_p has half."""
    pair_width: int = 16
    """Channels after the first layer of each pair critic."""
    feature_critic_width: int = 32
    soft_shapes: float = 0.2
    """Share of second-stage batches whose shape codes are soft, as those read from photos are."""
    box_where_unknown: tuple[float, float, float, float] = (0.3, 0.3, 0.7, 0.7)
    """Box of the object in sets without boxes, as fractions of the scene: D_b then takes the patches along the border
    for background. The published program stops at such sets."""
    free_share: float = 0.0
    """Share of G's pictures drawn with untied b and p once warmed up; 0 in the paper, where G sees tied codes only."""
    free_start: int = 500_000
    free_full: int = 1_000_000
    """Pictures at which the share begins to grow, and at which it is whole."""

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


def published(n_pictures: int, generator: GeneratorConfig) -> TrainConfig:
    """Return the published schedule for a set of `n_pictures`: 600 and 400 epochs of whole batches of 12."""
    batch = 12
    epoch = n_pictures // batch * batch
    return TrainConfig(
        generator=generator,
        loop=LoopConfig(
            images=1000 * epoch,
            batch=batch,
            ema_half_life=8_313,  # decay 0.999 a step: 12 * log(1/2) / log(0.999) pictures
            ema_warm_up=1e6,  # the paper has none
            bf16=False,
            grid_every=epoch,
            save_every=epoch,
        ),
        data=DataConfig(
            size=128,
            object_margin=1.5,  # authors: cut off at the picture's border and then no square; here moved inside
            scene=True,
            scene_size=126,
            jitter=0.1875,  # 76 / 64: objects of 152 px cut to 128, scenes of 149 (shorter side) cut to 126
        ),
        first_stage=600 * epoch,
    )


CUB = published(11_788, GeneratorConfig())
"""CUB-200-2011: the numbers of the published program."""
DOGS = published(20_580, replace(CUB.generator, n_shapes=12, n_textures=120, n_backgrounds=120))
"""Stanford Dogs; epochs as for CUB."""
CARS = published(16_185, replace(CUB.generator, n_textures=196, n_backgrounds=196))
"""Stanford Cars, a texture for each of its 196 classes; epochs as for CUB."""
