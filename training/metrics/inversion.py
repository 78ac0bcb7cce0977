"""How well codes found from photos draw them: rebuilt, and where the truth can be rendered, turned and repainted.

On rendered cars every factor is known, so the same car can be rendered turned, in another paint, or left out. Two
baselines stand beside the figures: the photo itself, unturned, and another car rendered in the true pose and place.
"""

import math
from dataclasses import dataclass, field, fields, replace
from typing import Any

import numpy as np
import torch
from jaxtyping import Float
from torch import Tensor

from training.batched import rows, stack
from training.codes_file import HasParts
from training.data.cars.factors import Factors
from training.data.cars.render import render, render_place
from training.data.folder import PictureSet
from training.invertible import InvertsPhotos
from training.metrics.masks import core, iou
from training.metrics.regression import circle_fit
from training.types import Generator, Image, Mask

TURNS = (60, 120, 180)
"""Degrees by which objects are turned."""
AT_ONCE = 10
"""Photos inverted side by side, each for itself."""
SHOWN = 6
"""Photos that the page shows."""


@dataclass(frozen=True, kw_only=True, slots=True)
class InversionReport:
    """What was measured of photos' codes, means over the photos unless a name says otherwise."""

    n: int
    figures: dict[str, float]
    baselines: dict[str, dict[str, float]]
    """What is set beside the figures -> figure -> its value there."""
    pictures: dict[str, Tensor] = field(default_factory=dict)
    captions: dict[str, str] = field(default_factory=dict)


def psnr(a: Image, b: Image, where: Mask | None = None) -> Float[Tensor, " n"]:
    """Return 10 log10(1 / mean square) of pictures as numbers in [0, 1], within `where` if it is given."""
    error = ((a - b) / 2).square().mean(1, keepdim=True)
    weight = torch.ones_like(error) if where is None else where
    mean = (error * weight).sum((1, 2, 3)) / weight.sum((1, 2, 3)).clamp_min(1e-6)
    return -10 * mean.clamp_min(1e-8).log10()


def colour(image: Image, mask: Mask) -> Float[Tensor, "n 3"]:
    """Return the mean colour within masks."""
    return (image.flatten(2) * core(mask)[:, None]).sum(2)


def colour_error(image: Image, mask: Mask, other: Image, other_mask: Mask) -> float:
    """Return by how much the objects' mean colours differ, of 255."""
    return float((colour(image, mask) - colour(other, other_mask)).abs().mean() * 127.5)


@torch.no_grad()
def measure_inversion(generator: Generator, pictures: PictureSet, *, n: int = 40) -> InversionReport | None:
    """Return how the codes of `n` pictures, evenly spread over a set, draw them; None for a generator that inverts no
    photos.

    Raises: ValueError where it has no pose reader.
    """
    if not isinstance(generator, InvertsPhotos) or not isinstance(generator, HasParts):
        return None
    n = min(n, len(pictures))
    chosen = [i * len(pictures) // n for i in range(n)]
    batch = pictures.get(chosen)
    photos = batch.image.to(generator.device)
    found = [generator.invert(part, apart=True).codes for part in photos.split(AT_ONCE)]
    codes = stack(found)
    given = None if batch.mask is None else batch.mask.to(photos)
    report = _rebuilt(generator, photos, given, codes)
    turning = any(knob.name == "rotation" and knob.high - knob.low >= 360 for knob in generator.knobs)
    names = {f.name for f in fields(Factors)}
    if turning and names <= pictures.factors.keys():
        whole = {"mesh": np.int64, "texture": np.int64}
        columns = {k: pictures.factors[k][chosen].numpy().astype(whole.get(k, np.float64)) for k in names}
        return _against_renders(generator, codes, photos, Factors(**columns), report)
    if turning:
        report.figures["closed_loop_120_object_psnr"] = _closed_loop(generator, codes)
    if hasattr(generator, "read"):
        read = _drawn(generator, generator.read(photos))  # type: ignore[operator]
        before = _colours(read, photos, given)
        report.baselines["as encoded"] = {"inversion_colour_error": before}
    return report


def _drawn(generator: Generator, codes: Any) -> Any:
    """Return the layers of codes, row by row, so that no picture depends on those beside it."""
    return stack([generator(rows(codes, i)) for i in range(len(next(iter(_tensors(codes)))))])


def _tensors(codes: Any) -> list[Tensor]:
    return [v for name in codes.__dataclass_fields__ if (v := getattr(codes, name)) is not None]


def _colours(layers: Any, photos: Image, given: Mask | None) -> float:
    return colour_error(layers.image, layers.mask, photos, layers.mask if given is None else given)


def _rebuilt(generator: Generator, photos: Image, given: Mask | None, codes: Any) -> InversionReport:
    layers = _drawn(generator, codes)
    seen = (layers.mask > 0.5).float() if given is None else ((layers.mask > 0.5) | (given > 0.5)).float()
    found = {
        "inversion_psnr": float(psnr(layers.image, photos).mean()),
        "inversion_object_psnr": float(psnr(layers.image, photos, seen).mean()),
        "inversion_colour_error": _colours(layers, photos, given),
    }
    if given is not None:
        found["inversion_mask_iou"] = float(iou(layers.mask, given).mean())
    shown = torch.stack([photos[:SHOWN], layers.image[:SHOWN]], 1).flatten(0, 1)
    return InversionReport(
        n=len(photos),
        figures=found,
        baselines={},
        pictures={"photos and rebuilt": shown.cpu()},
        captions={"photos and rebuilt": "Photos, each with the picture of its codes at its right."},
    )


def _turned(generator: Generator, codes: Any, degrees: float) -> Any:
    assert isinstance(generator, HasParts)
    return generator.set(codes, "rotation", generator.knob_values(codes)["rotation"] + degrees)


def _closed_loop(generator: Any, codes: Any) -> float:
    """Return the PSNR on objects of pictures that were turned by 120 degrees, inverted, and turned back."""
    first, away = _drawn(generator, codes), _drawn(generator, _turned(generator, codes, 120)).image
    again = stack([generator.invert(part, apart=True).codes for part in away.split(AT_ONCE)])
    back = _drawn(generator, _turned(generator, again, -120))
    return float(psnr(back.image, first.image, ((back.mask > 0.5) | (first.mask > 0.5)).float()).mean())


def _against_renders(
    generator: Generator, codes: Any, photos: Image, factors: Factors, report: InversionReport
) -> InversionReport:
    """Return a report with pose, novel views, repaint and the place behind, against the renderer's truth."""
    assert isinstance(generator, HasParts)
    size = generator.resolution
    knobs = generator.knob_values(codes)
    fit = circle_fit(torch.from_numpy(np.degrees(factors.rotation)), knobs["rotation"].cpu())
    lift = (knobs["elevation"].cpu().double() - torch.from_numpy(np.degrees(factors.elevation))).abs()
    found = report.figures | {
        "inversion_rotation_error": fit.error,
        "inversion_rotation_flips": 0.0 if fit.flips is None else fit.flips,
        "inversion_elevation_error": float(lift.median()),
    }
    other = _other_cars(factors)
    beside: dict[str, dict[str, float]] = {"photo left as it is": {}, "another car in the true pose": {}}
    own = _drawn(generator, codes)
    sheet = [photos[:SHOWN], own.image[:SHOWN]]
    given = render(factors, size).mask.to(photos)
    for degrees in TURNS:
        truth = render(_rotated(factors, degrees), size)
        layers = _drawn(generator, _turned(generator, codes, math.copysign(degrees, fit.slope)))
        stand_in = render(_rotated(other, degrees), size)
        drawn = {
            "": (layers.image, layers.mask),
            "photo left as it is": (photos, given),
            "another car in the true pose": (stand_in.image.to(photos), stand_in.mask.to(photos)),
        }
        for name, (image, mask) in drawn.items():
            values = _compared(image, mask, truth.image.to(photos), truth.mask.to(photos), degrees)
            (found if not name else beside[name]).update(values)
        sheet += [layers.image[:SHOWN], truth.image[:SHOWN].to(photos)]
    found |= _parts(generator, codes, factors, own)
    plain = render(_repainted(factors), size)
    beside["photo left as it is"]["repaint_colour_error"] = colour_error(
        own.image, own.mask, plain.image.to(photos), plain.mask.to(photos)
    )
    caption = (
        "A row a photo: the photo, its codes' picture, then turned by 60, 120 and 180°, each beside the true render."
    )
    pictures = {"turned": torch.stack([x.cpu() for x in sheet], 1).flatten(0, 1)}
    return replace(report, figures=found, baselines=beside, pictures=pictures, captions={"turned": caption})


def _compared(image: Image, mask: Mask, truth: Image, true_mask: Mask, degrees: int) -> dict[str, float]:
    seen = ((mask > 0.5) | (true_mask > 0.5)).float()
    return {
        f"novel_{degrees}_object_psnr": float(psnr(image, truth, seen).mean()),
        f"novel_{degrees}_mask_iou": float(iou(mask, true_mask).mean()),
    }


def _parts(generator: Generator, codes: Any, factors: Factors, own: Any) -> dict[str, float]:
    """Return the errors of the place behind the cars, and of cars in the paint of the next photo's."""
    assert isinstance(generator, HasParts)
    place = render_place(factors, generator.resolution).to(own.image)
    hidden = (own.mask > 0.5).float()
    next_one = rows(codes, torch.arange(len(hidden)).roll(-1).to(own.image.device))
    repainted = generator.with_part(codes, "look", generator.part_codes(next_one, "look"))
    layers, truth = _drawn(generator, repainted), render(_repainted(factors), generator.resolution)
    return {
        "hidden_place_psnr": float(psnr(own.background, place, hidden).mean()),
        "repaint_colour_error": colour_error(
            layers.image, layers.mask, truth.image.to(own.image), truth.mask.to(own.image)
        ),
    }


def _rotated(factors: Factors, degrees: float) -> Factors:
    return replace(factors, rotation=factors.rotation + math.radians(degrees))


def _with_next(factors: Factors, names: tuple[str, ...]) -> Factors:
    return replace(factors, **{name: np.roll(getattr(factors, name), -1) for name in names})


def _repainted(factors: Factors) -> Factors:
    """Return each car in the paint of the next."""
    return _with_next(factors, ("hue", "saturation", "value"))


def _other_cars(factors: Factors) -> Factors:
    """Return the next car in each one's pose and place."""
    return _with_next(factors, ("mesh", "hue", "saturation", "value"))
