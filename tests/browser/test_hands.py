"""Hands on the picture in a real browser, and what survives."""

import time
from typing import Any

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from tests.browser.conftest import opened  # noqa: E402
from tests.browser.hands import knobs, picture_box, pull  # noqa: E402
from tests.browser.pages import PHONE, mix, photo, pixels, settle, swipe  # noqa: E402
from tests.scripts import CHROMIUM  # noqa: E402 (only where a browser can be driven)
from tests.serving import served, toy_models  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: sudo apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's and uvicorn's own dependencies
]


def object_at(page: Any) -> np.ndarray:
    """Return where the object's middle is on the screen."""
    settle(page)
    box = picture_box(page)
    mask = pixels(page, place=3)[..., 0] > 127
    return np.array([box["x"], box["y"]]) + np.argwhere(mask).mean(0)[::-1] / 64 * box["width"]


def test_quick_pulls_end_where_the_hand_lets_go(page):
    """The server answers what a pull needs after 0 to 0.6 s, the hand lets go after 0.06 to 0.3 s."""
    late = [0.0]

    def slowly(route: Any) -> None:
        time.sleep(late[0])
        route.continue_()

    page.route("**/live/drag*", slowly)
    for seconds, answer, way in ((0.06, 0.6, 1), (0.3, 0.2, -1), (0.06, 0.0, 1), (0.15, 0.4, -1)):
        late[0] = answer
        before = object_at(page)
        by = (70 * way, 20 * way)
        with page.expect_response("**/live/drag*"):
            pull(page, before, by, seconds)
        page.wait_for_timeout(150)
        assert object_at(page) - before == pytest.approx(by, abs=8)


def test_hands_turn_raise_size_and_reset(page):
    box = picture_box(page)
    corner = (box["x"] + 20, box["y"] + box["height"] - 60)
    first = knobs(page)
    pull(page, corner, (box["width"] / 4, 0), 0.1)
    assert knobs(page)["rotation"] == pytest.approx((first["rotation"] + 45) % 360, abs=1)
    pull(page, corner, (0, -40), 0.1)
    raised = knobs(page)
    assert raised["elevation"] > first["elevation"] + 1
    page.keyboard.down("Alt")
    pull(page, object_at(page), (-40, 0), 0.1)
    page.keyboard.up("Alt")
    turned = knobs(page)
    assert turned["rotation"] != raised["rotation"] and turned["translation_y"] == raised["translation_y"]
    page.mouse.move(*object_at(page))
    page.mouse.wheel(0, -200)
    grown = knobs(page)
    assert grown["scale"] > 1.1 * turned["scale"] or grown["scale"] == pytest.approx(
        0.325, abs=1e-6
    )  # as far as it goes
    handle = page.locator("knob-studio .handle.se").bounding_box()
    at = (handle["x"] + 12, handle["y"] + 12)
    pull(page, at, (-25, -25), 0.1)
    assert knobs(page)["scale"] < grown["scale"]
    page.mouse.dblclick(*object_at(page))
    assert knobs(page) == first


def test_a_pull_ends_with_its_model(page):
    page.route("**/live/drag*", lambda route: (time.sleep(0.4), route.continue_()))
    before = knobs(page)
    start = object_at(page)
    page.mouse.move(*start)
    page.mouse.down()
    page.mouse.move(start[0] + 60, start[1])
    page.evaluate("knobStudio.choose(knobStudio.model)")
    page.mouse.move(start[0] + 90, start[1])
    page.mouse.up()
    page.wait_for_timeout(900)
    assert knobs(page) == before


@pytest.mark.parametrize("page", [PHONE], indirect=True, ids=["phone"])
def test_a_phone_scrolls_over_sliders_and_pinches(page):
    slider = page.get_by_role("slider", name="Rotation")
    slider.scroll_into_view_if_needed()
    before, scrolled = knobs(page), page.evaluate("scrollY")
    box = slider.bounding_box()
    x, y = box["x"] + 200, box["y"] + box["height"] / 2
    swipe(page, (x, y), (x + 4, y - 160))
    page.wait_for_timeout(300)
    assert page.evaluate("scrollY") > scrolled + 50
    assert knobs(page) == before
    page.evaluate("scrollTo(0, 0)")
    page.wait_for_timeout(400)
    at = object_at(page)
    finger = page.context.new_cdp_session(page)
    for kind, apart in (("touchStart", 20), *(("touchMove", 20 + 3 * step) for step in range(1, 6)), ("touchEnd", 0)):
        points = [{"x": at[0] - apart, "y": at[1], "id": 0}, {"x": at[0] + apart, "y": at[1], "id": 1}]
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": points if apart else []})
        page.wait_for_timeout(30)
    assert knobs(page)["scale"] > before["scale"]
    assert page.locator(".compare").bounding_box()["y"] < 844  # A and B are at hand
    for name in ("Picture", "Mask", "Open"):
        assert page.locator("knob-studio").get_by_text(name, exact=True).first.bounding_box()["width"] > 10


def test_everything_survives_reloads_crashes_and_another_server(alone):
    """Recipe, history, A, locks, tray, photos: kept over a reload, a crash of the tab and a restart of the server."""
    with served(toy_models(), port=0) as address:
        port = int(address.rpartition(":")[2])
        page = opened(alone, address)
        page.get_by_role("button", name="Lock Colours").click()
        page.get_by_role("button", name="Shuffle", exact=True).click()
        settle(page)
        page.get_by_role("button", name="Keep as A").click()
        page.get_by_role("button", name="Like").first.click()
        slider = page.get_by_role("slider", name="Rotation")
        slider.fill("77")
        page.reload()  # at once
        page.wait_for_selector("knob-studio[data-shown]")
        assert knobs(page)["rotation"] == 77
        page.wait_for_selector("knob-studio .tray-item")
        page.get_by_role("button", name="Show A").click()
        liked = settle(page)
        page.get_by_role("button", name="Undo").click()
        assert knobs(page)["rotation"] == 77
        assert page.get_by_role("button", name="Lock Colours").get_attribute("aria-pressed") == "true"
        studio = mix(page)
        page.locator("[data-slot=texture] .slot-pick").click()
        with page.expect_response("**/live/photo**"):
            studio.locator("input[accept='image/*']").set_input_files(
                {"name": "own.png", "mimeType": "image/png", "buffer": photo((10, 200, 30))}
            )
        page.wait_for_function("document.querySelector('[data-slot=texture] small').textContent === 'own.png'")
        own = settle(page, "photo-studio")
        page.wait_for_timeout(500)  # a crash may lose what is not written yet, a few milliseconds on an idle machine
        crash(page)
        page = opened(alone, address)
        assert settle(mix(page).page, "photo-studio") == own
        assert page.locator("[data-slot=texture] small").inner_text() == "own.png"
        page.evaluate("window.still = true")
        page.get_by_role("tab", name="Turn the knobs").click()
        page.locator("knob-studio").get_by_text("Make a film or a sheet").click()
        page.locator("knob-studio").get_by_label("What happens").select_option("around")
        page.locator("knob-studio").get_by_label("Frames", exact=True).fill("120")
        page.get_by_role("button", name="Make it").first.click()
        page.get_by_text("of 120.").first.wait_for()
    page.get_by_text("The connection was lost; please try again.").wait_for()  # with the server
    assert page.evaluate("window.still")  # no page was loaded anew
    with served(toy_models(), port=port) as address:
        page.reload()
        page.wait_for_selector("knob-studio[data-shown]")
        assert knobs(page)["rotation"] == 77
        page.locator("knob-studio .liked").click()
        assert settle(page) == liked


def crash(page: Any) -> None:
    """End the tab as a crash does."""
    with pytest.raises(sync_api.Error):
        page.goto("chrome://crash", timeout=5000)
    page.close()
