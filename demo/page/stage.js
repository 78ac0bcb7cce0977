// The picture with its layers: what is drawn, not what is asked for.

import { make } from "./dom.js";

const MOST = 960; // pixels of the large canvas, however dense the screen

const READ = { willReadFrequently: true };

const LABELS = {
  image: "Picture",
  foreground: "Object",
  background: "Background",
  mask: "Mask",
  alpha: "Opacity",
  depth: "Depth",
  parent: "Shape",
  parent_mask: "Shape mask",
  child_mask: "Texture mask",
};

/** Return a layer's name for people; `alpha_2` is the second object's. */
export const labelOf = (name) =>
  LABELS[name] ?? name.replace(/^(.+)_(\d+)$/, (_, stem, number) => `${LABELS[stem] ?? stem} ${number}`);

/** A large picture, and a row of layers of which any can be the large one. */
export class Stage {
  constructor() {
    this.names = [];
    this.chosen = "image";
    this.split = null;
    this.canvas = make("canvas", {
      class: "picture",
      width: 480,
      height: 480,
      role: "img",
      "aria-label": "The picture",
    });
    this.row = make("div", { class: "layers", role: "group", "aria-label": "Layers" });
    this.frame = make("div", { class: "frame" }, this.canvas, make("div", { class: "pending", "aria-hidden": "true" }));
    this.element = make("div", { class: "views" }, this.frame, this.row);
    new ResizeObserver(() => this.fit()).observe(this.frame);
  }

  /** Prepare for a model's layers, `side` pixels wide. */
  name(names, side) {
    this.names = names;
    if (!names.includes(this.chosen)) this.chosen = "image";
    this.thumbs = names.map((name) => {
      const canvas = make("canvas", { width: side, height: side, "aria-hidden": "true" });
      if (name === "mask") canvas.getContext("2d", READ); // it is asked at every move of the hand
      const press = () => this.choose(name);
      const item = make(
        "button",
        { type: "button", class: "layer", onclick: press },
        canvas,
        make("span", {}, labelOf(name)),
      );
      return { name, canvas, item };
    });
    this.row.replaceChildren(...this.thumbs.map((thumb) => thumb.item));
    this.choose(this.chosen);
  }

  /** Mark the picture as one that is not yet that of the knobs. */
  pend(whether) {
    this.frame.classList.toggle("waits", whether);
    this.frame.setAttribute("aria-busy", String(whether));
  }

  /** The canvas with the whole picture, as it came. */
  get picture() {
    return this.layer("image");
  }

  /** Return the canvas with a layer, or with the whole picture where there is no such layer. */
  layer(name) {
    return (this.thumbs.find((thumb) => thumb.name === name) ?? this.thumbs[0]).canvas;
  }

  /** Make one layer the large one. */
  choose(name) {
    this.chosen = name;
    for (const thumb of this.thumbs) thumb.item.setAttribute("aria-pressed", String(thumb.name === name));
    this.canvas.setAttribute("aria-label", name === "image" ? "The picture" : `The picture's layer: ${labelOf(name)}`);
    this.draw();
  }

  /** Draw a strip of layers, side by side in the order of the names. */
  show(strip) {
    for (const [place, { canvas }] of this.thumbs.entries()) {
      if (canvas.height !== strip.height) canvas.width = canvas.height = strip.height;
      canvas.getContext("2d").drawImage(strip, -place * canvas.width, 0);
    }
    this.draw();
  }

  /** Show the layers of two pictures, `left` and `right` of a line at `at` of the width; with null the live ones. */
  compare(split) {
    this.split = split;
    this.draw();
  }

  /** Return the layers as they are now, to keep. */
  keep() {
    return this.thumbs.map(({ canvas }) =>
      paint(make("canvas", { width: canvas.width, height: canvas.height }), canvas),
    );
  }

  draw() {
    const place = this.names.indexOf(this.chosen);
    if (this.split) {
      paint(this.canvas, this.split.right[place]);
      paint(this.canvas, this.split.left[place], this.split.at);
      const context = this.canvas.getContext("2d");
      context.fillStyle = "#fff";
      context.fillRect(this.canvas.width * this.split.at - 1, 0, 2, this.canvas.height);
    } else if (this.thumbs) {
      paint(this.canvas, this.thumbs[place].canvas);
    }
  }

  /** Give the large canvas as many pixels as the screen shows of it. */
  fit() {
    const side = Math.min(MOST, Math.round(this.frame.clientWidth * devicePixelRatio));
    if (!side || side === this.canvas.width) return;
    this.canvas.width = this.canvas.height = side;
    this.draw();
  }

  /** Return how far a point of the page is right and up of the picture's middle; its edge is at 1. */
  place(clientX, clientY) {
    const area = this.canvas.getBoundingClientRect();
    return { right: (2 * (clientX - area.left)) / area.width - 1, up: 1 - (2 * (clientY - area.top)) / area.height };
  }

  /** Return how much of the object is at a point of the page, 0 to 1; 1 where no mask is known. */
  objectAt(clientX, clientY) {
    const thumb = this.thumbs?.find((each) => each.name === "mask");
    if (!thumb) return 1;
    const { right, up } = this.place(clientX, clientY);
    const x = Math.floor(((1 + right) / 2) * thumb.canvas.width);
    const y = Math.floor(((1 - up) / 2) * thumb.canvas.height);
    return thumb.canvas.getContext("2d", READ).getImageData(x, y, 1, 1).data[0] / 255;
  }

  /** Return the box of the object as shares of the picture, {left, top, right, bottom}; null where none is seen. */
  objectBox() {
    const thumb = this.thumbs?.find((each) => each.name === "mask");
    if (!thumb) return null;
    const side = thumb.canvas.width;
    const { data } = thumb.canvas.getContext("2d", READ).getImageData(0, 0, side, side);
    let [left, top, right, bottom] = [side, side, 0, 0];
    for (let place = 0; place < side * side; place++) {
      if (data[4 * place] < 128) continue;
      const [x, y] = [place % side, Math.floor(place / side)];
      [left, right] = [Math.min(left, x), Math.max(right, x + 1)];
      [top, bottom] = [Math.min(top, y), Math.max(bottom, y + 1)];
    }
    if (left >= right) return null;
    return { left: left / side, top: top / side, right: right / side, bottom: bottom / side };
  }
}

/** Draw a picture on all of a canvas, or its left `share` on the left share; return the canvas. */
export function paint(canvas, picture, share = 1) {
  const context = canvas.getContext("2d");
  context.imageSmoothingQuality = "high";
  context.save();
  context.beginPath();
  context.rect(0, 0, canvas.width * share, canvas.height);
  context.clip();
  context.drawImage(picture, 0, 0, canvas.width, canvas.height);
  context.restore();
  return canvas;
}
