"""Small fast MixNMatches and codes for them."""

import pytest
import torch

from mixnmatch.codes import Codes
from mixnmatch.fast.generator import Generator
from tests.mixnmatch.fast.tiny import PLANE, TURN


@pytest.fixture(params=[TURN, PLANE], ids=["turn", "plane"])
def generator(request):
    torch.manual_seed(0)
    return Generator(request.param).eval().requires_grad_(False)


@pytest.fixture
def codes(generator) -> Codes:
    return generator.sample(4, torch.Generator().manual_seed(1))
