// The tab "Turn the knobs": numbers to slide, seeds to shuffle, an object to pull.

import { anySeed, button, make } from "./dom.js";
import { Hands } from "./hands.js";
import { holdsRecipe, Inverting } from "./inverting.js";
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
    this.inverting = new Inverting(this);
    super.build();
    this.inverting.listen();
    this.hands = new Hands(this);
  }

  async recall() {
    await this.inverting.recall();
    await super.recall();
  }

  extraRows() {
    return [this.inverting.element];
  }

  finer() {
    return this.inverting.running ? 0 : super.finer();
  }

  async dropped(file) {
    if (file && this.inverting.can() && !(await holdsRecipe(file))) await this.inverting.take(file);
    else await super.dropped(file);
  }

  /** Take a recipe; unless it comes from the photo that is being inverted, that ends. */
  async set(recipe, { inverting = false, ...options } = {}) {
    if (!inverting) this.inverting.end();
    await super.set(recipe, { ...options, keepSplit: inverting });
    this.inverting.show(this.recipe);
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
    this.inverting.end();
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

  /** Return the recipe with knobs at other values; a part that is drawn from a seed is no photo's any more. */
  turned(values) {
    const recipe = { ...this.recipe, knobs: { ...this.recipe.knobs, ...values } };
    if (!recipe.slots) return recipe;
    recipe.slots = { ...recipe.slots };
    for (const name of Object.keys(values)) delete recipe.slots[name];
    return recipe;
  }

  turn(name, value) {
    if (!this.ready) return;
    this.set(this.turned({ [name]: value }), { present: false });
    this.rows[name].show(value);
  }

  /** Return where all number knobs are in the beginning. */
  resting() {
    const numbers = this.model.knobs.filter((knob) => knob.kind !== "seed");
    return Object.fromEntries(numbers.map((knob) => [knob.name, this.start(knob)]));
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
    const free = this.model.knobs.filter((knob) => knob.kind === "seed" && !this.locked.has(knob.name));
    this.step(this.turned(Object.fromEntries(free.map((knob) => [knob.name, anySeed()]))));
  }

  /** What nine variations can be made of. */
  get variable() {
    return this.model.knobs.filter((knob) => knob.kind === "seed");
  }

  /** Return the recipe with another seed for a knob, or that much of a way to one. */
  varied(name, share) {
    const slot = this.recipe.slots?.[name];
    if (slot && share < 1) {
      const recipe = this.turned({ [name]: anySeed() });
      return { ...recipe, slots: { ...recipe.slots, [name]: { ...slot, strength: 1 - share } } };
    }
    const present = this.value(this.knob(name));
    const start = typeof present === "object" ? (present.at < 0.5 ? present.start : present.end) : present;
    return this.turned({ [name]: share < 1 ? { start, end: anySeed(), at: share } : anySeed() });
  }

  reset() {
    const recipe = this.fresh(this.model);
    const held = [...this.locked].map((name) => [name, this.recipe.knobs[name] ?? recipe.knobs[name]]);
    const slots = Object.entries(this.recipe.slots ?? {}).filter(([name]) => this.locked.has(name));
    const kept = { ...recipe, knobs: { ...recipe.knobs, ...Object.fromEntries(held) } };
    this.step(slots.length ? { ...kept, slots: Object.fromEntries(slots) } : kept);
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
    const given = this.model.parts.filter((name) => recipe.slots?.[name] !== before?.slots?.[name]);
    said.push(...given.map((name) => `${this.knob(name).label} from ${recipe.slots?.[name] ? "the photo" : "a seed"}`));
    return before ? said.join(", ") : this.model.title;
  }
}
