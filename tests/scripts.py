"""The browser that opens the page and what runs inside it, for its tests, its benchmark and its picture."""

import shutil

CHROMIUM = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)

SAME = """
async (tag) => {
  // Whether the small picture on the page is, to the last bit, what the server makes of the recipe shown.
  const studio = document.querySelector(tag);
  const answer = await fetch("/live/picture", {method: "POST", body: studio.dataset.shown});
  const strip = await createImageBitmap(await answer.blob());
  const there = studio.querySelector(".layer canvas");
  const mine = new OffscreenCanvas(there.width, there.height);
  mine.getContext("2d").drawImage(strip, 0, 0);
  const [a, b] = [mine, there].map((c) => c.getContext("2d").getImageData(0, 0, c.width, c.height).data);
  return a.every((value, i) => value === b[i]);
}"""
SETTLED = """
(tag) => {
  // Whether the picture is that of the knobs, with none on its way that was asked for earlier.
  const studio = document.querySelector(tag);
  return !studio.live.busy && studio.dataset.shown === JSON.stringify(studio.recipe);
}"""
