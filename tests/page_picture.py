"""The README's picture of the page, moving: `python -m tests.page_picture` makes it anew from the bundled models."""

import io
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import tyro
from playwright.sync_api import Page, sync_playwright

from demo.models import Models, bundled, load_model
from tests.scripts import CHROMIUM, SETTLED
from tests.serving import served

WIDTH = 1240
"""Of the browser's window, pixels."""


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Write a film of both tabs: an object turned once around, then a mix that takes other textures."""

    out: Path = Path("checkpoints/pictures/page.webp")
    width: int = 960
    quality: int = 70
    turns: int = 12
    """Pictures of the turning object."""
    textures: int = 4
    """Pictures of the mix."""


def shot(page: Page, tag: str) -> PIL.Image.Image:
    """Return a picture of a tab that has come to rest, without what is folded below it."""
    page.wait_for_function(SETTLED, arg=tag)
    page.wait_for_load_state("networkidle")  # examples' pictures
    bottom = page.locator(f"{tag} .studio").bounding_box()
    assert bottom is not None
    clip = {"x": 0, "y": 0, "width": WIDTH, "height": bottom["y"] + bottom["height"]}
    png = page.screenshot(full_page=True, clip=clip)  # type: ignore[arg-type]
    return PIL.Image.open(io.BytesIO(png)).convert("RGB")


def open_tab(page: Page, name: str, tag: str) -> None:
    """Turn to a tab and wait for its first picture."""
    page.get_by_role("tab", name=name).click()
    page.wait_for_selector(f"{tag}[data-shown]")


def frames(page: Page, args: Picture) -> Iterator[tuple[PIL.Image.Image, int]]:
    """Go through the film's pictures, each with how long it stays, in milliseconds."""
    open_tab(page, "Turn the knobs", "knob-studio")
    for i in range(args.turns):
        number = page.get_by_label("Rotation, number")
        number.fill(str(round(360 * i / args.turns)))
        number.press("Enter")
        yield shot(page, "knob-studio"), 200
    open_tab(page, "Mix photos", "photo-studio")
    for i in range(args.textures):
        page.locator("photo-studio [data-slot=texture] .slot-pick").click()
        page.locator("photo-studio .example").nth(i + 3).click()
        page.wait_for_selector("photo-studio .slot.waiting", state="detached")
        yield shot(page, "photo-studio"), 1000


def main(args: Picture) -> None:
    """Drive the page, bring all pictures to one size, write them as an animated WebP."""
    with served(Models([load_model(path, "cpu") for path in bundled()])) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": WIDTH, "height": 900}, color_scheme="light")
        page.goto(address)
        shots, times = zip(*frames(page, args), strict=True)
        browser.close()
    scale = args.width / WIDTH
    size = args.width, round(scale * max(each.height for each in shots))
    film = [PIL.Image.new("RGB", size, "white") for _ in shots]
    for frame, each in zip(film, shots, strict=True):
        frame.paste(each.resize((args.width, round(scale * each.height)), PIL.Image.Resampling.LANCZOS))
    film[0].save(
        args.out, save_all=True, append_images=film[1:], duration=list(times), loop=0, quality=args.quality, method=6
    )


if __name__ == "__main__":
    main(tyro.cli(Picture))
