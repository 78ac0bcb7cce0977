"""Configs of the `fast` MixNMatch: its networks, its losses, and one train config for each bundled model."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from training.config import DataConfig, LoopConfig
from training.nn.discriminator import check_levels


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseConfig:
    """How the leading numbers of z move the object; the numbers after them are free and bend or shade it.

    A uniform range is reached from the normal number through its distribution function, so that z stays N(0, I).
    """

    kind: Literal["turn", "plane"] = "turn"
    """`turn`: a solid seen from all sides, z = (direction x, direction y, elevation, scale, shift x, shift y, free...).
    `plane`: a flat thing seen from the front, z = (roll, scale, aspect, shift x, shift y, free...)."""
    elevation: tuple[float, float] = (10.0, 35.0)
    """`turn`: degrees above the horizon, uniform."""
    scale: tuple[float, float] = (0.52, 0.73)
    """Half length of the object as a share of half the picture's width, uniform."""
    proportions: tuple[float, float, float] = (1.0, 0.5, 0.5)
    """`turn`: half the box of the object along its length, width and height, over half its length."""
    shift_x: tuple[float, float] = (-0.2, 0.2)
    """Share of half the picture's width, right is positive, uniform."""
    shift_y: tuple[float, float] = (-0.12, 0.12)
    """Share of half the picture's height, down is positive, uniform."""
    roll: float = 10.0
    """`plane`: degrees in the picture's plane, standard deviation."""
    aspect: float = 0.1
    """`plane`: standard deviation of the logarithm of width over height."""
    bend: float = 0.1
    """`plane`: largest shift of a point by the smooth bending that z drives, as a share of half the object's size."""

    @property
    def n_placing(self) -> int:
        """How many leading numbers of z place the object."""
        return 6 if self.kind == "turn" else 5

    def __post_init__(self) -> None:
        for name in ("elevation", "scale", "shift_x", "shift_y"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"pose.{name} runs from {low} to {high}; give the lower end first")
        if self.scale[0] <= 0:
            raise ValueError(f"pose.scale starts at {self.scale[0]}; it must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The generator, the encoders and the feature extractor of the `fast` MixNMatch."""

    RETIRED: ClassVar[dict[str, Any]] = {"extent": [1.0, 1.0, 1.0]}
    """Fields that files of earlier versions may have, each with the only value that is built now."""
    resolution: int = 64
    """Side of the picture in pixels: a power of two, at least 32."""
    z_dim: int = 8
    """Numbers of pose; the background's layout has as many of its own."""
    n_backgrounds: int = 20
    """Kinds of background, N_b."""
    n_shapes: int = 10
    """Kinds of shape, N_p: the papers' parent categories."""
    n_textures: int = 40
    """A multiple of `n_shapes`: tied codes give each shape its own run of textures."""
    pose: PoseConfig = field(default_factory=PoseConfig)
    field_dim: int = 64
    """`turn`: width of the field that holds all solids, each by its own modulation."""
    field_depth: int = 3
    """`turn`: layers of that field before its density."""
    octaves: int = 4
    """`turn`: frequencies of the positional encoding (NeRF Eq. 4); more draw finer shapes."""
    density: float = 6.0
    """`turn`: gain of the density; larger makes surfaces more opaque at the start."""
    samples: int = 10
    """`turn`: samples along each ray, all inside the object's box."""
    volume: tuple[int, int, int] = (1, 32, 32)
    """`plane`: cells of a shape's own map: 1, down, right."""
    volume_dim: int = 24
    """`plane`: channels of a shape's map beside its occupancy."""
    shape_noise: float = 0.5
    """`plane`: how far shapes differ before training; what all have in common starts at 0.5."""
    occupancy_noise: float = 1.0
    """`plane`: how far occupancy is from an ellipse before training, over the noise of the features."""
    mirror: bool = True
    """Shapes are the same left and right."""
    shape_dim: int = 64
    """`plane`: channels of the parent stage."""
    feature_dim: int = 32
    """Channels of the parent feature, at half the picture's side."""
    texture_dim: int = 32
    """Channels of the child stage."""
    texture_doubled: int = 1
    """The child's convolutions at half the picture's side; the others see the full side."""
    background_dim: int = 64
    """Channels of the background stage at 4 to 8 pixels."""
    style_dim: int = 64
    """Size of the code embeddings that modulate the convolutions."""
    encoder_dim: int = 32
    """Channels of the encoders' shared trunk at half the side of what they read."""
    encoder_channels: tuple[int, ...] = ()
    """Instead of a trunk of `encoder_dim`, one built as the image discriminator, whose weights it can begin with: its
    channels at half the side of what it reads and each halving after."""
    one_shape: bool = False
    """Read photos as the one likeliest shape instead of a blend; in training, reconstruct them with the better of two
    candidates. Shapes then become cluster means."""
    texture_power: float = 1.0
    """Raise the shares of textures read from photos to this power: blends of many textures have dull colours."""
    encoder_side: int = 64
    """Side at which the encoders read pictures; larger ones are reduced to it."""

    @property
    def code_sizes(self) -> dict[str, int]:
        """Code -> how many numbers it has."""
        return {
            "z": self.z_dim,
            "b": self.n_backgrounds,
            "p": self.n_shapes,
            "c": self.n_textures,
            "z_background": self.z_dim,
        }

    def __post_init__(self) -> None:
        if self.resolution < 32 or self.resolution & (self.resolution - 1):
            raise ValueError(f"resolution {self.resolution} must be a power of two from 32 up")
        if min(self.n_backgrounds, self.n_shapes, self.n_textures) < 1:
            raise ValueError("generator.n_backgrounds, n_shapes and n_textures must each be at least 1")
        if self.n_textures % self.n_shapes:
            raise ValueError(f"n_textures {self.n_textures} must be a multiple of n_shapes {self.n_shapes}")
        if self.z_dim <= self.pose.n_placing:
            raise ValueError(
                f"z_dim {self.z_dim} must be above the {self.pose.n_placing} numbers that place the object"
            )
        if self.volume[0] != 1:
            raise ValueError(f"volume {self.volume} of a plane pose must be 1 cell deep")
        if self.texture_power <= 0:
            raise ValueError(f"texture_power {self.texture_power} must be above 0")


@dataclass(frozen=True, kw_only=True, slots=True)
class LossConfig:
    """Weights and schedules of the losses; schedules are (start, end) in real pictures seen, linear between."""

    RENAMED: ClassVar[dict[str, str]] = {
        "pose_alone": "pose_on_flat_background",
        "info_shape": "shape_classification",
        "info_texture": "texture_classification",
        "info_background": "background_classification",
        "settling_ramp": "annealing_ramp",
        "code_to_painter": "code_to_generator",
        "rebuilt": "reconstruction",
        "perceived": "feature_matching",
        "rebuilt_to_pose": "reconstruction_to_pose",
        "rival": "shape_assignment",
        "even": "usage_balance",
        "told_pose": "pose_distillation",
        "rebuild_since": "reconstruction_since",
        "box_fit": "box_projection",
        "clay": "shading_consistency",
        "outline": "perimeter",
        "outline_most": "perimeter_limit",
        "feature_critic": "feature_discriminator",
        "feature_rebuilt": "feature_reconstruction",
    }
    """Names of earlier versions -> today's."""
    background: float = 2.0
    """Adversarial loss of background patches, against real ones outside the boxes (paper: 10)."""
    background_class: float = 0.5
    """Classification of background patches against object patches (paper: 1)."""
    image: float = 1.0
    """Adversarial loss of the whole picture."""
    pose: tuple[float, float] = (0.0, 0.0)
    """Pose regression by the image discriminator, on whole pictures and on objects on a flat background (paper: none):
    at the start, and at the end of `annealing_ramp`. Larger keeps the fronts of all shapes the same way round."""
    pose_on_flat_background: float = 0.25
    """Share of a batch whose pose is also read from the object on a flat background."""
    condition_ramp: tuple[int, int] = (20_000, 40_000)
    """With `pose`: pictures over which the discriminator comes to compare real and generated pictures of like pose."""
    shape_classification: tuple[float, float] = (0.3, 0.3)
    """Classification of shape codes from the layers, at the start and at the end of `annealing_ramp` (paper: 1)."""
    texture_classification: float = 0.5
    """Classification of texture codes from the layers (paper: 1)."""
    background_classification: float = 0.5
    """Classification of background codes from the layers (paper: none)."""
    annealing_ramp: tuple[int, int] = (12_000, 20_000)
    """Pictures over which `pose` and `shape_classification` go from their first to their second weight; late, a large
    weight favours shapes that are easy to classify over shapes that look real."""
    pair: float = 0.2
    """Adversarial loss of image-code pairs, of the encoders and the generator (paper: 1, an unbounded critic)."""
    pair_ramp: tuple[int, int] = (8_000, 20_000)
    """Pictures over which the pair loss grows from nothing."""
    code_z: float = 5.0
    """Pose that the encoders read from pictures of free codes, against the one drawn (paper: 5)."""
    code_b: float = 1.0
    """The same for the background code (paper: 5)."""
    code_p: float = 2.0
    """The same for the shape code (paper: 10)."""
    code_c: float = 2.0
    """The same for the texture code (paper: 10)."""
    code_to_generator: float = 0.05
    """Factor on the code losses' gradient into the generator (paper: 0)."""
    reconstruction: float = 3.0
    """Multi-scale L1 of real pictures against those generated from their codes, on half the batch (paper: none)."""
    feature_matching: float = 0.0
    """The same in features of the image discriminator (paper: none; Larsen et al. 2016 Eq. 8)."""
    reconstruction_to_pose: float = 1.0
    """Factor on these two terms' gradient into z; below 1 where pixels pull a rotation the wrong way round."""
    shape_assignment: float = 1.0
    """With `one_shape`: the encoders' margin for the better of two shapes over the worse one (paper: none)."""
    usage_balance: float = 1.0
    """With `one_shape`: handicap of shapes that photos are often read as, in mean differences between two shapes for
    each factor of e in usage; larger evens out how often each shape is used (paper: none)."""
    pose_distillation: float = 0.0
    """With `pose`: the encoders' pose of photos against the image discriminator's reading of them (paper: none)."""
    reconstruction_since: int = 1_000
    """Pictures after which photos are reconstructed (`reconstruction`, `shape_assignment`)."""
    box_projection: float = 1.0
    """Projections of the mask generated from a real picture's codes against that picture's box (paper: none)."""
    shading_consistency: float = 0.5
    """L1 of the shape's grey picture against the finished one without colour, inside the mask (paper: none)."""
    r1_image: float | None = None
    """Gamma of R1 of the image discriminator; by default from size and batch, `training.nn.gan.r1_gamma`."""
    r1_background: float = 0.05
    """Gamma of R1 of the background discriminator."""
    r1_pair: float = 0.1
    """Gamma of R1 of the pair discriminator, on generated pairs (paper: WGAN-GP of weight 10)."""
    r1_every: int = 16
    """Steps between gradient penalties (StyleGAN2 Sec. 3.1)."""
    area: float = 5.0
    """Hinge that keeps the mask's share of the picture within `area_range`."""
    area_range: tuple[float, float] = (0.06, 0.45)
    """Least and largest share of the picture that the object may fill."""
    child_area: float = 1.0
    """Hinge that keeps the texture's mask above half of the shape's."""
    perimeter: float = 0.0
    """Hinge that keeps the perimeter of the shape's mask, over the root of its area, below `perimeter_limit`; larger
    gives masks fewer holes."""
    perimeter_limit: float = 8.0
    """Perimeter over the root of the area above which `perimeter` counts."""
    containment: float = 2.0
    """Mask where no real box of the batch lies."""
    binary: float = 1.0
    """Half-transparent pixels of the mask."""
    binary_ramp: tuple[int, int] = (8_000, 24_000)
    """Pictures over which that loss grows from nothing; too early, it freezes a bad split."""
    free_share: tuple[float, float] = (0.5, 1.0)
    """Share of pictures generated from free codes, at the start and at the end of `free_ramp` (paper: 0)."""
    free_ramp: tuple[int, int] = (4_000, 20_000)
    """Pictures over which that share changes."""
    feature: float = 1.0
    """L1 of the feature extractor on generated pictures (paper: 1)."""
    feature_discriminator: float = 0.02
    """Adversarial loss of features extracted from photos (paper: 1 at a tenth of the learning rate)."""
    feature_reconstruction: float = 0.5
    """Multi-scale L1 of real pictures against those generated from their extracted features (paper: none)."""
    augment: float = 0.0
    """Chance of each augmentation (shift, colour, cutout) of what the discriminators of pictures see."""
    augment_target: float | None = None
    """Adapts that chance to how sure the image discriminator is of real pictures: r_t, such as 0.6 (ADA)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """A whole training run of the `fast` MixNMatch."""

    RENAMED: ClassVar[dict[str, str]] = {
        "critic_learning_rate": "discriminator_learning_rate",
        "critic_channels": "discriminator_channels",
    }
    """Names of earlier versions -> today's."""
    family: str = field(default="mixnmatch", init=False)
    """Which family of models this trains; fixed by the preset."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    losses: LossConfig = field(default_factory=LossConfig)
    learning_rate: float | None = None
    """Adam's, of the generator and the encoders, betas (0, 0.99); by default `training.nn.gan.learning_rate`."""
    discriminator_learning_rate: float | None = None
    """Adam's, of the discriminators, by default as above."""
    object_since: int = 0
    """Pictures after which shapes and textures learn: those copied from another run wait for all that is new."""
    decay_since: float = 0.7
    """Share of the run after which the learning rates fall, linearly, to a tenth."""
    discriminator_channels: tuple[int, ...] = (64, 96, 160, 224)
    """Channels of the image discriminator at half the picture's side and each halving after, down to 4 pixels."""
    patch_dim: int = 24
    """Channels of the background discriminator's first layer."""
    patch_field: int = 18
    """Side of the background discriminator's patches at 64 pixels: 18 or 10."""
    patch_shrink: float = 0.0
    """Boxes count as object only within this share of their size nearer the centre; 0 is the whole box."""
    feature_since: int = 16_000
    """Pictures after which the second stage, feature mode, learns beside the first."""
    first_stage_until: int | None = None
    """Pictures after which the first stage stands still (paper: before the second begins; here None, they go together,
    because the average generator then stays an average)."""

    def __post_init__(self) -> None:
        size, encoder = self.generator.resolution, self.generator.encoder_channels
        if self.data.size != size:
            raise ValueError(f"data.size is {self.data.size} and generator.resolution {size}; give both the same")
        check_levels(self.discriminator_channels, size, "discriminator_channels")
        if encoder:
            check_levels(encoder, min(size, self.generator.encoder_side), "generator.encoder_channels")
