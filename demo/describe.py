"""What the page says about a generator: its knobs with their measured figures, its layers, its card."""

from typing import Any

from training.types import Knob

from .export import names_of
from .knobs import group_of, reach_of
from .recipes import Recipe, layers_of
from .samples import examples_of
from .shelf import Model


def describe(model: Model) -> dict[str, Any]:
    """Return, as plain values, what the page needs to know about a model. Renders one picture to learn its layers."""
    generator = model.generator
    layers = layers_of(model, Recipe(checkpoint=model.name))
    return {
        "name": model.name,
        "title": title_of(model),
        "sha256": model.sha256,
        "device": model.device,
        "resolution": generator.resolution,
        "readsPhotos": model.reads_photos,
        "modes": model.modes,
        "layers": names_of(layers),
        "knobs": [described(model, knob) for knob in generator.knobs],
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
        "figures": figures_of(model.card, knob.name),
    }


def figures_of(card: dict[str, Any], name: str) -> list[str]:
    """Return what a card has measured about a knob, one short phrase each; empty if it was not measured."""
    measured = card.get("knobs", {})
    entry = measured.get(name, {}) if isinstance(measured, dict) else {}
    return [f"{key} {value:.2g}" if isinstance(value, float) else f"{key} {value}" for key, value in entry.items()]


def title_of(model: Model) -> str:
    """Return a model's name for people."""
    return str(model.card.get("title") or model.name)


def about(model: Model) -> str:
    """Return a model's card as Markdown for people: what it is, from what, how good."""
    card = model.card
    config = card.get("data", {})
    facts = {
        "Checkpoint": f"`{model.name}`, {model.generator.resolution} x {model.generator.resolution} pixels",
        "Data": config.get("name") or config.get("kind") or "" if isinstance(config, dict) else str(config),
        "Pictures seen": f"{card['images_seen']:,}" if card.get("images_seen") else "",
        "Parameters": f"{sum(p.numel() for p in model.generator.parameters()):,}",
        "Licence": card.get("licence", ""),
        "Trained with": f"`{card['command']}`" if card.get("command") else "",
        "File": f"SHA-256 `{model.sha256}`" if model.sha256 else "",
    }
    lines = [f"| {name} | {text} |" for name, text in facts.items() if text]
    table = "\n".join(["| | |", "|---|---|", *lines])
    return "\n\n".join(part for part in (f"**{title_of(model)}**", str(card.get("notes", "")), table) if part)
