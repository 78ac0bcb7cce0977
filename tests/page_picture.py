"""The README's picture of the page: `python -m tests.page_picture` makes it anew from the bundled models."""

import io
from dataclasses import dataclass
from pathlib import Path

import PIL.Image
import tyro
from playwright.sync_api import sync_playwright

from demo.shelf import Shelf, bundled, load_model
from tests.scripts import CHROMIUM, SETTLED
from tests.serving import served


@dataclass(frozen=True, kw_only=True)
class Picture:
    """Write both tabs, one above the other, as a small file."""

    out: Path = Path("checkpoints/pictures/page.webp")
    width: int = 960


def main(args: Picture) -> None:
    """Open the page, turn to each tab, cut off what is folded below it."""
    shots = []
    with served(Shelf([load_model(path, "cpu") for path in bundled()])) as address, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        page = browser.new_page(viewport={"width": 1240, "height": 900}, color_scheme="light")
        page.goto(address)
        for tag, tab in (("knob-studio", "Turn the knobs"), ("photo-studio", "Mix photos")):
            page.get_by_role("tab", name=tab).click()
            page.wait_for_selector(f"{tag}[data-shown]")
            page.wait_for_function(SETTLED, arg=tag)
            page.wait_for_load_state("networkidle")  # examples' pictures
            bottom = page.locator(f"{tag} .studio").bounding_box()
            assert bottom is not None
            height = bottom["y"] + bottom["height"]
            shot = page.screenshot(full_page=True, clip={"x": 0, "y": 0, "width": 1240, "height": height})
            shots.append(PIL.Image.open(io.BytesIO(shot)).convert("RGB"))
        browser.close()
    both = PIL.Image.new("RGB", (shots[0].width, sum(shot.height for shot in shots)), "white")
    for place, shot in enumerate(shots):
        both.paste(shot, (0, place * shots[0].height))
    both = both.resize((args.width, round(both.height * args.width / both.width)), PIL.Image.Resampling.LANCZOS)
    both.save(args.out, quality=85, method=6)


if __name__ == "__main__":
    main(tyro.cli(Picture))
