"""The tab "Cut out objects" in a real Chromium: photos, films, the camera; by mouse, keyboard and on a phone."""

import io
import json
from collections.abc import Iterator
from typing import Any

import PIL.Image
import pytest

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed: pip install -e '.[dev]'")

from tests.demo.test_cutouts import Discs, as_png, film, picture  # noqa: E402
from tests.scripts import CHROMIUM  # noqa: E402 (only where a browser can be driven)
from tests.serving import served, toy_models  # noqa: E402

__all__ = ["film"]

pytestmark = [
    pytest.mark.browser,
    pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine: sudo apt-get install chromium"),
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),  # of gradio's and uvicorn's own dependencies
]

DESK, PHONE, WIDE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}, {"width": 1920, "height": 1080}


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    with served(toy_models(), finder=Discs) as address:
        yield address


@pytest.fixture
def page(browser: Any, address: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    """Open the tab at a desk, or with `size` as the test's parameter says; nothing may go wrong in its console."""
    size = getattr(request, "param", DESK)
    context = browser.new_context(viewport=size, has_touch=size is PHONE, accept_downloads=True)
    page = context.new_page()
    page.set_default_timeout(60_000)
    wrong = []
    page.on("pageerror", lambda error: wrong.append(str(error)))
    page.goto(address)
    turn_to(page, "Cut out objects")
    page.wait_for_selector("cutout-studio[data-ready]")
    yield page
    context.close()
    assert not wrong


def turn_to(page: Any, name: str) -> None:
    """Turn to a tab, also where Gradio keeps it in a menu because the screen is narrow."""
    page.wait_for_selector("[role=tab]")
    page.wait_for_timeout(200)
    tab = page.get_by_role("tab", name=name)
    if not tab.first.is_visible():
        page.locator(".overflow-menu > button").first.click()
        tab = page.locator(".overflow-dropdown button", has_text=name)
    tab.first.click()


def take(page: Any, name: str, data: bytes, kind: str = "image/png") -> None:
    chosen = {"name": name, "mimeType": kind, "buffer": data}
    page.locator("cutout-studio input[type=file]").set_input_files(chosen)


def found(page: Any, n: int) -> None:
    page.wait_for_selector(f"cutout-studio[data-found='{n}']")


def test_an_object_is_clicked_and_saved(page):
    take(page, "discs.png", as_png(picture()))
    found(page, 2)
    studio = page.locator("cutout-studio")
    area = studio.locator(".cut-stage img").bounding_box()
    page.mouse.click(area["x"] + area["width"] * 0.3, area["y"] + area["height"] * 0.5)
    page.wait_for_selector("cutout-studio[data-shown]")
    assert json.loads(studio.get_attribute("data-shown"))["objects"] == [0]
    assert studio.get_by_role("button", name="red 90 %").get_attribute("aria-pressed") == "true"
    for words, mode in (("Cut-out", "RGBA"), ("Mask", "L"), ("Everything else", "RGBA")):
        with page.expect_download() as download:
            studio.get_by_role("button", name=words, exact=True).click()
        with PIL.Image.open(download.value.path()) as saved:
            assert saved.mode == mode, words
        assert download.value.suggested_filename.startswith("discs-")


def test_several_objects_by_keyboard(page):
    take(page, "discs.png", as_png(picture()))
    found(page, 2)
    page.locator("cutout-studio .object").first.focus()
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('cutout-studio').dataset.shown?.includes('[0,1]')")
    page.keyboard.press("Space")
    page.wait_for_function("document.querySelector('cutout-studio').dataset.shown?.includes('[0]')")
    reached = set()
    page.evaluate("document.activeElement.blur()")
    for _ in range(60):
        page.keyboard.press("Tab")
        reached.add(page.evaluate("document.activeElement.outerHTML.slice(0, 150)"))
    wanted = page.evaluate(
        """() => [...document.querySelectorAll("cutout-studio :is(button, select, a)")]
          .filter((e) => e.checkVisibility() && !e.disabled).map((e) => e.outerHTML.slice(0, 150))"""
    )
    assert set(wanted) <= reached


def test_a_cut_out_goes_to_a_slot_of_the_other_tab(page):
    take(page, "discs.png", as_png(picture()))
    found(page, 2)
    studio = page.locator("cutout-studio")
    studio.get_by_role("button", name="red 90 %").click()
    studio.get_by_label("Use it in Mix photos as").select_option("texture")
    studio.get_by_role("button", name="Send", exact=True).click()
    page.wait_for_function("document.querySelector('[data-slot=texture] small')?.textContent === 'discs, cut out'")
    slot = page.evaluate(
        """async () => {
          const image = document.querySelector("[data-slot=texture] .slot-pick img");
          await image.decode();
          const canvas = new OffscreenCanvas(image.naturalWidth, image.naturalHeight);
          const context = canvas.getContext("2d");
          context.drawImage(image, 0, 0);
          const at = (x, y) => [...context.getImageData(x * canvas.width, y * canvas.height, 1, 1).data];
          return [at(0.5, 0.5), at(0.02, 0.02)];
        }"""
    )
    assert slot[0][0] > 150 > slot[0][2] and min(slot[1][:3]) > 240  # the red disc on white


def test_a_film_is_painted_and_can_be_saved(page, film):
    take(page, "discs.mp4", film, "video/mp4")
    found(page, 2)
    studio = page.locator("cutout-studio")
    assert studio.locator("video").is_visible()
    with page.expect_download() as download:
        studio.get_by_text("Save the film").click()
    assert download.value.suggested_filename == "discs-objects.mp4"


def test_the_camera_is_searched_live(page):
    page.context.grant_permissions(["camera"])
    studio = page.locator("cutout-studio")
    studio.get_by_role("button", name="Camera").click()
    page.wait_for_function("Number(document.querySelector('.viewfinder')?.dataset.frames) >= 3")
    studio.get_by_role("button", name="Take", exact=True).click()
    page.wait_for_selector("cutout-studio[data-found]")
    assert page.locator(".viewfinder").count() == 0
    studio.get_by_role("button", name="Camera").click()
    page.wait_for_selector(".viewfinder")
    studio.get_by_role("button", name="Stop").click()
    assert page.locator(".viewfinder").count() == 0


def test_mistakes_are_said_and_the_next_photo_works(page):
    take(page, "text.png", b"hello, I am no picture")
    page.locator("cutout-studio .status.wrong").wait_for()
    page.wait_for_function("document.querySelector('cutout-studio .status').textContent.includes('not a picture')")
    take(page, "discs.png", as_png(picture()))
    found(page, 2)
    assert page.locator("cutout-studio .status.wrong").count() == 0
    plain = io.BytesIO()
    PIL.Image.new("RGB", (60, 60), (90, 90, 90)).save(plain, "PNG")
    take(page, "plain.png", plain.getvalue())
    found(page, 0)
    assert page.get_by_text("Nothing was found in this photo").is_visible()


@pytest.mark.parametrize("page", [DESK, PHONE, WIDE], indirect=True, ids=["desk", "phone", "wide"])
def test_nothing_scrolls_sideways_and_targets_are_large_enough(page):
    take(page, "discs.png", as_png(picture()))
    found(page, 2)
    page.locator("cutout-studio .object").first.click()
    page.wait_for_selector("cutout-studio[data-shown]")
    width = page.evaluate("[document.documentElement.scrollWidth, innerWidth]")
    assert width[0] <= width[1]
    small = page.evaluate(
        """() => [...document.querySelectorAll("cutout-studio :is(button, select, a)")]
          .filter((e) => e.checkVisibility()).map((e) => [e.textContent, e.getBoundingClientRect()])
          .filter(([_, r]) => r.width < 24 || r.height < 24).map(([name]) => name)"""
    )
    assert small == []
    assert (
        page.evaluate(
            """() => [...document.querySelectorAll("cutout-studio :is(button, select, a)")]
          .filter((e) => e.checkVisibility() && e.scrollWidth > e.clientWidth + 1).map((e) => e.textContent)"""
        )
        == []
    )


@pytest.mark.parametrize("page", [DESK, PHONE], indirect=True, ids=["desk", "phone"])
def test_axe_finds_no_serious_fault(page, axe: str):
    take(page, "discs.png", as_png(picture()))
    found(page, 2)
    page.locator("cutout-studio .object").first.click()
    page.wait_for_selector("cutout-studio[data-shown]")
    page.evaluate(axe)
    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        page.evaluate("(dark) => document.body.classList.toggle('dark', dark)", scheme == "dark")
        page.wait_for_timeout(300)
        result = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
        serious = [
            (fault["id"], [node["html"][:160] for node in fault["nodes"][:3]])
            for fault in result["violations"]
            if fault["impact"] in ("serious", "critical")
        ]
        assert serious == [], scheme
