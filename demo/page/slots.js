// The cards of "Mix photos": a photo for each slot, and how much of it is taken.

import { firstFile, fresh, make } from "./dom.js";
import { icon } from "./icons.js";
import { markOf } from "./mark.js";

/** Return the card of a slot of a studio. */
export function slotCard(studio, slot) {
  const id = fresh("strength");
  const image = make("img", { alt: "", draggable: "false" });
  const caption = make("small", {});
  const warning = make("p", { class: "warning", role: "status" });
  const pick = make(
    "button",
    { type: "button", class: "slot-pick", title: slot.help, onclick: () => studio.pick(slot.name) },
    make("span", { class: "view", html: icon("dice") }, image),
    make("b", {}, slot.label),
    caption,
  );
  const weigh = () => studio.weigh(slot.name, Number(strength.value));
  const range = { min: 0, max: 1, step: 0.01, value: 1 };
  const strength = make("input", {
    type: "range",
    id,
    ...range,
    oninput: weigh,
    ondblclick: () => studio.weigh(slot.name, 1),
  });
  let before = 1; // a finger that turns out to scroll the page has changed nothing
  strength.addEventListener("pointerdown", () => {
    before = studio.recipe.slots[slot.name]?.strength ?? 1;
  });
  strength.addEventListener("pointercancel", () => studio.weigh(slot.name, before));
  const percent = make("output", { for: id }, "100 %");
  const { button: mark, panel } = markOf({ ...slot, help: "" });
  const element = make(
    "div",
    { class: "slot", "data-slot": slot.name },
    pick,
    mark,
    panel,
    warning,
    make(
      "div",
      { class: "strength" },
      make("label", { for: id, "aria-label": `Strength of ${slot.label}` }, "Strength"),
      percent,
      strength,
    ),
  );
  listen(studio, slot.name, element);
  return { element, pick, image, caption, warning, strength, percent };
}

/** Let photos be dropped on a card: files, examples and pictures of the tray. */
function listen(studio, name, element) {
  element.addEventListener("dragover", (event) => {
    event.preventDefault();
    element.classList.add("over");
  });
  element.addEventListener("dragleave", () => element.classList.remove("over"));
  studio.tray.takes(element, (item) => {
    studio.pick(name);
    studio.fillFromTray(item);
  });
  element.addEventListener("drop", (event) => {
    if (event.defaultPrevented) return;
    event.preventDefault();
    element.classList.remove("over");
    const example = event.dataTransfer.getData("text/example");
    studio.pick(name);
    if (example) studio.fill({ example, caption: studio.captionOf(example) });
    else studio.take(firstFile(event.dataTransfer));
  });
}

const WORDS = {
  code: ["Reimagine shape", "the generator's own idea of the shape, in the pose of its photo"],
  feature: ["Trace outline", "the shape photo's outline and pose, point by point"],
};

/** Return {element, inputs} of the choice how shape is taken; null where there is none. */
export function modeSwitch(model, choose) {
  if (model.modes.length < 2) return null;
  const name = fresh("mode");
  const inputs = model.modes.map((mode) =>
    make("input", { type: "radio", name, value: mode, onchange: () => choose(mode) }),
  );
  const choices = inputs.map((input, place) => {
    const [words, says] = WORDS[model.modes[place]];
    const small = [says, model.outlines[model.modes[place]]].filter(Boolean).join(" · ");
    return make("label", { class: "choice" }, input, make("span", {}, make("b", {}, words), make("small", {}, small)));
  });
  const properties = { class: "group", role: "radiogroup", "aria-label": "How the shape is taken" };
  return { inputs, element: make("section", properties, make("h2", {}, "How the shape is taken"), ...choices) };
}
