// Hands on the picture: the object is pulled, turned and sized where it is seen.

import { make, send } from "./dom.js";
import { firstTime } from "./store.js";

const ON = 0.4; // share of the mask from which a point is on the object
const TURN = 180; // degrees for a move across the whole picture
const WHEEL = 0.0012; // of the logarithm of the size, for each pixel that a wheel scrolls
const SCROLLED = 300; // milliseconds after the page scrolled in which a wheel goes on scrolling it
const HINT = 8000; // milliseconds

export class Hands {
  /** `studio` gives `knob(name)`, `value(knob)`, `start(knob)` and `move(values)`. */
  constructor(studio) {
    this.studio = studio;
    this.stage = studio.stage;
    this.pointers = new Map();
    this.gesture = null;
    this.turns = 0; // of models: what began before another was chosen is ended
    const { canvas, frame } = this.stage;
    this.handles = ["nw", "ne", "sw", "se"].map((corner) => make("i", { class: `handle ${corner}` }));
    this.corners = make("div", { class: "corners", "aria-hidden": "true", hidden: true }, ...this.handles);
    frame.append(this.corners);
    for (const handle of this.handles)
      handle.addEventListener("pointerdown", (event) => event.button === 0 && this.begin(event, "size"));
    const touched = (event) => {
      const [first] = event.touches;
      if (event.touches.length > 1 || this.over(first)) event.preventDefault(); // beside the object it scrolls the page
    };
    canvas.addEventListener("touchstart", touched, { passive: false });
    canvas.addEventListener("pointerdown", (event) => this.down(event));
    for (const element of [canvas, this.corners]) {
      element.addEventListener("pointermove", (event) => this.moved(event));
      element.addEventListener("pointerup", (event) => this.up(event));
      element.addEventListener("pointercancel", (event) => this.up(event));
    }
    canvas.addEventListener("dblclick", () => this.reset());
    canvas.addEventListener("wheel", (event) => this.wheel(event), { passive: false });
    addEventListener("scroll", () => (this.scrolled = performance.now()), { passive: true });
    this.hint();
  }

  hint() {
    const words = make("p", { class: "hands-hint", hidden: true }, "Drag, turn, scroll");
    this.stage.frame.append(words);
    words.hidden = !firstTime("hint");
    this.unhint = () => words.remove();
    setTimeout(this.unhint, HINT);
  }

  over(point) {
    return this.stage.objectAt(point.clientX, point.clientY) > ON;
  }

  down(event) {
    if (event.button !== 0 || !this.studio.ready) return;
    this.pointers.set(event.pointerId, event);
    if (this.stage.split) this.begin(event, "split");
    else if (this.pointers.size === 2) this.begin(event, "pinch");
    else if (this.pointers.size === 1) this.begin(event, event.altKey || !this.over(event) ? "turn" : "move");
  }

  begin(event, kind) {
    if (event.pointerType === "mouse") event.preventDefault();
    event.target.setPointerCapture(event.pointerId);
    this.pointers.set(event.pointerId, event);
    const from = this.stage.place(event.clientX, event.clientY);
    const gesture = { kind, from, now: from, turn: this.turns, axes: null, begun: null, moved: false };
    this.gesture = gesture;
    if (kind === "move") this.ask(gesture);
    else if (kind === "size") gesture.centre = this.middle();
    else if (kind === "pinch") gesture.apart = this.apart();
    this.stage.canvas.classList.toggle("pulling", kind === "move");
  }

  /** Ask how far knobs turn for this pull; where it is answered after the hand let go, the object follows then. */
  async ask(gesture) {
    const { studio } = this;
    try {
      const at = `right=${gesture.from.right}&up=${gesture.from.up}`;
      const axes = await (await send(`live/drag?${at}`, studio.recipe)).json();
      if (gesture.turn !== this.turns) return;
      gesture.axes = axes;
      if (gesture.moved) this.apply(gesture);
    } catch (error) {
      if (gesture.turn === this.turns) studio.say(error.message);
    }
  }

  moved(event) {
    const { gesture } = this;
    if (this.pointers.has(event.pointerId)) this.pointers.set(event.pointerId, event);
    if (!gesture) {
      this.stage.canvas.classList.toggle("grab", !this.stage.split && this.over(event));
      return;
    }
    if (!this.pointers.has(event.pointerId)) return;
    gesture.now = this.stage.place(event.clientX, event.clientY);
    if (gesture.now.right !== gesture.from.right || gesture.now.up !== gesture.from.up) gesture.moved = true;
    if (gesture.moved) this.apply(gesture);
  }

  up(event) {
    if (!this.pointers.delete(event.pointerId) || !this.gesture) return;
    if (event.type === "pointerup" && this.gesture.kind !== "pinch") {
      this.gesture.now = this.stage.place(event.clientX, event.clientY);
      if (this.gesture.moved) this.apply(this.gesture);
    }
    this.gesture = null; // one that waits for its answer goes on by itself
    this.stage.canvas.classList.remove("pulling");
    this.studio.rested?.();
  }

  /** End everything, for another model is chosen. */
  end() {
    this.turns += 1;
    this.gesture = null;
    this.pointers.clear();
    this.corners.hidden = true;
    this.stage.canvas.classList.remove("pulling", "grab");
  }

  apply(gesture) {
    if (gesture.turn !== this.turns) return;
    this.unhint();
    const right = gesture.now.right - gesture.from.right;
    const up = gesture.now.up - gesture.from.up;
    if (gesture.kind === "split") this.studio.compare.splitAt((1 + gesture.now.right) / 2);
    else if (gesture.kind === "move" && gesture.axes) this.pull(gesture, right, up);
    else if (gesture.kind === "turn") this.turn(gesture, right, up);
    else if (gesture.kind === "size") this.size(gesture, distance(gesture.now, gesture.centre), gesture.from);
    else if (gesture.kind === "pinch") this.resize(gesture, this.apart() / gesture.apart);
  }

  pull(gesture, right, up) {
    gesture.begun ??= this.values(Object.keys(gesture.axes));
    const values = {};
    for (const [name, [byRight, byUp]] of Object.entries(gesture.axes))
      values[name] = gesture.begun[name] + byRight * right + byUp * up;
    this.studio.move(values);
  }

  turn(gesture, right, up) {
    const [around, above] = [this.knob("rotation", "azimuth"), this.knob("elevation")];
    gesture.begun ??= this.values([around, above].filter(Boolean).map((knob) => knob.name));
    const values = {};
    if (around) values[around.name] = gesture.begun[around.name] + (TURN / 2) * right;
    if (above) values[above.name] = gesture.begun[above.name] + ((above.reachHigh - above.reachLow) / 2) * up;
    this.studio.move(values);
  }

  size(gesture, now, from) {
    this.resize(gesture, now / Math.max(0.02, distance(from, gesture.centre)));
  }

  resize(gesture, ratio) {
    const knob = this.knob("scale");
    if (!knob || !Number.isFinite(ratio)) return;
    gesture.begun ??= this.values([knob.name]);
    this.studio.move({ [knob.name]: gesture.begun[knob.name] * ratio });
  }

  wheel(event) {
    const knob = this.knob("scale");
    if (!knob || this.stage.split || !this.studio.ready || event.ctrlKey || event.shiftKey) return;
    if (performance.now() - (this.scrolled ?? -SCROLLED) < SCROLLED) return; // the page is being scrolled
    event.preventDefault();
    this.unhint();
    const pixels = event.deltaY * (event.deltaMode === 1 ? 16 : 1);
    this.studio.move({ [knob.name]: this.studio.value(knob) * Math.exp(-WHEEL * pixels) });
  }

  /** Have what hands change as it was at the start. */
  reset() {
    const { studio } = this;
    if (this.stage.split || !studio.ready) return;
    const ours = /^(x|y|z|translation_[xyz]|scale|rotation|azimuth|elevation|radius)(_\d+)?$/;
    const knobs = studio.model.knobs.filter((knob) => ours.test(knob.name));
    studio.move(Object.fromEntries(knobs.map((knob) => [knob.name, studio.start(knob)])));
  }

  /** Show handles at the corners of the object, once the picture rests. */
  rest() {
    const box = this.knob("scale") && !this.stage.split && this.stage.chosen === "image" && this.stage.objectBox();
    this.corners.hidden = !box;
    if (!box) return;
    const percent = (share) => `${100 * share}%`;
    Object.assign(this.corners.style, {
      left: percent(box.left),
      top: percent(box.top),
      width: percent(box.right - box.left),
      height: percent(box.bottom - box.top),
    });
  }

  /** Return the first knob of these names, of one object or of the first of several. */
  knob(...names) {
    for (const name of names) {
      const found = this.studio.knob(name) ?? this.studio.knob(`${name}_1`);
      if (found) return found;
    }
    return null;
  }

  values(names) {
    return Object.fromEntries(names.map((name) => [name, this.studio.value(this.studio.knob(name))]));
  }

  middle() {
    const box = this.stage.objectBox();
    return box ? { right: box.left + box.right - 1, up: 1 - box.top - box.bottom } : { right: 0, up: 0 };
  }

  apart() {
    const [a, b] = [...this.pointers.values()];
    return a && b ? Math.max(1, Math.hypot(a.clientX - b.clientX, a.clientY - b.clientY)) : Number.NaN;
  }
}

const distance = (a, b) => Math.hypot(a.right - b.right, a.up - b.up);
