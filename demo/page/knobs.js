// The tab "Turn the knobs": numbers to slide, seeds to throw, an object to pull.

import { anySeed, button, fresh, make, send } from "./dom.js";
import { icon } from "./icons.js";
import { Studio } from "./studio.js";

const digits = (step) => Math.max(0, -Math.floor(Math.log10(step) + 1e-9));

/** Knobs of one model, each row with `show(value)`, and the picture that follows them. */
export class KnobStudio extends Studio {
  photos = false;
  locks = new Map(); // model's name -> the names of its locked seeds

  connectedCallback() {
    super.connectedCallback();
    window.knobStudio = this;
  }

  fresh(model) {
    return { checkpoint: model.name, seed: 0, knobs: model.start };
  }

  extraTools() {
    return [
      button({
        picture: "dice",
        text: "Surprise me",
        name: "Throw every seed that is not locked",
        press: () => this.throwAll(),
      }),
      button({
        picture: "reset",
        text: "Reset",
        name: "Back to this checkpoint's defaults",
        press: () => this.set(this.fresh(this.model)),
      }),
    ];
  }

  controls() {
    this.rows = {};
    if (!this.locks.has(this.model.name)) this.locks.set(this.model.name, new Set());
    const groups = new Map();
    for (const knob of this.model.knobs) {
      const row = knob.kind === "seed" ? this.seedRow(knob) : this.numberRow(knob);
      this.rows[knob.name] = row;
      groups.set(knob.group, [...(groups.get(knob.group) ?? []), row.element]);
    }
    this.pullable();
    const order = ["Object", "Camera", "Seeds"];
    const sorted = [...groups].sort(([a], [b]) => order.indexOf(a) - order.indexOf(b));
    return sorted.map(([name, rows]) =>
      make("section", { class: "group", "aria-label": name }, make("h2", {}, name), ...rows),
    );
  }

  present(recipe) {
    for (const knob of this.model.knobs) this.rows[knob.name].show(recipe.knobs[knob.name] ?? knob.default);
  }

  turn(name, value) {
    this.set({ ...this.recipe, knobs: { ...this.recipe.knobs, [name]: value } }, { present: false });
    this.rows[name].show(value);
  }

  /** The names of the chosen model's locked seeds. */
  get locked() {
    return this.locks.get(this.model.name);
  }

  throwAll() {
    const knobs = { ...this.recipe.knobs };
    for (const knob of this.model.knobs)
      if (knob.kind === "seed" && !this.locked.has(knob.name)) knobs[knob.name] = anySeed();
    this.set({ ...this.recipe, knobs });
  }

  numberRow(knob) {
    const id = fresh("knob");
    const places = digits(knob.step);
    const turn = (text) => {
      const value = Number(text);
      if (text !== "" && Number.isFinite(value)) this.turn(knob.name, value);
    };
    const slider = make("input", {
      type: "range",
      id,
      min: knob.reachLow,
      max: knob.reachHigh,
      step: "any",
      "aria-describedby": `${id}-says`,
      oninput: () => turn(slider.value),
      onkeydown: (event) => {
        const way = { ArrowRight: 1, ArrowUp: 1, ArrowLeft: -1, ArrowDown: -1, PageUp: 10, PageDown: -10 }[event.key];
        if (!way) return;
        event.preventDefault();
        const next = Number(slider.value) + way * knob.step;
        const full = knob.kind === "angle" && knob.high - knob.low >= 360;
        const span = knob.high - knob.low;
        turn(
          String(
            full
              ? ((((next - knob.low) % span) + span) % span) + knob.low
              : Math.min(knob.reachHigh, Math.max(knob.reachLow, next)),
          ),
        );
      },
    });
    const number = make("input", {
      type: "number",
      step: knob.step,
      inputmode: "decimal",
      "aria-label": `${knob.label}, number`,
      onchange: () => turn(number.value),
    });
    const again = button({
      picture: "reset",
      name: `Reset ${knob.label}`,
      class: "quiet",
      press: () => this.turn(knob.name, knob.default),
    });
    const says = make("p", { class: "says", id: `${id}-says` });
    const place = (value) => `${(100 * (value - knob.reachLow)) / (knob.reachHigh - knob.reachLow || 1)}%`;
    slider.style.setProperty("--from", place(knob.low));
    slider.style.setProperty("--to", place(knob.high));
    const element = make(
      "div",
      { class: "knob", "data-knob": knob.name },
      make("label", { for: id, title: knob.help }, knob.label),
      make("span", { class: "value" }, number, make("span", { class: "unit" }, knob.unit)),
      again,
      slider,
      says,
    );
    const show = (value) => {
      const text = Number(value).toFixed(places);
      if (document.activeElement !== number) number.value = text;
      slider.value = value;
      slider.setAttribute("aria-valuetext", `${text} ${knob.unit}`);
      const beyond = value < knob.low - 1e-9 || value > knob.high + 1e-9;
      element.classList.toggle("beyond", beyond);
      const told = [...knob.figures, ...(beyond ? ["beyond the trained range"] : [])].join(" · ");
      if (says.textContent !== told) says.textContent = told;
      again.disabled = Math.abs(value - knob.default) < 1e-9;
    };
    return { element, show };
  }

  seedRow(knob) {
    const id = fresh("seed");
    const row = {};
    const current = () => this.recipe.knobs[knob.name] ?? knob.default;
    const start = () => (typeof current() === "object" ? current().start : current());
    const whole = (text) => Math.min(2 ** 31 - 1, Math.max(0, Math.round(Number(text)) || 0));
    const turn = (change) => {
      const value = current();
      if (typeof value === "object") this.turn(knob.name, { ...value, ...change });
      else if ("start" in change) this.turn(knob.name, change.start);
    };
    const seed = (field, named) =>
      make("input", {
        type: "number",
        min: 0,
        step: 1,
        inputmode: "numeric",
        ...named,
        onchange: (event) => {
          const value = whole(event.target.value);
          event.target.value = value; // the field shows the seed that is drawn
          turn({ [field]: value });
        },
      });
    const first = seed("start", { id });
    const second = seed("end", { "aria-label": `${knob.label}, second seed` });
    const slider = make("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.01,
      "aria-label": `${knob.label}, between two seeds`,
      oninput: () => turn({ at: Number(slider.value) }),
    });
    const lock = button({
      picture: "unlock",
      name: `Lock ${knob.label}`,
      class: "quiet",
      press: () => {
        if (!this.locked.delete(knob.name)) this.locked.add(knob.name);
        showLock();
      },
    });
    const showLock = () => {
      const locked = this.locked.has(knob.name);
      lock.setAttribute("aria-pressed", String(locked));
      lock.innerHTML = icon(locked ? "lock" : "unlock");
      dice.disabled = locked;
    };
    const dice = button({
      picture: "dice",
      name: `Throw ${knob.label}`,
      class: "quiet",
      press: () => turn({ start: anySeed() }),
    });
    const otherDice = button({
      picture: "dice",
      name: `Throw the second seed of ${knob.label}`,
      class: "quiet",
      press: () => turn({ end: anySeed() }),
    });
    const way = button({
      picture: "between",
      name: `${knob.label}: go between two seeds`,
      class: "quiet",
      "aria-pressed": "false",
      press: () => {
        this.turn(knob.name, typeof current() === "object" ? start() : { start: start(), end: anySeed(), at: 0.5 });
      },
    });
    const line = make("div", { class: "between", hidden: true }, slider, second, otherDice);
    const says = make("p", { class: "says" }, knob.figures.join(" · "));
    row.element = make(
      "div",
      { class: "knob seed", "data-knob": knob.name },
      make("label", { for: id, title: knob.help }, knob.label),
      first,
      dice,
      lock,
      way,
      line,
      says,
    );
    showLock();
    row.show = (value) => {
      const two = typeof value === "object";
      const from = two ? value.start : value;
      if (document.activeElement !== first) first.value = from;
      line.hidden = !two;
      way.setAttribute("aria-pressed", String(two));
      if (!two) return;
      if (document.activeElement !== second) second.value = value.end;
      slider.value = value.at;
    };
    return row;
  }

  /** Let the object be pulled across the picture, where the model has knobs for its place. */
  pullable() {
    if (this.pulls) return;
    this.pulls = true;
    const canvas = this.stage.canvas;
    let axes = null;
    let from = null;
    const over = (event) => this.stage.objectAt(event.clientX, event.clientY) > 0.4;
    const touched = (event) => event.touches.length === 1 && over(event.touches[0]) && event.preventDefault();
    canvas.addEventListener("touchstart", touched, { passive: false }); // a finger beside the object scrolls the page
    canvas.addEventListener("pointermove", (event) => {
      if (!from) canvas.classList.toggle("grab", over(event));
      else if (axes) this.pull(axes, from, event);
    });
    canvas.addEventListener("pointerdown", async (event) => {
      if (event.button !== 0 || !over(event)) return;
      event.preventDefault();
      canvas.setPointerCapture(event.pointerId);
      const pull = { ...this.stage.place(event.clientX, event.clientY), knobs: this.recipe.knobs };
      from = pull;
      canvas.classList.add("pulling");
      try {
        const found = await (await send(`live/drag?right=${pull.right}&up=${pull.up}`, this.recipe)).json();
        if (from === pull) axes = found;
      } catch (error) {
        this.say(error.message);
      }
    });
    const release = () => {
      from = axes = null;
      canvas.classList.remove("pulling");
    };
    canvas.addEventListener("pointerup", release);
    canvas.addEventListener("pointercancel", release);
  }

  pull(axes, from, event) {
    const now = this.stage.place(event.clientX, event.clientY);
    const right = now.right - from.right;
    const up = now.up - from.up;
    const knobs = { ...this.recipe.knobs };
    for (const [name, [byRight, byUp]] of Object.entries(axes)) {
      const knob = this.model.knobs.find((each) => each.name === name);
      const value = (from.knobs[name] ?? knob.default) + byRight * right + byUp * up;
      knobs[name] = Math.min(knob.reachHigh, Math.max(knob.reachLow, value));
    }
    this.set({ ...this.recipe, knobs });
  }
}
