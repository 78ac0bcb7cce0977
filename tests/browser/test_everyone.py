"""The page for everyone: no other servers, sizes, keyboard, accessibility, the first task."""

import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from demo.models import Models, bundled, load_model  # noqa: E402
from tests.browser.pages import DESK, PHONE, mix, settle  # noqa: E402
from tests.scripts import CHROMIUM  # noqa: E402 (only where a browser can be driven)
from tests.serving import served  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: sudo apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's and uvicorn's own dependencies
]


def test_nothing_is_asked_of_another_server(page, requests, address):
    mix(page)
    page.locator("photo-studio").get_by_text("About this model").click()
    assert {url for url in requests if not url.startswith((address, "data:", "blob:"))} == set()


@pytest.mark.parametrize("page", [DESK, PHONE], indirect=True, ids=["desk", "phone"])
def test_nothing_scrolls_sideways_and_targets_are_large_enough(page):
    for tab in ("Turn the knobs", "Mix photos"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(300)
        for fold in page.locator(".fold > summary:visible").all():
            fold.click()
        page.wait_for_timeout(500)
        width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
        assert width[0] <= width[1]
        small = page.evaluate(
            """() => [...document.querySelectorAll("button, input, select, summary, a[href], [role=slider]")]
              .filter((e) => e.checkVisibility({opacityProperty: true, visibilityProperty: true}))
              .map((e) => {
                const own = e.getBoundingClientRect(), outer = (e.closest("label") ?? e).getBoundingClientRect();
                const name = e.getAttribute("aria-label") ?? e.textContent.trim();
                return {name: `${e.tagName} ${e.className} ${name}`, shown: own.width > 1 && own.height > 1,
                        width: Math.max(own.width, outer.width), height: Math.max(own.height, outer.height)};
              })
              .filter((e) => e.shown && (e.width < 24 || e.height < 24))"""
        )
        assert [f"{each['name']} {each['width']} x {each['height']}" for each in small] == []


@pytest.mark.parametrize("page", [PHONE], indirect=True, ids=["phone"])
def test_on_a_phone_the_picture_stays_in_view(page):
    knobs = page.locator("[data-knob=background]")
    knobs.scroll_into_view_if_needed()
    page.mouse.wheel(0, 200)
    page.wait_for_timeout(300)
    picture, knob = page.locator("knob-studio canvas.picture").bounding_box(), knobs.bounding_box()
    assert picture["y"] >= 0 and picture["y"] + picture["height"] <= knob["y"] + 1
    assert picture["height"] >= 240
    for name in ("Keep as A", "Keep as B"):  # at hand while a knob is looked at
        box = page.get_by_role("button", name=name).bounding_box()
        assert box["y"] >= 0 and box["y"] + box["height"] <= PHONE["height"]
    for words in ("Object", "Mask", "Open", "Save"):  # every layer and both menus have their names written on them
        assert page.locator("knob-studio").get_by_text(words, exact=True).first.is_visible()


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(page):
    mix(page)
    page.get_by_role("tab", name="Turn the knobs").click()
    # taken first: small pictures of seeds that come while Tab is pressed may stand before the focus
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("knob-studio :is(button, input, select, summary)")]
          .filter((e) => e.checkVisibility() && !e.disabled && e.type !== "file" && !e.closest(".menu-list"))
          .map((e) => e.outerHTML.slice(0, 200))"""
    )
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(250):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
    assert set(wanted) <= reached
    for node in page.locator("knob-studio, photo-studio").all():
        for line in node.aria_snapshot().splitlines():
            role = line.strip(" -").split(" ")[0].rstrip(":")
            if role in ("button", "slider", "spinbutton", "combobox", "textbox", "radio", "checkbox"):
                assert '"' in line, line


@pytest.mark.parametrize("page", [DESK, PHONE], indirect=True, ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_no_serious_fault(page, scheme, axe: str):
    page.emulate_media(color_scheme=scheme)
    page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", scheme == "dark")
    for tab in ("Turn the knobs", "Mix photos"):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_timeout(400)
        page.evaluate(axe)
        found = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (fault["id"], [node["html"][:160] for node in fault["nodes"][:3]])
            for fault in found["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert serious == []


REDDEST = """() => {
  // The place of the reddest car among the small pictures of colours.
  const red = [...document.querySelectorAll("[data-knob=look] .seed-thumb[data-seed] canvas")].map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(16, 24, 32, 24);
    let sum = 0;
    for (let i = 0; i < data.length; i += 4) sum += data[i] - Math.max(data[i + 1], data[i + 2]);
    return sum;
  });
  return red.indexOf(Math.max(...red));
}"""


@pytest.fixture(scope="module")
def cars() -> Iterator[str]:
    """Serve the bundled cars."""
    path = next(path for path in bundled() if path.stem == "giraffe-hd-cars-64")
    with served(Models([load_model(path, "cpu")])) as address:
        yield address


@pytest.fixture
def cars_page(alone: Any, cars: str) -> Any:
    page = alone.new_page()
    page.set_default_timeout(60_000)
    page.goto(cars)
    return page


def test_a_first_task_takes_six_actions_on_a_bundled_model(cars_page):
    """Turn a car to its side, make it red, place it left, save 512 pixels; at rest pictures become finer."""
    page = cars_page
    page.wait_for_selector('knob-studio[data-side="256"]')
    page.wait_for_selector("[data-knob=look] .seed-thumb[data-seed]")
    assert page.evaluate("document.querySelector('knob-studio .layer canvas').width") == 256
    box = page.locator("knob-studio canvas.picture").bounding_box()
    x, y, side = box["x"], box["y"], box["width"]
    before = settle(page)["knobs"]

    def pull(start: tuple[float, float], right: float) -> None:
        page.mouse.move(x + start[0] * side, y + start[1] * side)
        page.mouse.down()
        page.mouse.move(x + (start[0] + right) * side, y + start[1] * side, steps=4)
        page.mouse.up()

    pull((0.2, 0.9), (90 - before["rotation"]) / 180)  # 1: the ground, to the side
    page.wait_for_selector('knob-studio[data-side="64"]')
    page.locator("[data-knob=look] .seed-thumb[data-seed]").nth(page.evaluate(REDDEST)).click()  # 2
    settle(page)
    with page.expect_response("**/live/drag*"):
        pull((0.5, 0.5), -0.12)  # 3: the car, to the left
    page.locator("summary", has_text="Save").first.click()  # 4
    page.get_by_role("radio", name="512 px").click()  # 5
    with page.expect_download() as saved:
        page.get_by_role("button", name="Picture PNG, with its recipe").click()  # 6
    with PIL.Image.open(saved.value.path()) as picture:
        assert picture.size == (512, 512)
        made = json.loads(picture.info["recipe"])["knobs"]
        pixels = np.asarray(picture.convert("RGB")).astype(int)
    assert made["rotation"] == pytest.approx(90, abs=2) and made["x"] < before["x"] - 2
    red = (pixels[..., 0] > 1.5 * pixels[..., 1]) & (pixels[..., 0] > 1.5 * pixels[..., 2])
    assert red.mean() > 0.02 and np.argwhere(red)[:, 1].mean() < 256


def reach(page: Any, wanted: Any) -> None:
    """Press Tab until an element has the focus."""
    for _ in range(200):
        if wanted.evaluate("(element) => element === document.activeElement"):
            return
        page.keyboard.press("Tab")
    raise AssertionError(f"{wanted} is not reached by Tab")


def test_the_first_task_can_be_done_by_keyboard_alone(cars_page):
    """Turn a car to its side, choose the reddest colours, place it left, save 512 pixels, by Tab and keys only."""
    page = cars_page
    page.wait_for_selector("[data-knob=look] .seed-thumb[data-seed]")
    before = settle(page)["knobs"]
    reach(page, page.get_by_role("slider", name="Rotation"))
    for _ in range(abs(round((90 - before["rotation"]) / 10))):
        page.keyboard.press("Shift+ArrowRight" if before["rotation"] < 90 else "Shift+ArrowLeft")
    reddest = page.locator("[data-knob=look] .seed-thumb[data-seed]").nth(page.evaluate(REDDEST))
    seed = int(reddest.get_attribute("data-seed"))
    reach(page, reddest)
    page.keyboard.press("Enter")
    page.evaluate("document.activeElement.blur()")
    reach(page, page.get_by_role("slider", name="Move across"))
    page.keyboard.press("Shift+ArrowLeft")
    made = settle(page)["knobs"]
    assert made["rotation"] == pytest.approx(90, abs=5) and made["x"] < before["x"] and made["look"] == seed
    reach(page, page.locator("summary", has_text="Save").first)
    page.keyboard.press("Enter")
    reach(page, page.get_by_role("radio", checked=True).last)
    while not page.get_by_role("radio", name="512 px").is_checked():
        page.keyboard.press("ArrowRight")
    reach(page, page.get_by_role("button", name="Picture PNG, with its recipe"))
    with page.expect_download() as saved:
        page.keyboard.press("Enter")
    with PIL.Image.open(saved.value.path()) as picture:
        assert picture.size == (512, 512) and json.loads(picture.info["recipe"])["knobs"] == made
