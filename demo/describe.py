"""What the page says about a generator: its knobs with their measured figures, its layers, its card."""

import math
from html import escape
from typing import Any

from demo.examples import examples_of
from demo.export import parts
from demo.knobs import group_of, reach_of
from demo.models import Model
from demo.parts import parts_of
from demo.recipes import SIZES, PictureRecipe, layers_of, seed_knob
from training.knob_values import turnable
from training.metrics.ground import HOLDS
from training.types import Knob

WORDS = {
    "x": ("Move across", "Moves the object to the left and right."),
    "y": ("Move up", "Moves the object up and down."),
    "translation_y": ("Move across", "Moves the object to the left and right."),
    "translation_z": ("Move up", "Moves the object up and down."),
    "elevation": ("Camera height", "How steeply the camera looks down."),
    "azimuth": ("Orbit", "Takes the camera around the object and its place."),
    "radius": ("Distance", "How far away the camera is."),
    "look": ("Colours", "Other colours on the same object."),
}
"""What the page calls knobs by their names, and what it says of them; others keep the generator's own words."""
EXPERIMENTAL = "held still in training: experimental"
SLOPE_OFF, FLIPS, ERROR, TOUCHED = 0.1, 0.02, 0.05, 0.02
"""A reliable number: its slope at most so far from 1, backwards in so many pictures, wrong by such a part of its range,
and so much of what should stay is touched."""
GROUND = HOLDS
"""Of what another background changes at the same points of the ground, what a reliable camera may."""
FOLLOWS, LEAKS, KEEPS, TURNED = 0.85, 0.2, 0.95, 15.0
"""A reliable photo: so much of what it names is taken, so much of anything else at most; a reliable seed of colours:
so much of the outline stays; a reliable pose: rotations usually off by so many degrees at most."""


def describe(model: Model) -> dict[str, Any]:
    """Return, as plain values, what the page needs to know about a model. Renders one picture to learn its layers."""
    generator, card = model.generator, model.card
    layers = layers_of(model, PictureRecipe(checkpoint=model.name))
    names = {knob.name for knob in generator.knobs}
    return {
        "name": model.name,
        "title": title_of(model),
        "sha256": model.sha256,
        "device": model.device,
        "resolution": generator.resolution,
        "sizes": [side for side in SIZES if side >= generator.resolution],
        "finest": max(side for side in (*SIZES, generator.resolution) if generator.at(side).sharp),
        "readsPhotos": model.reads_photos,
        "modes": model.modes,
        "parts": list(found.parts) if model.inverts and (found := parts_of(generator)) else [],  # that a photo can give
        "layers": list(parts(layers)),
        "knobs": [described(model, knob) for knob in turnable(generator)],
        "slots": [
            {
                "name": knob.name,
                "label": slot_label(knob),
                "help": knob.help,
                "seed": seed_knob(knob.name) in names,
                "mark": mark_of(card, knob),
                "figures": figures_of(card, knob),
            }
            for knob in generator.knobs
            if knob.kind == "picture"
        ],
        "mixing": mixing_of(card) if model.reads_photos else [],
        "outlines": {mode: outline_of(card, mode) for mode in model.modes} if model.reads_photos else {},
        "start": start_of(model),
        "mode": best_mode(model),
        "about": about(model),
        "examples": [{"name": example.name, "caption": example.caption} for example in examples_of(model)],
    }


def described(model: Model, knob: Knob) -> dict[str, Any]:
    """Return one knob as plain values, with how far the page lets it go and what its card says."""
    low, high = reach_of(knob, holds_of(model.card, knob))
    held = [] if knob in model.generator.knobs else [EXPERIMENTAL]
    label, help = words_of(knob)
    return {
        "name": knob.name,
        "label": label,
        "kind": knob.kind,
        "unit": knob.unit,
        "group": group_of(knob),
        "low": max(knob.low, low),
        "high": min(knob.high, high),
        "reachLow": low,
        "reachHigh": high,
        "default": min(high, max(low, knob.default)),
        "step": knob.step,
        "help": help,
        "mark": "untested" if held else mark_of(model.card, knob),
        "figures": [*held, *(figures_of(model.card, knob) or ["not measured"])],
    }


def words_of(knob: Knob) -> tuple[str, str]:
    """Return a knob's label and help on the page; one of several objects keeps its number."""
    stem, _, number = knob.name.rpartition("_")
    if not (stem and number.isdigit()):
        stem, number = knob.name, ""
    label, help = WORDS.get(stem, (knob.label.removesuffix(f" {number}"), knob.help))
    return f"{label} {number}".strip(), help


def holds_of(card: dict[str, Any], knob: Knob) -> tuple[float, float] | None:
    """Return the range in which a card says that a knob leaves alone what it does not name; None where it is silent."""
    found = measured(card)
    low, high = (found.get(f"{knob.name}_holds_{end}") for end in ("from", "to"))
    if low is None or high is None:
        return None
    step = knob.step or 1.0
    return math.ceil(low / step - 1e-6) * step, math.floor(high / step + 1e-6) * step


def _held(card: dict[str, Any], knob: Knob) -> str | None:
    """Return within what range a knob leaves the place alone, and what it does beyond."""
    holds, beyond = holds_of(card, knob), measured(card).get(f"{knob.name}_ground_changed")
    if holds is None or beyond is None:
        return None
    unit = knob.unit or ""
    return (
        f"keeps the place from {holds[0]:.0f}{unit} to {holds[1]:.0f}{unit}, where the slider ends; beyond, the ground "
        f"changes by {percent(beyond)} of what another background does"
    )


def mark_of(card: dict[str, Any], knob: Knob) -> str:
    """Return how far a knob can be trusted by its card: reliable, approximate, or untested."""
    found = {
        name.removeprefix(f"{knob.name}_"): value
        for name, value in measured(card).items()
        if name.startswith(f"{knob.name}_")
    }
    if knob.kind == "picture":
        if "follows" not in found:
            return "untested"
        right = found["follows"] >= FOLLOWS and found.get("leaks", 0) <= LEAKS
        if knob.name == "pose":
            right = right and measured(card).get("mix_rotation_error", 0.0) <= TURNED
    elif knob.kind == "seed":
        touched = [found[name] for name in ("background_changed", "foreground_changed") if name in found]
        if not touched:
            return "untested"
        right = max(touched) <= TOUCHED and (knob.name == "shape" or found.get("mask_iou", 1.0) >= KEEPS)
    elif "slope" not in found:
        return "untested"
    else:
        span = (knob.high - knob.low) or 1.0
        right = abs(abs(found["slope"]) - 1) <= SLOPE_OFF and found.get("flips", 0) <= FLIPS
        right = right and found.get("error", 0) <= ERROR * span and found.get("background_changed", 0) <= TOUCHED
        right = right and (found.get("ground_changed", 0) <= GROUND or holds_of(card, knob) is not None)
    return "reliable" if right else "approximate"


def best_mode(model: Model) -> str:
    """Return the mode in which a model that reads photos keeps their outlines best, as its card has measured it."""
    found = measured(model.card)
    return max(model.modes, key=lambda mode: found.get(f"given_mask_iou_{mode}", 0.0))


def slot_label(knob: Knob) -> str:
    """Return what the page calls the slot of a knob that takes a photo."""
    return knob.label.removesuffix(" from")


def start_of(model: Model) -> dict[str, float]:
    """Return the knobs that the page begins with: the defaults, or what the card recommends under "start"."""
    start = model.card.get("start", {})
    return {knob.name: float(start.get(knob.name, knob.default)) for knob in turnable(model.generator)}


def figures_of(card: dict[str, Any], knob: Knob) -> list[str]:
    """Return what a card has measured about a knob, in short phrases; none where it was not measured.

    The figures' names are those of `training.metrics.report.figures`.
    """
    found = measured(card)

    def phrase(name: str, words: str, *, share: bool = True) -> str | None:
        value = found.get(f"{knob.name}_{name}")
        return None if value is None else words.format(percent(value) if share else number(value))

    unit = knob.unit if knob.unit == "°" else f" {knob.unit}".rstrip()
    phrases = (
        phrase("slope", "follows at {}"),
        phrase("error", f"usually within {{}}{unit}", share=False),
        phrase("flips", "backwards in {}"),
        _turned(found) if knob.kind == "picture" and knob.name == "pose" else None,
        phrase("follows", "changes {} of what it names"),
        phrase("leaks", "at most {} of anything else"),
        phrase("mask_iou", "keeps {} of the outline") if knob.kind == "seed" else None,
        _held(card, knob),
        phrase("background_changed", "background changes {}"),
        phrase("foreground_changed", "object changes {}"),
    )
    return [words for words in phrases if words]


def mixing_of(card: dict[str, Any]) -> list[str]:
    """Return what a card has measured about all slots together, in short phrases."""
    found = measured(card)
    phrases = (
        ("swap_diagonal", "a photo changes {} of what its slot names"),
        ("swap_leakage", "{} of anything else"),
    )
    return [words.format(percent(found[name])) for name, words in phrases if name in found] or ["not measured"]


def _turned(found: dict[str, float]) -> str | None:
    """Return how well the rotation of a photographed object is kept."""
    error = found.get("mix_rotation_error")
    return None if error is None else f"rotation usually off by {error:.0f}°, by chance 90°"


def outline_of(card: dict[str, Any], mode: str) -> str:
    """Return how well a card says that a mode keeps to the outline of the shape's photo; "" where it does not."""
    overlap = measured(card).get(f"given_mask_iou_{mode}")
    return "" if overlap is None else f"outlines overlap by {percent(overlap)}"


def percent(share: float) -> str:
    """Return a share in words that stay on one line."""
    return (
        "under\N{NO-BREAK SPACE}1\N{NO-BREAK SPACE}%" if abs(share) < 0.005 else f"{100 * share:.0f}\N{NO-BREAK SPACE}%"
    )


def number(value: float) -> str:
    """Return a number in two digits, or all of those before its point."""
    return f"{value:.0f}" if abs(value) >= 10 else f"{value:.2g}"


def measured(card: dict[str, Any]) -> dict[str, float]:
    """Return a card's finite figures by name, whether it holds them flat or as a whole report.

    Where nothing reads the rotation itself, turns that were read stand for it.
    """
    figures = card.get("figures", {})
    figures = figures.get("figures", figures) if isinstance(figures, dict) else {}
    numbers = {name: float(value) for name, value in figures.items() if isinstance(value, float | int)}
    turns = {f"rotation_{name}": numbers[f"turn_{name}"] for name in ("slope", "error") if f"turn_{name}" in numbers}
    return {name: value for name, value in (turns | numbers).items() if math.isfinite(value)}


def title_of(model: Model) -> str:
    """Return a model's name for people."""
    return str(model.card.get("title") or model.name)


def about(model: Model) -> str:
    """Return a model's card as HTML: what it is, from what it learned, how good it is."""
    card, data = model.card, model.card.get("data", "")
    if isinstance(data, dict):
        options = data.get("arguments", {})
        settings = [f"{name} {value}" for name, value in options.items() if isinstance(value, str | int | float)]
        data = data.get("name") or ", ".join([str(data.get("made_by", "")), *settings])
    facts = {
        "Model": f"{model.name}, {model.generator.resolution} x {model.generator.resolution} pixels",
        "Data": data,
        "Pictures seen": f"{card['images_seen']:,}" if card.get("images_seen") else "",
        "Parameters": f"{sum(p.numel() for p in model.generator.parameters()):,}",
        "Licence": card.get("licence", ""),
        "Trained": card.get("trained", ""),
        "Command": card.get("command", ""),
        "SHA-256": model.sha256,
    }
    notes = f"<p>{escape(str(card['notes']))}</p>" if card.get("notes") else ""
    figures = {name.replace("_", " "): f"{value:.4g}" for name, value in measured(card).items()}
    more = f"<details><summary>All figures</summary>{_list(figures)}</details>" if figures else ""
    return f"<div class='card'><h3>{escape(title_of(model))}</h3>{notes}{_list(facts)}{more}</div>"


def _list(facts: dict[str, Any]) -> str:
    """Return names and values as an HTML list; empty values are left out."""
    rows = (f"<dt>{escape(name)}</dt><dd>{escape(str(value))}</dd>" for name, value in facts.items() if value != "")
    return f"<dl>{''.join(rows)}</dl>"
