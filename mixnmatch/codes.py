"""What MixNMatch's generators take and give (MixNMatch Sec. 3): four codes in, the layers of the picture out."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from training.types import Image, Mask


class Factor(NamedTuple):
    """What can be read from a photo, or drawn anew."""

    label: str
    """What a person reads."""
    fields: tuple[str, ...]
    """The codes that hold it; those that a model's codes lack are left out."""
    gives: str
    """What of a photo it is."""


FACTOR_TABLE: dict[str, Factor] = {
    "background": Factor("Background", ("b", "z_background"), "what is behind the object"),
    "pose": Factor("Pose", ("z",), "where the object is and how it is turned"),
    "shape": Factor("Shape", ("p",), "what kind of object it is"),
    "texture": Factor("Texture", ("c",), "the object's colours and pattern"),
}
"""The four factors, in the order of a page."""
FACTORS = tuple(FACTOR_TABLE)


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


def with_factor(codes: Codes, factor: str, givers: Codes) -> Codes:
    """Return `codes` with one factor of `givers`: of their rows, or of their only one in every row."""
    held = {name: value for name in FACTOR_TABLE[factor].fields if (value := getattr(givers, name)) is not None}
    return replace(codes, **{name: value.expand(len(codes.z), *value.shape[1:]) for name, value in held.items()})
