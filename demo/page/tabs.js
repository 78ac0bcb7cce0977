// The page's elements, which Gradio puts into its tabs, and the tabs themselves by keyboard.

import { CutoutStudio } from "./cutouts.js";
import { KnobStudio } from "./knobs.js";
import { PhotoStudio } from "./photos.js";
import { models } from "./studio.js";

const KEYS = { ArrowRight: 1, ArrowLeft: -1 };

models(); // asked for while Gradio still builds its page

const ELEMENTS = {
  "knob-studio": KnobStudio,
  "photo-studio": PhotoStudio,
  "cutout-studio": CutoutStudio,
};
for (const [name, element] of Object.entries(ELEMENTS)) customElements.define(name, element);

/** Arrow keys, Home and End go from tab to tab, as screen readers say they do. */
document.addEventListener("keydown", (event) => {
  const list = event.target.closest?.("[role=tablist]");
  if (!list || event.ctrlKey || event.metaKey || event.altKey) return;
  const tabs = [...list.querySelectorAll("[role=tab]")].filter((tab) => tab.offsetParent);
  const place = tabs.indexOf(event.target);
  const ends = { Home: 0, End: tabs.length - 1 };
  const next = event.key in ends ? ends[event.key] : place + (KEYS[event.key] ?? Number.NaN);
  const tab = place < 0 ? null : tabs[(next + tabs.length) % tabs.length];
  if (!tab) return;
  event.preventDefault();
  tab.click();
  tab.focus();
});
