"""Input and output of MixNMatch's generators (MixNMatch Sec. 3): the codes y, and the layers of the picture G(y)."""

from dataclasses import dataclass, replace
from typing import NamedTuple

from jaxtyping import Float
from torch import Tensor

from training.types import Image, Mask


class Factor(NamedTuple):
    """One of the four factors: it can be read from a photo or sampled."""

    label: str
    """Name shown on the page."""
    fields: tuple[str, ...]
    """Fields of `Codes` that belong to it; fields that are None are skipped."""
    gives: str
    """Description of the factor for help texts."""


FACTOR_TABLE: dict[str, Factor] = {
    "background": Factor("Background", ("b", "z_background"), "what is behind the object"),
    "pose": Factor("Pose", ("z",), "where the object is and how it is turned"),
    "shape": Factor("Shape", ("p",), "what kind of object it is"),
    "texture": Factor("Texture", ("c",), "the object's colours and pattern"),
}
"""The four factors, in the order in which the page shows them."""
FACTORS = tuple(FACTOR_TABLE)


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    """One row an image: y = (z, b, p, c). Photos are mixed by `replace(codes_of_pose, b=..., p=..., c=...,
    z_background=...)`."""

    z: Float[Tensor, "n z_dim"]
    """Pose of the object, standard normal."""
    b: Float[Tensor, "n n_backgrounds"]
    """Background: one-hot, or probabilities."""
    p: Float[Tensor, "n n_shapes"]
    """Shape, the papers' parent code: one-hot, or probabilities."""
    c: Float[Tensor, "n n_textures"]
    """Texture, the papers' child code: one-hot, or probabilities."""
    z_background: Float[Tensor, "n z_dim"] | None = None
    """Layout of the background, standard normal; None where it is the object's own `z`."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """The picture and the layers it is composed of, back to front."""

    image: Image
    """G(y) = C_m C_f + (1 - C_m) P, the final picture."""
    background: Image
    """B."""
    parent: Image
    """P = P_m P_f + (1 - P_m) B, the shape over the background."""
    mask: Mask
    """The object's opacity: 1 - (1 - P_m)(1 - C_m)."""
    parent_mask: Mask
    """P_m."""
    child_mask: Mask
    """C_m."""


def with_factor(codes: Codes, factor: str, givers: Codes) -> Codes:
    """Return `codes` with one factor taken from `givers`, which have as many rows, or one row for all."""
    held = {name: value for name in FACTOR_TABLE[factor].fields if (value := getattr(givers, name)) is not None}
    return replace(codes, **{name: value.expand(len(codes.z), *value.shape[1:]) for name, value in held.items()})
