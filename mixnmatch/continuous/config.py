"""Configs of the MixNMatch with continuous codes."""

from dataclasses import dataclass, field
from typing import Literal

from training.config import DataConfig, LoopConfig
from training.nn.discriminator import check_levels
from training.nn.projected_discriminator import ProjectedConfig

CELLS = 8
"""Side of the codes that are maps, in cells."""
SHAPE_CELLS = 12
"""Side of the shape code's map."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The generator and its encoders."""

    resolution: int = 64
    """Side of the picture in pixels: 64 times a power of two."""
    frame: Literal["mask", "box"] = "mask"
    """What the object's frame is: the box around its mask, or `BOX_SHARE` times the set's box. The latter is for heads:
    eyes stay at their place in the frame, and the body goes on below it."""
    shape_dim: int = 32
    """Length of the global part of the shape code p."""
    shape_map_channels: int = 0
    """Channels of the local part of p, a map of `SHAPE_CELLS` x `SHAPE_CELLS` in the object's frame: where sleeves,
    collars or eyes are, which a vector tells only roughly."""
    detail_channels: int = 0
    """Channels of the last part of p, a map in the object's frame whose cells are four pixels wide: folds, seams,
    buttons or fur, which the decoder makes up without it."""
    texture_dim: int = 64
    """Length of the global part of the texture code c, which applies to the whole object."""
    texture_channels: int = 12
    """Channels of the local part of c, a map of `CELLS` x `CELLS` in the object's frame: where a print is."""
    texture_cells: int = CELLS
    """Side to which that map is averaged before it is used: few cells tell where colours are and not where eyes are, so
    that eyes come from the shape alone."""
    texture_colours: bool = False
    """The map's first three channels are the mean colours of its cells, which the stage adds to what it draws: a model
    trained from nothing then begins with objects of the right colours."""
    background_channels: int = 32
    """Channels of the background code b, a map over the picture."""
    background_cells: int = CELLS
    """Side of that map, 8 or 16: 16 cells keep the pattern of a floor or a curtain, which 8 leave to the decoder to
    make up. The first three channels of 16 cells are their mean colours, which the decoder adds to what it draws."""
    feature_dim: int = 20
    """Channels of the parent feature f at half the picture's side: four of the mask (pixel unshuffle), then the
    shading."""
    clean_outlines: bool = False
    """Objects end at their outlines: the shading read from a photo sees its object alone, so that its contrast to the
    photo's background is not drawn as a rim before another one, and masks are drawn steeper than those that learn."""
    shape_channels: tuple[int, ...] = (128, 96, 64, 48)
    """Channels of the shape decoder at 4, 8, 16 and 32 cells a side of the object's frame; a fifth number, at 64, adds
    details that begin as nothing: at 128 pixels outlines drawn with 32 cells are soft."""
    texture_widths: tuple[int, int] = (64, 32)
    """Channels of the texture stage at half the picture's side and at the full side."""
    background_widths: tuple[int, ...] = (96, 72, 48, 24)
    """Channels of the background decoder at the cells of b and each doubling after; the last serves all further
    ones."""
    style_dim: int = 96
    """Length of the styles that modulate the convolutions."""
    encoder_widths: tuple[int, int, int] = (40, 64, 96)
    """Channels of the encoders at half of their input side and each halving after."""
    bank: int = 512
    """Number of recent photos whose codes are kept: samples take each factor from one of them."""

    @property
    def code_sizes(self) -> dict[str, int]:
        """Length of each code, by name."""
        return {
            "z": 4,
            "b": self.background_channels * self.background_cells**2,
            "p": self.shape_dim + self.shape_map_channels * SHAPE_CELLS**2 + self.details_size,
            "c": self.texture_dim + self.texture_channels * CELLS**2,
        }

    @property
    def details_size(self) -> int:
        """Length of the last part of p."""
        return self.detail_channels * (self.resolution // 4) ** 2

    def __post_init__(self) -> None:
        if self.resolution < 64 or self.resolution & (self.resolution - 1):
            raise ValueError(f"generator.resolution is {self.resolution}; expected a power of two from 64 up")
        if len(self.shape_channels) not in (4, 5):
            raise ValueError(f"generator.shape_channels has {len(self.shape_channels)} numbers; expected 4 or 5")
        if self.background_cells not in (8, 16):
            raise ValueError(f"generator.background_cells is {self.background_cells}; expected 8 or 16")
        if self.background_cells == 16 and self.background_channels < 3:
            raise ValueError(f"generator.background_channels is {self.background_channels}; expected at least 3")
        if self.texture_colours and self.texture_channels < 3:
            raise ValueError(f"generator.texture_channels is {self.texture_channels}; expected at least 3 for colours")
        if not 1 <= self.texture_cells <= CELLS:
            raise ValueError(f"generator.texture_cells is {self.texture_cells}; expected from 1 to {CELLS}")
        if self.bank < 1:
            raise ValueError(f"generator.bank is {self.bank}; expected at least 1")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights of the losses."""

    image: float = 1.0
    """Adversarial loss of the recipe's own image discriminator on mixes."""
    pixels: float = 1.5
    """Multi-scale L1 between a photo and its reconstruction."""
    perceptual: float = 2.0
    """The same in the features of the pretrained network."""
    mask: float = 2.0
    """Cross entropy and Dice of the predicted masks against the photo's."""
    binary: float = 0.0
    """How half-transparent masks by codes are: a code does not say where each edge is, and the mask loss alone makes
    edges as soft as they are uncertain."""
    pose: float = 2.0
    """L1 of the pose z read from a photo: centre in half pictures, log of the half sizes."""
    patches: float = 1.0
    """Adversarial loss of texture patches: a mix's against those of the photo that gave the texture (Swapping
    Autoencoder, Park et al. 2020, Eq. 4)."""
    cycle: float = 0.5
    """Squared error of the shape and texture codes read from a mix."""
    shading: float = 0.3
    """L1 of the parent's grey picture against the photo without colour, inside the mask."""
    feature: float = 0.0
    """Squared error of the local contrast of the shading by codes against that by outline, inside the mask, over the
    latter's mean square: adversarial losses alone leave the details by codes without any relation to the photo's."""
    code_size: float = 0.002
    """Mean square of all codes, which keeps their scale bounded."""
    r1_image: float = 0.1
    """Gamma of R1 of the image discriminator."""
    r1_patches: float = 1.0
    """Gamma of R1 of the patch discriminator."""
    r1_every: int = 16
    """Steps between penalties."""
    augment: float = 0.3
    """Probability of each augmentation (shift, colour, cutout) of the discriminators' inputs."""
    n_patches: int = 4
    """Texture patches a picture."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole training run."""

    family: str = field(default="mixnmatch_continuous", init=False)
    """Which family of models this trains; fixed by the preset."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    projected: ProjectedConfig = field(default_factory=lambda: ProjectedConfig(weight=1.0))
    background_first: float = 0.0
    """Share of the run, at its beginning, during which the background's encoder and decoder alone are trained, by
    reconstruction: a step then takes a fraction of the time."""
    learning_rate: float = 2e-3
    """Adam's, betas (0, 0.99), of the generator and of the image and patch discriminators."""
    decay_since: float = 0.7
    """Share of the run after which the learning rates fall, linearly, to a tenth."""
    discriminator_channels: tuple[int, ...] = (48, 72, 112, 160)
    """Channels of the image discriminator at half the picture's side and each halving after, down to 4 pixels."""

    @property
    def background_images(self) -> int:
        """Photos during which backgrounds alone are trained."""
        return round(self.background_first * self.loop.images)

    def __post_init__(self) -> None:
        size = self.generator.resolution
        if self.data.size != size:
            raise ValueError(f"data.size is {self.data.size} and generator.resolution {size}; give both the same")
        if self.projected.weight <= 0 and self.losses.perceptual > 0:
            raise ValueError(
                "losses.perceptual needs the pretrained network of the projected discriminator; give projected.weight "
                "above 0, or losses.perceptual 0"
            )
        if not 0 <= self.background_first < 1:
            raise ValueError(f"background_first is {self.background_first}; expected a share of the run, from 0 to 1")
        check_levels(self.discriminator_channels, size, "discriminator_channels")
