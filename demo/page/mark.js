// One plain mark of how far a knob can be trusted, and the figures behind it.

import { fresh, make } from "./dom.js";

const MARKS = {
  reliable: ["✓", "Reliable: does what it says, and leaves the rest alone."],
  approximate: ["≈", "Approximate: follows, but not exactly, or touches something else too."],
  untested: ["?", "Untested: nobody has measured it."],
};

/** Return {button, panel} for something with `label`, `mark`, `figures` and `help`; `more` are elements in the panel. */
export function markOf({ label, mark, figures, help }, ...more) {
  const id = fresh("figures");
  const [sign, words] = MARKS[mark];
  const panel = make(
    "div",
    { class: "says", id, hidden: true },
    ...more,
    help ? make("p", {}, help) : null,
    make("p", {}, make("b", {}, words)),
    figures.length ? make("p", {}, `${figures.join(" · ")}.`) : null,
  );
  const open = () => {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
  };
  const button = make("button", {
    type: "button",
    class: `quiet mark ${mark}`,
    "aria-label": `${label}: ${mark}; figures`,
    title: words,
    "aria-expanded": "false",
    "aria-controls": id,
    "data-sign": sign,
    onclick: open,
  });
  return { button, panel };
}

/** Return a line that says what the marks mean. */
export function legend() {
  const items = Object.entries(MARKS).map(([mark, [sign]]) => make("span", { class: mark }, `${sign} ${mark}`));
  return make("p", { class: "legend" }, ...items);
}
