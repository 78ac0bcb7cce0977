"""Accuracy and side effects of knobs, measured on generated pictures (GIRAFFE HD Sec. 4).

All knobs are set at random and each reading is fitted to its knob; each knob is swept with the others fixed, to measure
its leakage into other readings; and layers are compared before and after one code is redrawn.
"""

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from training.batched import repeat, rows, stack
from training.metrics.car_evaluator import CarEvaluator
from training.metrics.fid import at_once
from training.metrics.ground import Ground, measure_ground
from training.metrics.masks import CLEAR, FULL, Masks, Readings, changed_share, iou, look_histogram, read_masks
from training.metrics.regression import Fit, Turns, circle_fit, explained_spread, line_fit, turns, wrap
from training.types import Generator, Image, Knob, Mask

Reader = Callable[[Image, Mask], Readings]

CAMERA = ("elevation", "azimuth")
"""Knobs that may change object and background."""
BACKGROUND = ("background", "background_shape", "background_look")
"""Knobs (`fast`, then `paper`) that may change only the background; all others may change only the object."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnobFit:
    """One knob and the fit of its readings."""

    knob: str
    label: str
    unit: str
    fit: Fit
    points: tuple[tuple[float, float], ...]
    """Some knob values with their readings, for a plot; sizes relative to their geometric mean."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Invariance:
    """What one knob changed: shares of pixels, means over pictures; None where no pixel could be compared."""

    knob: str
    label: str
    effect: float
    """Mean change of the whole picture, in levels of 255."""
    background_1: float | None = None
    """Share of the pixels outside both masks that changed by 1/255 or more in a channel; None for background knobs."""
    background_4: float | None = None
    foreground_1: float | None = None
    """Share of the pixels inside both masks that changed by 1/255 or more; for background knobs only."""
    foreground_4: float | None = None
    mask_iou: float = 1.0
    """IoU of the masks before and after, thresholded at 0.5."""
    mask_change: float = 0.0
    """Mean change of the mask."""
    look_change: float = 0.0
    """Distance of the colour histograms inside the masks before and after, 0 to 1."""


@dataclass(frozen=True, kw_only=True, slots=True)
class KnobReport:
    """Measurements of one generator's knobs."""

    n: int
    seed: int
    reader: str
    following: tuple[KnobFit, ...]
    turns: Turns | None
    identity_drift: float | None
    """Colour change of an object over a full turn, relative to that between objects; 0 is ideal."""
    staying: tuple[Invariance, ...]
    readings: tuple[str, ...]
    """Columns of `leak`."""
    leak: dict[str, tuple[float, ...]]
    """Knob -> its effect on each reading over its range, relative to that of the reading's own knob."""
    masks: Masks
    ground: Ground | None = None
    """What raising the camera does to the place; None where there is no place or no such knob."""
    pictures: dict[str, Tensor] = field(default_factory=dict)
    """Example pictures by name, eight a row."""
    captions: dict[str, str] = field(default_factory=dict)


def car_reader(network: CarEvaluator) -> Reader:
    """Return a reader of rendered cars: `rotation`, `elevation`, `scale`, `x`, `y`."""

    def read(image: Image, mask: Mask) -> Readings:
        seen = network.read(image)
        return {name: getattr(seen, name).double() for name in ("rotation", "elevation", "scale", "x", "y")}

    return read


@torch.inference_mode()
def measure_knobs(
    generator: Generator, *, reader: Reader = read_masks, reader_name: str = "masks", n: int = 600, seed: int = 0
) -> KnobReport:
    """Return measurements of the generator's knobs: `n` pictures for the fits, about four times as many in all.

    Raises: ValueError if the generator's layers have no mask, or it has no numeric knobs.
    """
    pose = [knob for knob in generator.knobs if knob.kind in ("range", "angle")]
    if not pose:
        raise ValueError(f"{type(generator).__name__} has no knobs that are numbers, so none to measure")
    rng = torch.Generator().manual_seed(seed)
    following, masks, worst, captions = _following(generator, pose, reader, n, rng)
    sign = next((f.fit.slope for f in following if f.knob == "rotation"), 1.0)
    turned, drift, pictures = _turns(generator, reader, max(8, n // 20), rng, sign)
    leak, columns, sweeps = _leaks(generator, pose, reader, max(8, n // 12), rng)
    staying, redrawn = _staying(generator, max(16, n // 6), rng)
    captions |= {
        k.label: f"{k.label}, from {k.low:.3g} to {k.high:.3g}{'' if k.unit == '°' else ' '}{k.unit}: two objects"
        for k in pose
    } | {
        "Full turns": "Full turns of three objects, 45° a picture",
    }
    return KnobReport(
        n=n,
        seed=seed,
        reader=reader_name,
        following=following,
        turns=turned,
        identity_drift=drift,
        staying=staying,
        readings=columns,
        leak=leak,
        masks=masks,
        ground=measure_ground(generator, n=max(8, n // 25), seed=seed),
        pictures=pictures | sweeps | redrawn | worst,
        captions=captions,
    )


def _drawn(generator: Generator, codes: Any) -> Iterator[Any]:
    """Yield the layers of `codes` in batches."""
    batch = at_once(generator)
    for start in range(0, len(_column(codes)), batch):
        layers = generator(rows(codes, slice(start, start + batch)))
        if getattr(layers, "mask", None) is None:
            raise ValueError(f"the layers of {type(generator).__name__} have no mask; a knob report needs one")
        yield layers


def _column(codes: Any) -> Tensor:
    """Return any field of a dataclass of tensors."""
    return next(v for name in codes.__dataclass_fields__ if (v := getattr(codes, name)) is not None)


def _read(generator: Generator, codes: Any, reader: Reader) -> Readings:
    """Return the readings of the pictures that `codes` describe, on the CPU."""
    parts = [reader(layers.image, layers.mask) for layers in _drawn(generator, codes)]
    return {name: torch.cat([part[name] for part in parts]).double().cpu() for name in parts[0]}


def _uniform(knob: Knob, n: int, rng: torch.Generator) -> Float[Tensor, " n"]:
    """Draw values over a knob's range."""
    return knob.low + (knob.high - knob.low) * torch.rand(n, generator=rng)


def full_turn(knob: Knob) -> bool:
    """Whether a knob's range is a full circle."""
    return knob.kind == "angle" and knob.high - knob.low >= 360


def _following(
    generator: Generator, pose: Sequence[Knob], reader: Reader, n: int, rng: torch.Generator
) -> tuple[tuple[KnobFit, ...], Masks, dict[str, Tensor], dict[str, str]]:
    """Set all knobs at random, fit each reading to its knob, and collect the worst pictures with captions."""
    codes = generator.sample(n, rng)
    values = {knob.name: _uniform(knob, n, rng) for knob in pose}
    for name, value in values.items():
        codes = generator.set(codes, name, value)
    parts, areas, soft = [], [], []
    for layers in _drawn(generator, codes):
        parts.append({k: v.double().cpu() for k, v in reader(layers.image, layers.mask).items()})
        areas.append(layers.mask.mean((1, 2, 3)).double().cpu())
        soft.append(((layers.mask > 0.1) & (layers.mask < 0.9)).double().mean((1, 2, 3)).cpu())
    read = {name: torch.cat([part[name] for part in parts]) for name in parts[0]}
    area = torch.cat(areas)
    masks = Masks(
        mean=float(area.mean()),
        sd=float(area.std()),
        smallest=float(area.min()),
        largest=float(area.max()),
        soft=float(torch.cat(soft).mean() / area.mean().clamp_min(1e-9)),
    )
    found = []
    worst: dict[str, Tensor] = {}
    captions: dict[str, str] = {}
    for knob in pose:
        if knob.name not in read or knob.high == knob.low:
            continue
        value, reading = values[knob.name].double(), read[knob.name]
        if knob.name == "rotation" and "azimuth" in values:
            reading = reading - values["azimuth"].double()  # a picture shows their sum
        if knob.name == "scale":  # size has no absolute unit in a picture: compare ratios
            value, reading = (x.clamp_min(1e-6).log() for x in (value, reading))
            value, reading = value - value.mean(), reading - reading.mean()
        if knob.kind == "angle" and not full_turn(knob):  # shifted by full turns to be nearest to the knob
            offset = torch.polar(torch.ones_like(value), (reading - value).deg2rad()).mean().angle().rad2deg()
            reading = value + offset + wrap(reading - value - offset)
        fit = circle_fit(value, reading) if full_turn(knob) else line_fit(value, reading)
        if full_turn(knob):
            read_as = (math.copysign(1, fit.slope) * (reading - fit.offset)) % 360  # where the knob would have to stand
            rank = wrap(read_as - value).abs().argsort(descending=True)[:8]
            pairs = ", ".join(f"{value[i]:.0f}° → {read_as[i]:.0f}°" for i in rank)
            captions["worst rotations"] = f"The worst pictures: where the knob stood → where it seems to: {pairs}"
            worst["worst rotations"] = torch.cat(
                [generator(rows(codes, rank[i : i + 1])).image for i in range(len(rank))]
            )
        if knob.name == "scale":
            value, reading = value.exp(), reading.exp()
        points = tuple(zip(value[:300].tolist(), reading[:300].tolist(), strict=True))
        found.append(KnobFit(knob=knob.name, label=knob.label, unit=knob.unit, fit=fit, points=points))
    return tuple(found), masks, worst, captions


def _turns(
    generator: Generator, reader: Reader, n: int, rng: torch.Generator, sign: float, steps: int = 24
) -> tuple[Turns | None, float | None, dict[str, Tensor]]:
    """Rotate `n` objects by full turns; return the readings' turns and the drift of colours."""
    knob = next((k for k in generator.knobs if k.name == "rotation" and full_turn(k)), None)
    if knob is None:
        return None, None, {}
    angles = torch.arange(steps) * 360.0 / steps
    codes = generator.set(repeat(generator.sample(n, rng), steps), "rotation", angles.repeat(n))
    looks, readings, shown = [], [], []
    for layers in _drawn(generator, codes):
        looks.append(look_histogram(layers.image, layers.mask))
        readings.append(reader(layers.image, layers.mask))
        if sum(map(len, shown)) < 3 * steps:
            shown.append(layers.image.cpu())
    pictures = torch.cat(shown)[: 3 * steps : 3]
    look = torch.cat(looks).view(n, steps, -1)
    mean = look.mean(1)
    own = (look - mean[:, None]).abs().sum(2).mean() / 2
    others = (mean - mean.roll(1, 0)).abs().sum(1).mean() / 2
    result = None
    if "rotation" in readings[0]:
        result = turns(torch.cat([r["rotation"] for r in readings]).double().cpu().view(n, steps), sign)
    return result, float(own / others.clamp_min(1e-9)), {"Full turns": pictures}


def _leaks(
    generator: Generator, pose: Sequence[Knob], reader: Reader, n: int, rng: torch.Generator, steps: int = 9
) -> tuple[dict[str, tuple[float, ...]], tuple[str, ...], dict[str, Tensor]]:
    """Sweep each knob with all others fixed; return the leakage into the readings, and some of the sweeps."""
    base = generator.sample(n, rng)
    spread: dict[str, dict[str, float]] = {}
    pictures: dict[str, Tensor] = {}
    for knob in pose:
        if knob.high == knob.low:
            continue
        turn = full_turn(knob)
        value = torch.linspace(knob.low, knob.high, steps + turn)[:steps]
        codes = generator.set(repeat(base, steps), knob.name, value.repeat(n))
        read = _read(generator, codes, reader)
        spread[knob.name] = {
            name: math.sqrt(
                sum(explained_spread(value, part.view(n, steps), turn=turn) ** 2 for part in _parts(name, x))
            )
            for name, x in read.items()
        }
        if knob.name != "rotation":
            eight = torch.linspace(knob.low, knob.high, 8)
            pictures[knob.label] = generator(
                generator.set(repeat(rows(base, slice(0, 2)), 8), knob.name, eight.repeat(2))
            ).image.cpu()
    columns = tuple(name for name in spread if name in spread[name])
    leak = {k: tuple(spread[k][name] / max(spread[name][name], 1e-9) for name in columns) for k in spread}
    return leak, columns, pictures


def _parts(name: str, reading: Tensor) -> list[Tensor]:
    """Return a reading as continuous numbers: a direction as cosine and sine, a size as its logarithm."""
    if name == "rotation":
        angle = reading.deg2rad()
        return [angle.cos(), angle.sin()]
    return [reading.clamp_min(1e-6).log()] if name == "scale" else [reading]


def _staying(generator: Generator, n: int, rng: torch.Generator) -> tuple[tuple[Invariance, ...], dict[str, Tensor]]:
    """Set each knob to a random value and compare the layers before and after."""
    base = generator.sample(n, rng)
    before = list(_drawn(generator, base))
    found, pictures = [], {}
    for knob in generator.knobs:
        if knob.kind == "picture" or knob.high == knob.low:
            continue
        codes = redraw(generator, base, knob, rng)
        after = list(_drawn(generator, codes))
        found.append(_compare(knob, before, after))
        if knob.kind == "seed":
            pair = torch.cat([before[0].image[:8], after[0].image[:8]])
            pictures[f"{knob.label} redrawn: before above, after below"] = pair.cpu()
    return tuple(found), pictures


def redraw(generator: Generator, codes: Any, knob: Knob, rng: torch.Generator, groups: int = 8) -> Any:
    """Return `codes` with one knob at random values; a seed, alike in all rows that are set at once, in groups."""
    n = len(_column(codes))
    if knob.kind != "seed":
        return generator.set(codes, knob.name, _uniform(knob, n, rng))
    size = -(-n // groups)
    parts = []
    for start in range(0, n, size):
        number = int(torch.randint(int(knob.low), max(int(knob.high), int(knob.low) + 1), (), generator=rng))
        parts.append(generator.set(rows(codes, slice(start, start + size)), knob.name, number))
    return stack(parts)


def _compare(knob: Knob, before: Sequence[Any], after: Sequence[Any]) -> Invariance:
    """Return what one knob changed between two lists of layers."""
    image_0, mask_0 = torch.cat([layers.image for layers in before]), torch.cat([layers.mask for layers in before])
    image_1, mask_1 = torch.cat([layers.image for layers in after]), torch.cat([layers.mask for layers in after])
    result: dict[str, Any] = {
        "effect": float((image_1 - image_0).abs().mean() * 127.5),
        "mask_iou": float(iou(mask_0, mask_1).mean()),
        "mask_change": float((mask_1 - mask_0).abs().mean()),
        "look_change": float(
            (look_histogram(image_0, mask_0) - look_histogram(image_1, mask_1)).abs().sum(1).mean() / 2
        ),
    }
    if knob.name not in BACKGROUND + CAMERA:
        outside = (mask_0 < CLEAR) & (mask_1 < CLEAR)
        result |= {f"background_{k}": changed_share(image_0, image_1, outside, k) for k in (1, 4)}
    if knob.name in BACKGROUND:
        inside = (mask_0 > FULL) & (mask_1 > FULL)
        result |= {f"foreground_{k}": changed_share(image_0, image_1, inside, k) for k in (1, 4)}
    return Invariance(knob=knob.name, label=knob.label, **result)
