"""A small set and a small run's config."""

from dataclasses import replace
from pathlib import Path

import pytest

from giraffe_hd.fast.config import TrainConfig
from tests.benchmarks.kills import TINY, squares


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("set") / "squares")


@pytest.fixture
def config() -> TrainConfig:
    loop = replace(TINY.loop, images=32, save_every=12)
    return replace(TINY, loop=loop, condition_since=0, condition_full=16)
