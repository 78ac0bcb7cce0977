"""A cache folder of their own, and a small network."""

from pathlib import Path

import pytest
import torch

from tests.training.metrics.small_networks import SmallNetwork, scripted
from training.metrics.features import Features, load_features


@pytest.fixture(autouse=True)
def own_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def network(tmp_path: Path) -> Features:
    torch.manual_seed(0)
    return load_features(features=scripted(SmallNetwork(12), tmp_path / "small-net.pt"))
