"""A small published GIRAFFE HD and codes for it."""

import pytest

from giraffe_hd.codes import Codes
from giraffe_hd.paper.generator import Generator
from tests.giraffe_hd.paper.tiny import TINY, make


@pytest.fixture(scope="module")
def generator() -> Generator:
    return make(TINY)


@pytest.fixture
def codes(generator, rng) -> Codes:
    return generator.sample(3, rng)
