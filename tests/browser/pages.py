"""What the tests of the page read from it and do on it."""

import io
import json
from typing import Any

import numpy as np
import PIL.Image

from tests.scripts import SETTLED

DESK, PHONE = {"width": 1440, "height": 900}, {"width": 390, "height": 844}
AFRESH = """async () => {
  // Have the page as it was when it was opened.
  [...document.querySelectorAll("[role=tab]")].find((tab) => tab.textContent.trim() === "Turn the knobs").click();
  for (const fold of document.querySelectorAll("details")) fold.open = false;
  document.querySelector("dialog")?.close();
  const { knobStudio, photoStudio } = window;
  for (const { id } of knobStudio.tray.items) await knobStudio.tray.remove(id);
  for (const studio of [knobStudio, photoStudio]) {
    if (!studio?.recipe) continue;
    studio.stage.choose("image");
    for (const known of [studio.locks, studio.visited]) known.clear();
    studio.recipe = null;
    await studio.choose(studio.models[0]);
    studio.note("");
  }
  scrollTo(0, 0);
  document.body.classList.remove("dark");
  document.activeElement?.blur();
}"""


def shown(page: Any, tag: str = "knob-studio") -> dict[str, Any]:
    """Return the recipe of the picture on the page."""
    return json.loads(page.locator(tag).get_attribute("data-shown"))


def settle(page: Any, tag: str = "knob-studio") -> dict[str, Any]:
    """Wait until the picture is that of the knobs; return its recipe."""
    page.wait_for_function(SETTLED, arg=tag)
    return shown(page, tag)


def pixels(page: Any, tag: str = "knob-studio", place: int = 0) -> np.ndarray:
    """Return the small picture of a layer."""
    found = page.evaluate(
        """([tag, place]) => {
          const canvas = document.querySelectorAll(tag + " .layer canvas")[place];
          return [...canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height).data];
        }""",
        [tag, place],
    )
    return np.array(found, np.uint8).reshape(64, 64, 4)[..., :3]


def mix(page: Any) -> Any:
    """Turn to the other tab; return its studio."""
    page.get_by_role("tab", name="Mix photos").click()
    page.wait_for_selector("photo-studio[data-shown]")
    settle(page, "photo-studio")
    return page.locator("photo-studio")


def slot(page: Any, name: str) -> Any:
    """Return the button that chooses a slot."""
    return page.locator(f"[data-slot={name.lower()}] .slot-pick")


def photo(colour: tuple[int, int, int], size: tuple[int, int] = (200, 150)) -> bytes:
    file = io.BytesIO()
    PIL.Image.new("RGB", size, colour).save(file, "PNG")
    return file.getvalue()


def file(name: str, data: bytes, kind: str = "image/png") -> Any:
    return {"name": name, "mimeType": kind, "buffer": data}


def swipe(page: Any, start: tuple[float, float], end: tuple[float, float], steps: int = 12) -> None:
    """Draw a finger across the screen, as a touch screen would tell it."""
    finger = page.context.new_cdp_session(page)

    def touch(kind: str, *points: dict[str, float]) -> None:
        finger.send("Input.dispatchTouchEvent", {"type": kind, "touchPoints": list(points)})

    (x0, y0), (x1, y1) = start, end
    touch("touchStart", {"x": x0, "y": y0})
    for step in range(1, steps + 1):
        page.wait_for_timeout(20)
        touch("touchMove", {"x": x0 + (x1 - x0) * step / steps, "y": y0 + (y1 - y0) * step / steps})
    touch("touchEnd")
