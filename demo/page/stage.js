// The picture with its layers: what is drawn, not what is asked for.

import { make } from "./dom.js";

const SIZE = 960; // pixels of the large canvas, enough for 480 CSS pixels on a dense screen

const LABELS = {
  image: "Picture",
  foreground: "Object",
  background: "Background",
  mask: "Mask",
  alpha: "Density",
  depth: "Depth",
  parent: "Shape",
  parent_mask: "Shape mask",
  child_mask: "Texture mask",
};

/** Return a layer's name for people. */
export const labelOf = (name) => LABELS[name] ?? name;

/** A large picture, and a row of layers of which any can be the large one. */
export class Stage {
  constructor() {
    this.names = [];
    this.chosen = "image";
    this.bitmaps = null;
    this.split = null;
    this.canvas = make("canvas", { class: "picture", width: SIZE, height: SIZE, role: "img", "aria-label": "The picture" });
    this.row = make("div", { class: "layers", role: "group", "aria-label": "Layers" });
    this.frame = make("div", { class: "frame" }, this.canvas);
    this.element = make("div", { class: "views" }, this.frame, this.row);
  }

  /** Prepare for a model's layers. */
  name(names) {
    this.names = names;
    if (!names.includes(this.chosen)) this.chosen = "image";
    this.thumbs = names.map((name) => {
      const canvas = make("canvas", { width: 128, height: 128, "aria-hidden": "true" });
      const press = () => this.choose(name);
      const item = make("button", { type: "button", class: "layer", onclick: press }, canvas, make("span", {}, labelOf(name)));
      return { name, canvas, item };
    });
    this.row.replaceChildren(...this.thumbs.map((thumb) => thumb.item));
    this.choose(this.chosen);
  }

  /** Make one layer the large one. */
  choose(name) {
    this.chosen = name;
    for (const thumb of this.thumbs) thumb.item.setAttribute("aria-pressed", String(thumb.name === name));
    this.canvas.setAttribute("aria-label", name === "image" ? "The picture" : `The picture's layer: ${labelOf(name)}`);
    this.draw();
  }

  /** Draw layers, bitmaps in the order of the names. */
  show(bitmaps) {
    this.bitmaps = bitmaps;
    for (const [place, thumb] of this.thumbs.entries()) paint(thumb.canvas, bitmaps[place]);
    this.draw();
  }

  /** Show `left` and `right`, layers of two pictures, on both sides of a line at `at` of the width; null for the live picture. */
  compare(split) {
    this.split = split;
    this.draw();
  }

  draw() {
    const place = this.names.indexOf(this.chosen);
    if (this.split) {
      paint(this.canvas, this.split.right[place]);
      paint(this.canvas, this.split.left[place], this.split.at);
    } else if (this.bitmaps) {
      paint(this.canvas, this.bitmaps[place]);
    }
  }

  /** Return how much of the object is at a point of the page, 0 to 1; 1 where no mask is known. */
  objectAt(clientX, clientY) {
    const thumb = this.thumbs?.find((each) => each.name === "mask");
    if (!thumb || !this.bitmaps) return 1;
    const area = this.canvas.getBoundingClientRect();
    const x = Math.floor(((clientX - area.left) / area.width) * thumb.canvas.width);
    const y = Math.floor(((clientY - area.top) / area.height) * thumb.canvas.height);
    return thumb.canvas.getContext("2d", { willReadFrequently: true }).getImageData(x, y, 1, 1).data[0] / 255;
  }
}

/** Draw a bitmap on all of a canvas, or its left `share` on the left share. */
export function paint(canvas, bitmap, share = 1) {
  const context = canvas.getContext("2d", { willReadFrequently: canvas.width <= 128 });
  context.imageSmoothingQuality = "high";
  context.save();
  context.beginPath();
  context.rect(0, 0, canvas.width * share, canvas.height);
  context.clip();
  context.drawImage(bitmap, 0, 0, canvas.width, canvas.height);
  context.restore();
}
