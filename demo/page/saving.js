// Files out and in: the menu "Save", and what continues from a saved file.

import { button, contents, filePicker, firstFile, fresh, make, offer, send } from "./dom.js";
import { labelOf } from "./stage.js";

const FINE = 256; // pixels a side that files have at first

export class Saving {
  constructor(studio) {
    this.studio = studio;
    const types = ".png,.json,.ora,image/png,application/json,image/openraster";
    this.picker = filePicker(types, (file) => this.open(file), { "aria-label": "Saved picture or recipe" });
    const openButton = button({
      picture: "open",
      text: "Open",
      name: "Continue from a saved PNG, OpenRaster file or recipe",
      press: () => this.picker.click(),
    });
    this.list = make("div", { class: "menu-list" });
    this.menu = make("details", { class: "menu" }, this.summary(), this.list);
    this.tools = [openButton, this.picker, this.menu];
  }

  summary() {
    const looks = button({ picture: "save", text: "Save", name: "Save", press: () => {} });
    this.head = make("summary", {}, ...looks.childNodes);
    return this.head;
  }

  /** Hear files that are dropped, and what closes the menu. */
  listen() {
    const { studio } = this;
    const mine = (event) =>
      studio.offsetParent &&
      event.dataTransfer.types.includes("Files") &&
      !event.target.closest?.(".slot, .takes-photo, .block:not(:has(.studio))");
    document.addEventListener("dragover", (event) => {
      if (!mine(event)) return;
      event.preventDefault();
      studio.stage.frame.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) studio.stage.frame.classList.remove("over");
    });
    document.addEventListener("drop", (event) => {
      studio.stage.frame.classList.remove("over");
      if (!mine(event)) return;
      event.preventDefault();
      studio.dropped(firstFile(event.dataTransfer));
    });
    document.addEventListener("click", (event) => {
      if (!this.menu.contains(event.target)) this.menu.open = false;
    });
    this.menu.addEventListener("keydown", (event) => {
      if (event.key === "Escape") this.close();
    });
  }

  close() {
    this.menu.open = false;
    this.head.focus();
  }

  fill() {
    const names = ["image", "foreground", ...this.studio.model.layers];
    const hints = { image: "PNG, with its recipe", foreground: "PNG, transparent around it", depth: "PNG, 16 bit" };
    const entries = [...new Set(names)].map((name) => [labelOf(name), hints[name] ?? "PNG", name]);
    entries.push(["All layers", "OpenRaster, for GIMP and Krita", "ora"]);
    entries.push(["All layers", "PSD, for Photoshop and Affinity", "psd"]);
    entries.push(["Recipe", "JSON, makes this picture again", "recipe"]);
    const items = entries.map(([text, hint, what]) => {
      const press = () => {
        this.close();
        this.download(what);
      };
      return make("button", { type: "button", onclick: press }, make("b", {}, text), make("small", {}, hint));
    });
    this.list.replaceChildren(this.sizeRow(), ...items);
  }

  /** Return the choice of how large files are; larger than the model's own is drawn finer where it can. */
  sizeRow() {
    const { sizes, finest, resolution } = this.studio.model;
    const sides = sizes.includes(resolution) ? sizes : [resolution, ...sizes];
    const name = fresh("size");
    this.sizes = sides.map((side) => make("input", { type: "radio", name, value: side }));
    const labels = sides.map((side, place) => {
      const words = side > finest ? `${side} px, enlarged` : `${side} px`;
      return make(
        "label",
        { title: words },
        this.sizes[place],
        make("span", {}, side > finest ? `${side}*` : `${side}`),
      );
    });
    for (const [place, input] of this.sizes.entries()) input.setAttribute("aria-label", labels[place].title);
    this.size = Math.max(resolution, Math.min(finest, FINE));
    const note = finest < sides.at(-1) ? make("small", {}, "* enlarged") : null;
    const group = { class: "size", role: "radiogroup", "aria-label": "Size of saved files" };
    return make("div", group, make("span", {}, "Pixels"), ...labels, note);
  }

  set size(side) {
    for (const input of this.sizes) input.checked = Number(input.value) === side;
    if (!this.sizes.some((input) => input.checked)) this.sizes[0].checked = true;
  }

  get size() {
    return Number(this.sizes.find((input) => input.checked).value);
  }

  async download(what) {
    const { studio } = this;
    const recipe = { ...studio.recipe, size: this.size };
    const { name } = studio.model;
    try {
      if (what === "recipe") {
        const answer = await send("live/recipe", recipe);
        const text = JSON.stringify((await answer.json()).recipe, null, 1);
        offer(new Blob([text], { type: "application/json" }), `${name}-recipe.json`); // `${name}.json` is its card
        return;
      }
      const answer = await send(`live/file/${what}`, recipe);
      offer(await answer.blob(), ["ora", "psd"].includes(what) ? `${name}.${what}` : `${name}-${what}.png`);
    } catch (error) {
      studio.say(error.message);
    }
  }

  /** Continue from a file that was saved here, in whichever tab it belongs to. */
  async open(file) {
    if (!file) return;
    try {
      const answer = await send(`live/recipe?name=${encodeURIComponent(file.name)}`, await contents(file));
      const { recipe, note } = await answer.json();
      await this.studio.goOn(recipe, note || `Continued from ${file.name}.`);
    } catch (error) {
      this.studio.say(error.message);
    }
  }
}
