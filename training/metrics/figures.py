"""The table of a report's figures: template of the name, which direction is better, unit and description.

Cards and report.json have figures as name -> value; names are formatted and parsed by the table's templates.
"""

import math
import re
from collections.abc import Iterator
from dataclasses import asdict, dataclass, fields, is_dataclass
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    from training.metrics.knobs import KnobReport
    from training.metrics.report import Report
    from training.metrics.swaps import SwapReport

Better = Literal["more", "less", "one", "one, either sign", "neither"]
Unit = Literal["share", "ratio", "degrees", "levels", "plain", "knob"]
"""`levels` of 255; `knob`: the unit of the knob that the figure is about."""


class Kind(NamedTuple):
    """Properties of a figure."""

    better: Better
    unit: Unit
    words: str


TABLE: dict[str, Kind] = {
    "rotation_slope": Kind("one, either sign", "ratio", "slope of the rotation; its sign is each run's own choice"),
    "{}_slope": Kind("one", "ratio", "slope of what is read against the knob (ideal: 1)"),
    "{}_r2": Kind("more", "ratio", "R² of what is read against the knob"),
    "{}_error": Kind("less", "knob", "median error of the knob"),
    "{}_flips": Kind("less", "share", "of pictures face the wrong way round (chance: 50 %)"),
    "{}_within_15": Kind("more", "share", "of pictures are turned as the knob says, to 15° (chance: 8 %)"),
    "turn_slope": Kind("one, either sign", "ratio", "slope of turns up to 60°, read by a network that saw films"),
    "turn_r2": Kind("more", "ratio", "R² of these turns"),
    "turn_seen": Kind("neither", "share", "of pairs of pictures show how far the object turned"),
    "turn_error": Kind("less", "degrees", "median error of these turns"),
    "turn_steps_right": Kind("more", "share", "of the steps of full turns go the right way"),
    "turns_closed": Kind("more", "share", "of full turns without a wrong step"),
    "turns_once_round": Kind("more", "share", "of full turns go round exactly once"),
    "identity_drift": Kind("less", "share", "of the difference between objects, by which colours drift over a turn"),
    "{}_background_changed": Kind("less", "share", "of the background touched when the knob is turned"),
    "{}_background_changed_4": Kind("less", "share", "of the background changed by 4 levels of 255 or more"),
    "{}_ground_changed": Kind("less", "share", "of what another background does, done to the ground's colours"),
    "{}_ground_textured": Kind("less", "share", "of what another background does, done to the ground's texture"),
    "{}_holds_from": Kind("less", "degrees", "from here on the place stays as the knob is turned"),
    "{}_holds_to": Kind("more", "degrees", "up to here the place stays as the knob is turned"),
    "{}_foreground_changed": Kind("less", "share", "of the object touched when the background is redrawn"),
    "look_mask_iou": Kind("more", "share", "of the outline kept when the look is redrawn"),
    "shape_mask_iou": Kind("less", "share", "of the outline kept when the shape is redrawn"),
    "background_mask_iou": Kind("more", "share", "of the outline kept when the background is redrawn"),
    "given_mask_iou_{}": Kind("more", "share", "overlap of reconstructed with given masks"),
    "{}_mask_iou": Kind("neither", "share", "of the outline kept when the knob is turned"),
    "mask_soft": Kind("less", "share", "of the mask's area is neither object nor background"),
    "mask_{}": Kind("neither", "share", "of the picture, area of masks"),
    "leak_mean": Kind("less", "share", "of what a knob does, other knobs do too"),
    "swap_diagonal": Kind("more", "share", "of what a photo should give is taken (ideal: 100 %)"),
    "swap_leakage": Kind("less", "share", "leaks into what should stay (ideal: 0 %)"),
    "swap_diagonal_over_leak": Kind("more", "plain", "times the largest leak is what a photo gives"),
    "{}_follows": Kind("more", "share", "of what the factor names changes with it"),
    "{}_leaks": Kind("less", "share", "of what another factor names changes at most"),
    "true_factors_diagonal": Kind("more", "share", "of the true factors are taken from the right picture"),
    "true_factors_leakage": Kind("less", "share", "of the true factors are taken from a wrong picture"),
    "reconstruction_{}": Kind("less", "levels", "mean error of reconstructions, of 255, or their LPIPS"),
    "{}_perplexity": Kind("more", "plain", "values of the code in use"),
    "{}_perplexity_of_choices": Kind("more", "plain", "values of the code in use as likeliest ones"),
    "{}_accuracy": Kind("more", "share", "of photos grouped as their labels"),
    "{}_nmi": Kind("more", "ratio", "normalised mutual information with labels"),
    "{}_accuracy_by_chance": Kind("neither", "share", "the same with shuffled labels: what chance gives"),
    "{}_nmi_by_chance": Kind("neither", "ratio", "the same with shuffled labels: what chance gives"),
    "mutual_background_{}": Kind("less", "share", "of the common background changed when the object is redrawn"),
    "lpips_diversity_{}": Kind("more", "plain", "LPIPS distance of pictures that differ in one code"),
    "real against real {}": Kind("neither", "plain", "distance of other real pictures: the floor"),
    "{} FD-{}": Kind("less", "plain", "Frechet distance to real pictures"),
    "{} KD-{}": Kind("less", "plain", "kernel distance to real pictures"),
    "FD-{}": Kind("less", "plain", "Frechet distance to real pictures"),
    "KD-{}": Kind("less", "plain", "kernel distance to real pictures"),
    "inversion_psnr": Kind("more", "plain", "dB, photos against the pictures of their codes"),
    "inversion_object_psnr": Kind("more", "plain", "dB on the object, photos against the pictures of their codes"),
    "inversion_mask_iou": Kind("more", "share", "of the photos' outlines kept by the pictures of their codes"),
    "inversion_colour_error": Kind("less", "levels", "error of the object's mean colour, of 255"),
    "inversion_rotation_error": Kind("less", "degrees", "median error of the rotation found in photos"),
    "inversion_rotation_flips": Kind("less", "share", "of photos taken the wrong way round"),
    "inversion_elevation_error": Kind("less", "degrees", "median error of the elevation found in photos"),
    "novel_{}_object_psnr": Kind("more", "plain", "dB on the object, turned by as many degrees, against the true view"),
    "novel_{}_mask_iou": Kind("more", "share", "of the true outline, turned by as many degrees"),
    "hidden_place_psnr": Kind("more", "plain", "dB of the place behind the object, where it hides it"),
    "repaint_colour_error": Kind("less", "levels", "error of the object's colour in another photo's paint, of 255"),
    "closed_loop_{}_object_psnr": Kind("more", "plain", "dB on the object: turned, inverted again and turned back"),
    "mix_rotation_error": Kind("less", "degrees", "median error of the rotation in mixes"),
    "mix_rotation_flips": Kind("less", "share", "of mixes face the wrong way round"),
}
"""Template of a name, {} standing for a knob, a factor, a mode or a network -> what the figure is."""
OTHER = Kind("less", "plain", "")
"""Properties of figures that are not in the table: FID of other networks, and those of other packages."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Figure:
    """One number of a report."""

    name: str
    value: float
    better: Better
    unit: Unit
    words: str


def figure(name: str, value: float) -> Figure:
    """Return a figure with the properties of its name."""
    kind = kind_of(name)
    return Figure(name=name, value=value, better=kind.better, unit=kind.unit, words=kind.words)


@cache
def kind_of(name: str) -> Kind:
    """Return the properties of a figure: by its exact name, else by the template with the shortest match of {}.

    A name that ends in a word in brackets is a baseline of the figure before it, and better in neither direction.
    """
    if name in TABLE:
        return TABLE[name]
    if baseline := re.fullmatch(r"(.+) \(.+\)", name):
        return kind_of(baseline[1])._replace(better="neither")
    fitting = [t for t in TABLE if re.fullmatch(re.escape(t).replace(r"\{\}", ".+"), name)]
    return TABLE[max(fitting, key=len)] if fitting else OTHER


def better(name: str, value: float, other: float) -> bool:
    """Return whether `value` of the figure `name` is better than `other`.

    NaN is never better, and worse than any number; for figures without a better direction the first number is kept.
    """
    if not math.isfinite(value) or not math.isfinite(other):
        return math.isfinite(value)
    direction = kind_of(name).better
    if direction == "one, either sign":
        value, other = abs(value), abs(other)
    if direction.startswith("one"):
        return abs(value - 1) < abs(other - 1)
    return {"more": value > other, "less": value < other}.get(direction, False)


def figures(report: "Report") -> dict[str, float]:
    """Return a report's figures by name, flat: for cards, for TensorBoard and for choosing the best checkpoint."""
    found: dict[str, float | None] = {}
    if report.knobs is not None:
        found |= dict(_of_knobs(report.knobs))
    if (turns := report.turns) is not None:
        found |= {"turn_seen": turns.share}
        if turns.seen is not None:
            found |= {f"turn_{name}": getattr(turns.seen, name) for name in ("slope", "r2", "error")}
    if report.swaps is not None:
        found |= dict(_of_swaps(report.swaps))
    found |= {f"mutual_background_{name}": value for name, value in report.mutual.items()}
    found |= {f"lpips_diversity_{name}": value for name, value in report.diversity.items()}
    found |= report.distances
    if report.inversion is not None:
        found |= report.inversion.figures
        for name, values in report.inversion.baselines.items():
            found |= {f"{figure_name} ({name})": value for figure_name, value in values.items()}
    return {name: float(f"{value:.5g}") for name, value in found.items() if value is not None}


def _of_knobs(knobs: "KnobReport") -> Iterator[tuple[str, float | None]]:
    for f in knobs.following:
        for name in ("slope", "r2", "error", "flips", "within_15"):
            yield f"{f.knob}_{name}", getattr(f.fit, name)
    if (t := knobs.turns) is not None:
        yield from (("turn_steps_right", t.steps_right), ("turns_closed", t.closed), ("turns_once_round", t.once_round))
    yield "identity_drift", knobs.identity_drift
    for s in knobs.staying:
        yield f"{s.knob}_background_changed", s.background_1
        yield f"{s.knob}_background_changed_4", s.background_4
        yield f"{s.knob}_foreground_changed", s.foreground_1
        yield f"{s.knob}_mask_iou", s.mask_iou
    if (g := knobs.ground) is not None:
        yield from ((f"{g.knob}_ground_changed", g.changed), (f"{g.knob}_ground_textured", g.textured))
        yield from ((f"{g.knob}_holds_from", g.holds[0]), (f"{g.knob}_holds_to", g.holds[1]))
    yield from ((f"mask_{name}", value) for name, value in asdict(knobs.masks).items())
    worst = [v for row, line in knobs.leak.items() for c, v in zip(knobs.readings, line, strict=True) if c != row]
    yield "leak_mean", sum(worst) / len(worst) if worst else None


def _of_swaps(swaps: "SwapReport") -> Iterator[tuple[str, float | None]]:
    table = swaps.swaps
    yield from (("swap_diagonal", table.diagonal), ("swap_leakage", table.leakage))
    yield "swap_diagonal_over_leak", table.over_leak
    for i, (row, line) in enumerate(zip(table.rows, table.entries, strict=True)):
        yield f"{row}_follows", line[i]
        yield f"{row}_leaks", max(e for j, e in enumerate(line) if j != i)
    if swaps.truths is not None:
        yield "true_factors_diagonal", swaps.truths.diagonal
        yield "true_factors_leakage", swaps.truths.leakage
    if swaps.rotation is not None:
        yield "mix_rotation_error", swaps.rotation.error
        yield "mix_rotation_flips", swaps.rotation.flips
    yield from ((f"given_mask_iou_{mode}", value) for mode, value in swaps.mask_iou.items())
    yield from ((f"reconstruction_{mode}", value) for mode, value in swaps.reconstruction.items())
    for code, used in swaps.codes_used.items():
        yield from ((f"{code}_{k}", v) for k, v in used.items() if k not in ("values", "pictures"))
    for kind, both in swaps.distances.items():
        yield from ((f"{kind} {k}", v) for k, v in both.items())


def plain(value: Any) -> Any:
    """Return a report as JSON's plain values; pictures are left to the page."""
    if is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in fields(value) if f.name not in ("pictures", "captions")}
    if isinstance(value, dict):
        return {key: plain(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(part) for part in value]
    if isinstance(value, float):
        return float(f"{value:.5g}") if math.isfinite(value) else None  # JSON has no other numbers
    return value
