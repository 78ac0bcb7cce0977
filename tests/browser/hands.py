"""What a hand does on the page, and what it reads from it."""

import time
from typing import Any

import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from tests.browser.pages import settle  # noqa: E402


def knobs(page: Any) -> dict[str, Any]:
    return settle(page)["knobs"]


def picture_box(page: Any) -> dict[str, float]:
    return page.locator("knob-studio canvas.picture").bounding_box()


def pull(page: Any, start: Any, by: tuple[float, float], seconds: float, steps: int = 5) -> None:
    page.mouse.move(*start)
    page.mouse.down()
    for step in range(1, steps + 1):
        page.mouse.move(start[0] + by[0] * step / steps, start[1] + by[1] * step / steps)
        time.sleep(seconds / steps)
    page.mouse.up()
