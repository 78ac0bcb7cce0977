"""What the tests of the page share: one browser, and axe-core."""

import shutil
from collections.abc import Iterator
from typing import Any

import pytest

from tests.browser.pages import AFRESH, DESK, PHONE, settle
from tests.scripts import CHROMIUM
from tests.serving import served, toy_models

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


@pytest.fixture(scope="session")
def toys() -> Iterator[str]:
    """Serve the toys of the tests."""
    with served(toy_models()) as address:
        yield address


@pytest.fixture
def address(toys: str) -> str:
    return toys


@pytest.fixture(scope="session")
def desk(browser: Any, toys: str) -> Iterator[Any]:
    """Give one page at a desk for many tests: to open it takes longer than most of them."""
    context = browser.new_context(viewport=DESK, accept_downloads=True)
    context.grant_permissions(["clipboard-read", "clipboard-write"])
    yield opened(context, toys)
    context.close()


def opened(context: Any, address: str) -> Any:
    """Open the page and wait for its first picture."""
    page = context.new_page()
    page.set_default_timeout(60_000)  # the machine may have much else to do
    page.goto(address)
    page.wait_for_selector("knob-studio[data-shown]")
    return page


@pytest.fixture
def requests() -> list[str]:
    return []


@pytest.fixture
def page(request: pytest.FixtureRequest, browser: Any, toys: str, requests: list[str]) -> Iterator[Any]:
    """Give the page as it is at first, at a desk, or on a phone as the test's parameter says.

    Nothing may go wrong in its console.
    """
    phone = getattr(request, "param", DESK) is PHONE
    if phone:
        page = opened(browser.new_context(viewport=PHONE, has_touch=True, accept_downloads=True), toys)
    else:
        page = request.getfixturevalue("desk")
        if not page.url.startswith(toys):
            page.goto(toys)
            page.wait_for_selector("knob-studio[data-shown]")
        page.evaluate(AFRESH)
        settle(page)
    wrong: list[str] = []
    listeners = {
        "pageerror": lambda error: wrong.append(str(error)),
        "request": lambda sent: requests.append(sent.url),
    }
    for event, listener in listeners.items():
        page.on(event, listener)
    yield page
    for event, listener in listeners.items():
        page.remove_listener(event, listener)
    if phone:
        page.context.close()
    else:
        page.unroute_all(behavior="ignoreErrors")
        page.set_viewport_size(DESK)
        page.emulate_media(color_scheme="light")
    assert not wrong


@pytest.fixture
def alone(browser: Any) -> Iterator[Any]:
    """Give a browser that has not been here before."""
    context = browser.new_context(viewport=DESK, accept_downloads=True)
    yield context
    context.close()
