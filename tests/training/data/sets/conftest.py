"""A folder of photos."""

from pathlib import Path

import pytest


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"
