"""What the tests of the page share: one browser, and axe-core."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.scripts import CHROMIUM

FLAGS = ["--no-sandbox", "--use-fake-device-for-media-stream", "--use-fake-ui-for-media-stream"]


@pytest.fixture(scope="session")
def browser() -> Iterator[Any]:
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        chromium = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield chromium
        chromium.close()


@pytest.fixture(scope="session")
def axe(tmp_path_factory: pytest.TempPathFactory) -> str:
    """Return the source of axe-core from npm, or skip where it cannot be had."""
    import subprocess
    import tarfile

    if shutil.which("npm") is None:
        pytest.skip("axe-core comes through npm, which is not on this machine")
    folder = tmp_path_factory.mktemp("axe")
    got = subprocess.run(
        ["npm", "pack", "axe-core@4", "--silent"], cwd=folder, capture_output=True, timeout=90, check=False
    )
    archives = list(folder.glob("axe-core-*.tgz"))
    if got.returncode or not archives:
        pytest.skip("axe-core could not be fetched from npm")
    with tarfile.open(archives[0]) as archive:
        source = archive.extractfile("package/axe.min.js")
        assert source is not None
        return source.read().decode()
