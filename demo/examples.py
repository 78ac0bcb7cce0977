"""Example photos that the page offers for a generator's slots."""

import json
from dataclasses import dataclass
from functools import cache
from pathlib import Path

from demo.models import Model
from training.pictures import Box

FOLDER = Path(__file__).parent / "examples"
"""One folder a data set with `examples.json`: files, relative to the folder of the packages, captions and boxes."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Example:
    """A photo that everyone may use."""

    name: str
    """Its file's stem."""
    path: Path
    caption: str
    box: Box | None = None
    """The object, as fractions of the photo."""


@cache
def sets(folder: Path = FOLDER) -> dict[str, tuple[Example, ...]]:
    """Return the bundled examples by the name of their data set."""
    found: dict[str, tuple[Example, ...]] = {}
    for listing in sorted(folder.glob("*/examples.json")):
        entries = json.loads(listing.read_text(encoding="utf-8"))
        found[listing.parent.name] = tuple(
            Example(
                name=Path(entry["file"]).stem,
                path=FOLDER.parent.parent / entry["file"],
                caption=entry["caption"],
                box=None if entry.get("box") is None else tuple(entry["box"]),
            )
            for entry in entries
        )
    return found


def examples_of(model: Model) -> tuple[Example, ...]:
    """Return the examples that suit a generator: those of the data its card names; else all of them."""
    for text in (model.name, json.dumps(model.card.get("data", ""))):
        for name, examples in sets().items():
            if name in text:
                return examples
    return tuple(example for examples in sets().values() for example in examples)
