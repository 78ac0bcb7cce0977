"""How live the page is: `python -m tests.benchmarks.page [--checkpoint FILE]...` prints a JSON line for each measure.

Starts the server as a person would, drives it with the system's Chromium on the same machine, then lets twenty people
drag at once over HTTP, each asking for the next picture when the last has come.
"""

import base64
import io
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import httpx
import PIL.Image
import tyro
from playwright.sync_api import Browser, Page, sync_playwright

from tests.odd_files import BAD, GOOD, check
from tests.scripts import CHROMIUM, SAME, SETTLED

STEPS = """
async (count) => {
  // From a key's effect on the slider to the frame that shows its picture, in milliseconds.
  const studio = document.querySelector("knob-studio");
  const slider = studio.querySelector("[data-knob=rotation] input[type=range]");
  const taken = [];
  for (let i = 0; i < count; i++) {
    slider.value = (37 * i) % 360;
    const start = performance.now();
    slider.dispatchEvent(new Event("input"));
    const wanted = JSON.stringify(studio.recipe);
    while (studio.dataset.shown !== wanted) await new Promise((done) => setTimeout(done, 1));
    await new Promise(requestAnimationFrame);
    taken.push(performance.now() - start);
  }
  return taken;
}"""
COUNT = """
() => {
  const studio = document.querySelector("knob-studio");
  window.pictures = [];
  const note = () => window.pictures.push(performance.now());
  new MutationObserver(note).observe(studio, {attributeFilter: ["data-shown"]});
}"""


@dataclass(frozen=True, kw_only=True)
class Measure:
    """Measure the page and print JSON lines."""

    checkpoint: list[Path] = field(default_factory=list)
    """As for `python -m demo`; without it, the bundled ones."""
    port: int = 7899
    people: int = 20
    seconds: float = 60.0
    """How long the people drag; memory that grows slowly shows after 600."""
    steps: int = 100
    starts: int = 5
    """Times the page is opened, each with nothing in the browser's cache."""
    drags: int = 5
    """Drags of three seconds."""


def say(measure: str, **figures: Any) -> None:
    """Print one line."""
    rounded = {key: round(value, 2) if isinstance(value, float) else value for key, value in figures.items()}
    print(json.dumps({"measure": measure, **rounded}), flush=True)


@contextmanager
def server(args: Measure) -> Iterator[tuple[str, int]]:
    """Run the demo; gives its address and process id. Its start counts from the command to the first answer."""
    files = [part for path in args.checkpoint for part in ("--checkpoint", str(path))]
    command = [sys.executable, "-m", "demo", "--port", str(args.port), *files]
    start = time.perf_counter()
    process = subprocess.Popen(command, cwd=Path(__file__).parents[2])
    address = f"http://127.0.0.1:{args.port}"
    try:
        while True:
            try:
                httpx.get(f"{address}/live/models", timeout=30).raise_for_status()
                break
            except httpx.HTTPError:
                if process.poll() is not None or time.perf_counter() - start > 120:
                    raise
                time.sleep(0.1)
        say("server start", seconds=time.perf_counter() - start)
        yield address, process.pid
    finally:
        process.terminate()
        process.wait()


def megabytes(pid: int, what: str = "VmRSS") -> float:
    """Return a process's memory: now, or (VmHWM) at its peak."""
    status = Path(f"/proc/{pid}/status").read_text()
    return int(status.split(f"{what}:")[1].split()[0]) / 1024


def percentile(values: list[float], share: float) -> float:
    """Return the value that `share` of the values do not exceed."""
    return sorted(values)[min(len(values) - 1, int(share * len(values)))]


def one_person(address: str, args: Measure) -> None:
    """Measure a page in a browser: first picture, single steps, drags, and what it asks of others."""
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        seconds = []
        for _ in range(args.starts):
            page, taken = opened(browser, address)
            seconds.append(taken)
            page.context.close()
        first = {"first_s": seconds[0], "longest_s": max(seconds), "n": len(seconds), "target": 3}
        say("page start to first picture", median_s=statistics.median(seconds), **first)
        page = browser.new_page(viewport={"width": 1440, "height": 900})
        asked: list[str] = []
        page.on("request", lambda sent: asked.append(sent.url))
        page.goto(address)
        page.wait_for_selector("knob-studio[data-shown]")

        page.evaluate(STEPS, 10)
        taken = page.evaluate(STEPS, args.steps)
        figures = {"median_ms": statistics.median(taken), "p95_ms": percentile(taken, 0.95)}
        say("knob to new pixels", **figures, n=args.steps, target_median_ms=60, target_p95_ms=120)

        page.evaluate(COUNT)
        rates, settled, right = zip(*(dragged(page) for _ in range(args.drags)), strict=True)
        say("while dragging", pictures_a_second=statistics.median(rates), slowest=min(rates), n=len(rates), target=20)
        figures = {"median_ms": statistics.median(settled), "longest_ms": max(settled), "right": sum(right)}
        say("final picture after letting go", **figures, n=len(settled), target_ms=150)

        page.get_by_role("tab", name="Mix photos").click()
        page.wait_for_selector("photo-studio[data-shown]")
        outside = [url for url in asked if not url.startswith((address, "data:", "blob:"))]
        say("requests to other servers", n=len(outside), of=len(asked), target=0)
        browser.close()


def opened(browser: Browser, address: str) -> tuple[Page, float]:
    """Open the page without anything cached; return it and the seconds until its first picture."""
    page = browser.new_context(viewport={"width": 1440, "height": 900}).new_page()
    start = time.perf_counter()
    page.goto(address, wait_until="commit")
    page.wait_for_selector("knob-studio[data-shown]")
    return page, time.perf_counter() - start


def dragged(page: Page, seconds: float = 3.0) -> tuple[float, float, bool]:
    """Drag a slider to and fro with the mouse and let go.

    Returns pictures a second, milliseconds from letting go to the last picture, and whether that is the right one.
    """
    box = page.locator("[data-knob=rotation] input[type=range]").bounding_box()
    assert box is not None
    middle = box["y"] + box["height"] / 2
    page.evaluate("window.pictures = []")
    page.mouse.move(box["x"] + 10, middle)
    page.mouse.down()
    begin, moves = time.perf_counter(), 0
    while (passed := time.perf_counter() - begin) < seconds:  # 25 moves a call: a call itself takes time
        page.mouse.move(box["x"] + 10 + (box["width"] - 20) * (moves // 25 % 2), middle, steps=25)
        moves += 25
    page.mouse.up()
    released = page.evaluate("performance.now()")
    page.wait_for_function(SETTLED, arg="knob-studio")
    shown = page.evaluate("window.pictures")
    rate = len([at for at in shown if at <= released]) / passed
    return rate, max(0.0, shown[-1] - released), page.evaluate(SAME, "knob-studio")


def crowd(address: str, pid: int, people: int, seconds: float) -> None:
    """Let many drag at once, each with seeds of their own; then check each one's last picture."""
    models = httpx.get(f"{address}/live/models", timeout=60).json()
    model = next(model for model in models if not model["readsPhotos"])
    before = megabytes(pid)
    waits: list[float] = []
    errors: list[str] = []
    last: dict[int, tuple[dict[str, Any], bytes]] = {}
    until = time.perf_counter() + seconds

    def person(number: int) -> None:
        with httpx.Client(base_url=address, timeout=60) as client:
            turn = 0
            while time.perf_counter() < until:
                knobs = model["start"] | {"rotation": (turn * 3.0) % 360, "look": number}
                recipe = {"checkpoint": model["name"], "knobs": knobs}
                start = time.perf_counter()
                answer = client.post("/live/picture", json=recipe)
                waits.append(time.perf_counter() - start)
                if answer.status_code != 200:
                    errors.append(answer.text[:200])
                last[number] = (recipe, answer.content)
                turn += 1

    threads = [threading.Thread(target=person, args=(number,)) for number in range(people)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    grown = megabytes(pid) - before
    stale = sum(httpx.post(f"{address}/live/picture", json=r, timeout=60).content != c for r, c in last.values())
    say(
        f"{people} people dragging at once",
        seconds=seconds,
        pictures_a_second=len(waits) / seconds,
        median_ms=1000 * statistics.median(waits),
        p95_ms=1000 * percentile(waits, 0.95),
        longest_s=max(waits),
        target_longest_s=3,
        errors=len(errors),
        wrong_final_pictures=stale,
        memory_growth_mb=grown,
        target_memory_growth_mb=300,
    )


def uploads(address: str, pid: int, before: float) -> None:
    """Send files that are no pictures, and odd ones; see whether each gets its answer, and the memory they take.

    `before` is the server's memory at its start.
    """
    models = httpx.get(f"{address}/live/models", timeout=60).json()
    model = next((model["name"] for model in models if model["readsPhotos"]), None)
    if model is None:
        return
    Path(f"/proc/{pid}/clear_refs").write_text("5")  # the peak counts from here
    wrong = []
    for name, data in (BAD | GOOD).items():
        answer = httpx.post(f"{address}/live/photo", params={"model": model, "name": name}, content=data, timeout=60)
        sentence = answer.json().get("message", "") if answer.status_code == 422 else ""
        try:
            if name in BAD:
                assert sentence.endswith(".") and "\n" not in sentence and "/" not in sentence
            else:
                assert answer.status_code == 200
                check(name, PIL.Image.open(io.BytesIO(base64.b64decode(answer.json()["view"]))))
        except AssertionError:
            wrong.append(f"{name}: {answer.status_code} {answer.text[:80]}")
    growth = megabytes(pid, "VmHWM") - before
    say("odd uploads", n=len(BAD | GOOD), wrong=wrong, peak_memory_growth_mb=growth, target_peak_memory_growth_mb=1000)


def main(args: Measure) -> None:
    """Measure everything."""
    with server(args) as (address, pid):
        before = megabytes(pid)
        one_person(address, args)
        uploads(address, pid, before)
        crowd(address, pid, args.people, args.seconds)


if __name__ == "__main__":
    main(tyro.cli(Measure))
