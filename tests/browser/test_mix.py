"""Mix photos in a real browser."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from tests.browser.conftest import opened  # noqa: E402
from tests.browser.pages import file, mix, photo, pixels, settle, slot  # noqa: E402
from tests.scripts import CHROMIUM, SAME  # noqa: E402 (only where a browser can be driven)

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: sudo apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's and uvicorn's own dependencies
]


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
