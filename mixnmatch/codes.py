"""What MixNMatch's generators take and give (MixNMatch Sec. 3): four codes in, the layers of the picture out."""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from training.types import Image, Mask

FACTORS = ("background", "pose", "shape", "texture")
"""What can be read from a photo."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    """One row an image. Mixing photos is `replace(codes_of_pose, b=..., p=..., c=..., z_background=...)`."""

    z: Float[Tensor, "n z_dim"]
    """Pose of the object, standard normal."""
    b: Float[Tensor, "n n_backgrounds"]
    """Background: one-hot, or shares that sum to 1."""
    p: Float[Tensor, "n n_shapes"]
    """Shape, the papers' parent code: one-hot, or shares that sum to 1."""
    c: Float[Tensor, "n n_textures"]
    """Texture, the papers' child code: one-hot, or shares that sum to 1."""
    z_background: Float[Tensor, "n z_dim"] | None = None
    """Layout of the background, standard normal; None where it is the object's own `z`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """The picture and what it was composed from, back to front."""

    image: Image
    """Texture over shape over background: the result."""
    background: Image
    parent: Image
    """Shape over background."""
    mask: Mask
    """All of the object: 1 - (1 - parent_mask)(1 - child_mask)."""
    parent_mask: Mask
    """The shape's share of each pixel of `parent`."""
    child_mask: Mask
    """The texture's share of each pixel of `image`."""
