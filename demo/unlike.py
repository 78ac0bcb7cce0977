"""Photos of another kind than a generator knows: the finder names it, or the generator cannot redraw them."""

from dataclasses import dataclass
from weakref import WeakKeyDictionary

import PIL.Image
import torch

from demo import uploads
from demo.examples import examples_of
from demo.models import Model
from training.pictures import from_pil
from training.segmentation.load import default_finder
from training.types import Image

FACTOR = 1.25
"""A photo may lose this many times what the worst of the model's own examples loses."""
SURE = 0.8
"""Score from which the finder's label of a photo decides."""
GARMENTS = frozenset(("dress", "hat", "longsleeve", "outwear", "pants", "shirt", "shoes", "shorts", "skirt", "t-shirt"))
"""Labels of the bundled finder that are one kind here: a generator of some garments may see any."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Known:
    """What a generator knows, by its own examples."""

    images: list[Image]
    """As it sees them."""
    kinds: frozenset[str]
    """What the finder names in them; empty where it is not sure of any."""


_known: WeakKeyDictionary[object, Known] = WeakKeyDictionary()
_limits: WeakKeyDictionary[object, float] = WeakKeyDictionary()


def known_of(model: Model) -> Known:
    """Return what the model's examples show; opened once, and not on the generators' thread."""
    generator = model.generator
    if generator not in _known:
        shown = [uploads.cut(model, each.path.read_bytes(), each.caption, each.box) for each in examples_of(model)]
        kinds = frozenset(kind for each in shown if (kind := kind_of(each.crop)))
        _known[generator] = Known(images=[from_pil(each.crop) for each in shown], kinds=kinds)
    return _known[generator]


def kind_of(picture: PIL.Image.Image) -> str:
    """Return the kind of object that the finder names; empty where it is unsure, or no network is at hand."""
    found = default_finder()(picture)
    if found is None or found.origin != "network" or found.confidence < SURE:
        return ""
    return "garment" if found.label in GARMENTS else found.label


def unlike_of(model: Model, photo: Image, kind: str, known: Known) -> str:
    """Return a sentence where a photo, of a kind by `kind_of`, is of another kind than the model's pictures.

    Where the finder names no kind, a photo is unlike if its redrawing loses more than that of any example; of a
    generator that cannot redraw at once nothing is said then.
    """
    generator = model.generator
    if kind and known.kinds:
        alike = kind in known.kinds
    elif not hasattr(generator, "encode"):
        alike = True
    else:
        if generator not in _limits:
            _limits[generator] = FACTOR * max((lost(model, each) for each in known.images), default=2.0)
        alike = lost(model, photo) <= _limits[generator]
    return "" if alike else "This photo is unlike those that the model learned from; expect little of it."


def lost(model: Model, photo: Image) -> float:
    """Return how much of one photo is lost when it is drawn again from its codes alone, from 0 to 2.

    It is 1 less the correlation of the two pictures' values.
    """
    generator = model.generator
    photo = photo.to(generator.device)
    again = generator(generator.encode(photo)).image  # type: ignore[operator]
    return 1 - float(torch.corrcoef(torch.stack([photo.flatten(), again.flatten()]).float())[0, 1].nan_to_num())
