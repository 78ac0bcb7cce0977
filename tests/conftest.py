"""Fixtures that several test files share."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
import torch

import tests.typecheck  # noqa: F401 (the checker that pyproject names must be loaded before what it checks)
from tests.places import CHECKPOINTS

torch.set_num_threads(1)  # tests share their machine; results do not depend on it


def devices() -> list:
    """Return the CPU, and the GPU where there is one."""
    gpu = pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
    return ["cpu", pytest.param("cuda", marks=[pytest.mark.gpu, gpu])]


@pytest.fixture(params=devices())
def device(request: pytest.FixtureRequest) -> torch.device:
    return torch.device(request.param)


@pytest.fixture
def rng() -> torch.Generator:
    return torch.Generator().manual_seed(0)


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """The page on toy models, served for one file of tests; imported here, as most tests need no page."""
    from tests.serving import served, toy_models

    with served(toy_models()) as address:
        yield address


@pytest.fixture(scope="module")
def apart() -> Iterator[tuple[str, int]]:
    """The same page in a process of its own, for one file of tests: its address and process number."""
    from tests.serving import served_apart

    with served_apart() as server:
        yield server


@pytest.fixture
def web(address: str) -> Iterator[httpx.Client]:
    """A client of that page."""
    with httpx.Client(base_url=address, timeout=60) as client:
        yield client


@pytest.fixture(scope="session", autouse=True)
def finder_without_network() -> Iterator[None]:
    """Let the classical finder serve unless a test names a network: what the bundled one sees in toys is its own."""
    from training.segmentation import load

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load, "BUNDLED", Path("no network"))
        load.default_finder.cache_clear()
        yield
    load.default_finder.cache_clear()


@pytest.fixture
def bundled_finder(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Let the bundled network serve after all."""
    from training.segmentation import load

    monkeypatch.setattr(load, "BUNDLED", CHECKPOINTS / "yolact-fast-320.safetensors")
    load.default_finder.cache_clear()
    yield
    load.default_finder.cache_clear()
