// Two kept pictures, A and B, alone or on both sides of a line.

import { button, make } from "./dom.js";
import { paint } from "./stage.js";

export class Compare {
  constructor(studio) {
    this.studio = studio;
    this.kept = { A: null, B: null };
    this.places = {};
    this.pressed = null; // the button of what is shown on both sides of the line
    this.element = make("div", { class: "compare", role: "group", "aria-label": "A against B" });
    for (const name of ["A", "B"]) this.element.append(this.place(name));
    this.slider = make("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.01,
      value: 0.5,
      "aria-label": "Line between A and B",
      hidden: true,
      oninput: () => this.drawSplit(),
    });
    this.button = button({
      picture: "split",
      text: "Side by side",
      name: "Show A and B on both sides of a line",
      "aria-pressed": "false",
      press: () => (this.pressed === this.button ? this.leaveSplit() : this.openKept()),
    });
    this.element.append(this.button, this.slider);
  }

  place(name) {
    const canvas = make("canvas", { width: 96, height: 96, "aria-hidden": "true" });
    const show = make(
      "button",
      { type: "button", class: "kept", onclick: () => this.show(name) },
      canvas,
      make("span", {}, name),
    );
    const store = button({
      text: `Keep as ${name}`,
      name: `Keep this picture as ${name}`,
      class: "small",
      press: () => this.keep(name),
    });
    this.places[name] = { canvas, show };
    const element = make("div", { class: "keep" }, show, store);
    this.studio.tray.takes(element, (item) => this.take(name, item));
    return element;
  }

  /** The recipes of A and B. */
  get recipes() {
    return { A: this.kept.A?.recipe ?? null, B: this.kept.B?.recipe ?? null };
  }

  /** Keep the picture that is shown, once there is one. */
  keep(name) {
    const recipe = this.studio.shownRecipe;
    if (recipe?.checkpoint !== this.studio.model.name) return;
    this.hold(name, { recipe, layers: this.studio.stage.keep() });
    this.studio.keepHistory();
  }

  /** Have a picture of the tray as A or B, where it is one of this model's. */
  async take(name, { recipe }) {
    const { studio } = this;
    if (recipe.checkpoint !== studio.model.name) {
      studio.say(`This picture is not one of ${studio.model.title}; A and B are.`);
      return;
    }
    await this.draw(name, recipe);
    studio.keepHistory();
  }

  /** Have `kept` of a model, {A, B} of {recipe, layers} or of recipes alone, which are drawn. */
  restore(kept) {
    for (const name of ["A", "B"]) {
      const found = kept?.[name] ?? null;
      if (found && !found.layers) this.draw(name, found.recipe ?? found);
      else this.hold(name, found);
    }
  }

  async draw(name, recipe) {
    this.hold(name, { recipe, layers: null });
    try {
      const layers = await this.studio.drawn(recipe);
      if (this.kept[name]?.recipe === recipe) this.hold(name, { recipe, layers });
    } catch (error) {
      this.studio.say(error.message);
    }
  }

  /** Have {recipe, layers}, or null, as A or B. */
  hold(name, kept) {
    this.kept[name] = kept;
    const { canvas, show } = this.places[name];
    show.disabled = !kept;
    show.title = kept ? `Show ${name}` : `${name} is empty`;
    show.setAttribute("aria-label", show.title);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    if (kept?.layers) paint(canvas, kept.layers[0]);
    this.button.disabled = !(this.kept.A?.layers && this.kept.B?.layers);
    this.leaveSplit();
  }

  show(name) {
    if (this.kept[name]) this.studio.step(this.kept[name].recipe);
  }

  /** Have the line at a share of the picture's width. */
  splitAt(share) {
    this.slider.value = Math.min(1, Math.max(0, share));
    this.drawSplit();
  }

  openKept() {
    const { A, B } = this.kept;
    this.open(A.layers, B.layers, "Line between A and B", this.button);
  }

  /** Show the layers of two pictures on both sides of a line; `pressed` is the button that opens and closes them. */
  open(left, right, words, pressed) {
    this.leaveSplit();
    this.pair = { left, right };
    this.pressed = pressed;
    pressed.setAttribute("aria-pressed", "true");
    this.slider.setAttribute("aria-label", words);
    this.slider.hidden = false;
    this.drawSplit();
  }

  drawSplit() {
    this.studio.stage.compare({ ...this.pair, at: Number(this.slider.value) });
  }

  leaveSplit() {
    if (!this.studio.stage.split) return; // each turn of a knob comes by here
    this.studio.stage.compare(null);
    this.pressed.setAttribute("aria-pressed", "false");
    this.pressed = null;
    this.slider.hidden = true;
  }
}
