"""Sizes and training of GIRAFFE (Niemeyer and Geiger, CVPR 2021); prior, fields and rays are those of GIRAFFE HD."""

from dataclasses import dataclass, field
from typing import ClassVar

from giraffe_hd.paper.config import FieldConfig, PriorConfig, VolumeConfig
from training.config import DataConfig, LoopConfig


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """GIRAFFE's generator (2021): several objects and the background in one volume, a plain renderer."""

    RENAMED: ClassVar[dict[str, str]] = {"size": "resolution"}
    """Names of earlier versions -> today's."""
    resolution: int = 64
    """Side of the picture in pixels."""
    z_dim: int = 256
    """Length of each object's shape and appearance codes."""
    z_dim_bg: int = 128
    """Length of the background's codes."""
    width: int = 128
    """Width of the objects' field."""
    width_bg: int = 64
    """Of the fields' layers."""
    feat_dim: int = 128
    """Channels of the rendered feature map and of the renderer's first layer."""
    min_feat: int = 32
    """The renderer's channels halve with each doubling of the size, down to this."""
    use_viewdirs: bool = True
    """Features of the fields depend on the view direction."""
    volume: VolumeConfig = field(default_factory=VolumeConfig)
    prior: PriorConfig = field(default_factory=PriorConfig)

    def __post_init__(self) -> None:
        side = self.volume.resolution
        if (
            self.resolution > 1024
            or self.resolution <= side
            or side & (side - 1)
            or self.resolution & (self.resolution - 1)
        ):
            raise ValueError(
                f"{side} rays cannot be doubled to {self.resolution} pixels; expected powers of two to 1024 pixels"
            )

    def object_field(self) -> FieldConfig:
        """Return the objects' field: 8 layers, a skip after the fourth; shared by all objects."""
        return FieldConfig(
            z_dim=self.z_dim,
            width=self.width,
            n_layers=8,
            skip=4,
            extent=2.0,
            feat_dim=self.feat_dim,
            use_viewdirs=self.use_viewdirs,
            use_z_app=True,
        )

    def background_field(self) -> FieldConfig:
        """Return the background's field: 4 layers."""
        return FieldConfig(
            z_dim=self.z_dim_bg,
            width=self.width_bg,
            n_layers=4,
            skip=None,
            extent=12.0,
            feat_dim=self.feat_dim,
            use_viewdirs=self.use_viewdirs,
            use_z_app=True,
        )


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    """All that training GIRAFFE (2021) depends on; the authors' values."""

    RENAMED: ClassVar[dict[str, str]] = {
        "lr_generator": "learning_rate",
        "lr_discriminator": "discriminator_learning_rate",
    }
    """Names of earlier versions -> today\'s."""
    family: str = field(default="giraffe", init=False)
    """Which family of models this trains; fixed by the preset."""
    loop: LoopConfig = field(default_factory=LoopConfig)
    data: DataConfig = field(default_factory=DataConfig)
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)
    learning_rate: float = 5e-4
    """RMSprop's; the authors halve it at 256 px."""
    discriminator_learning_rate: float = 1e-4
    """RMSprop's, of the discriminator."""
    r1: float = 10.0
    """Of the whole penalty, not of its half, in every step."""

    def __post_init__(self) -> None:
        if self.data.size != self.generator.resolution:
            size, side = self.data.size, self.generator.resolution
            raise ValueError(f"data.size is {size} and generator.resolution {side}; give both the same value")
