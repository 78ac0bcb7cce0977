"""A photo becomes knobs in a real browser: dropped, sharpened, cancelled, compared, repainted, there after a reload."""

import io
import json
from collections.abc import Iterator
from typing import Any

import numpy as np
import PIL.Image
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from demo.models import Model, Models  # noqa: E402
from tests.browser.conftest import opened  # noqa: E402
from tests.browser.pages import PHONE, file, photo, pixels, settle  # noqa: E402
from tests.scripts import CHROMIUM  # noqa: E402 (only where a browser can be driven)
from tests.serving import served  # noqa: E402
from tests.toy_photos import Mirrors  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: sudo apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's and uvicorn's own dependencies
]
RED, BLUE = (200, 30, 30), (20, 40, 220)
SQUARE = (80, 80)
DESK = {"width": 1366, "height": 650}
REST = "!knobStudio.inverting.running"


@pytest.fixture(scope="module")
def mirrors() -> Mirrors:
    return Mirrors().eval()


@pytest.fixture(scope="module")
def address(mirrors: Mirrors) -> Iterator[str]:
    card = {"title": "Mirrors", "config": {"data": {"object_margin": None}}}
    with served(Models([Model(name="mirrors", generator=mirrors, sha256="d" * 64, card=card)])) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str, mirrors: Mirrors) -> Iterator[Any]:
    """Give the page as it is at first; nothing may go wrong in its console."""
    mirrors.pause = 0.0
    context = browser.new_context(viewport=DESK, accept_downloads=True)
    page, wrong = opened(context, address), []
    page.set_default_timeout(15_000)
    page.on("pageerror", lambda error: wrong.append(str(error)))
    yield page
    context.close()
    assert not wrong


def given(colour: tuple[int, int, int], name: str = "car.png") -> str:
    """Return a script that makes a transfer with a photo."""
    return f"""() => {{
        const given = new DataTransfer();
        given.items.add(new File([new Uint8Array({list(photo(colour, SQUARE))})], "{name}", {{type: "image/png"}}));
        return given;
    }}"""


def drop(page: Any, where: str, colour: tuple[int, int, int]) -> None:
    page.dispatch_event(where, "drop", {"dataTransfer": page.evaluate_handle(given(colour))})


def choose(page: Any, colour: tuple[int, int, int], wait: bool = True) -> dict[str, Any]:
    """Choose a photo; return the recipe once it is inverted."""
    page.locator(".photo-bar input[type=file]").set_input_files(file("car.png", photo(colour, SQUARE)))
    page.wait_for_function("knobStudio.recipe.slots?.look")
    if wait:
        page.wait_for_function(REST)
    return settle(page)


def rotation(page: Any) -> float:
    return float(page.get_by_role("slider", name="Rotation").input_value())


def paint(page: Any) -> np.ndarray:
    """Return the brightest colour of the object."""
    settle(page)
    return pixels(page, place=1)[pixels(page, place=3)[..., 0] > 127].max(0)


def tile(page: Any, part: str) -> Any:
    return page.locator(f"[data-knob={part}] .photo-tile")


def test_a_dropped_photo_turns_the_sliders_and_sharpens(page, mirrors):
    mirrors.pause = 0.1
    before = settle(page)
    drop(page, "knob-studio canvas.picture", RED)
    page.wait_for_function("knobStudio.recipe.slots?.look")
    codes = page.evaluate("knobStudio.recipe.slots.look.codes")
    assert page.get_by_role("progressbar", name="How far the photo is").is_visible()  # it goes on
    assert rotation(page) == pytest.approx(180 * 200 / 255, abs=1)
    page.wait_for_function(REST)
    assert settle(page)["slots"]["look"]["codes"] != codes
    assert np.abs(paint(page) - np.array(RED)).max() < 16
    for part in ("shape", "look", "background"):
        assert tile(page, part).get_attribute("aria-pressed") == "true"
        assert tile(page, part).get_attribute("aria-label").endswith("photo")
    found = settle(page)
    page.get_by_role("button", name="Undo").click()
    assert settle(page) == before and tile(page, "look").get_attribute("aria-pressed") == "false"
    page.get_by_role("button", name="Redo").click()
    assert settle(page) == found


@pytest.mark.parametrize("how", ["Escape", "Cancel", "knob"])
def test_what_ends_a_photo_keeps_the_codes_so_far(page, mirrors, how):
    mirrors.pause = 0.15
    choose(page, RED, wait=False)
    page.wait_for_function("knobStudio.inverting.progress.value >= 0.15")
    mirrors.pause = 0.6  # a slow browser has the time to show each step
    page.wait_for_timeout(200)
    codes = settle(page)["slots"]["look"]["codes"]
    if how == "Escape":
        page.keyboard.press("Escape")
    elif how == "Cancel":
        page.get_by_role("button", name="Cancel").click()
    else:
        page.evaluate("knobStudio.turn('scale', 0.27)")
    page.wait_for_function(REST)
    page.wait_for_timeout(1000)
    done = mirrors.done
    page.wait_for_timeout(800)
    assert mirrors.done == done and mirrors.running == 0  # the server has stopped too
    found = settle(page)
    assert found["slots"]["look"]["codes"] == codes
    assert found["knobs"]["rotation"] == pytest.approx(180 * 200 / 255, abs=1)
    if how == "knob":
        assert found["knobs"]["scale"] == 0.27
        page.wait_for_timeout(500)
        page.get_by_role("button", name="Undo").click()
        back = settle(page)
        assert back["slots"]["look"]["codes"] == codes and back["knobs"]["scale"] != 0.27


def test_a_photo_is_there_after_a_reload(page):
    found = choose(page, RED)
    page.wait_for_timeout(300)
    page.reload()
    page.wait_for_selector("knob-studio[data-shown]")
    assert settle(page) == found
    assert tile(page, "look").get_attribute("aria-pressed") == "true"
    assert np.abs(paint(page) - np.array(RED)).max() < 16
    assert page.get_by_role("button", name="Front or back?").is_visible()
    page.get_by_role("button", name="Undo").click()
    assert "slots" not in settle(page)


def test_another_photo_repaints_and_a_shuffle_returns_to_seeds(page):
    first = choose(page, RED)
    drop(page, "[data-knob=look]", BLUE)
    page.wait_for_function("knobStudio.recipe.slots.look.picture !== knobStudio.recipe.slots.shape.picture")
    page.wait_for_function(REST)
    second = settle(page)
    assert np.abs(paint(page) - np.array(BLUE)).max() < 16
    assert second["knobs"] == first["knobs"] and second["slots"]["shape"] == first["slots"]["shape"]
    page.get_by_role("button", name="Shuffle Colours").click()
    third = settle(page)
    assert "look" not in third["slots"] and third["slots"]["shape"] == first["slots"]["shape"]
    assert tile(page, "look").get_attribute("aria-pressed") == "false"
    assert tile(page, "shape").get_attribute("aria-pressed") == "true"
    page.get_by_role("button", name="Shuffle", exact=True).click()
    assert settle(page)["slots"] == {}
    assert page.locator(".photo-thumb").is_hidden()


def test_the_line_between_photo_and_picture(page):
    choose(page, RED)
    compare = page.get_by_role("button", name="Compare")
    compare.click()
    line = page.get_by_role("slider", name="Line between the photo and its picture")
    line.fill("1")
    canvas = page.locator("knob-studio canvas.picture")
    seen = np.asarray(PIL.Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"))
    assert np.abs(seen[20:120, 20:120].astype(int) - np.array(RED)).max() < 12  # the photo is all of one colour
    line.fill("0")
    seen = np.asarray(PIL.Image.open(io.BytesIO(canvas.screenshot())).convert("RGB"))
    assert np.abs(seen[20:120, 20:120].astype(int) - np.array(RED)).max() > 12  # the picture's background is not
    page.evaluate("knobStudio.turn('rotation', 10)")
    assert line.is_hidden() and compare.get_attribute("aria-pressed") == "false"


def test_an_unclear_front_is_one_click_from_the_other_end(page):
    before = choose(page, RED)["knobs"]["rotation"]
    assert page.get_by_text("It is not clear which end is the front.").is_visible()
    page.get_by_role("button", name="Front or back?").click()
    page.wait_for_function(f"Math.abs(knobStudio.recipe.knobs.rotation - {before}) > 100")
    page.wait_for_function(REST)
    assert settle(page)["knobs"]["rotation"] == pytest.approx(before + 180, abs=0.1)
    page.get_by_role("button", name="Front or back?").click()
    page.wait_for_function(f"Math.abs(knobStudio.recipe.knobs.rotation - {before}) < 1")
    page.wait_for_function(REST)
    choose(page, BLUE)
    assert page.get_by_text("It is not clear which end is the front.").is_hidden()


def test_a_saved_picture_of_a_photo_opens_again_and_a_paste_starts_one(page, tmp_path):
    found = choose(page, RED)
    page.locator("knob-studio summary").filter(has_text="Save").first.click()
    with page.expect_download() as download:
        page.locator("knob-studio .menu-list button").filter(has_text="Picture").first.click()
    saved = tmp_path / "saved.png"
    download.value.save_as(saved)
    page.get_by_role("button", name="Reset", exact=False).first.click()
    assert not settle(page).get("slots")
    script = f"""() => {{
        const given = new DataTransfer();
        given.items.add(new File([new Uint8Array({list(saved.read_bytes())})], "saved.png", {{type: "image/png"}}));
        return given;
    }}"""
    page.dispatch_event("knob-studio canvas.picture", "drop", {"dataTransfer": page.evaluate_handle(script)})
    page.wait_for_function("knobStudio.recipe.slots?.look")
    again = settle(page)
    assert again["slots"]["look"]["codes"] == found["slots"]["look"]["codes"]
    assert again["knobs"]["rotation"] == pytest.approx(found["knobs"]["rotation"])
    page.evaluate(
        f"document.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: ({given(BLUE)})(), bubbles: true}}))"
    )
    page.wait_for_function(f"knobStudio.recipe.slots.look.picture !== {json.dumps(again['slots']['look']['picture'])}")
    page.wait_for_function(REST)
    assert np.abs(paint(page) - np.array(BLUE)).max() < 16


def test_a_file_that_is_no_photo_changes_nothing(page):
    before = settle(page)
    page.locator(".photo-bar input[type=file]").set_input_files(file("notes.png", b"no picture at all"))
    page.get_by_text("notes.png").first.wait_for()
    page.wait_for_function(REST)
    assert settle(page) == before


def test_a_locked_part_stays(page):
    page.get_by_role("button", name="Lock Colours").click()
    found = choose_others(page, RED)
    assert set(found["slots"]) == {"shape", "background"}
    page.get_by_role("button", name="Lock Object's shape").click()
    page.get_by_role("button", name="Shuffle", exact=True).click()
    assert set(settle(page)["slots"]) == {"shape"}


def choose_others(page: Any, colour: tuple[int, int, int]) -> dict[str, Any]:
    page.locator(".photo-bar input[type=file]").set_input_files(file("car.png", photo(colour, SQUARE)))
    page.wait_for_function("knobStudio.recipe.slots?.shape")
    page.wait_for_function(REST)
    return settle(page)


def test_the_bar_fits_a_phone(browser, address, mirrors):
    mirrors.pause = 0.5
    context = browser.new_context(viewport=PHONE, has_touch=True)
    page = opened(context, address)
    choose(page, RED, wait=False)
    assert page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
    for each in page.locator(".photo-bar button:visible").all():
        box = each.bounding_box()
        assert box["x"] >= 0 and box["x"] + box["width"] <= PHONE["width"] and box["height"] >= 24
    context.close()
