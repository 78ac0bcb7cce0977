"""What GIRAFFE HD's generators take and give: an object in a 3D box, a camera and a background in, layers out.

The scene's conventions are those of `training.nn.camera`. With several objects (GIRAFFE's CLEVR), every object field
has an axis of objects behind `n`; with one object it has none, so a one-object scene never shows that axis.
"""

from dataclasses import dataclass

from jaxtyping import Float
from torch import Tensor

from training.nn.volume import ObjectPose
from training.types import Image, Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    """One row a scene. Lengths are world units, angles radians."""

    z_s_fg: Float[Tensor, "n *objects z_fg"]
    """Shape of the object, standard normal."""
    z_a_fg: Float[Tensor, "n *objects z_fg"]
    """Appearance of the object, standard normal."""
    z_s_bg: Float[Tensor, "n z_bg"]
    """Shape of the background, standard normal."""
    z_a_bg: Float[Tensor, "n z_bg"]
    """Appearance of the background, standard normal."""
    azimuth: Float[Tensor, " n"]
    """Camera: 0 on the +x side, counter-clockwise seen from above."""
    elevation: Float[Tensor, " n"]
    """Camera: 0 at the horizon, pi/2 overhead."""
    radius: Float[Tensor, " n"]
    """Distance of the camera from the origin."""
    scale: Float[Tensor, "n *objects 3"]
    """Half-extents of the object's box along its own axes."""
    translation: Float[Tensor, "n *objects 3"]
    """Centre of the box: x towards the camera of azimuth 0, y to its right, z up."""
    rotation: Float[Tensor, "n *objects"]  # noqa: F821 (axes)
    """Angle of p_box = Rz(rotation) (p - translation) / scale."""
    presence: Float[Tensor, "n objects"] | None = None
    """1 where a scene has this object, 0 where it has not; None where all objects are there."""
    styles: Float[Tensor, "n layers w_dim"] | None = None
    """What each layer's style differs by from that of the latent codes, as inversion of a photo finds it (`fast` only:
    `giraffe_hd.fast.generator.Generator.style_layers` says which rows are whose); None where nothing differs."""

    @property
    def object_pose(self) -> ObjectPose:
        """Camera and box of a scene of one object."""
        return ObjectPose(self.azimuth, self.elevation, self.radius, self.scale, self.translation, self.rotation)


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    """The picture and what it was composed from: image = mask * foreground + (1 - mask) * background."""

    image: Image
    foreground: Image
    background: Image
    mask: Mask
    alpha: Float[Tensor, "n 1 rays_h rays_w"]
    """Opacity of the object's density along each ray, in [0, 1], at the resolution of the rays."""
    depth: Float[Tensor, "n 1 rays_h rays_w"]
    """Mean depth of the object along the view axis, world units, weighted by opacity; 0 where less than
    half of a ray is stopped (`paper`: where nothing is hit)."""


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainingLayers(Layers):
    """What training learns from, beside the layers."""

    spread: Float[Tensor, "n 1 rays_h rays_w"] | None
    """Variance of the depth along each ray, 0 for a hard surface; None where the GPU's kernel rendered, which does not
    give it."""
