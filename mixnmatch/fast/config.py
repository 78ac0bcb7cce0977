"""Configs of the `fast` MixNMatch: its networks, its losses and its training."""

from dataclasses import dataclass, field
from typing import Any, ClassVar, Literal

from training.config import DataConfig, LoopConfig
from training.nn.discriminator import check_levels


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseConfig:
    """How the leading numbers of z move the object; the numbers after them bend or shade it.

    z stays N(0, I): the normal distribution function maps a number to a uniform one, which is scaled to its range.
    """

    kind: Literal["turn", "plane"] = "turn"
    """`turn`: a solid seen from all sides, z = (direction x, direction y, elevation, scale, shift x, shift y, free...).
    `plane`: a flat object seen from the front, z = (roll, scale, aspect, shift x, shift y, free...)."""
    elevation: tuple[float, float] = (10.0, 35.0)
    """`turn`: degrees above the horizon, uniform."""
    scale: tuple[float, float] = (0.52, 0.73)
    """Half length of the object as a share of half the picture's width, uniform."""
    proportions: tuple[float, float, float] = (1.0, 0.5, 0.5)
    """`turn`: half-extents of the object's box (length, width, height), in units of half its length."""
    shift_x: tuple[float, float] = (-0.2, 0.2)
    """Share of half the picture's width, right is positive, uniform."""
    shift_y: tuple[float, float] = (-0.12, 0.12)
    """Share of half the picture's height, down is positive, uniform."""
    roll: float = 10.0
    """`plane`: standard deviation of the rotation in the picture's plane, in degrees."""
    aspect: float = 0.1
    """`plane`: standard deviation of the logarithm of width over height."""
    bend: float = 0.1
    """`plane`: largest displacement of a point by the smooth bending, as a share of half the object's size."""

    @property
    def n_placing(self) -> int:
        """How many leading numbers of z are the object's pose."""
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
    """Fields that files of earlier versions may have, each with the only value that this version supports."""
    resolution: int = 64
    """Side of the picture in pixels: a power of two, at least 32."""
    z_dim: int = 8
    """Length of the pose code z, and of the background's own z_background."""
    n_backgrounds: int = 20
    """Backgrounds, N_b: the length of the code b."""
    n_shapes: int = 10
    """Shapes, N_p: the length of the code p, the papers' parent categories."""
    n_textures: int = 40
    """Textures, N_c: the length of the code c; a multiple of `n_shapes`, as tied codes give each shape as many
    textures."""
    pose: PoseConfig = field(default_factory=PoseConfig)
    field_dim: int = 64
    """`turn`: width of the feature field, which all shapes share and modulate."""
    field_depth: int = 3
    """`turn`: layers of that field before its density."""
    octaves: int = 4
    """`turn`: frequencies of the positional encoding (NeRF Eq. 4); more draw finer shapes."""
    density: float = 6.0
    """`turn`: factor of the density; larger makes surfaces more opaque at initialisation."""
    samples: int = 10
    """`turn`: samples along each ray, all inside the object's box."""
    volume: tuple[int, int, int] = (1, 32, 32)
    """`plane`: cells of a shape's map: 1, rows, columns."""
    volume_dim: int = 24
    """`plane`: channels of a shape's map, without its occupancy."""
    shape_noise: float = 0.5
    """`plane`: standard deviation of the shapes' differences at initialisation; their common part has 0.5."""
    occupancy_noise: float = 1.0
    """`plane`: noise of the occupancy at initialisation, relative to that of the features; 0 starts from an ellipse."""
    mirror: bool = True
    """Make shapes mirror-symmetric, left and right."""
    shape_dim: int = 64
    """`plane`: channels of the parent stage."""
    feature_dim: int = 32
    """Channels of the parent feature, at half the picture's side."""
    texture_dim: int = 32
    """Channels of the child stage."""
    texture_doubled: int = 1
    """Convolutions of the child stage at half the picture's side; the rest run at the full side."""
    background_dim: int = 64
    """Channels of the background stage at 4 to 8 pixels."""
    style_dim: int = 64
    """Size of the code embeddings that modulate the convolutions."""
    encoder_dim: int = 32
    """Channels of the encoders' shared trunk at half of `encoder_side`."""
    encoder_channels: tuple[int, ...] = ()
    """Instead of `encoder_dim`: channels of a trunk built as the image discriminator's, at half of `encoder_side` and
    each halving after; it can then be initialised from the discriminator."""
    one_shape: bool = False
    """Read photos as their one most likely shape instead of a blend; in training, reconstruct each with the better of
    two shapes, so that shapes become cluster means."""
    texture_power: float = 1.0
    """Power to which the texture probabilities of photos are raised; above 1 blends fewer textures, for stronger
    colours."""
    encoder_side: int = 64
    """Side in pixels to which pictures are reduced for the encoders."""

    @property
    def code_sizes(self) -> dict[str, int]:
        """Length of each code, by name."""
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
            raise ValueError(f"z_dim {self.z_dim} must be above the {self.pose.n_placing} numbers of the object's pose")
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
    """L_b, adversarial loss of background patches, against real ones outside the boxes (paper: 10)."""
    background_class: float = 0.5
    """L_b, classification of background patches against object patches (paper: 1)."""
    image: float = 1.0
    """L_c, adversarial loss of the whole picture (paper: 1)."""
    pose: tuple[float, float] = (0.0, 0.0)
    """Pose regression by the image discriminator, on whole pictures and on objects on a flat background (paper: none):
    before and after `annealing_ramp`. Larger values keep the front of all shapes at the same rotation."""
    pose_on_flat_background: float = 0.25
    """Share of a batch whose pose is also predicted from the object on a flat background."""
    condition_ramp: tuple[int, int] = (20_000, 40_000)
    """With `pose`: pictures over which the discriminator's logit becomes conditional on the pose (PoF3D Sec. 3.3)."""
    shape_classification: tuple[float, float] = (0.3, 0.3)
    """L_p, classification of shape codes from the layers, before and after `annealing_ramp` (paper: 1)."""
    texture_classification: float = 0.5
    """L_c, classification of texture codes from the layers (paper: 1)."""
    background_classification: float = 0.5
    """Classification of background codes from the layers (paper: none)."""
    annealing_ramp: tuple[int, int] = (12_000, 20_000)
    """Pictures over which `pose` and `shape_classification` go from their first to their second weight; late, a large
    weight favours shapes that are easy to classify over shapes that look real."""
    pair: float = 0.2
    """L_bi, adversarial loss of image-code pairs, for the encoders and the generator (paper: 1, a Wasserstein
    critic)."""
    pair_ramp: tuple[int, int] = (8_000, 20_000)
    """Pictures over which `pair` rises from 0."""
    code_z: float = 5.0
    """L_code, the encoders' error in z on pictures of free codes (paper: 5)."""
    code_b: float = 1.0
    """L_code, the same for b (paper: 5)."""
    code_p: float = 2.0
    """L_code, the same for p (paper: 10)."""
    code_c: float = 2.0
    """L_code, the same for c (paper: 10)."""
    code_to_generator: float = 0.05
    """Factor on the code losses' gradient into the generator (paper: 0)."""
    reconstruction: float = 3.0
    """Multi-scale L1 of real pictures against those generated from their codes, on half the batch (paper: none)."""
    feature_matching: float = 0.0
    """The same in features of the image discriminator (paper: none; Larsen et al. 2016 Eq. 8)."""
    reconstruction_to_pose: float = 1.0
    """Factor on the gradient of these two terms into z; use less than 1 where they turn objects the wrong way round."""
    shape_assignment: float = 1.0
    """With `one_shape`: logistic loss of the encoders for preferring the better of two shapes (paper: none)."""
    usage_balance: float = 1.0
    """With `one_shape`: penalty on shapes that are used often, in mean differences between two shapes for each factor
    of e in usage; larger makes all shapes equally used (paper: none)."""
    pose_distillation: float = 0.0
    """With `pose`: squared error of the encoders' pose of photos to the image discriminator's (paper: none)."""
    reconstruction_since: int = 1_000
    """Pictures after which photos are reconstructed (`reconstruction`, `shape_assignment`)."""
    box_projection: float = 1.0
    """Projections of a reconstruction's mask against the photo's box (paper: none)."""
    shading_consistency: float = 0.5
    """L1 of the parent's grey picture against the final one without colour, inside the mask (paper: none)."""
    r1_image: float | None = None
    """Gamma of R1 of the image discriminator; by default from size and batch, `training.nn.gan.r1_gamma`."""
    r1_background: float = 0.05
    """Gamma of R1 of the background discriminator."""
    r1_pair: float = 0.1
    """Gamma of R1 of the pair discriminator, on generated pairs (paper: WGAN-GP of weight 10)."""
    r1_every: int = 16
    """Steps between gradient penalties (StyleGAN2 Sec. 3.1)."""
    area: float = 5.0
    """Hinge loss on masks whose share of the picture is outside `area_range` (paper: none)."""
    area_range: tuple[float, float] = (0.06, 0.45)
    """Smallest and largest share of the picture that the mask may cover."""
    child_area: float = 1.0
    """Hinge loss on child masks smaller than half of the parent mask (paper: none)."""
    perimeter: float = 0.0
    """Hinge loss on parent masks whose perimeter over the root of the area exceeds `perimeter_limit`; larger gives
    masks fewer holes (paper: none)."""
    perimeter_limit: float = 8.0
    """Perimeter over the root of the area above which `perimeter` applies; a disc has 4.5."""
    containment: float = 2.0
    """Share of the parent mask outside all real boxes of the batch (paper: none)."""
    binary: float = 1.0
    """Half-transparent pixels of the parent mask (paper: none)."""
    binary_ramp: tuple[int, int] = (8_000, 24_000)
    """Pictures over which `binary` rises from 0; too early, a wrong split into object and background becomes
    permanent."""
    free_share: tuple[float, float] = (0.5, 1.0)
    """Share of pictures generated from free codes, before and after `free_ramp` (paper: 0)."""
    free_ramp: tuple[int, int] = (4_000, 20_000)
    """Pictures over which that share changes."""
    feature: float = 1.0
    """L_S, L1 error of the feature extractor on generated pictures (paper: 1)."""
    feature_discriminator: float = 0.02
    """L_S, adversarial loss of features extracted from photos (paper: 1 at a tenth of the learning rate)."""
    feature_reconstruction: float = 0.5
    """Multi-scale L1 of real pictures against those generated from their extracted features (paper: none)."""
    augment: float = 0.0
    """Probability of each augmentation (shift, colour, cutout) of the image and pair discriminators' inputs."""
    augment_target: float | None = None
    """Target of r_t = E[sign D(x)], such as 0.6, to which that probability adapts (ADA Sec. 3.2); None keeps it
    fixed."""


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
    """Adam's, of the discriminators; by default `training.nn.gan.learning_rate`."""
    object_since: int = 0
    """Pictures during which shapes and textures are frozen, so that new networks catch up with weights from another
    run."""
    decay_since: float = 0.7
    """Share of the run after which the learning rates fall, linearly, to a tenth."""
    discriminator_channels: tuple[int, ...] = (64, 96, 160, 224)
    """Channels of the image discriminator at half the picture's side and each halving after, down to 4 pixels."""
    patch_dim: int = 24
    """Channels of the background discriminator's first layer."""
    patch_field: int = 18
    """Side of the background discriminator's patches at 64 pixels: 18 or 10."""
    patch_shrink: float = 0.0
    """Share by which boxes are shrunk, about their centre, for the background discriminator; 0 takes the whole box."""
    feature_since: int = 16_000
    """Pictures after which the second stage, feature mode, is trained along with the first."""
    first_stage_until: int | None = None
    """Pictures after which the first stage is frozen (paper: before the second begins; here None, never, because the
    averaged generator would otherwise stop being an average)."""

    def __post_init__(self) -> None:
        size, encoder = self.generator.resolution, self.generator.encoder_channels
        if self.data.size != size:
            raise ValueError(f"data.size is {self.data.size} and generator.resolution {size}; give both the same")
        check_levels(self.discriminator_channels, size, "discriminator_channels")
        if encoder:
            check_levels(encoder, min(size, self.generator.encoder_side), "generator.encoder_channels")
