"""Hands on the page: `python -m tests.benchmarks.hands` prints a JSON line for each measure.

Pulls of the object that are let go before the server has answered, and what is lost when the page is loaded anew, its
tab crashes, the network goes while a film is drawn, or the server is killed. On the toys of the tests.
"""

import itertools
import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import numpy as np
import tyro
from playwright.sync_api import BrowserContext, Error, Page, sync_playwright

from tests.benchmarks.page import say
from tests.scripts import CHROMIUM, SETTLED
from tests.serving import served, toy_models

BOX = """() => {
  const box = document.querySelector("knob-studio").stage.objectBox();
  const area = document.querySelector("knob-studio canvas.picture").getBoundingClientRect();
  const middle = (low, high, from, size) => from + size * (low + high) / 2;
  return [middle(box.left, box.right, area.left, area.width), middle(box.top, box.bottom, area.top, area.height)];
}"""
ALL = """() => {
  const studio = window.knobStudio;
  return JSON.stringify([studio.recipe, studio.history.packed(), studio.compare.recipes,
    [...studio.locked], studio.tray.items.map((item) => item.recipe)]);
}"""


@dataclass(frozen=True, kw_only=True)
class Hands:
    """Measure pulls and losses."""

    pulls: int = 40
    losses: int = 20
    near: float = 8.0
    """Pixels of the screen within which a pull ends where the hand let go."""


@contextmanager
def chromium() -> Iterator[BrowserContext]:
    """Give a fresh context of the system's Chromium."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser.new_context(viewport={"width": 1440, "height": 900})
        browser.close()


def opened(context: BrowserContext, address: str) -> Page:
    """Open the page and wait for its first picture."""
    page = context.new_page()
    page.set_default_timeout(120_000)
    page.goto(address)
    page.wait_for_selector("knob-studio[data-shown]")
    page.wait_for_function(SETTLED, arg="knob-studio")
    return page


def pulls(args: Hands) -> None:
    """Pull the object by 70 pixels in 60 to 500 ms, with answers after 0 to 1.2 s."""
    seconds, answers = np.linspace(0.06, 0.5, 8), (0.0, 0.3, 0.6, 0.9, 1.2)
    tried = list(itertools.islice(itertools.cycle(itertools.product(seconds, answers)), args.pulls))
    off = []
    with served(toy_models()) as address, chromium() as context:
        page = opened(context, address)
        late = [0.0]
        page.route("**/live/drag*", lambda route: (time.sleep(late[0]), route.continue_()))
        for place, (length, answer) in enumerate(tried):
            page.evaluate("() => window.knobStudio.reset()")
            page.wait_for_function(SETTLED, arg="knob-studio")
            late[0] = answer
            start = np.array(page.evaluate(BOX))
            angle = (0, 0.5, np.pi - 0.5, np.pi + 0.5, -0.5)[place % 5]  # as far up and down as the toys go
            end = start + 70 * np.array([np.cos(angle), np.sin(angle)])
            with page.expect_response("**/live/drag*"):
                page.mouse.move(*start)
                page.mouse.down()
                for share in (0.25, 0.5, 0.75, 1.0):
                    page.mouse.move(*(start + share * (end - start)))
                    time.sleep(length / 4)
                page.mouse.up()
            page.wait_for_timeout(200)
            page.wait_for_function(SETTLED, arg="knob-studio")
            off.append(float(np.abs(np.array(page.evaluate(BOX)) - end).max()))
    right = sum(value <= args.near for value in off)
    say("pulls that end where the hand let go", right=right, of=len(off), farthest_px=max(off), target=len(off))


def losses(args: Hands) -> None:
    """Change something, have something go wrong, and compare what is there with what was: in rounds of four."""
    lost, port, page = [], 0, None
    with chromium() as context:
        for place in range(0, args.losses, len(WAYS)):
            before = ""
            with served(toy_models(), port=port) as address:
                port = int(address.rpartition(":")[2])
                page = page or opened(context, address)
                for step, way in enumerate(WAYS, place):
                    changed(page, step)
                    before = page.evaluate(ALL)
                    if way is not None:
                        page = way(page, context, address)
                        lost.append(_differs(page, before))
            with served(toy_models(), port=port) as address:  # the other was ended, and this one is in its place
                lost.append(_differs(reloaded(page, context, address), before))
    say("states lost", lost=sum(lost), of=len(lost), target=0)


def _differs(page: Page, before: str) -> bool:
    page.wait_for_selector("knob-studio .tray-item")
    page.wait_for_function(SETTLED, arg="knob-studio")
    return json.loads(page.evaluate(ALL)) != json.loads(before)


def changed(page: Page, place: int) -> None:
    """Shuffle, keep, like and turn something."""
    page.get_by_role("button", name="Shuffle", exact=True).click()
    page.get_by_role("button", name="Keep as A").click()
    page.wait_for_function(SETTLED, arg="knob-studio")
    page.get_by_role("button", name="Like").first.click()
    page.get_by_role("slider", name="Rotation").fill(str(7 * place + 1))
    page.wait_for_timeout(500 if place % 2 else 30)
    page.evaluate("() => window.knobStudio.remember()")


def reloaded(page: Page, context: BrowserContext, address: str) -> Page:
    """Load the page anew at once."""
    page.reload()
    page.wait_for_selector("knob-studio[data-shown]")
    return page


def crashed(page: Page, context: BrowserContext, address: str) -> Page:
    """Have the tab crash, and open another."""
    try:
        page.goto("chrome://crash", timeout=3000)
    except Error:
        page.close()
    return opened(context, address)


def filming(page: Page, context: BrowserContext, address: str) -> Page:
    """Lose the network while a film is drawn, then load the page anew."""
    studio = page.locator("knob-studio")
    studio.get_by_text("Make a film or a sheet").click()
    studio.get_by_label("Frames", exact=True).fill("60")
    studio.get_by_role("button", name="Make it").click()
    context.set_offline(True)
    page.wait_for_timeout(1500)
    context.set_offline(False)
    return reloaded(page, context, address)


WAYS: tuple[Any, ...] = (reloaded, crashed, filming, None)
"""What goes wrong, in turn; after the last the server is ended."""


def main(args: Hands) -> None:
    """Measure."""
    pulls(args)
    losses(args)


if __name__ == "__main__":
    main(tyro.cli(Hands))
