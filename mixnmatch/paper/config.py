"""Sizes of the published MixNMatch (Sec. 3 and 4)."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    """Sizes of the generator, the encoders and the feature extractor; pictures are 128 x 128."""

    n_shapes: int = 20
    """N_p: shapes, the parent categories."""
    n_textures: int = 200
    """N_c: textures, the child categories."""
    n_backgrounds: int = 200
    """N_b, equal to N_c in the paper: with tied codes each texture has its background."""
    z_dim: int = 100
    """Length of the pose code z."""
    width: int = 64
    """Channel multiple of G: 8 widths at 4 x 4, half a width at 128 x 128."""
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
        """Channels of the parent feature, the map between the shape and the texture stage."""
        return self.width // 4
