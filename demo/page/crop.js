// The box tool: a photo with a rectangle to draw, by pointer or by numbers.

import { button, make } from "./dom.js";

const EDGES = ["Left", "Top", "Right", "Bottom"];

/** Shows `photo` and its box; `changed(box)` hears a new one, fractions of the photo, or "find". */
export class CropTool {
  constructor(changed) {
    this.changed = changed;
    this.image = make("img", { alt: "", draggable: "false" });
    this.frame = make("div", { class: "box" });
    this.area = make("div", { class: "crop-area" }, this.image, this.frame);
    this.numbers = EDGES.map((name) =>
      make("input", {
        type: "number",
        min: 0,
        max: 100,
        step: 1,
        "aria-label": `${name} edge of the box, percent`,
        onchange: () => this.typed(),
      }),
    );
    const labels = EDGES.map((name, i) =>
      make("span", { class: "edge" }, make("span", { "aria-hidden": "true" }, name), this.numbers[i]),
    );
    this.element = make(
      "div",
      { class: "crop" },
      this.area,
      make("div", { class: "edges" }, ...labels),
      make(
        "div",
        { class: "tools" },
        button({
          text: "Find the object",
          name: "Find the object by itself",
          class: "small",
          press: () => this.changed("find"),
        }),
        button({
          text: "Whole photo",
          name: "Take the whole photo",
          class: "small",
          press: () => this.finish([0, 0, 1, 1]),
        }),
      ),
    );
    this.listen();
  }

  show(source, box) {
    this.image.src = source;
    this.place(box);
  }

  place(box) {
    this.box = box;
    const [x0, y0, x1, y1] = box.map((edge) => 100 * edge);
    Object.assign(this.frame.style, { left: `${x0}%`, top: `${y0}%`, width: `${x1 - x0}%`, height: `${y1 - y0}%` });
    this.numbers.forEach((input, i) => {
      input.value = Math.round(100 * box[i]);
    });
  }

  finish(box) {
    this.place(box);
    this.changed(box);
  }

  typed() {
    const box = this.numbers.map((input) => Math.min(1, Math.max(0, Number(input.value) / 100)));
    if (box[0] < box[2] && box[1] < box[3]) this.finish(box);
  }

  listen() {
    let start = null;
    const at = (event) => {
      const area = this.area.getBoundingClientRect();
      const inside = (value) => Math.min(1, Math.max(0, value));
      return [inside((event.clientX - area.left) / area.width), inside((event.clientY - area.top) / area.height)];
    };
    const drawn = (event) => {
      const [x, y] = at(event);
      return [Math.min(x, start[0]), Math.min(y, start[1]), Math.max(x, start[0]), Math.max(y, start[1])];
    };
    this.area.addEventListener("pointerdown", (event) => {
      event.preventDefault();
      this.area.setPointerCapture(event.pointerId);
      start = at(event);
      this.before = this.box;
    });
    this.area.addEventListener("pointermove", (event) => {
      if (start) this.place(drawn(event));
    });
    this.area.addEventListener("pointerup", (event) => {
      if (!start) return;
      const box = drawn(event);
      start = null;
      if (box[2] - box[0] > 0.03 && box[3] - box[1] > 0.03) this.finish(box);
      else this.place(this.before);
    });
    this.area.addEventListener("pointercancel", () => {
      start = null;
      this.place(this.before);
    });
  }
}
