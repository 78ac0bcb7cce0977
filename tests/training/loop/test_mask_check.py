"""The first check_masks at a run: each kind of failing mask is named, a healthy one is called settled."""

import functools
import re
from dataclasses import replace

import pytest
import torch

from tests.toys import Blocks, BlocksConfig
from training.loop.mask_check import ADVICE, check_masks
from training.registry import family_of, preset, resolve


class Spoiled(Blocks):
    """The toy whose masks are replaced."""

    def __init__(self, spoil) -> None:
        super().__init__(BlocksConfig(size=24, steps=8))
        self.spoil = spoil

    def forward(self, codes, **options):
        layers = super().forward(codes, **options)
        return replace(layers, mask=self.spoil(layers.mask))


@pytest.mark.parametrize(
    ("spoil", "box", "words"),
    [
        (torch.zeros_like, None, "the mask is empty"),
        (torch.ones_like, None, "draws the background too"),
        (lambda mask: torch.nn.functional.pad(torch.ones(len(mask), 1, 8, 8), (8, 8, 8, 8)), None, "same mask"),
        (lambda mask: 0.5 * mask, None, "half-transparent"),
        (lambda mask: mask, 0.01, "draws the background too"),  # five times the photos' boxes
    ],
    ids=["empty", "full", "alike", "soft", "beyond the boxes"],
)
def test_failing_masks_are_named(spoil, box, words):
    found = check_masks(Spoiled(spoil), box=box)
    assert found is not None
    assert not found.settled
    assert words in str(found)


@pytest.mark.parametrize("name", ["giraffe-hd-photos-64", "giraffe-hd-paper-compcar-256", "mixnmatch-kinds-64"])
def test_advice_names_options_that_the_preset_has(name):
    config = preset(name)
    options = resolve(family_of(config.family).recipe).mask_advice
    assert options.keys() <= ADVICE.keys()
    for words in options.values():
        for option in re.findall("--([a-z.-]+)", words):
            functools.reduce(getattr, option.replace("-", "_").split("."), config)
    found = check_masks(Spoiled(torch.ones_like), options=options)
    assert found is not None
    assert str(found).endswith(options["everything"])


def test_few_samples_are_drawn_at_a_time():
    counts = []
    assert check_masks(Spoiled(lambda mask: counts.append(len(mask)) or mask)) is not None
    assert sum(counts) == 64
    assert max(counts) <= 8


def test_healthy_masks_are_settled():
    found = check_masks(Blocks(BlocksConfig(size=24, steps=8)))
    assert found is not None
    assert found.settled, found
    assert str(found).endswith("settled")
