// What both tabs share: a model, a live picture, its history, and what is kept of all that.

import { Compare } from "./compare.js";
import { address, button, fresh, make, openTab } from "./dom.js";
import { Filming } from "./filming.js";
import { History } from "./history.js";
import { drawn, Live } from "./live.js";
import { Saving } from "./saving.js";
import { Stage } from "./stage.js";
import { keep, kept } from "./store.js";
import { TrayView } from "./tray.js";

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
  locks = new Map(); // model's name -> the names of its locked seeds

  async connectedCallback() {
    if (this.begun) return;
    this.begun = true;
    this.stage = new Stage();
    this.live = new Live(
      (strip, recipe, milliseconds) => this.shown(strip, recipe, milliseconds),
      (message) => this.say(message),
      () => this.finer(),
      (whether) => this.stage.pend(whether),
    );
    this.tray = new TrayView(this);
    this.compare = new Compare(this);
    this.saving = new Saving(this);
    this.filming = new Filming(this);
    this.models = (await models()).filter((model) => model.readsPhotos === this.photos);
    this.build();
    await this.recall();
    await this.choose(this.models.find((model) => model.name === this.last) ?? this.models[0]);
  }

  build() {
    this.status = make("p", { class: "status", role: "status" });
    this.word = make("p", { class: "unseen", role: "status", "aria-label": "New picture" });
    this.speed = make("span", { class: "speed" });
    this.undoButton = button({ picture: "undo", name: "Undo", press: () => this.travel("undo") });
    this.redoButton = button({ picture: "redo", name: "Redo", press: () => this.travel("redo") });
    const tools = make(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "History and files" },
      this.undoButton,
      this.redoButton,
      ...this.extraTools(),
      make("span", { class: "gap" }),
      ...this.saving.tools,
    );
    this.controlsArea = make("div", { class: "controls" });
    this.about = make("div", {});
    const aboutFold = make("details", { class: "fold" }, make("summary", {}, "About this model"), this.about);
    this.below = make("div", { class: "below" }, this.filming.element, aboutFold);
    const under = make(
      "div",
      { class: "under" },
      tools,
      ...this.extraRows(),
      this.compare.element,
      this.tray.element,
      this.status,
      this.word,
    );
    const left = make("div", { class: "left" }, make("div", { class: "pinned" }, this.stage.element), under);
    const right = make("div", { class: "right" }, this.head(), this.controlsArea);
    this.replaceChildren(make("div", { class: "studio" }, left, right, this.below));
    this.saving.listen();
    document.addEventListener("keydown", (event) => this.keys(event));
  }

  extraTools() {
    return [];
  }

  /** Return what stands under the toolbar. */
  extraRows() {
    return [];
  }

  /** Return how many pixels a side a picture at rest is drawn with again; 0 where it stays as it is. */
  finer() {
    return this.model.finest > this.model.resolution ? Math.min(this.model.finest, FINE) : 0;
  }

  /** Take a file that was dropped on the page. */
  async dropped(file) {
    await this.saving.open(file);
  }

  head() {
    const id = fresh("model");
    this.select = make(
      "select",
      { id, onchange: () => this.choose(this.models[this.select.selectedIndex]) },
      ...this.models.map((model) => make("option", { value: model.name }, model.title)),
    );
    return make("div", { class: "head" }, make("label", { for: id }, "Model"), this.select, this.speed);
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
      this.visited.set(this.model.name, { recipe: this.recipe, history: this.history, kept: { ...this.compare.kept } });
    }
    const before = this.visited.get(model.name);
    this.leave();
    this.model = model;
    this.shownRecipe = null;
    this.select.value = model.name;
    this.stage.name(model.layers, model.resolution);
    this.history = before?.history ?? new History();
    this.compare.restore(before?.kept);
    this.saving.fill();
    this.filming.fill();
    this.about.innerHTML = model.about; // the server's own words, escaped there
    this.controlsArea.replaceChildren(...this.controls());
    keep(`${this.localName} last`, model.name);
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

  /** End what belongs to the model that is left. */
  leave() {
    this.compare.leaveSplit();
  }

  /** Take a recipe of the chosen model (others are dropped): controls, picture and, once it rests, history follow. */
  async set(recipe, { present = true, remember = true, keepSplit = false } = {}) {
    if (recipe.checkpoint !== this.model.name) return;
    this.recipe = recipe;
    if (present) this.present(recipe);
    if (!keepSplit) this.compare.leaveSplit();
    this.hush();
    this.live.want(recipe);
    keep(this.key("recipe"), recipe);
    clearTimeout(this.settling);
    if (remember) this.settling = setTimeout(() => this.remember(), this.history.place < 0 ? 0 : SETTLED);
    this.refresh();
  }

  /** Take a recipe as one step of its own, however soon it follows another. */
  async step(recipe) {
    if (this.ready) this.remember();
    await this.set(recipe);
    this.remember();
  }

  remember() {
    clearTimeout(this.settling);
    if (!this.ready) return;
    this.history.push(this.recipe);
    this.refresh();
    this.keepHistory();
  }

  // what outlives a reload

  key(what, model = this.model) {
    return `${this.localName} ${model.name} ${what}`;
  }

  keepHistory() {
    const locks = [...(this.locks.get(this.model.name) ?? [])];
    keep(this.key("history"), { history: this.history.packed(), kept: this.compare.recipes, locks });
  }

  /** Have every model as it was left. */
  async recall() {
    this.last = await kept(`${this.localName} last`);
    for (const model of this.models) {
      const recipe = fitting(await kept(this.key("recipe", model)), model);
      if (!recipe) continue;
      const rest = await kept(this.key("history", model));
      const history = rest ? History.unpacked(rest.history) : new History();
      history.push(recipe);
      this.locks.set(model.name, new Set(rest?.locks));
      this.visited.set(model.name, { recipe, history, kept: rest?.kept ?? {} });
    }
  }

  /** Return the layers of a recipe of the chosen model as canvases. */
  drawn(recipe) {
    return drawn(recipe, this.model.layers.length);
  }

  /** Take a message about something else away, now that a person does the next thing. */
  hush() {
    if (!this.live.failed) this.say("");
  }

  travel(way) {
    if (!this.ready) return;
    this.remember();
    this.set(this.history[way](), { remember: false });
    this.keepHistory();
  }

  refresh() {
    this.undoButton.disabled = !this.history.canUndo;
    this.redoButton.disabled = !this.history.canRedo;
  }

  keys(event) {
    if (!this.offsetParent || !(event.ctrlKey || event.metaKey) || event.altKey) return;
    const key = event.key.toLowerCase();
    if (key !== "z" && key !== "y") return;
    const field = event.target;
    if (field.matches?.("input[type=text], textarea")) return;
    event.preventDefault();
    if (field.dataset?.typed !== undefined) field.dispatchEvent(new Event("giveup"));
    else this.travel(key === "y" || event.shiftKey ? "redo" : "undo");
  }

  shown(strip, recipe, milliseconds) {
    this.shownRecipe = recipe;
    this.stage.show(strip);
    const side = strip.height;
    this.speed.textContent = `${this.model.device} · ${side} px · ${milliseconds.toFixed(0)} ms a picture`;
    this.dataset.side = side;
    this.dataset.shown = JSON.stringify(recipe);
    clearTimeout(this.telling);
    this.telling = setTimeout(() => this.tell(recipe), 2 * SETTLED);
  }

  /** Say to a screen reader what a picture at rest shows now. */
  tell(recipe) {
    const words = this.words(recipe, this.told?.checkpoint === recipe.checkpoint ? this.told : null);
    if (words) this.word.textContent = `New picture: ${words}`;
    this.told = recipe;
  }

  words() {
    return "";
  }

  say(message) {
    if (this.status.textContent !== message) this.status.textContent = message;
    this.status.classList.toggle("wrong", Boolean(message));
  }

  note(message) {
    this.status.classList.remove("wrong");
    this.status.textContent = message;
  }

  /** Go on from a recipe, in whichever tab it belongs to; throws where no model here is its own. */
  async goOn(recipe, note = "") {
    const studio = this.models.some((each) => each.name === recipe.checkpoint) ? this : await this.otherTab();
    const model = studio.models.find((each) => each.name === recipe.checkpoint);
    if (!model) throw new Error(`${recipe.checkpoint} is not on this page.`);
    if (model === studio.model) await studio.step(recipe);
    else await studio.choose(model, recipe);
    if (recipe.size) studio.saving.size = recipe.size;
    studio.note(note);
  }

  /** Turn to the other tab; return its studio once it shows something. */
  async otherTab() {
    const name = this.photos ? "knobStudio" : "photoStudio";
    if (!openTab(this.photos ? "Turn the knobs" : "Mix photos")) return this;
    while (!window[name]?.recipe) await new Promise((done) => setTimeout(done, 20));
    return window[name];
  }
}

/** Return a recipe that was kept without what its model does not have any more; null without a recipe. */
function fitting(recipe, model) {
  if (recipe?.checkpoint !== model.name) return null;
  const names = new Set([...model.knobs, ...model.slots].map((each) => each.name));
  const ours = (values) => Object.fromEntries(Object.entries(values ?? {}).filter(([name]) => names.has(name)));
  const found = { ...recipe };
  for (const part of ["knobs", "slots"]) if (recipe[part]) found[part] = ours(recipe[part]);
  return found;
}
