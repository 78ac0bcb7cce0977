"""The page in a real Chromium: knobs and pictures, photos and mixes, files, films, phones, screen readers."""

import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from demo.models import Model, Models, bundled, load_model  # noqa: E402
from tests.browser.conftest import opened  # noqa: E402
from tests.browser.pages import DESK, PHONE, file, mix, photo, pixels, settle, slot, swipe  # noqa: E402
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


@pytest.fixture
def alone(browser: Any) -> Iterator[Any]:
    """Give a browser that has not been here before."""
    context = browser.new_context(viewport=DESK)
    yield context
    context.close()


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


# Mix photos


def test_photos_in_four_slots_make_a_mix(page):
    studio = mix(page)
    before = pixels(page, "photo-studio")
    colours = {"Background": (20, 90, 200), "Pose": (200, 30, 30), "Shape": (90, 90, 90), "Texture": (240, 200, 20)}
    for name, colour in colours.items():
        slot(page, name).click()
        with page.expect_response("**/live/photo**"):
            studio.locator("input[accept='image/*']").set_input_files(file(f"{name}.png", photo(colour)))
        page.wait_for_function(
            "([slot, caption]) => document.querySelector(`[data-slot=${slot}] small`).textContent === caption",
            arg=[name.lower(), f"{name}.png"],
        )
    recipe = settle(page, "photo-studio")
    assert recipe["slots"].keys() == {"background", "pose", "shape", "texture"}
    assert np.abs(pixels(page, "photo-studio").astype(int) - before).mean() > 5
    blue = pixels(page, "photo-studio", place=1).mean((0, 1))
    assert blue[2] > blue[0]  # the background is that of its photo
    assert page.evaluate(SAME, "photo-studio")


def test_an_example_and_its_strength(page):
    studio = mix(page)
    slot(page, "Texture").click()
    studio.get_by_role("button", name="Example: green shorts").click()
    page.wait_for_function("document.querySelector('[data-slot=texture] small').textContent === 'green shorts'")
    full = settle(page, "photo-studio")
    strong = pixels(page, "photo-studio")
    studio.get_by_role("slider", name="Strength of Texture").fill("0")
    none = settle(page, "photo-studio")
    assert (full["slots"]["texture"]["strength"], none["slots"]["texture"]["strength"]) == (1, 0)
    assert np.abs(pixels(page, "photo-studio").astype(int) - strong).max() > 20


def test_a_photo_is_pasted_and_dropped(page):
    mix(page)
    data = list(photo((250, 250, 0)))
    transfer = f"""() => {{
        const given = new DataTransfer();
        given.items.add(new File([new Uint8Array({data})], "yellow.png", {{type: "image/png"}}));
        return given;
    }}"""
    slot(page, "Pose").click()
    page.evaluate(
        f"document.dispatchEvent(new ClipboardEvent('paste', {{clipboardData: ({transfer})(), bubbles: true}}))"
    )
    page.wait_for_function("document.querySelector('[data-slot=pose] small').textContent === 'yellow.png'")
    given = page.evaluate_handle(transfer)
    page.dispatch_event("[data-slot=shape]", "drop", {"dataTransfer": given})
    page.wait_for_function("document.querySelector('[data-slot=shape] small').textContent === 'yellow.png'")


def test_the_box_around_the_object_can_be_drawn(page):
    studio = mix(page)
    studio.get_by_text("Box around the object").click()
    with page.expect_response("**/live/photo**"):
        studio.get_by_role("button", name="Whole photo").click()  # within a box, a pull moves it
    page.wait_for_selector("photo-studio .read-square:not([hidden])")
    before = settle(page, "photo-studio")["slots"]["background"]["picture"]
    area = studio.locator(".crop-area")
    area.scroll_into_view_if_needed()
    box = area.bounding_box()
    page.mouse.move(box["x"] + 0.2 * box["width"], box["y"] + 0.2 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.6 * box["width"], box["y"] + 0.6 * box["height"], steps=4)
    with page.expect_response("**/live/photo**"):
        page.mouse.up()
    page.wait_for_function(
        "(before) => document.querySelector('photo-studio').recipe.slots.background.picture !== before", arg=before
    )
    edges = [
        float(studio.get_by_label(f"{edge} edge of the box").input_value())
        for edge in ("Left", "Top", "Right", "Bottom")
    ]
    assert edges == pytest.approx([20, 20, 60, 60], abs=2)
    with page.expect_response("**/live/photo**"):
        studio.get_by_role("button", name="Find the object").click()


def test_a_photo_is_taken_with_the_camera(page):
    studio = mix(page)
    page.context.grant_permissions(["camera"])
    slot(page, "Shape").click()
    studio.get_by_role("button", name="Camera").click()
    page.wait_for_function("document.querySelector('dialog video')?.videoWidth > 0")
    page.get_by_role("button", name="Take", exact=True).click()
    page.wait_for_function("document.querySelector('[data-slot=shape] small').textContent === 'camera'")
    assert page.locator("dialog").count() == 0


def test_a_factor_is_thrown_without_a_photo(page):
    studio = mix(page)
    slot(page, "Background").click()
    before = pixels(page, "photo-studio")
    studio.get_by_role("button", name="Seed", exact=True).click()
    assert settle(page, "photo-studio")["slots"]["background"]["seed"] >= 0
    assert np.abs(pixels(page, "photo-studio").astype(int) - before).mean() > 1


def test_a_file_that_is_no_photo_gets_one_sentence_and_changes_nothing(page):
    studio = mix(page)
    before = settle(page, "photo-studio")
    studio.locator("input[accept='image/*']").set_input_files(file("cv.png", b"I am a text"))
    studio.get_by_text("Cv.png is not a picture that can be read").wait_for()
    assert settle(page, "photo-studio") == before


def hold_photos(page: Any, count: int) -> list[Any]:
    """Let the next photos wait on their way to the server; the list fills as they come."""
    held = []
    page.route("**/live/photo**", lambda route: held.append(route) if len(held) < count else route.continue_())
    return held


def send_file(page: Any, held: list[Any], name: str, data: bytes) -> None:
    """Put a file into the selected slot; it is held on its way."""
    count = len(held)
    with page.expect_request("**/live/photo**"):
        page.locator("photo-studio input[accept='image/*']").set_input_files(file(name, data))
    while len(held) == count:
        page.wait_for_timeout(20)


def let_through(page: Any, held: Any) -> None:
    with page.expect_response("**/live/photo**"):
        held.continue_()
    page.wait_for_timeout(300)


def test_of_two_photos_for_a_slot_the_one_chosen_last_stays(page):
    studio = mix(page)
    slot(page, "Pose").click()
    held = hold_photos(page, 3)
    send_file(page, held, "slow.png", photo((200, 30, 30)))
    send_file(page, held, "cv.png", b"I am a text")
    send_file(page, held, "last.png", photo((30, 30, 200)))
    slow, refused, last = held
    let_through(page, refused)
    assert page.locator("[data-slot=pose].waiting").count() == 1
    assert studio.locator(".status").inner_text() == ""
    for each in (last, slow):
        let_through(page, each)
        assert page.locator("[data-slot=pose] small").inner_text() == "last.png"
        assert page.locator(".slot.waiting").count() == 0


@pytest.mark.parametrize("instead", ["Seed", "Reset"])
def test_a_photo_on_its_way_does_not_come_back_after_another_choice(page, instead):
    studio = mix(page)
    slot(page, "Background").click()
    held = hold_photos(page, 1)
    send_file(page, held, "slow.png", photo((30, 80, 30)))
    studio.get_by_role("button", name=instead, exact=True).click()
    page.wait_for_timeout(500)
    after = settle(page, "photo-studio")
    let_through(page, held[0])
    assert settle(page, "photo-studio") == after
    assert page.locator(".slot.waiting").count() == 0


@pytest.mark.parametrize(
    "field", ["image/*", ".png,.json,.ora,image/png,application/json,image/openraster"], ids=["photo", "saved"]
)
def test_a_file_that_is_gone_after_it_was_chosen_is_said(page, tmp_path: Path, field):
    studio = mix(page)
    before = settle(page, "photo-studio")
    saved = tmp_path / "moved.png"
    saved.write_bytes(photo((9, 9, 9)))
    stop = "(event) => event.stopImmediatePropagation()"
    page.evaluate(f"addEventListener('change', {stop}, {{capture: true, once: true}})")  # tell the page later
    upload = studio.locator(f"input[accept='{field}']")
    upload.set_input_files(saved)
    saved.unlink()
    upload.dispatch_event("change")
    studio.get_by_text("This file cannot be read; please choose it again.").wait_for()
    assert settle(page, "photo-studio") == before


def test_a_file_that_is_too_large_is_said_before_it_is_sent(page, requests):
    studio = mix(page)
    sent = len(requests)
    studio.locator("input[accept='image/*']").set_input_files(file("large.png", b" " * 30_000_001))
    studio.get_by_text("This file is larger than 30 MB; please choose a smaller one.").wait_for()
    assert not any("/live/photo" in url for url in requests[sent:])


def test_a_photo_can_be_cut_again_after_its_file_is_gone(page, tmp_path: Path):
    studio = mix(page)
    saved = tmp_path / "once.png"
    saved.write_bytes(photo((200, 30, 30)))
    studio.locator("input[accept='image/*']").set_input_files(saved)
    page.wait_for_function("document.querySelector('[data-slot=background] small').textContent === 'once.png'")
    saved.unlink()
    studio.get_by_text("Box around the object").click()
    with page.expect_response("**/live/photo**") as cutting:
        studio.get_by_role("button", name="Find the object").click()
    assert cutting.value.ok


def test_examples_that_cannot_be_read_are_said_and_change_nothing(alone, address):
    page = opened(alone, address)
    page.route("**/live/photo**", lambda route: route.fulfill(status=422, json={"message": "This example is gone."}))
    studio = mix(page)
    gone = studio.get_by_text("This example is gone.")
    gone.wait_for()
    assert settle(page, "photo-studio")["slots"] == {}
    assert gone.is_visible()
    studio.get_by_role("button", name="Seed", exact=True).click()
    before = settle(page, "photo-studio")
    assert not gone.is_visible()
    studio.get_by_role("button", name="Reset", exact=True).click()
    gone.wait_for()
    assert settle(page, "photo-studio") == before


def test_the_outline_of_a_photo_can_be_kept(page):
    studio = mix(page)
    before = pixels(page, "photo-studio", place=3)
    studio.get_by_label("Trace outline").check()
    assert settle(page, "photo-studio")["mode"] == "feature"
    strengths = {
        name: studio.get_by_role("slider", name=f"Strength of {name}") for name in ("Pose", "Shape", "Texture")
    }
    assert {name: each.is_enabled() for name, each in strengths.items()} == {"Pose": 0, "Shape": 0, "Texture": 1}
    assert studio.get_by_text("the strengths of Pose and Shape do nothing").is_visible()
    assert np.abs(pixels(page, "photo-studio", place=3).astype(int) - before).mean() > 5


def test_a_sheet_of_mixes(page):
    studio = mix(page)
    studio.get_by_text("Make a film or a sheet").click()
    studio.get_by_label("Width of a picture").select_option("0")
    studio.get_by_role("button", name="Make it").click()
    sheet = studio.locator("img[src*='patches-mixes.png']")
    sheet.wait_for()
    wide = page.evaluate("(image) => image.decode().then(() => image.naturalWidth)", sheet.element_handle())
    assert wide == 6 * 64 + 5 * 2


# Everyone


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


def test_every_control_has_a_name_and_can_be_reached_by_keyboard(page):
    mix(page)
    page.get_by_role("tab", name="Turn the knobs").click()
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(150):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 200)"))
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("knob-studio :is(button, input, select, summary)")]
          .filter((e) => e.checkVisibility() && !e.disabled && e.type !== "file" && !e.closest(".menu-list"))
          .map((e) => e.outerHTML.slice(0, 200))"""
    )
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
  const red = [...document.querySelectorAll("[data-knob=look] .seed-thumb canvas")].map((canvas) => {
    const { data } = canvas.getContext("2d").getImageData(16, 24, 32, 24);
    let sum = 0;
    for (let i = 0; i < data.length; i += 4) sum += data[i] - Math.max(data[i + 1], data[i + 2]);
    return sum;
  });
  return red.indexOf(Math.max(...red));
}"""


def test_a_first_task_takes_six_actions_on_a_bundled_model(browser):
    """Turn a car to its side, make it red, place it left, save 512 pixels; at rest pictures become finer."""
    path = next(path for path in bundled() if path.stem == "giraffe-hd-cars-64")
    with served(Models([load_model(path, "cpu")])) as address:
        context = browser.new_context(viewport=DESK, accept_downloads=True)
        page = context.new_page()
        page.set_default_timeout(60_000)
        page.goto(address)
        page.wait_for_selector('knob-studio[data-side="256"]')
        page.wait_for_selector("[data-knob=look] .seed-thumb")
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
        page.locator("[data-knob=look] .seed-thumb").nth(page.evaluate(REDDEST)).click()  # 2
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
        context.close()
