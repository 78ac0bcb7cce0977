"""What the page says about a generator: its knobs with their measured figures, its layers, its card."""

from html import escape
from typing import Any

from training.types import Knob

from .export import names_of
from .knobs import group_of, reach_of, turnable
from .recipes import Recipe, layers_of, seed_knob
from .samples import examples_of
from .shelf import Model


def describe(model: Model) -> dict[str, Any]:
    """Return, as plain values, what the page needs to know about a model. Renders one picture to learn its layers."""
    generator = model.generator
    layers = layers_of(model, Recipe(checkpoint=model.name))
    names = {knob.name for knob in generator.knobs}
    return {
        "name": model.name,
        "title": title_of(model),
        "sha256": model.sha256,
        "device": model.device,
        "resolution": generator.resolution,
        "readsPhotos": model.reads_photos,
        "modes": model.modes,
        "layers": names_of(layers),
        "knobs": [described(model, knob) for knob in turnable(generator)],
        "slots": [
            {
                "name": knob.name,
                "label": slot_label(knob),
                "help": knob.help,
                "seed": seed_knob(knob.name) in names,
                "figures": figures_of(model.card, knob),
            }
            for knob in generator.knobs
            if knob.kind == "picture"
        ],
        "start": start_of(model),
        "examples": [{"name": example.name, "caption": example.caption} for example in examples_of(model)],
    }


def described(model: Model, knob: Knob) -> dict[str, Any]:
    """Return one knob as plain values, with how far the page lets it go and what its card says."""
    low, high = reach_of(knob)
    return {
        "name": knob.name,
        "label": knob.label,
        "kind": knob.kind,
        "unit": knob.unit,
        "group": group_of(knob),
        "low": knob.low,
        "high": knob.high,
        "reachLow": low,
        "reachHigh": high,
        "default": knob.default,
        "step": knob.step,
        "help": knob.help,
        "figures": figures_of(model.card, knob),
    }


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
        if value is None:
            return None
        percent = "under 1 %" if abs(value) < 0.005 else f"{100 * value:.0f} %"
        return words.format(percent if share else f"{value:.2g}")

    unit = knob.unit if knob.unit == "°" else f" {knob.unit}".rstrip()
    said = (
        phrase("slope", "follows at {}"),
        phrase("error", f"usually within {{}}{unit}", share=False),
        phrase("flips", "turned the wrong way in {}"),
        phrase("follows", "changes {} of what it names"),
        phrase("leaks", "at most {} of anything else"),
        phrase("mask_iou", "keeps {} of the outline") if knob.kind == "seed" else None,
        phrase("background_changed", "changes {} of the background"),
        phrase("foreground_changed", "changes {} of the object"),
    )
    return [words for words in said if words]


def measured(card: dict[str, Any]) -> dict[str, float]:
    """Return a card's figures by name, whether it holds them flat or as a whole report."""
    figures = card.get("figures", {})
    figures = figures.get("figures", figures) if isinstance(figures, dict) else {}
    return {name: float(value) for name, value in figures.items() if isinstance(value, float | int)}


def title_of(model: Model) -> str:
    """Return a model's name for people."""
    return str(model.card.get("title") or model.name)


def about(model: Model) -> str:
    """Return a model's card as HTML: what it is, from what it learned, how good it is."""
    card, data = model.card, model.card.get("data", "")
    if isinstance(data, dict):
        options = data.get("arguments", {})
        said = [f"{name} {value}" for name, value in options.items() if isinstance(value, str | int | float)]
        data = data.get("name") or ", ".join([str(data.get("made_by", "")), *said])
    facts = {
        "Checkpoint": f"{model.name}, {model.generator.resolution} x {model.generator.resolution} pixels",
        "Data": data,
        "Pictures seen": f"{card['images_seen']:,}" if card.get("images_seen") else "",
        "Parameters": f"{sum(p.numel() for p in model.generator.parameters()):,}",
        "Licence": card.get("licence", ""),
        "Trained": card.get("trained", ""),
        "With": card.get("command", ""),
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
