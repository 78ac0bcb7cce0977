"""Turn the knobs, and files, in a real browser."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from demo.models import Model, Models  # noqa: E402
from tests.browser.conftest import opened  # noqa: E402
from tests.browser.pages import PHONE, file, photo, pixels, settle, swipe  # noqa: E402
from tests.scripts import CHROMIUM, SAME  # noqa: E402 (only where a browser can be driven)
from tests.serving import served  # noqa: E402
from tests.toys import Blocks, Patches  # noqa: E402

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: sudo apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's and uvicorn's own dependencies
]

# Turn the knobs


def test_a_knob_turned_by_mouse_shows_the_picture_it_ends_on(page):
    before = pixels(page)
    slider = page.get_by_role("slider", name="Rotation")
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    page.mouse.move(box["x"] + 30, middle)
    page.mouse.down()
    for step in range(60):
        page.mouse.move(box["x"] + 30 + 4 * step, middle)
    page.mouse.up()
    recipe = settle(page)
    assert recipe["knobs"]["rotation"] == pytest.approx(float(slider.input_value()), abs=1e-6)
    assert recipe["knobs"]["rotation"] > 90
    assert np.abs(pixels(page).astype(int) - before).mean() > 1
    assert page.evaluate(SAME, "knob-studio")


@pytest.mark.parametrize("page", [PHONE], indirect=True, ids=["phone"])
def test_a_knob_turned_by_a_finger_shows_the_picture_it_ends_on(page):
    slider = page.get_by_role("slider", name="Rotation")
    slider.scroll_into_view_if_needed()
    box = slider.bounding_box()
    middle = box["y"] + box["height"] / 2
    swipe(page, (box["x"] + 30, middle), (box["x"] + 250, middle))
    recipe = settle(page)
    assert recipe["knobs"]["rotation"] == pytest.approx(float(slider.input_value()), abs=1e-6)
    assert recipe["knobs"]["rotation"] > 180
    assert page.evaluate(SAME, "knob-studio")


@pytest.mark.parametrize("page", [PHONE], indirect=True, ids=["phone"])
def test_a_finger_pulls_the_object_and_beside_it_scrolls_the_page(page):
    area = page.locator("knob-studio canvas.picture").bounding_box()
    x, y = area["x"] + area["width"] / 2, area["y"] + area["height"] / 2
    swipe(page, (x, y), (x, y - 30))
    assert settle(page)["knobs"]["translation_z"] > 0.01
    assert page.evaluate("scrollY") == 0
    x, y = area["x"] + 15, area["y"] + area["height"] - 15
    swipe(page, (x, y), (x, y - 150))
    page.wait_for_function("scrollY > 50")


def test_a_slow_server_still_ends_on_the_last_picture(page):
    """Requests that take 150 ms: what is wanted meanwhile is skipped, the last never."""
    asked = []

    def late(route: Any) -> None:
        asked.append(json.loads(route.request.post_data))
        time.sleep(0.15)
        route.continue_()

    page.route("**/live/picture", late)
    slider = page.get_by_role("slider", name="Rotation")
    slider.focus()
    for _ in range(40):
        page.keyboard.press("ArrowRight")
    recipe = settle(page)
    page.unroute("**/live/picture")
    assert recipe["knobs"]["rotation"] == 70
    assert asked[-1]["knobs"]["rotation"] == 70
    assert len(asked) < 40
    assert page.evaluate(SAME, "knob-studio")


def test_a_server_that_was_away_is_asked_again(page):
    page.route("**/live/picture", lambda route: route.abort())
    page.get_by_role("slider", name="Rotation").focus()
    page.keyboard.press("ArrowRight")
    page.get_by_text("The server does not answer").wait_for()
    page.unroute("**/live/picture")
    assert settle(page)["knobs"]["rotation"] == 31
    page.wait_for_function("!document.querySelector('knob-studio .status').textContent")


def test_typed_numbers_go_beyond_the_trained_range_and_say_so(page):
    number = page.get_by_label("Move across, number")
    number.fill("0.14")
    number.press("Enter")
    assert settle(page)["knobs"]["translation_y"] == 0.14
    assert page.get_by_text("Experimental: beyond the trained range").is_visible()
    page.get_by_role("button", name="Reset Move across").click()
    assert settle(page)["knobs"]["translation_y"] == 0
    assert not page.get_by_text("beyond the trained range").is_visible()


def test_seeds_are_thrown_locked_and_blended(page):
    page.get_by_role("button", name="Lock Colours").click()
    page.get_by_role("button", name="Shuffle", exact=True).click()
    knobs = settle(page)["knobs"]
    assert knobs["look"] == 3 and knobs["shape"] != 0
    page.get_by_role("button", name="Background: go between two seeds").click()
    page.get_by_role("slider", name="Background, between two seeds").fill("0.25")
    way = settle(page)["knobs"]["background"]
    assert way["start"] == knobs["background"] and way["at"] == 0.25
    assert page.evaluate(SAME, "knob-studio")


@pytest.mark.parametrize(("typed", "drawn"), [("1.5", 2), ("-5", 0), ("99999999999", 2**31 - 1)])
def test_a_seed_field_shows_the_seed_that_is_drawn(page, typed, drawn):
    page.get_by_role("button", name="Background: go between two seeds").click()
    page.get_by_role("button", name="Background: untested; figures").click()
    for label in ("Background", "Background, second seed"):
        field = page.get_by_role("spinbutton", name=label, exact=True)
        field.fill(typed)
        field.press("Enter")
        assert field.input_value() == str(drawn)
    way = settle(page)["knobs"]["background"]
    assert (way["start"], way["end"]) == (drawn, drawn)


def test_undo_redo_and_two_kept_pictures(page):
    page.get_by_role("button", name="Keep as A").click()
    first = settle(page)
    page.get_by_role("button", name="Shuffle", exact=True).click()
    second = settle(page)
    page.get_by_role("button", name="Keep as B").click()
    page.get_by_role("button", name="Undo").click()
    assert settle(page) == first
    page.keyboard.press("Control+Shift+Z")
    assert settle(page) == second
    page.get_by_role("button", name="Show A").click()
    assert settle(page) == first
    page.get_by_role("button", name="Side by side").click()
    line = page.get_by_role("slider", name="Line between A and B")
    line.fill("0.9")
    assert line.is_visible()
    page.get_by_role("slider", name="Rotation").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    assert not line.is_visible()


def test_the_object_follows_the_hand(page):
    def centre() -> np.ndarray:
        mask = pixels(page, place=3)[..., 0] > 127
        return np.argwhere(mask).mean(0)[::-1] / 64

    start = centre()
    area = page.locator("knob-studio canvas.picture").bounding_box()
    at = np.array([area["x"], area["y"]]) + start * area["width"]
    page.mouse.move(*at)
    page.mouse.down()
    page.wait_for_timeout(500)
    for step in range(1, 11):
        page.mouse.move(at[0] + 6 * step, at[1] - 3 * step)
    page.mouse.up()
    recipe = settle(page)
    moved = (centre() - start) * area["width"]
    assert recipe["knobs"]["translation_y"] > 0.02 and recipe["knobs"]["translation_z"] > 0.01
    assert moved == pytest.approx([60, -30], abs=12)


def test_a_layer_can_be_looked_at_in_large(page):
    page.get_by_role("button", name="Mask", exact=True).click()
    assert page.get_by_role("img", name="The picture's layer: Mask").is_visible()
    grey, brightest = page.evaluate(
        """() => {
          const context = document.querySelector("canvas.picture").getContext("2d");
          const values = context.getImageData(0, 0, 480, 480).data;
          let grey = true, brightest = 0;
          for (let i = 0; i < values.length; i += 4) {
            grey &&= values[i] === values[i + 2];
            brightest = Math.max(brightest, values[i]);
          }
          return [grey, brightest];
        }"""
    )
    assert grey and brightest == 255


@pytest.fixture(scope="module")
def twice() -> Iterator[str]:
    """Serve two checkpoints for each tab."""
    toys = {"blocks": Blocks(), "cubes": Blocks(), "patches": Patches(), "scraps": Patches()}
    with served(Models([Model(name=name, generator=toy.eval()) for name, toy in toys.items()])) as address:
        yield address


def test_each_checkpoint_is_found_again_as_it_was_left(alone, twice):
    page = opened(alone, twice)
    settle(page)
    page.get_by_role("button", name="Keep as A").click()
    choice = page.get_by_label("Model", exact=True).first
    first = settle(page)
    page.get_by_role("button", name="Shuffle", exact=True).click()
    thrown = settle(page)
    choice.select_option("cubes")
    assert settle(page)["checkpoint"] == "cubes"
    assert page.get_by_role("button", name="Undo").is_disabled()
    assert page.get_by_role("button", name="A is empty").is_disabled()
    choice.select_option("blocks")
    assert settle(page) == thrown
    page.get_by_role("button", name="Undo").click()
    assert settle(page) == first
    page.get_by_role("button", name="Redo").click()
    assert settle(page) == thrown
    page.get_by_role("button", name="Show A").click()
    assert settle(page) == first


def test_a_locked_seed_stays_locked_while_another_checkpoint_is_looked_at(alone, twice):
    page = opened(alone, twice)
    lock = page.get_by_role("button", name="Lock Colours")
    lock.click()
    choice = page.get_by_label("Model", exact=True).first
    for name, pressed in (("cubes", "false"), ("blocks", "true")):
        choice.select_option(name)
        settle(page)
        assert lock.get_attribute("aria-pressed") == pressed
    page.get_by_role("button", name="Shuffle", exact=True).click()
    assert settle(page)["knobs"]["look"] == 3
    assert page.get_by_role("button", name="Shuffle Colours").is_disabled()


def test_the_checkpoint_chosen_last_is_shown_though_another_reads_its_photos_longer(alone, twice):
    late = []
    alone.route("**/live/photo?model=patches*", lambda route: late.append(route))
    page = opened(alone, twice)
    page.get_by_role("tab", name="Mix photos").click()
    studio = page.locator("photo-studio")
    page.wait_for_function("document.querySelectorAll('photo-studio .slot').length")
    studio.get_by_label("Model", exact=True).select_option("scraps")
    page.wait_for_selector("photo-studio[data-shown]")
    assert settle(page, "photo-studio")["checkpoint"] == "scraps"
    assert len(late) == 4
    for route in late:
        route.continue_()
    alone.unroute("**/live/photo?model=patches*")
    page.wait_for_timeout(1000)
    assert settle(page, "photo-studio")["checkpoint"] == "scraps"
    studio.get_by_label("Model", exact=True).select_option("patches")
    page.wait_for_function("document.querySelector('photo-studio').recipe.checkpoint === 'patches'")
    assert len(settle(page, "photo-studio")["slots"]) == 4  # not left half read


# Files


def test_a_saved_picture_can_be_continued_from(page, tmp_path: Path):
    page.get_by_role("button", name="Shuffle", exact=True).click()
    recipe = settle(page)
    page.get_by_text("Save", exact=True).first.click()
    with page.expect_download() as saving:
        page.get_by_role("button", name="Picture PNG, with its recipe").click()
    saved = tmp_path / "car.png"
    saving.value.save_as(saved)
    page.get_by_role("button", name="Reset", exact=True).click()
    assert settle(page) != recipe
    page.get_by_label("Saved picture or recipe").first.set_input_files(saved)
    page.get_by_text("Continued from car.png").wait_for()
    again = settle(page)
    assert again["knobs"] == recipe["knobs"] and again["sha256"] == "b" * 64


def test_a_file_of_the_other_tab_is_continued_there(page, tmp_path: Path):
    saved = tmp_path / "mix.json"
    slots = {"texture": {"seed": 7}}
    saved.write_text(json.dumps({"checkpoint": "patches", "slots": slots, "mode": "feature"}))
    page.get_by_label("Saved picture or recipe").first.set_input_files(saved)
    page.locator("photo-studio").get_by_text("Continued from mix.json").wait_for()
    recipe = settle(page, "photo-studio")
    assert recipe["slots"]["texture"]["seed"] == 7 and recipe["mode"] == "feature"


def test_a_recipe_and_all_layers_can_be_saved(page):
    for entry, ending, begins in (
        ("Recipe JSON", "-recipe.json", b"{"),
        ("All layers OpenRaster", ".ora", b"PK"),
        ("All layers PSD", ".psd", b"8BPS"),
    ):
        page.get_by_text("Save", exact=True).first.click()
        with page.expect_download() as saving:
            page.get_by_role("button", name=entry).click()
        assert saving.value.suggested_filename == f"blocks{ending}"
        assert Path(saving.value.path()).read_bytes().startswith(begins)


def test_a_file_without_a_recipe_gets_one_sentence(page):
    page.get_by_label("Saved picture or recipe").first.set_input_files(file("beach.png", photo((1, 2, 3))))
    page.get_by_text("Beach.png holds no recipe").wait_for()


def test_a_turntable_is_filmed_and_can_be_stopped(page):
    studio = page.locator("knob-studio")
    studio.get_by_text("Make a film or a sheet").click()
    studio.get_by_label("What happens").select_option("around")
    studio.get_by_label("File", exact=True).select_option("GIF")
    studio.get_by_label("Frames", exact=True).fill("6")
    studio.get_by_role("button", name="Make it").click()
    film = studio.locator("img[src*='blocks-film.gif']")
    film.wait_for()
    assert page.evaluate("(image) => image.decode().then(() => image.naturalWidth)", film.element_handle()) == 256
    studio.get_by_label("File", exact=True).select_option("MP4")
    studio.get_by_label("Frames", exact=True).fill("500")
    studio.get_by_role("button", name="Make it").click()
    studio.get_by_text("of 120.").wait_for()
    studio.get_by_role("button", name="Stop").click()
    studio.get_by_text("Stopped.").wait_for()
    assert page.locator("video:visible").count() == 0
    page.get_by_role("slider", name="Rotation").focus()
    page.keyboard.press("ArrowRight")
    settle(page)
    studio.get_by_label("What happens").select_option("ab")
    studio.get_by_role("button", name="Make it").click()
    studio.get_by_text("A is empty; press 'Keep as A' first.").wait_for()
