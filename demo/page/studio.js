// What both tabs share: a checkpoint, a live picture with its layers, history, A and B, files out and in.

import { address, button, contents, filePicker, firstFile, fresh, make, offer, openTab, send } from "./dom.js";
import { History } from "./history.js";
import { Live } from "./live.js";
import { labelOf, paint, Stage } from "./stage.js";

const FINE = 256; // pixels a side of a picture at rest
const SETTLED = 400; // milliseconds without a change after which a state enters the history

let asked = null;
/** Return the models on this page; asked for once. */
export function models() {
  asked ??= fetch(address("live/models")).then((answer) => answer.json());
  return asked;
}

/** What both tabs share; subclasses give `photos`, `controls()`, `present(recipe)`, `fresh(model)`, `empty(model)`. */
export class Studio extends HTMLElement {
  visited = new Map(); // model's name -> {recipe, history, kept} as another was chosen

  async connectedCallback() {
    if (this.begun) return;
    this.begun = true;
    this.stage = new Stage();
    this.live = new Live(
      (strip, recipe, milliseconds) => this.shown(strip, recipe, milliseconds),
      (message) => this.say(message),
      () => (this.model.finest > this.model.resolution ? Math.min(this.model.finest, FINE) : 0),
    );
    this.kept = { A: null, B: null };
    this.models = (await models()).filter((model) => model.readsPhotos === this.photos);
    this.build();
    await this.choose(this.models[0]);
  }

  build() {
    this.status = make("p", { class: "status", role: "status" });
    this.speed = make("span", { class: "speed" });
    this.undoButton = button({ picture: "undo", name: "Undo", press: () => this.travel("undo") });
    this.redoButton = button({ picture: "redo", name: "Redo", press: () => this.travel("redo") });
    this.picker = filePicker(".png,.json,image/png,application/json", (file) => this.open(file), {
      "aria-label": "Saved picture or recipe",
    });
    const openButton = button({
      picture: "open",
      text: "Open",
      name: "Continue from a saved PNG or recipe",
      press: () => this.picker.click(),
    });
    this.saveMenu = this.menu();
    const tools = make(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "History and files" },
      this.undoButton,
      this.redoButton,
      ...this.extraTools(),
      make("span", { class: "gap" }),
      openButton,
      this.picker,
      this.saveMenu,
    );
    this.controlsArea = make("div", { class: "controls" });
    this.replaceChildren(
      make(
        "div",
        { class: "studio" },
        make(
          "div",
          { class: "left" },
          make("div", { class: "pinned" }, this.stage.element),
          make("div", { class: "under" }, tools, this.compareRow(), this.status),
        ),
        make("div", { class: "right" }, this.head(), this.controlsArea),
      ),
    );
    this.listenForDrops();
    document.addEventListener("keydown", (event) => this.keys(event));
  }

  /** A file dropped anywhere in this tab, except where photos go, is one to continue from. */
  listenForDrops() {
    const mine = (event) =>
      this.offsetParent &&
      event.dataTransfer.types.includes("Files") &&
      !event.target.closest?.(".slot, .block:not(:has(.studio))");
    document.addEventListener("dragover", (event) => {
      if (!mine(event)) return;
      event.preventDefault();
      this.stage.frame.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) this.stage.frame.classList.remove("over");
    });
    document.addEventListener("drop", (event) => {
      this.stage.frame.classList.remove("over");
      if (!mine(event)) return;
      event.preventDefault();
      this.open(firstFile(event.dataTransfer));
    });
  }

  extraTools() {
    return [];
  }

  head() {
    const id = fresh("checkpoint");
    this.select = make(
      "select",
      { id, onchange: () => this.choose(this.models[this.select.selectedIndex]) },
      ...this.models.map((model) => make("option", { value: model.name }, model.title)),
    );
    return make("div", { class: "head" }, make("label", { for: id }, "Checkpoint"), this.select, this.speed);
  }

  /** Whether the recipe is one of the chosen model's, whose first may still be on its way. */
  get ready() {
    return Boolean(this.recipe) && this.recipe.checkpoint === this.model.name;
  }

  /** Turn to another model: to `recipe`, or to where it was left, or to its defaults. */
  async choose(model, recipe = null) {
    clearTimeout(this.settling);
    if (this.ready) {
      this.history.push(this.recipe);
      this.visited.set(this.model.name, { recipe: this.recipe, history: this.history, kept: this.kept });
    }
    const before = this.visited.get(model.name);
    this.model = model;
    this.shownRecipe = null;
    this.leaveSplit();
    this.select.value = model.name;
    this.stage.name(model.layers, model.resolution);
    this.history = before?.history ?? new History();
    this.kept = { A: null, B: null };
    for (const name of ["A", "B"]) this.hold(name, before?.kept[name] ?? null);
    this.fillMenu();
    this.controlsArea.replaceChildren(...this.controls());
    this.dispatchEvent(new CustomEvent("model", { bubbles: true, detail: model.name }));
    let first = recipe ?? before?.recipe;
    let failed = "";
    if (!first) {
      try {
        first = await this.fresh(model);
      } catch (error) {
        first = this.empty(model); // still makes a picture
        failed = error.message;
      }
    }
    await this.set(first);
    if (failed && model === this.model) this.say(failed);
  }

  /** Take a recipe of the chosen model (others are dropped): controls, picture and, once it rests, history follow. */
  async set(recipe, { present = true, remember = true } = {}) {
    if (recipe.checkpoint !== this.model.name) return;
    this.recipe = recipe;
    if (present) this.present(recipe);
    this.leaveSplit();
    this.hush();
    this.live.want(recipe);
    clearTimeout(this.settling);
    if (remember) this.settling = setTimeout(() => this.remember(), this.history.place < 0 ? 0 : SETTLED);
    this.refresh();
  }

  /** Return this state, A and B as JSON text, "" for one that is empty: what films are made from. */
  recipes() {
    return [this.recipe, this.kept.A?.recipe, this.kept.B?.recipe].map((recipe) =>
      recipe ? JSON.stringify(recipe) : "",
    );
  }

  remember() {
    clearTimeout(this.settling);
    this.history.push(this.recipe);
    this.refresh();
  }

  /** Take a message about something else away, now that a person does the next thing. */
  hush() {
    if (!this.live.failed) this.say("");
  }

  travel(way) {
    if (!this.ready) return;
    this.remember();
    this.set(this.history[way](), { remember: false });
  }

  refresh() {
    this.undoButton.disabled = !this.history.canUndo;
    this.redoButton.disabled = !this.history.canRedo;
  }

  keys(event) {
    if (!this.offsetParent || !(event.ctrlKey || event.metaKey) || event.key.toLowerCase() !== "z") return;
    if (event.target.matches?.("input[type=number], input[type=text], textarea")) return;
    event.preventDefault();
    this.travel(event.shiftKey ? "redo" : "undo");
  }

  shown(strip, recipe, milliseconds) {
    this.shownRecipe = recipe;
    this.stage.show(strip);
    const side = strip.height;
    this.speed.textContent = `${this.model.device} · ${side} px · ${milliseconds.toFixed(0)} ms a picture`;
    this.dataset.side = side;
    this.dataset.shown = JSON.stringify(recipe);
  }

  say(message) {
    if (this.status.textContent !== message) this.status.textContent = message;
    this.status.classList.toggle("wrong", Boolean(message));
  }

  note(message) {
    this.status.classList.remove("wrong");
    this.status.textContent = message;
  }

  // A and B

  compareRow() {
    this.keeps = {};
    const row = make("div", { class: "compare", role: "group", "aria-label": "A against B" });
    for (const name of ["A", "B"]) {
      const canvas = make("canvas", { width: 96, height: 96, "aria-hidden": "true" });
      const show = make(
        "button",
        { type: "button", class: "kept", onclick: () => this.showKept(name) },
        canvas,
        make("span", {}, name),
      );
      const store = button({
        text: `Keep as ${name}`,
        name: `Keep this picture as ${name}`,
        class: "small",
        press: () => this.keep(name),
      });
      this.keeps[name] = { canvas, show };
      row.append(make("div", { class: "keep" }, show, store));
    }
    this.splitSlider = make("input", {
      type: "range",
      min: 0,
      max: 1,
      step: 0.01,
      value: 0.5,
      "aria-label": "Line between A and B",
      hidden: true,
      oninput: () => this.drawSplit(),
    });
    this.splitButton = button({
      picture: "split",
      text: "Side by side",
      name: "Show A and B on both sides of a line",
      "aria-pressed": "false",
      press: () => this.toggleSplit(),
    });
    row.append(this.splitButton, this.splitSlider);
    return row;
  }

  /** Keep the picture that is shown, once there is one. */
  keep(name) {
    const recipe = this.shownRecipe;
    if (recipe?.checkpoint === this.model.name) this.hold(name, { recipe, layers: this.stage.keep() });
  }

  /** Have {recipe, layers}, or null, as A or B. */
  hold(name, kept) {
    this.kept[name] = kept;
    const { canvas, show } = this.keeps[name];
    show.disabled = !kept;
    show.title = kept ? `Show ${name}` : `${name} is empty`;
    show.setAttribute("aria-label", show.title);
    canvas.getContext("2d").clearRect(0, 0, canvas.width, canvas.height);
    if (kept) paint(canvas, kept.layers[0]);
    this.splitButton.disabled = !(this.kept.A && this.kept.B);
    this.leaveSplit();
  }

  showKept(name) {
    if (this.kept[name]) this.set(this.kept[name].recipe);
  }

  toggleSplit() {
    if (this.stage.split) this.leaveSplit();
    else this.drawSplit();
  }

  drawSplit() {
    this.stage.compare({ left: this.kept.A.layers, right: this.kept.B.layers, at: Number(this.splitSlider.value) });
    this.splitButton.setAttribute("aria-pressed", "true");
    this.splitSlider.hidden = false;
  }

  leaveSplit() {
    if (!this.stage.split) return; // each turn of a knob comes by here
    this.stage.compare(null);
    this.splitButton.setAttribute("aria-pressed", "false");
    this.splitSlider.hidden = true;
  }

  // files

  menu() {
    this.menuList = make("div", { class: "menu-list" });
    const menu = make("details", { class: "menu" }, make("summary", { html: "" }), this.menuList);
    menu
      .querySelector("summary")
      .append(button({ picture: "save", text: "Save", name: "Save", press: () => {} }).firstChild, "Save");
    document.addEventListener("click", (event) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
    menu.addEventListener("keydown", (event) => {
      if (event.key !== "Escape") return;
      menu.open = false;
      menu.querySelector("summary").focus();
    });
    return menu;
  }

  fillMenu() {
    const names = [
      "image",
      "foreground",
      ...this.model.layers.filter((name) => !["image", "foreground"].includes(name)),
    ];
    const hints = { image: "PNG, with its recipe", foreground: "PNG, transparent around it", depth: "PNG, 16 bit" };
    const entries = names.map((name) => ({
      text: labelOf(name),
      hint: hints[name] ?? "PNG",
      run: () => this.download(name),
    }));
    entries.push({ text: "All layers", hint: "OpenRaster, for GIMP and Krita", run: () => this.download("ora") });
    entries.push({ text: "Recipe", hint: "JSON, makes this picture again", run: () => this.download("recipe") });
    const items = entries.map(({ text, hint, run }) => {
      const press = () => {
        this.saveMenu.open = false;
        run();
      };
      return make("button", { type: "button", onclick: press }, make("b", {}, text), make("small", {}, hint));
    });
    this.menuList.replaceChildren(this.sizeRow(), ...items);
  }

  /** Return the choice of how large files are; larger than the model's own is drawn finer where it can. */
  sizeRow() {
    const { sizes, finest, resolution } = this.model;
    const names = sizes.map((side) => [side, side > finest ? `${side} px, enlarged` : `${side} px`]);
    if (!sizes.includes(resolution)) names.unshift([resolution, `${resolution} px`]);
    const options = names.map(([side, text]) => make("option", { value: side }, text));
    this.sizeSelect = make("select", { "aria-label": "Size of saved files" }, ...options);
    this.sizeSelect.value = Math.max(resolution, Math.min(finest, FINE));
    return make("label", { class: "size" }, "Size ", this.sizeSelect);
  }

  /** Return the recipe with the size chosen for files. */
  get sized() {
    return { ...this.recipe, size: Number(this.sizeSelect.value) };
  }

  async download(what) {
    try {
      if (what === "recipe") {
        const answer = await send("live/recipe", this.sized);
        const text = JSON.stringify((await answer.json()).recipe, null, 1);
        const blob = new Blob([text], { type: "application/json" });
        offer(blob, `${this.model.name}-recipe.json`); // without -recipe it is the name of the card
        return;
      }
      const answer = await send(`live/file/${what}`, this.sized);
      offer(await answer.blob(), what === "ora" ? `${this.model.name}.ora` : `${this.model.name}-${what}.png`);
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Continue from a file that was saved here, in whichever tab it belongs to. */
  async open(file) {
    if (!file) return;
    try {
      const answer = await send(`live/recipe?name=${encodeURIComponent(file.name)}`, await contents(file));
      const { recipe, note } = await answer.json();
      const mine = this.models.some((each) => each.name === recipe.checkpoint);
      const studio = mine ? this : await this.otherTab();
      await studio.goOn(recipe, note || `Continued from ${file.name}.`);
    } catch (error) {
      this.say(error.message);
    }
  }

  async goOn(recipe, note) {
    const model = this.models.find((each) => each.name === recipe.checkpoint);
    if (model === this.model) await this.set(recipe);
    else await this.choose(model, recipe);
    if (recipe.size) this.sizeSelect.value = recipe.size;
    this.note(note);
  }

  /** Turn to the other tab; return its studio once it shows something. */
  async otherTab() {
    const name = this.photos ? "knobStudio" : "photoStudio";
    openTab(this.photos ? "Turn the knobs" : "Mix photos");
    while (!window[name]?.recipe) await new Promise((done) => setTimeout(done, 20));
    return window[name];
  }
}
