"""The tray, variations, typed values, compare, boxes, layouts in a real browser."""

import io
import json
import time
import zipfile
from typing import Any

import numpy as np
import PIL.Image
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from tests.browser.conftest import opened  # noqa: E402
from tests.browser.hands import knobs, picture_box, pull  # noqa: E402
from tests.browser.pages import DESK, mix, pixels, settle  # noqa: E402
from tests.scripts import CHROMIUM  # noqa: E402 (only where a browser can be driven)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: sudo apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's and uvicorn's own dependencies
]


def drag(page: Any, source: str, target: str) -> None:
    """Drag one element onto another, with the data that the first gives."""
    page.evaluate(
        """([source, target]) => {
          const data = new DataTransfer();
          const tell = (where, kind) => document.querySelector(where).dispatchEvent(
            new DragEvent(kind, {bubbles: true, cancelable: true, dataTransfer: data}));
          tell(source, "dragstart");
          tell(target, "dragover");
          tell(target, "drop");
        }""",
        [source, target],
    )


def test_the_tray_feeds_a_and_b_slots_sheets_and_a_zip(page):
    tray = page.locator("knob-studio .tray")
    first = settle(page)
    tray.get_by_role("button", name="Like").click()
    page.get_by_role("button", name="Shuffle", exact=True).click()
    settle(page)
    tray.get_by_role("button", name="Like").click()
    tray.get_by_role("button", name="Like").click()  # the same picture is not kept twice
    assert page.locator("knob-studio .tray-item").count() == 2
    drag(page, "knob-studio .liked", "knob-studio .keep")
    page.get_by_role("button", name="Show A").click()
    assert settle(page) == first
    with page.expect_download() as saving:
        tray.get_by_role("button", name="Export all").click()
    with zipfile.ZipFile(saving.value.path()) as archive:
        assert archive.testzip() is None and len(archive.namelist()) == 4
        with PIL.Image.open(io.BytesIO(archive.read("001-blocks.png"))) as picture:
            assert picture.size == (64, 64) and "recipe" in picture.info
        assert json.loads(archive.read("001-blocks.json"))["knobs"] == first["knobs"]
    studio = page.locator("knob-studio")
    studio.get_by_text("Make a film or a sheet").click()
    studio.get_by_label("What happens").select_option("rows")
    studio.get_by_label("Pictures a row").fill("3")
    studio.get_by_label("Width of a picture").select_option("0")
    studio.get_by_role("button", name="Make it").click()
    rows = studio.locator("img[src*='tray-rows.png']")
    rows.wait_for()
    size = "(image) => image.decode().then(() => [image.naturalWidth, image.naturalHeight])"
    assert page.evaluate(size, rows.element_handle()) == [3 * 64 + 4, 2 * 64 + 2]
    studio = mix(page)
    before = settle(page, "photo-studio")["slots"]["shape"]["picture"]
    with page.expect_response("**/live/photo**"):
        drag(page, "photo-studio .liked", "[data-slot=shape]")
    page.wait_for_function("document.querySelector('[data-slot=shape] small').textContent === 'from the tray'")
    assert settle(page, "photo-studio")["slots"]["shape"]["picture"] != before
    studio.get_by_text("Make a film or a sheet").click()
    studio.get_by_role("checkbox", name="Examples").uncheck()
    studio.get_by_role("checkbox", name="Tray").check()
    studio.get_by_label("Width of a picture").select_option("0")
    earlier = page.evaluate("document.querySelector(`img[src*='patches-mixes.png']`)?.src")  # of another test
    studio.get_by_role("button", name="Make it").click()
    fresh = "(earlier) => ![undefined, earlier].includes(document.querySelector(`img[src*='patches-mixes.png']`)?.src)"
    page.wait_for_function(fresh, arg=earlier)
    sheet = studio.locator("img[src*='patches-mixes.png']")
    assert page.evaluate(size, sheet.element_handle()) == [3 * 64 + 4, 3 * 64 + 4]  # two photos head rows and columns
    page.locator("photo-studio .away").first.click()
    page.locator("photo-studio .away").first.click()
    assert page.locator(".tray-item").count() == 0


def test_nine_variations_to_go_on_from(page):
    before = settle(page)
    page.get_by_role("button", name="Nine", exact=True).click()
    page.locator("knob-studio").get_by_label("What varies").select_option("look")
    page.wait_for_function("document.querySelectorAll('.variation canvas[data-drawn]').length === 9")
    page.get_by_role("button", name="Variation 5").click()
    after = knobs(page)
    assert after["look"] != before["knobs"]["look"] and after | {"look": 0} == before["knobs"] | {"look": 0}
    page.get_by_role("button", name="Nine", exact=True).click()
    page.locator("knob-studio").get_by_label("How much").select_option("0.3")
    page.keyboard.press("Escape")
    assert not page.locator("knob-studio").get_by_label("What varies").is_visible()
    page.keyboard.press("Control+z")
    assert settle(page) == before


def test_what_is_typed_is_cleaned_or_refused_and_agrees(page):
    typed = {
        ("Rotation", "400"): 40, ("Rotation", "-30"): 330, ("Rotation", ""): 330,
        ("Size", "1000"): 0.325, ("Distance", "0"): 2.375, ("Distance", "-3"): 2.375,
    }  # fmt: skip
    for (label, text), wanted in typed.items():
        field = page.get_by_label(f"{label}, number")
        field.fill(text)
        field.press("Enter")
        slider = float(page.get_by_role("slider", name=label).input_value())
        assert (float(field.input_value()), slider) == pytest.approx((wanted, wanted), abs=0.01), (label, text)
    page.get_by_role("button", name="Colours: untested; figures").click()
    field = page.get_by_role("spinbutton", name="Colours", exact=True)
    field.press_sequentially("e")
    field.press("Enter")
    assert field.input_value() == "3" and knobs(page)["look"] == 3
    number = page.get_by_label("Rotation, number")
    number.focus()
    number.press("Control+a")
    number.press_sequentially("12")
    number.press("Control+z")  # gives up what is typed
    assert (number.input_value(), knobs(page)["rotation"]) == ("330", 330)
    number.press("Control+z")  # takes the last step back
    slider = page.get_by_role("slider", name="Rotation")
    assert float(number.input_value()) == float(slider.input_value()) == knobs(page)["rotation"]
    page.keyboard.press("Control+y")
    settle(page)
    before = knobs(page)["rotation"]
    slider.focus()
    slider.press("Shift+ArrowRight")
    assert knobs(page)["rotation"] == pytest.approx((before + 10) % 360)
    slider.dblclick()
    assert knobs(page)["rotation"] == 30


def test_shuffles_resets_and_blends_are_steps_that_do_not_jump(page):
    states = [settle(page)]
    for _ in range(3):  # faster than a picture rests
        page.get_by_role("button", name="Shuffle", exact=True).click()
        states.append(json.loads(page.evaluate("JSON.stringify(knobStudio.recipe)")))
    for state in states[-2::-1]:
        page.get_by_role("button", name="Undo").click()
        assert settle(page) == state
    page.get_by_role("button", name="Shuffle", exact=True).click()
    page.get_by_role("button", name="Lock Background").click()
    locked = knobs(page)["background"]
    page.get_by_role("slider", name="Rotation").fill("200")
    page.get_by_role("button", name="Reset", exact=True).click()
    after = knobs(page)
    assert after["background"] == locked and after | {"background": 5} == states[0]["knobs"]
    before = pixels(page)
    way = page.get_by_role("button", name="Shape: go between two seeds")
    way.click()
    settle(page)
    assert np.array_equal(pixels(page), before)
    page.get_by_role("slider", name="Shape, between two seeds").fill("0.6")
    settle(page)
    before = pixels(page)
    way.click()
    settle(page)
    assert np.array_equal(pixels(page), before) and way.get_attribute("aria-pressed") == "false"
    page.wait_for_selector("[data-knob=look] .seed-thumb[data-seed]")
    page.locator("[data-knob=look] .seed-thumb[data-seed]").nth(2).click()
    assert knobs(page)["look"] == int(
        page.locator("[data-knob=look] .seed-thumb[aria-pressed=true]").get_attribute("data-seed")
    )


def test_the_line_is_dragged_in_the_picture(page):
    page.get_by_role("button", name="Keep as A").click()
    page.get_by_role("button", name="Shuffle", exact=True).click()
    settle(page)
    page.get_by_role("button", name="Keep as B").click()
    page.get_by_role("button", name="Side by side").click()
    box = picture_box(page)
    before = settle(page)
    pull(page, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), (box["width"] / 4, 0), 0.05)
    assert float(page.get_by_role("slider", name="Line between A and B").input_value()) == pytest.approx(0.75, abs=0.02)
    assert settle(page) == before


def test_the_box_has_handles_and_draws_the_square_that_is_read(page):
    studio = mix(page)
    studio.get_by_text("Box around the object").click()
    right = studio.get_by_label("Right edge of the box")
    left = studio.get_by_label("Left edge of the box")
    before = [left.input_value(), right.input_value()]
    left.fill("99")
    left.press("Enter")
    studio.get_by_text("This leaves no box").wait_for()
    assert [left.input_value(), right.input_value()] == before
    area = studio.locator(".crop-area")
    area.scroll_into_view_if_needed()
    wide = area.bounding_box()["width"]
    handle = studio.locator(".box .se").bounding_box()
    with page.expect_response("**/live/photo**"):
        pull(page, (handle["x"] + 12, handle["y"] + 12), (-0.2 * wide, -0.2 * wide), 0.1)
    page.wait_for_selector("photo-studio .read-square:not([hidden])")
    square = studio.locator(".read-square").bounding_box()
    box = studio.locator(".box").bounding_box()
    assert square["width"] == pytest.approx(square["height"], abs=2)
    assert square["width"] >= max(box["width"], box["height"]) - 2
    with page.expect_response("**/live/photo**"):  # the box itself is moved
        pull(page, (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2), (12, 0), 0.1)
    assert studio.locator(".box").bounding_box()["width"] == pytest.approx(box["width"], abs=2)


def test_a_late_picture_has_a_mark_and_a_new_one_a_word(page):
    settle(page)
    page.route("**/live/picture", lambda route: (time.sleep(0.8), route.continue_()))
    page.get_by_role("slider", name="Rotation").fill("99")
    page.wait_for_selector("knob-studio .frame.waits[aria-busy=true] .pending")
    page.wait_for_selector("knob-studio .frame:not(.waits)")
    page.unroute("**/live/picture")
    page.get_by_text("New picture: Rotation 99").wait_for(state="attached")
    page.locator("knob-studio summary", has_text="Save").click()
    with page.expect_download():
        page.get_by_role("button", name="Recipe JSON").click()
    assert page.evaluate("document.activeElement.textContent") == "Save"
    with page.expect_download() as saving:
        page.locator("knob-studio summary", has_text="Save").click()
        page.get_by_role("button", name="All layers OpenRaster").click()
    page.get_by_role("button", name="Shuffle", exact=True).click()
    page.get_by_label("Saved picture or recipe").first.set_input_files(saving.value.path())
    page.get_by_text("Continued from").wait_for()
    assert knobs(page)["rotation"] == 99
    page.get_by_role("tab", name="Turn the knobs").focus()
    page.keyboard.press("ArrowRight")
    assert page.get_by_role("tab", name="Mix photos").get_attribute("aria-selected") == "true"
    assert page.evaluate("document.activeElement.textContent.trim()") == "Mix photos"


@pytest.mark.parametrize("size", [(1366, 650), (1024, 768), (1920, 1080)], ids=str)
def test_everything_at_hand_is_above_the_fold(page, size):
    page.set_viewport_size({"width": size[0], "height": size[1]})
    for tab, tag in (("Turn the knobs", "knob-studio"), ("Mix photos", "photo-studio")):
        page.get_by_role("tab", name=tab).click()
        page.wait_for_selector(f"{tag}[data-shown]")
        for part in (".views", ".tools", ".compare", ".tray"):
            box = page.locator(f"{tag} {part}").first.bounding_box()
            assert box["y"] + box["height"] <= size[1] and box["x"] + box["width"] <= size[0], (tag, part)
        assert page.locator(f"{tag} .compare").first.bounding_box()["height"] < 60  # one row


def test_forced_colours_and_reduced_motion_are_heard(browser, address):
    context = browser.new_context(viewport=DESK, forced_colors="active", reduced_motion="reduce")
    page = opened(context, address)
    slider = page.get_by_role("slider", name="Rotation")
    seen = PIL.Image.open(io.BytesIO(slider.screenshot())).convert("L")
    assert np.ptp(np.asarray(seen)) > 100  # the track and the thumb stand out from what is behind them
    studio = page.locator("knob-studio")
    studio.get_by_text("Make a film or a sheet").click()
    studio.get_by_label("What happens").select_option("around")
    studio.get_by_label("Frames", exact=True).fill("4")
    studio.get_by_role("button", name="Make it").click()
    studio.locator("video").wait_for()
    page.wait_for_timeout(300)
    assert page.evaluate("document.querySelector('knob-studio video').paused")
    context.close()
