"""The prior of camera and object, and the knobs that span it; degrees at the knob, radians in codes."""

import math
import zlib
from dataclasses import replace
from functools import cache
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from giraffe_hd.codes import Codes
from giraffe_hd.fast.config import PoseConfig
from training.nn.camera import half_width
from training.types import Knob, knob_numbers, knob_seeds

SEED_FIELDS = {"z_s_fg", "z_a_fg", "z_s_bg", "z_a_bg"}

SEED_KNOBS = (
    Knob(name="shape", label="Shape", kind="seed", high=99_999.0, step=1.0, help="Draws another body."),
    Knob(name="look", label="Look", kind="seed", high=99_999.0, step=1.0, help="Draws other colours on the same body."),
    Knob(name="background", label="Background", kind="seed", high=99_999.0, step=1.0, help="Draws another place."),
)

DRAWN_BY = {"shape": ("z_s_fg",), "look": ("z_a_fg",), "background": ("z_s_bg", "z_a_bg")}
"""Seed knob -> fields of the codes that it draws."""


@cache
def pose_knobs(pose: PoseConfig) -> tuple[Knob, ...]:
    """Return the knobs of camera and object; positions are percent of half the picture's width, size is relative."""
    half = half_width(pose.radius, pose.fov) / 100
    middle = sum(pose.scale) / 2
    low, high = pose.rotation
    shown = 45.0 if low <= 45 <= high else round((low + high) / 2, 1)  # two of its sides at once
    knobs = [
        Knob(name="rotation", label="Rotation", kind="angle", unit="°", low=low, high=high, default=shown, step=1.0,
             help="Turns the object on the spot."),
        Knob(name="elevation", label="Camera elevation", kind="angle", unit="°", low=pose.elevation[0],
             high=pose.elevation[1], default=round(sum(pose.elevation) / 2, 1), step=0.5, help="Raises the camera."),
        Knob(name="scale", label="Size", kind="range", unit="×", low=pose.scale[0] / middle,
             high=pose.scale[1] / middle, default=1.0, step=0.01, help="Makes the object larger or smaller."),
    ]  # fmt: skip
    knobs += [knob for knob in camera_knobs(pose) if not knob.extended_range]
    for name, label, span, text in (
        ("x", "Left – right", pose.y, "Moves the object across the picture."),
        ("y", "Down – up", pose.z, "Moves the object up and down."),
        ("depth", "Far – near", pose.x, "Moves the object towards the camera."),
    ):
        if span[1] > span[0]:
            knobs.append(
                Knob(name=name, label=label, kind="range", unit="%", low=span[0] / half, high=span[1] / half,
                     default=sum(span) / 2 / half, step=0.5, help=text)
            )  # fmt: skip
    return tuple(knobs)


@cache
def camera_knobs(pose: PoseConfig) -> tuple[Knob, ...]:
    """Return the knobs of the camera beside its elevation, those that training held still with their extended range."""
    low, high = pose.azimuth
    middle, near, far = (low + high) / 2, 0.7 * pose.radius, 1.6 * pose.radius
    return (
        Knob(name="azimuth", label="Camera azimuth", kind="angle", unit="°", low=low, high=high, default=middle,
             step=1.0, extended_range=(middle - 180, middle + 180) if low == high else None,
             help="Walks the camera around the scene; the background stays as it is."),
        Knob(name="radius", label="Camera distance", kind="range", low=pose.radius, high=pose.radius,
             default=pose.radius, step=0.01, extended_range=(near, far),
             help="Takes the camera nearer or farther; the background stays as it is."),
    )  # fmt: skip


def sample_pose(pose: PoseConfig, n: int, rng: torch.Generator) -> dict[str, Tensor]:
    """Draw the pose fields of `n` rows of `Codes` from the prior."""

    def uniform(span: tuple[float, float]) -> Tensor:
        return span[0] + (span[1] - span[0]) * torch.rand(n, generator=rng)

    return {
        "azimuth": uniform(pose.azimuth).deg2rad(),
        "elevation": uniform(pose.elevation).deg2rad(),
        "radius": torch.full((n,), pose.radius),
        "scale": uniform(pose.scale)[:, None] * torch.tensor(pose.proportions),
        "translation": torch.stack([uniform(pose.x), uniform(pose.y), uniform(pose.z)], -1),
        "rotation": uniform(pose.rotation).deg2rad(),
    }


def set_pose(codes: Codes, pose: PoseConfig, name: str, value: Any) -> Codes:
    """Return `codes` with the camera or the object moved; `value` in the knob's unit, a number or (n,).

    Raises: ValueError for what is no number, not finite, neither one number nor one a row, or a size not above 0.
    """
    number = knob_numbers(name, value, codes.rotation)
    if name in ("rotation", "elevation", "azimuth"):
        return replace(codes, **{name: number.deg2rad()})
    if name == "radius":
        return replace(codes, radius=number)
    if name == "scale":
        if not (number > 0).all():
            raise ValueError(f"size {float(number.min()):g} cannot be drawn; expected a number above 0")
        half_length = number * sum(pose.scale) / 2
        return replace(codes, scale=half_length[:, None] * codes.scale.new_tensor(pose.proportions))
    translation = codes.translation.clone()
    translation[:, {"depth": 0, "x": 1, "y": 2}[name]] = number * half_width(pose.radius, pose.fov) / 100
    return replace(codes, translation=translation)


def pose_values(codes: Codes, pose: PoseConfig) -> dict[str, Float[Tensor, " n"]]:
    """Return where the knobs of camera and object stand, in their units: what `set_pose` was given."""
    half, low = half_width(pose.radius, pose.fov) / 100, pose.rotation[0]
    angle = codes.rotation.rad2deg()
    return {
        "rotation": low + torch.remainder(angle - low, 360) if pose.rotation[1] - low >= 360 else angle,
        "elevation": codes.elevation.rad2deg(),
        "azimuth": codes.azimuth.rad2deg(),
        "radius": codes.radius,
        "scale": codes.scale[:, 0] / (sum(pose.scale) / 2 * pose.proportions[0]),
        "x": codes.translation[:, 1] / half,
        "y": codes.translation[:, 2] / half,
        "depth": codes.translation[:, 0] / half,
    }


def set_seed(codes: Codes, name: str, value: Any) -> Codes:
    """Return `codes` with a seed knob's latent codes drawn from the whole number `value`, alike in all rows, or from
    one a row.

    Raises: ValueError for anything but a whole number, or as many as rows.
    """
    seeds, drawn = knob_seeds(name, value, len(codes.rotation)), {}
    for field in DRAWN_BY[name]:
        old = getattr(codes, field)
        sources = [torch.Generator().manual_seed(zlib.crc32(f"{field} {seed}".encode())) for seed in seeds]
        new = torch.cat([torch.randn(1, old.shape[1], generator=rng) for rng in sources])  # no two codes alike
        drawn[field] = new.to(old).expand_as(old)
    return replace(codes, **drawn)


def centred(value: Float[Tensor, " n"], span: tuple[float, float]) -> Float[Tensor, " n"]:
    """Return `value` with the span's ends at -1 and 1; 0 where the span has no width."""
    half = (span[1] - span[0]) / 2
    return (value - sum(span) / 2) / half if half > 0 else torch.zeros_like(value)


def uncentred(value: Float[Tensor, " n"], span: tuple[float, float]) -> Float[Tensor, " n"]:
    """Return the number that `centred` makes `value` of; the middle of a span without width."""
    return sum(span) / 2 + value * (span[1] - span[0]) / 2


def pose_targets(codes: Codes, pose: PoseConfig) -> Float[Tensor, "n 6"]:
    """Return what a pose head should read: sin and cos of the rotation seen, elevation, log scale, y, z in [-1, 1]."""
    seen = codes.rotation + codes.azimuth  # turning the object or walking around it shows the same side
    low, high = (math.log(v) for v in pose.scale)
    return torch.stack(
        [
            seen.sin(),
            seen.cos(),
            centred(codes.elevation.rad2deg(), pose.elevation),
            centred((codes.scale[:, 0] / pose.proportions[0]).log(), (low, high)),
            centred(codes.translation[:, 1], pose.y),
            centred(codes.translation[:, 2], pose.z),
        ],
        -1,
    )
