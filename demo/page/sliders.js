// The row of a knob that takes a number.

import { button, fresh, make } from "./dom.js";
import { markOf } from "./mark.js";
import { goesRound, numberOf, typedInto, within } from "./numbers.js";

const KEYS = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 };
const BEYOND = "Experimental: beyond the trained range.";

const digits = (step) => Math.max(0, -Math.floor(Math.log10(step) + 1e-9));

/** Return {element, show(value)} for a knob of a studio. */
export function numberRow(studio, knob) {
  const id = fresh("knob");
  const places = digits(knob.step);
  const present = () => studio.value(knob);
  const turn = (value) => studio.turn(knob.name, value);
  const slider = make("input", {
    type: "range",
    id,
    min: knob.reachLow,
    max: knob.reachHigh,
    step: "any",
    oninput: () => turn(Number(slider.value)),
    ondblclick: () => turn(studio.start(knob)),
    onkeydown: (event) => {
      const way = KEYS[event.key];
      if (!way) return;
      event.preventDefault();
      turn(within(present() + way * (event.shiftKey && Math.abs(way) === 1 ? 10 : 1) * knob.step, knob));
    },
  });
  let before = null; // a finger that turns out to scroll the page has changed nothing
  slider.addEventListener("pointerdown", () => {
    before = present();
  });
  slider.addEventListener("pointercancel", () => before !== null && turn(before));
  const number = make("input", {
    type: "number",
    step: knob.step,
    inputmode: "decimal",
    "aria-label": `${knob.label}, number`,
  });
  typedInto(
    number,
    (text) => {
      const { value, note } = numberOf(text, knob, present());
      turn(value);
      number.value = value.toFixed(places);
      if (note) studio.note(note);
    },
    () => {
      number.value = present().toFixed(places);
    },
  );
  const again = button({
    picture: "reset",
    name: `Reset ${knob.label}`,
    class: "quiet",
    press: () => turn(studio.start(knob)),
  });
  const { button: mark, panel } = markOf(knob);
  const experimental = make("p", { class: "experimental", id: `${id}-says` });
  slider.setAttribute("aria-describedby", experimental.id);
  const place = (value) => `${(100 * (value - knob.reachLow)) / (knob.reachHigh - knob.reachLow || 1)}%`;
  slider.style.setProperty("--from", place(knob.low));
  slider.style.setProperty("--to", place(knob.high));
  const element = make(
    "div",
    { class: "knob", "data-knob": knob.name },
    make("label", { for: id, title: knob.help }, knob.label),
    make("span", { class: "value" }, number, make("span", { class: "unit" }, knob.unit)),
    again,
    mark,
    slider,
    experimental,
    panel,
  );
  const show = (value) => {
    const text = Number(value).toFixed(places);
    if (!("typed" in number.dataset)) number.value = text;
    slider.value = value;
    slider.setAttribute("aria-valuetext", `${text} ${knob.unit}`);
    const slack = 0.5 * 10 ** -places;
    const beyond = !goesRound(knob) && (value < knob.low - slack || value > knob.high + slack);
    element.classList.toggle("beyond", beyond);
    if (experimental.textContent !== (beyond ? BEYOND : "")) experimental.textContent = beyond ? BEYOND : "";
    again.disabled = Math.abs(value - studio.start(knob)) < 1e-9;
  };
  return { element, show };
}
