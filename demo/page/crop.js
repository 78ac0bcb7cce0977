// The box tool: a photo with a rectangle to draw, move and size, by pointer or by numbers, and the square that is read.

import { button, make } from "./dom.js";
import { typedInto } from "./numbers.js";

const EDGES = ["Left", "Top", "Right", "Bottom"];
const CORNERS = { nw: [0, 1], n: [1], ne: [2, 1], e: [2], se: [2, 3], s: [3], sw: [0, 3], w: [0] }; // edges each moves
const LEAST = 0.03; // side of a box, of the photo

const inside = (value) => Math.min(1, Math.max(0, value));
const wide = ([x0, y0, x1, y1]) => x1 - x0 >= LEAST - 1e-9 && y1 - y0 >= LEAST - 1e-9;

/** Shows `photo`, its box and the square around it; `changed(box)` hears a new one, fractions of the photo, or "find". */
export class CropTool {
  constructor(changed, say) {
    this.changed = changed;
    this.say = say;
    this.image = make("img", { alt: "", draggable: "false" });
    this.handles = Object.keys(CORNERS).map((corner) => make("i", { class: corner, "data-corner": corner }));
    this.frame = make("div", { class: "box" }, ...this.handles);
    this.square = make("div", { class: "read-square", title: "What the model reads" });
    this.area = make("div", { class: "crop-area" }, this.image, this.square, this.frame);
    this.numbers = EDGES.map((name, edge) => {
      const label = `${name} edge of the box, percent`;
      const number = make("input", { type: "number", min: 0, max: 100, step: 1, "aria-label": label });
      typedInto(
        number,
        (text) => this.typed(edge, text),
        () => this.place(this.box),
      );
      return number;
    });
    const labels = EDGES.map((name, i) =>
      make("span", { class: "edge" }, make("span", { "aria-hidden": "true" }, name), this.numbers[i]),
    );
    const find = { text: "Find the object", name: "Find the object by itself", class: "small" };
    const whole = { text: "Whole photo", name: "Take the whole photo", class: "small" };
    this.element = make(
      "div",
      { class: "crop" },
      this.area,
      make("div", { class: "edges" }, ...labels),
      make("p", { class: "hint" }, "The dashed square is what the model reads."),
      make(
        "div",
        { class: "tools" },
        button({ ...find, press: () => this.changed("find") }),
        button({ ...whole, press: () => this.finish([0, 0, 1, 1]) }),
      ),
    );
    this.listen();
  }

  show(source, box, square) {
    this.image.src = source;
    this.place(box);
    this.square.hidden = !square;
    if (square) put(this.square, square);
  }

  place(box) {
    this.box = box;
    put(this.frame, box);
    this.numbers.forEach((input, i) => {
      if (!("typed" in input.dataset)) input.value = Math.round(100 * box[i]);
    });
  }

  finish(box) {
    this.place(box);
    this.square.hidden = true; // until it is known
    this.changed(box);
  }

  /** Take one edge as typed; one that leaves no box is refused. */
  typed(edge, text) {
    const box = [...this.box];
    if (text.trim() !== "" && Number.isFinite(Number(text))) box[edge] = inside(Number(text) / 100);
    if (!wide(box)) this.say(`This leaves no box; it must be ${100 * LEAST} % wide and high, left before right.`);
    if (!wide(box) || box[edge] === this.box[edge]) this.place(this.box);
    else this.finish(box);
  }

  listen() {
    let pull = null; // {start, box, edges} while a box is drawn, moved or sized
    const at = (event) => {
      const area = this.area.getBoundingClientRect();
      return [inside((event.clientX - area.left) / area.width), inside((event.clientY - area.top) / area.height)];
    };
    this.area.addEventListener("pointerdown", (event) => {
      if (event.button !== 0) return;
      event.preventDefault();
      this.area.setPointerCapture(event.pointerId);
      const edges = CORNERS[event.target.dataset?.corner];
      pull = { start: at(event), box: this.box, edges, whole: event.target === this.frame && !isWhole(this.box) };
    });
    this.area.addEventListener("pointermove", (event) => {
      if (pull) this.place(pulled(pull, at(event)));
    });
    this.area.addEventListener("pointerup", (event) => {
      if (!pull) return;
      const box = pulled(pull, at(event));
      const before = pull.box;
      pull = null;
      if (wide(box) && box.some((edge, i) => edge !== before[i])) this.finish(box);
      else this.place(before);
    });
    this.area.addEventListener("pointercancel", () => {
      if (pull) this.place(pull.box);
      pull = null;
    });
  }
}

const isWhole = (box) => box.every((edge, i) => edge === [0, 0, 1, 1][i]);

/** Return the box that a pull from `start` to `now` makes: a side or corner moved, the whole moved, or one drawn anew. */
function pulled({ start, box, edges, whole }, now) {
  if (edges) {
    const found = [...box];
    for (const edge of edges) {
      const value = now[edge % 2];
      found[edge] = edge < 2 ? Math.min(value, box[edge + 2] - LEAST) : Math.max(value, box[edge - 2] + LEAST);
    }
    return found;
  }
  if (whole) {
    const by = [0, 1].map((axis) => Math.min(1 - box[axis + 2], Math.max(-box[axis], now[axis] - start[axis])));
    return box.map((edge, i) => edge + by[i % 2]);
  }
  const [x, y] = now;
  return [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
}

function put(element, box) {
  const [x0, y0, x1, y1] = box.map((edge) => 100 * edge);
  Object.assign(element.style, { left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%` });
}
