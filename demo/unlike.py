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
_lost_of_examples: WeakKeyDictionary[object, float] = WeakKeyDictionary()


def unlike_of(model: Model, photo: Image) -> str:
    """Return a sentence where one photo is of another kind than the model's pictures, else ""."""
    generator = model.generator
    if generator not in _lost_of_examples:
        shown = [uploads.cut(model, each.path.read_bytes(), each.caption, each.box) for each in examples_of(model)]
        known = [lost(model, from_pil(each.crop)) for each in shown]
        _lost_of_examples[generator] = FACTOR * max(known, default=1.0)
    if lost(model, photo) <= _lost_of_examples[generator]:
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
