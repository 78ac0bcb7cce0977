"""Configs of the fast GIRAFFE HD."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

from pydantic import TypeAdapter, ValidationError

from training.config import DataConfig, LoopConfig
from training.nn.discriminator import check_levels
from training.nn.projected_discriminator import ProjectedConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class PoseConfig:
    """The prior of camera and object, from which training draws and which the knobs span; angles in degrees."""

    radius: float = 2.732
    """Distance of the camera, world units."""
    fov: float = 20.0
    """Field of view; half the picture's width at the origin is radius * tan(fov / 2)."""
    azimuth: tuple[float, float] = (0.0, 0.0)
    """Camera around the scene, degrees; equal ends keep it in front."""
    elevation: tuple[float, float] = (10.0, 35.0)
    """Camera above the horizon, degrees."""
    rotation: tuple[float, float] = (0.0, 360.0)
    """Turn of the object about the vertical axis, degrees."""
    scale: tuple[float, float] = (0.25, 0.35)
    """Half the object's length, world units."""
    proportions: tuple[float, float, float] = (1.0, 0.5, 0.5)
    """Half-extents of the box along x, y, z over half its length: one number draws all three axes."""
    x: tuple[float, float] = (0.0, 0.0)
    """Depth, towards the camera."""
    y: tuple[float, float] = (-0.10, 0.10)
    """To the right in the picture."""
    z: tuple[float, float] = (-0.06, 0.06)
    """Up."""

    def __post_init__(self) -> None:
        for name in ("azimuth", "elevation", "rotation", "scale", "x", "y", "z"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"pose.{name} goes from {low} to {high}; give the lower number first")
        if not 0 < self.fov < 180:
            raise ValueError(f"pose.fov is {self.fov} degrees; expected between 0 and 180")
        if self.scale[0] <= 0:
            raise ValueError(f"pose.scale starts at {self.scale[0]}; the box needs a size above 0")


VIEWS: dict[str, PoseConfig] = {
    "all-sides": PoseConfig(
        elevation=(0.0, 30.0), scale=(0.27, 0.37), proportions=(1.0, 0.6, 0.6), y=(-0.06, 0.06), z=(-0.06, 0.06)
    ),
    "front": PoseConfig(
        elevation=(-10.0, 15.0), rotation=(-40.0, 40.0), scale=(0.27, 0.34), proportions=(0.9, 0.9, 1.1),
        y=(-0.05, 0.05), z=(-0.05, 0.05),
    ),
    "flat": PoseConfig(
        elevation=(-4.0, 4.0), rotation=(-12.0, 12.0), scale=(0.29, 0.35), proportions=(0.25, 0.95, 1.05),
        y=(-0.04, 0.04), z=(-0.04, 0.04),
    ),
}  # fmt: skip
"""How objects stand in photos cut to 1.5 times their longer side, by the words of `python -m training prepare photos`:
seen from all sides (vehicles, furniture), from the front and a little aside (faces), or flat (garments, posters)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """The fast generator."""

    resolution: int = 64
    """Side of the picture in pixels: `rays` doubled none or a few times."""
    pose: PoseConfig = field(default_factory=PoseConfig)
    z_dim: int = 64
    """Length of each of the four latent codes."""
    w_dim: int = 96
    """Length of the mapped codes that style the layers."""
    mapping_layers: int = 3
    """Layers of each mapping network."""
    fitted_codes: bool = False
    """Latent codes are drawn with the mean and the covariance of those that the encoder reads from photos, instead of
    standard normal; for training with `reconstruction`."""
    rays: int = 32
    """Side of the ray map."""
    samples: int = 10
    """Samples a ray, all inside the box."""
    octaves: int = 4
    """Frequencies of the positional encoding (NeRF Eq. 4); more draw finer shapes."""
    field_dim: int = 64
    """Width of the object's field."""
    field_depth: int = 3
    """Layers of the object's field before its density."""
    plane_channels: tuple[int, ...] = ()
    """Channels at 4, 8, 16, ... cells of the network that draws three planes of features for the object's field (EG3D
    Sec. 4.1); none by default. Planes draw faces and fur that a network of points this small cannot."""
    plane_features: int = 16
    """Features of each plane."""
    density: float = 6.0
    """Gain of the density; larger makes surfaces more opaque at the start."""
    mirror: bool = True
    """The object is its own mirror image, left and right: true of cars and faces, a strong guide for rotation."""
    features: int = 48
    """Channels of the rendered feature map."""
    object_channels: tuple[int, ...] = (48, 24)
    """Channels of the object's renderer at `rays`, then after each of its blocks: the last ones double the size as
    often as the picture needs, those before keep it."""
    mask_channels: int = 16
    """Channels of the network that sharpens the mask."""
    background_channels: tuple[int, ...] = (64, 64, 48, 32, 16)
    """Channels of the background at 4, 8, 16, ... pixels."""
    detailed_background: bool = False
    """Noise, the same in all pictures, and a second convolution at each size of the background."""
    background_shape_layers: int = 3
    """Layers of the background that its shape code styles; the look styles the rest."""
    inject_index: int = 0
    """Layers of the object's renderer that the shape code styles; the look styles the rest."""

    def __post_init__(self) -> None:
        if self.samples < 1 or self.field_depth < 1:
            raise ValueError(f"generator.samples {self.samples} and field_depth {self.field_depth} must be at least 1")
        most = len(self.object_channels) - 1
        if self.resolution not in [self.rays * 2**k for k in range(most + 1)]:
            raise ValueError(
                f"{self.rays} rays doubled at most {most} times do not make {self.resolution} pixels; "
                f"change generator.rays or the number of generator.object_channels"
            )
        if 4 * 2 ** (len(self.background_channels) - 1) != self.resolution:
            raise ValueError(
                f"a background of {len(self.background_channels)} layers is not {self.resolution} pixels wide; "
                f"give log2(resolution) - 1 generator.background_channels"
            )

    @property
    def doublings(self) -> int:
        """How often the map of rays is doubled to make the picture."""
        return (self.resolution // self.rays).bit_length() - 1


@dataclass(frozen=True, kw_only=True, slots=True)
class DiscriminatorConfig:
    """The fast discriminator, with a head that reads the pose."""

    channels: tuple[int, ...] = (64, 96, 160, 224)
    """Channels at half the picture's size and each halving after; the last level is 4 pixels wide."""
    pose_dim: int = 6
    """sin and cos of rotation, elevation, log scale, y, z."""

    def __post_init__(self) -> None:
        if len(self.channels) < 2:
            raise ValueError("the discriminator needs at least two levels of channels")
        if self.pose_dim != 6:
            raise ValueError(f"discriminator.pose_dim is {self.pose_dim}; a pose has 6 numbers")


@dataclass(frozen=True, kw_only=True, slots=True)
class ReconstructionConfig:
    """Part of each batch can be photos, reconstructed from what an encoder reads off them. For sets with masks."""

    share: float = 0.0
    """Share of a batch that is generated from photos instead of the prior; 0 trains without an encoder."""
    since: int = 0
    """Images after which photos are reconstructed; until then the encoder learns from generated pictures alone. For a
    generator that was trained without one, whose codes an untrained encoder would narrow to nothing."""
    channels: tuple[int, ...] = (32, 64, 96, 192)
    """Of the encoder: channels at half the picture's size and each halving after. With those of the discriminator, a
    run started from one without an encoder begins with the discriminator's trunk and pose head."""
    pixels: float = 5.0
    """Weight of multi-scale L1 between a photo and its reconstruction, composed by the photo's own mask: the object has
    to be drawn by the object, its surroundings by the background."""
    perceptual: float = 30.0
    """The same in the features of the projected discriminator's pretrained network."""
    mask: float = 3.0
    """Weight of cross entropy and Dice of its mask against the photo's."""
    behind: float = 1.0
    """Weight of the differences of neighbouring pixels of the background where the photo's object hides it: no photo
    shows what is there, so it goes on smoothly."""
    fit: float = 0.01
    """Share by which each batch drawn moves the distribution of drawn codes to that of the codes just read."""
    divergence: float = 2e-4
    """Weight of the divergence of the codes read from the standard normal distribution (VAE); it bounds their scale."""
    cycle: float = 0.5
    """Weight of the error of the codes and the pose that the encoder reads from generated pictures."""

    def __post_init__(self) -> None:
        if not 0 <= self.share <= 1:
            raise ValueError(f"reconstruction.share is {self.share}; expected from 0 to 1")
        if self.since < 0:
            raise ValueError(f"reconstruction.since is {self.since}; expected a number of images")


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All that training of the fast generator depends on."""

    RENAMED: ClassVar[dict[str, str]] = {"lr": "learning_rate"}
    """Names of earlier versions -> today\'s."""
    family: str = field(default="giraffe_hd", init=False)
    """Which family of models this trains; fixed by the preset."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator: DiscriminatorConfig = field(default_factory=DiscriminatorConfig)
    projected: ProjectedConfig = field(default_factory=ProjectedConfig)
    reconstruction: ReconstructionConfig = field(default_factory=ReconstructionConfig)
    learning_rate: float | None = None
    """Adam's, of both networks, by default `training.nn.gan.learning_rate`."""
    mapping_rate: float = 0.1
    """Learning rate of the mapping networks over that of the others; larger where codes are read from photos."""
    decay_since: float = 0.8
    """Share of the run after which the learning rates fall, linearly, to a tenth."""
    r1: float | None = None
    """Gamma of the gradient penalty, by default `training.nn.gan.r1_gamma`."""
    r1_every: int = 8
    """Steps between gradient penalties (StyleGAN2 Sec. 3.1)."""
    pose_weight: float = 3.0
    """Of the pose head's error, in both networks: the knobs stay decodable (InfoGAN); below 1 fronts equal rears."""
    pose_weights: tuple[float, float, float, float, float, float] = (2.0, 2.0, 1.0, 1.0, 1.0, 1.0)
    """Within that error, at first: sin and cos of the rotation, elevation, log scale, y, z."""
    pose_weights_late: tuple[float, float, float, float, float, float] = (2.0, 2.0, 4.0, 2.0, 1.0, 2.0)
    """The same after `pose_ramp`: from the start, these make bodies that are easy to read instead of cars."""
    object_pose_share: tuple[float, float] = (0.25, 0.5)
    """Share of a batch whose pose is also read from the object on a flat colour, so that no horizon gives it away;
    before and after `pose_ramp`."""
    pose_ramp: tuple[int, int] = (80_000, 100_000)
    """Pictures over which the late weights and share come in."""
    cutouts: float = 0.0
    """Weight of two comparisons by the set's masks: of objects on flat colours with those cut out of photos, and of
    backgrounds with photos whose objects are covered. The object has to be whole, and the background draws no part of
    it. For sets with masks."""
    condition_since: int = 20_000
    """Pictures after which the discriminator compares real and generated pictures of the pose that it reads itself."""
    condition_full: int = 40_000
    """Pictures at which that comparison counts in full."""
    coverage_weight: float = 10.0
    """Weight of the coverage loss; larger keeps objects within `coverage` of their boxes."""
    coverage: tuple[float, float] = (0.35, 0.8)
    """The object's opacity should fill between these shares of its box's silhouette, in each picture."""
    binarisation_weight: float = 2.0
    """Weight of binarisation; larger makes masks less transparent."""
    binarisation_ramp: tuple[int, int] = (20_000, 60_000)
    """Pictures over which binarisation grows from nothing; early, it freezes a bad split."""
    surface_weight: float = 0.0
    """Weight of the depth's variance along rays; larger makes surfaces hard. Marks on a soft surface lie behind its
    outline, so that they move less than the object turns."""
    sigma_noise_until: int = 60_000
    """Pictures until which noise on the density fades from standard deviation 1 to 0."""
    augment_target: float | None = None
    """For small sets: how sure of real pictures the discriminator may be, r_t such as 0.6, before what it sees is
    recoloured ever more often (ADA). Colours alone: a shift would teach the pose head wrong places."""

    def __post_init__(self) -> None:
        size = self.generator.resolution
        if self.data.size != size:
            raise ValueError(f"data.size is {self.data.size} and generator.resolution {size}; give both the same")
        check_levels(self.discriminator.channels, size, "discriminator.channels")
        if self.reconstruction.share > 0:
            check_levels(self.reconstruction.channels, size, "reconstruction.channels")
            if not self.generator.fitted_codes:
                raise ValueError(
                    "reconstruction.share needs --generator.fitted-codes: drawn codes become like read ones"
                )
            if self.projected.weight <= 0 and self.reconstruction.perceptual > 0:
                raise ValueError(
                    "reconstruction.perceptual needs the pretrained network of the projected discriminator; give "
                    "projected.weight above 0, or reconstruction.perceptual 0"
                )

    def for_dataset(self, made: dict[str, Any]) -> "TrainConfig":
        """Return the config with the prior of a set: fitted (`pose`), or chosen by a word (`views`), in its set.json.

        A word is a first guess for any objects; a preset with a prior of its own, made for one kind, keeps that.

        Raises: ValueError for a prior that is none.
        """
        pose, views = made.get("pose"), made.get("views")
        if pose is None and views is None:
            return self
        if pose is None and str(views) not in VIEWS:
            raise ValueError(f"the set's views are {views!r}; expected one of {', '.join(VIEWS)}")
        if pose is None and self.generator.pose not in (PoseConfig(), *VIEWS.values()):
            return self
        try:
            fitted = VIEWS[str(views)] if pose is None else TypeAdapter(PoseConfig).validate_python(pose)
        except ValidationError as error:
            raise ValueError(f"the pose in the set's set.json is no prior ({error.error_count()} mistakes)") from error
        return replace(self, generator=replace(self.generator, pose=fitted))
