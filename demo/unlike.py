"""Photos of another kind than a generator knows: it cannot draw them again from what it reads."""

from weakref import WeakKeyDictionary

import torch

from demo import uploads
from demo.examples import examples_of
from demo.models import Model
from training.pictures import from_pil
from training.types import Image

FACTOR = 1.25
"""Of what is lost of the worst of the model's own examples, what a photo may lose."""
_examples: WeakKeyDictionary[object, list[Image]] = WeakKeyDictionary()
_limits: WeakKeyDictionary[object, float] = WeakKeyDictionary()


def own_examples(model: Model) -> list[Image]:
    """Return the model's examples as it sees them; opened once, and not on the generators' thread."""
    generator = model.generator
    if generator not in _examples:
        shown = [uploads.cut(model, each.path.read_bytes(), each.caption, each.box) for each in examples_of(model)]
        _examples[generator] = [from_pil(each.crop) for each in shown]
    return _examples[generator]


def unlike_of(model: Model, photo: Image, known: list[Image]) -> str:
    """Return a sentence where one photo is of another kind than the model's pictures, of which some are `known`."""
    generator = model.generator
    if generator not in _limits:
        _limits[generator] = FACTOR * max((lost(model, each) for each in known), default=2.0)
    if lost(model, photo) <= _limits[generator]:
        return ""
    return "This photo is unlike those that the model learned from; expect little of it in the mix."


def lost(model: Model, photo: Image) -> float:
    """Return how much of one photo is lost when it is drawn again from its codes alone, from 0 to 2.

    It is 1 less the correlation of the two pictures' values.
    """
    generator = model.generator
    photo = photo.to(generator.device)
    again = generator(generator.encode(photo)).image  # type: ignore[operator]
    return 1 - float(torch.corrcoef(torch.stack([photo.flatten(), again.flatten()]).float())[0, 1].nan_to_num())
