// The tab "Turn the knobs": numbers to slide, seeds to shuffle, an object to pull.

import { anySeed, button, make } from "./dom.js";
import { Hands } from "./hands.js";
import { legend } from "./mark.js";
import { Nine } from "./nine.js";
import { within } from "./numbers.js";
import { seedRow } from "./seeds.js";
import { numberRow } from "./sliders.js";
import { Studio } from "./studio.js";

const IDLE = 600; // milliseconds without a change after which thumbnails are asked for
const GROUPS = ["Object", "Camera", "Seeds"];

/** Knobs of one model, each row with `show(value)`, and the picture that follows them. */
export class KnobStudio extends Studio {
  photos = false;

  async connectedCallback() {
    window.knobStudio = this;
    await super.connectedCallback();
  }

  build() {
    this.nine = new Nine(this);
    super.build();
    this.hands = new Hands(this);
  }

  fresh(model) {
    return { checkpoint: model.name, seed: 0, knobs: model.start };
  }

  extraTools() {
    return [
      button({
        picture: "dice",
        text: "Shuffle",
        name: "Shuffle every seed that is not locked",
        press: () => this.shuffle(),
      }),
      this.nine.button,
      button({
        picture: "reset",
        class: "bare",
        text: "Reset",
        name: "Back to this model's defaults; locked seeds stay",
        press: () => this.reset(),
      }),
    ];
  }

  controls() {
    this.rows = {};
    if (!this.locks.has(this.model.name)) this.locks.set(this.model.name, new Set());
    const groups = new Map();
    for (const knob of this.model.knobs) {
      const row = knob.kind === "seed" ? seedRow(this, knob) : numberRow(this, knob);
      this.rows[knob.name] = row;
      groups.set(knob.group, [...(groups.get(knob.group) ?? []), row.element]);
    }
    this.nine.fill();
    const sorted = [...groups].sort(([a], [b]) => GROUPS.indexOf(a) - GROUPS.indexOf(b));
    const sections = sorted.map(([name, rows]) =>
      make("section", { class: "group", "aria-label": name }, make("h2", {}, name), ...rows),
    );
    this.unfilled = Object.values(this.rows).filter((row) => row.fill);
    return [...sections, legend()];
  }

  leave() {
    super.leave();
    this.hands?.end();
    this.nine.close();
  }

  present(recipe) {
    for (const knob of this.model.knobs) this.rows[knob.name].show(recipe.knobs[knob.name] ?? knob.default);
  }

  /** Return a model's knob by name. */
  knob(name) {
    return this.model.knobs.find((knob) => knob.name === name);
  }

  /** Return what a number knob is at. */
  value(knob) {
    return this.recipe.knobs[knob.name] ?? knob.default;
  }

  /** Return what a knob is at in the beginning. */
  start(knob) {
    return this.model.start[knob.name] ?? knob.default;
  }

  turn(name, value) {
    if (!this.ready) return;
    this.set({ ...this.recipe, knobs: { ...this.recipe.knobs, [name]: value } }, { present: false });
    this.rows[name].show(value);
  }

  /** Turn several number knobs, each within its reach. */
  move(values) {
    if (!this.ready) return;
    const knobs = { ...this.recipe.knobs };
    for (const [name, value] of Object.entries(values)) knobs[name] = within(value, this.knob(name));
    this.set({ ...this.recipe, knobs }, { present: false });
    for (const name of Object.keys(values)) this.rows[name].show(knobs[name]);
  }

  /** The names of the chosen model's locked seeds. */
  get locked() {
    return this.locks.get(this.model.name);
  }

  shuffle() {
    const knobs = { ...this.recipe.knobs };
    for (const knob of this.model.knobs)
      if (knob.kind === "seed" && !this.locked.has(knob.name)) knobs[knob.name] = anySeed();
    this.step({ ...this.recipe, knobs });
  }

  /** What nine variations can be made of. */
  get variable() {
    return this.model.knobs.filter((knob) => knob.kind === "seed");
  }

  /** Return the recipe with another seed for a knob, or that much of a way to one. */
  varied(name, share) {
    const present = this.value(this.knob(name));
    const start = typeof present === "object" ? (present.at < 0.5 ? present.start : present.end) : present;
    const value = share < 1 ? { start, end: anySeed(), at: share } : anySeed();
    return { ...this.recipe, knobs: { ...this.recipe.knobs, [name]: value } };
  }

  reset() {
    const recipe = this.fresh(this.model);
    const held = [...this.locked].map((name) => [name, this.recipe.knobs[name] ?? recipe.knobs[name]]);
    this.step({ ...recipe, knobs: { ...recipe.knobs, ...Object.fromEntries(held) } });
  }

  shown(strip, recipe, milliseconds) {
    super.shown(strip, recipe, milliseconds);
    this.hands.rest();
    clearTimeout(this.idling);
    this.idling = setTimeout(() => this.idle(), IDLE);
  }

  /** Ask for the thumbnails of one seed after another while nothing else is wanted. */
  async idle() {
    const row = this.unfilled?.find((each) => each.element.checkVisibility());
    if (!row || this.live.busy) return;
    this.unfilled = this.unfilled.filter((each) => each !== row);
    await row.fill();
    clearTimeout(this.idling);
    this.idling = setTimeout(() => this.idle(), IDLE);
  }

  /** Return in words what is new in a recipe. */
  words(recipe, before) {
    const changed = this.model.knobs.filter(
      (knob) => before && JSON.stringify(recipe.knobs[knob.name]) !== JSON.stringify(before.knobs[knob.name]),
    );
    const said = changed.slice(0, 4).map((knob) => {
      const value = recipe.knobs[knob.name] ?? knob.default;
      if (typeof value === "object") return `${knob.label} between two seeds`;
      return `${knob.label} ${knob.kind === "seed" ? value : Number(value.toPrecision(3))} ${knob.unit}`.trim();
    });
    return before ? said.join(", ") : this.model.title;
  }
}
