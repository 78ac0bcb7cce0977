"""Sizes, prior and training of the published GIRAFFE HD (Xue et al., CVPR 2022)."""

import math
from dataclasses import dataclass, field
from typing import ClassVar

from training.config import DataConfig, LoopConfig

Triple = tuple[float, float, float]
Span = tuple[float, float]
"""From, to."""


@dataclass(frozen=True, kw_only=True, slots=True)
class PriorConfig:
    """What camera and objects are drawn from, uniformly; turns are 360 degrees, lengths world units."""

    scale_min: Triple = (0.5, 0.5, 0.5)
    """Smallest half-extents of the box along x, y and z, world units."""
    scale_max: Triple = (0.5, 0.5, 0.5)
    """Half-extents of the box: one number draws all three axes."""
    translation_min: Triple = (0.0, 0.0, 0.0)
    """Lowest place of the object's centre, world units."""
    translation_max: Triple = (0.0, 0.0, 0.0)
    """Highest place of the object's centre, world units."""
    rotation: Span = (0.0, 1.0)
    """Turns of the object about z."""
    u: Span = (0.0, 0.0)
    """Azimuth of the camera, turns."""
    v: Span = (0.25, 0.25)
    """Polar angle of the camera is arccos(1 - 2v): 0 overhead, 0.5 at the horizon."""
    radius: Span = (2.732, 2.732)
    """Distance of the camera, world units."""
    fov: float = 49.13
    """Field of view, degrees."""
    background_translation_min: Triple = (0.0, 0.0, 0.0)
    """Lowest shift of the background's field, in training only."""
    background_translation_max: Triple = (0.0, 0.0, 0.0)
    """Shift of the background's field, in training only."""
    background_rotation: Span = (0.0, 0.0)
    """Turns of the background's field about z, in training only."""
    n_objects: int = 1
    """Objects in a scene, at most; GIRAFFE HD renders one."""
    n_present: tuple[float, ...] = ()
    """Probability that 1, 2, ... n_objects of them are in the scene; empty: all are, always."""
    gap: float | None = None
    """Boxes of one scene stay this far apart along x or y; None lets them overlap."""

    def __post_init__(self) -> None:
        for low, high in (
            ("scale_min", "scale_max"),
            ("translation_min", "translation_max"),
            ("background_translation_min", "background_translation_max"),
        ):
            if any(a > b for a, b in zip(getattr(self, low), getattr(self, high), strict=True)):
                raise ValueError(f"prior.{low} is {getattr(self, low)}, above prior.{high} {getattr(self, high)}")
        for name in ("rotation", "u", "v", "radius", "background_rotation"):
            low, high = getattr(self, name)
            if low > high:
                raise ValueError(f"prior.{name} goes from {low} to {high}; give the lower number first")
        if min(self.scale_min) <= 0:
            raise ValueError(f"prior.scale_min is {self.scale_min}; a box needs sizes above 0")
        if not (self.v[0] >= 0 and self.v[1] <= 1):
            raise ValueError(f"prior.v is {self.v}; expected between 0 (overhead) and 1 (from below)")
        if not (0 < self.fov < 180 and self.radius[0] > 0):
            raise ValueError(
                f"prior.fov is {self.fov} degrees and radius {self.radius}; expected 0 to 180, and above 0"
            )
        if not 1 <= self.n_objects <= 16:
            raise ValueError(f"prior.n_objects is {self.n_objects}; expected 1 to 16")
        if self.n_present and len(self.n_present) != self.n_objects:
            raise ValueError(
                f"prior.n_present has {len(self.n_present)} probabilities for {self.n_objects} objects; give one each"
            )


@dataclass(frozen=True, kw_only=True, slots=True)
class FieldConfig:
    """One neural feature field: an MLP from a point and a code to density and features (GIRAFFE Sec. 3.1)."""

    z_dim: int
    width: int
    n_layers: int
    skip: int | None
    """The layer after which point and code are added once more."""
    extent: float
    """Points are divided by this before the positional encoding."""
    feat_dim: int
    use_viewdirs: bool
    use_z_app: bool
    n_octaves: int = 10
    n_octaves_view: int = 4


@dataclass(frozen=True, kw_only=True, slots=True)
class VolumeConfig:
    """How rays are cast."""

    resolution: int = 16
    """Side of the feature map in rays."""
    n_samples: int = 64
    """Samples along each ray."""
    near: float = 0.5
    """First depth of a ray, world units along the view axis."""
    far: float = 6.0
    """First and last depth of a ray, world units along the view axis."""

    def __post_init__(self) -> None:
        if not 2 <= self.resolution <= 256 or not 2 <= self.n_samples <= 1024:
            raise ValueError(
                f"{self.resolution} x {self.resolution} rays of {self.n_samples} samples cannot be cast; expected 2 to "
                f"256 rays a side and 2 to 1024 samples"
            )
        if not 0 < self.near < self.far:
            raise ValueError(f"volume goes from depth {self.near} to {self.far}; expected 0 < near < far")


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """GIRAFFE HD's generator. Fields that the authors' checkpoints set bear the names of their arguments."""

    RENAMED: ClassVar[dict[str, str]] = {"size": "resolution"}
    """Names of earlier versions -> today's."""
    resolution: int = 256
    """Side of the picture in pixels."""
    z_dim: int = 256
    """Length of the object's shape and appearance codes."""
    z_dim_bg: int = 256
    """Length of the background's codes."""
    feat_dim: int = 256
    """Channels of the rendered feature maps."""
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)
    n_mlp: int = 8
    """Layers of the mapping networks."""
    lr_mlp: float = 0.01
    """Learning rate of the mapping networks over that of the rest."""
    channel_multiplier: int = 2
    """Channels of the renderers above 64 px over StyleGAN2's smaller model."""
    refine_n_styledconv: int = 2
    """Styled convolutions of the network that refines the composed picture."""
    refine_kernel_size: int = 3
    """Side of its kernels in pixels, an odd number."""
    mix_prob: float = 0.9
    """Share of training steps that style some layers of the foreground by the appearance code."""
    inject_index: int | None = None
    """First layer that the appearance code styles outside training; None: 2 up to 256 px, 4 above."""
    grf_use_mlp: bool = True
    """Feed the fields the mapped codes w rather than z."""
    grf_use_z_app: bool = False
    """Features of the fields depend on the appearance code; else on the shape code."""
    use_viewdirs: bool = False
    """Features of the fields depend on the view direction."""
    pos_share: bool = False
    """The background's field follows the object's height, so that the ground stays under it."""
    fg_gen_mask: bool = False
    """The foreground renderer makes the mask; else the refinement does."""
    joint_cameras: bool = False
    """Divide the axes of a batch's cameras by the longest among them, as the authors' program does: a picture then
    depends on the elevations beside it, by up to 1.4 % of its field of view. True in their checkpoints only."""

    def __post_init__(self) -> None:
        side = self.volume.resolution
        if (
            self.resolution > 1024
            or self.resolution < side
            or side & (side - 1)
            or self.resolution & (self.resolution - 1)
        ):
            raise ValueError(
                f"{side} rays cannot be doubled to {self.resolution} pixels; expected powers of two to 1024 pixels"
            )
        for name, least, most in (
            ("z_dim", 1, 4096),
            ("z_dim_bg", 1, 4096),
            ("feat_dim", 1, 4096),
            ("n_mlp", 0, 64),
            ("channel_multiplier", 1, 8),
            ("refine_n_styledconv", 0, 16),
            ("refine_kernel_size", 1, 15),
            ("mix_prob", 0, 1),
        ):
            if not least <= getattr(self, name) <= most:
                raise ValueError(f"generator.{name} is {getattr(self, name)}; expected {least} to {most}")
        if self.refine_kernel_size % 2 == 0:
            raise ValueError(f"generator.refine_kernel_size is {self.refine_kernel_size}; expected an odd number")
        if self.prior.n_objects != 1:
            raise ValueError(
                f"GIRAFFE HD renders one object, not {self.prior.n_objects}: its mask and styles belong to one; take a "
                f"GIRAFFE preset for more"
            )

    @property
    def n_latent(self) -> int:
        """Styled layers of the foreground renderer: 10 at 256 px, 12 at 512, 14 at 1024."""
        return 2 * (int(math.log2(self.resolution // self.volume.resolution)) + 1)

    @property
    def default_inject_index(self) -> int:
        """The authors' choice outside training."""
        if self.inject_index is not None:
            return self.inject_index
        return 2 if self.resolution <= 256 else 4

    def object_field(self) -> FieldConfig:
        """Return the object's field: 8 layers of 128, a skip after the fourth."""
        return FieldConfig(
            z_dim=self.z_dim,
            width=128,
            n_layers=8,
            skip=4,
            extent=2.0,
            feat_dim=self.feat_dim,
            use_viewdirs=self.use_viewdirs,
            use_z_app=self.grf_use_z_app,
        )

    def background_field(self) -> FieldConfig:
        """Return the background's field: 4 layers of 64."""
        return FieldConfig(
            z_dim=self.z_dim_bg,
            width=64,
            n_layers=4,
            skip=None,
            extent=12.0,
            feat_dim=self.feat_dim,
            use_viewdirs=self.use_viewdirs,
            use_z_app=self.grf_use_z_app,
        )

    def channels(self, resolution: int) -> int:
        """Return the renderers' channels at a resolution: 256 up to 64 px, then halving; StyleGAN2 caps at 512."""
        return 256 if resolution <= 64 else 16384 // resolution * self.channel_multiplier


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All that training GIRAFFE HD depends on; the authors' values, loss weights being CompCar's."""

    RENAMED: ClassVar[dict[str, str]] = {"lr": "learning_rate"}
    """Names of earlier versions -> today\'s."""
    family: str = field(default="giraffe_hd_paper", init=False)
    """Which family of models this trains; fixed by the preset."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    discriminator_multiplier: int = 2
    """Channel multiplier of the discriminator."""
    learning_rate: float = 5e-4
    """Adam's, of both networks; the mapping networks' layers slow themselves down."""
    r1: float = 10.0
    """Gamma of the gradient penalty on real pictures."""
    r1_every: int = 16
    """Steps between gradient penalties (StyleGAN2 Sec. 3.1)."""
    bbox: float = 14.0
    """Weight of containment in the projected box."""
    bbox_pad: float = 0.1
    """Margin of the projected box, a share of its size, inside which the mask may lie."""
    bbox_pad_ramp: int = 160_000
    """Pictures over which the box's margin grows to `bbox_pad`: 10,000 steps of 16."""
    cvg: float = 14.0
    """Weight of coverage."""
    min_ratio: float = 0.3
    """Share of all pixels that masks should cover."""
    bin: float = 4.0
    """Weight of binarisation."""
    recompute: bool = False
    """Compute activations of the renderers and the discriminator twice instead of keeping them: less memory."""

    def __post_init__(self) -> None:
        if self.data.size != self.generator.resolution:
            size, side = self.data.size, self.generator.resolution
            raise ValueError(f"data.size is {size} and generator.resolution {side}; give both the same value")
        if self.loop.batch > 4 and self.loop.batch % 4:
            raise ValueError(
                f"loop.batch is {self.loop.batch}; the discriminator compares groups of 4, so 4, 8, 12, ..."
            )
