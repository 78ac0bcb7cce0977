"""Small pictures of seeds, for people who choose by eye: the ones that differ most of a few that are drawn."""

import io

import numpy as np
import PIL.Image
from jaxtyping import UInt8

from demo.models import Model
from demo.recipes import PictureRecipe, layers_of
from training.pictures import to_pil

TRIED, KEPT = 24, 8
"""Seeds that are drawn, and those of them that are shown."""
SIDE = 64
"""Pixels of a thumbnail at most."""
COARSE = 8
"""Side at which two pictures are compared."""


def candidates(model: Model, knob: str) -> range:
    """Return the seeds that are drawn for a knob. Raises: ValueError if it takes no seed."""
    if model.generator.knob(knob).kind != "seed":
        raise ValueError(f"{knob[:40]} takes no seed; ask for a knob that draws something anew")
    return range(TRIED)


def thumb(model: Model, recipe: PictureRecipe, knob: str, seed: int) -> PIL.Image.Image:
    """Return the small picture of one seed, everything else as in the recipe."""
    drawn = layers_of(model, recipe.model_copy(update={"knobs": {**recipe.knobs, knob: float(seed)}}))
    picture = to_pil(drawn.image)[0]
    picture.thumbnail((SIDE, SIDE), PIL.Image.Resampling.LANCZOS)
    return picture


def most_different(pictures: list[PIL.Image.Image]) -> tuple[bytes, list[int]]:
    """Return a WebP strip of the KEPT pictures that differ most from each other, and their places in the list."""
    coarse = np.stack([np.asarray(picture.convert("RGB").resize((COARSE, COARSE))) for picture in pictures])
    kept = farthest(coarse.reshape(len(pictures), -1), KEPT)
    width, height = pictures[0].size
    strip = PIL.Image.new("RGB", (width * len(kept), height))
    for place, index in enumerate(kept):
        strip.paste(pictures[index], (place * width, 0))
    file = io.BytesIO()
    strip.save(file, "WEBP", quality=85)
    return file.getvalue(), kept


def farthest(points: UInt8[np.ndarray, "n k"], count: int) -> list[int]:
    """Return `count` places, from the first point on each the one that is farthest from those before it, in order."""
    values = points.astype(np.float32)
    kept = [0]
    nearest = ((values - values[0]) ** 2).sum(1)
    while len(kept) < min(count, len(values)):
        kept.append(int(nearest.argmax()))
        nearest = np.minimum(nearest, ((values - values[kept[-1]]) ** 2).sum(1))
    return sorted(kept)
