"""A photo's codes after encoding: a few steps of optimisation bring back its own colours and outline.

The encoder's codes are the start and, by a prior, the place that the optimised ones stay near: far from it they would
still draw this photo, but no longer mix with others.
"""

import math
from dataclasses import dataclass, replace

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor

from mixnmatch.codes import Codes, Layers
from mixnmatch.continuous.generator import Generator
from mixnmatch.continuous.stages import unfolded
from training.batched import fields_of
from training.devices import autocast
from training.invertible import Inverted, OnProgress, Progress
from training.types import Image, Mask


@dataclass(frozen=True, kw_only=True, slots=True)
class InvertOptions:
    """How long and how freely codes are optimised."""

    steps: int = 100
    """Adam's."""
    learning_rate: float = 0.08
    """Adam's, of the codes of texture and background; those of shape and pose learn at `slower` of it."""
    slower: float = 0.3
    """A larger share follows the outline better, and leaves less that is general in the shape."""
    prior: float = 0.02
    """Weight of the mean square by which codes leave what was read; larger mixes better, smaller rebuilds better."""
    outline: float = 1.0
    """Weight of the drawn mask's distance to the mask that was read from the photo."""
    object_weight: float = 3.0
    """Further weight of pixels within the mask that was read."""


FAST = ("b", "c")
"""Codes of colours: background and texture."""


@torch.enable_grad()
def invert(
    generator: Generator,
    photo: Image,
    *,
    options: InvertOptions | None = None,
    progress: OnProgress | None = None,
) -> Inverted:
    """Return the codes of photos, optimised from what the encoders read; each photo for itself.

    `progress` is called with what was read and after each step; if it returns False, the best so far comes back.
    """
    options = InvertOptions() if options is None else options
    with torch.inference_mode(False):
        photo = photo.clone()
        with torch.no_grad():
            read = replace(generator.read(photo), z_background=None)
            outline = unfolded(generator.extractor(photo)[0])
        start = {name: value.clone() for name, value in fields_of(read).items() if value is not None}
        codes = {name: value.clone().requires_grad_() for name, value in start.items()}
        rates = [options.learning_rate * (1.0 if name in FAST else options.slower) for name in codes]
        optimizer = torch.optim.Adam(
            [{"params": [code], "lr": rate} for code, rate in zip(codes.values(), rates, strict=True)],
            betas=(0.9, 0.95),
        )
        found, loss = Codes(**start), math.nan
        finished = progress is None or progress(Progress("read", 0.0, found, loss)) is not False
        for step in range(options.steps if finished else 0):
            share = 0.1 + 0.45 * (1 + math.cos(math.pi * step / options.steps))
            for group, rate in zip(optimizer.param_groups, rates, strict=True):
                group["lr"] = rate * share
            with autocast(photo.device):
                error = difference(generator(Codes(**codes)), photo, outline, options).sum()
            away = torch.stack([(codes[k] - start[k]).square().mean(1).sum() for k in codes]).sum()
            optimizer.zero_grad(set_to_none=True)
            (error + options.prior * away).backward()
            optimizer.step()
            loss = float(error.detach()) / len(photo)
            found = Codes(**{name: code.detach().clone() for name, code in codes.items()})
            if progress is not None:
                finished = progress(Progress("fine", (step + 1) / options.steps, found, loss)) is not False
            if not finished:
                break
        return Inverted(found, loss, finished)


def difference(layers: Layers, photo: Image, outline: Mask, options: InvertOptions) -> Float[Tensor, " n"]:
    """Return how far pictures are from photos, at three scales and more within the outline, and their masks from it."""
    image, weight = layers.image.float(), 1 + options.object_weight * outline
    total: Tensor = options.outline * (layers.mask.float() - outline).abs().mean((1, 2, 3))
    for _ in range(3):
        error = ((image - photo).square().mean(1, keepdim=True) + 1e-4).sqrt()
        total = total + (weight * error).mean((1, 2, 3)) / weight.mean((1, 2, 3))
        image, photo, weight = (F.avg_pool2d(x, 2) for x in (image, photo, weight))
    return total
