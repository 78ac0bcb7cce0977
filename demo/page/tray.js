// The tray: pictures that a person likes, one for both tabs, kept in the browser.

import { button, make, offer, send } from "./dom.js";
import { paint } from "./stage.js";
import { dropTray, putTray, trayItems } from "./store.js";
import { zip } from "./zip.js";

const SIDE = 128; // pixels of a thumbnail
const KIND = "text/tray"; // of what is dragged: the id of a picture

let items = [];
const views = new Set();
const loading = trayItems().then((found) => {
  items = [...found, ...items].sort((a, b) => a.time - b.time);
  for (const view of views) view.fill();
});

const itemOf = (id) => items.find((item) => item.id === id);

export class TrayView {
  constructor(studio) {
    this.studio = studio;
    this.likeButton = button({
      picture: "heart",
      text: "Like",
      name: "Put this picture into the tray",
      press: () => this.like(),
    });
    this.exportButton = button({
      picture: "save",
      text: "Export all",
      name: "Save all pictures of the tray as a zip of PNG files with their recipes",
      class: "small",
      press: () => this.export(),
    });
    this.list = make("div", { class: "tray-list", role: "list" });
    this.element = make(
      "div",
      { class: "tray", role: "group", "aria-label": "Tray" },
      this.likeButton,
      this.list,
      this.exportButton,
    );
    views.add(this);
    loading.then(() => this.fill());
  }

  /** The pictures, the oldest first. */
  get items() {
    return items;
  }

  /** Put the picture that is shown into the tray. */
  async like() {
    const { studio } = this;
    const recipe = studio.shownRecipe;
    if (recipe?.checkpoint !== studio.model.name) return;
    if (items.some((item) => JSON.stringify(item.recipe) === JSON.stringify(recipe))) {
      studio.note("This picture is in the tray already.");
      return;
    }
    const canvas = paint(make("canvas", { width: SIDE, height: SIDE }), studio.stage.picture);
    const time = Date.now();
    const id = `${time}-${Math.random().toString(36).slice(2, 10)}`;
    const item = { id, time, recipe, title: studio.model.title, thumb: canvas.toDataURL("image/webp", 0.9) };
    items = [...items, item];
    for (const view of views) view.fill();
    this.list.lastElementChild?.scrollIntoView({ block: "nearest", inline: "end" });
    await putTray(item);
  }

  async remove(id) {
    items = items.filter((item) => item.id !== id);
    for (const view of views) view.fill();
    this.likeButton.focus();
    await dropTray(id);
  }

  fill() {
    this.list.replaceChildren(...items.map((item, place) => this.entry(item, place)));
    this.element.classList.toggle("empty", items.length === 0);
    this.exportButton.hidden = items.length === 0;
    this.studio.trayChanged?.();
  }

  entry(item, place) {
    const name = `${place + 1}, ${item.title}`;
    const go = async () => {
      try {
        await this.studio.goOn(item.recipe);
      } catch (error) {
        this.studio.say(error.message);
      }
    };
    const show = make(
      "button",
      {
        type: "button",
        class: "liked",
        draggable: "true",
        title: `Go on from picture ${name}; or drag it onto A, B or a photo's slot`,
        "aria-label": `Go on from picture ${name}`,
        onclick: go,
        onkeydown: (event) => event.key === "Delete" && this.remove(item.id),
        ondragstart: (event) => event.dataTransfer.setData(KIND, item.id),
      },
      make("img", { src: item.thumb, alt: "", draggable: "false" }),
    );
    const away = button({
      picture: "close",
      name: `Take picture ${name} out of the tray`,
      class: "away",
      press: () => this.remove(item.id),
    });
    return make("div", { class: "tray-item", role: "listitem" }, show, away);
  }

  /** Let an element take pictures that are dragged from the tray: `take(item)` gets each. */
  takes(element, take) {
    const ours = (event) => event.dataTransfer.types.includes(KIND);
    element.addEventListener("dragover", (event) => {
      if (!ours(event)) return;
      event.preventDefault();
      element.classList.add("over");
    });
    element.addEventListener("dragleave", () => element.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      element.classList.remove("over");
      const item = ours(event) && itemOf(event.dataTransfer.getData(KIND));
      if (!item) return;
      event.preventDefault();
      event.stopPropagation();
      take(item);
    });
  }

  /** Save every picture of the tray, at the size that is chosen for files, and its recipe, as one zip file. */
  async export() {
    const { studio } = this;
    const files = [];
    const wanted = [...items];
    this.exportButton.disabled = true;
    try {
      for (const [place, { recipe }] of wanted.entries()) {
        studio.note(`Drawing picture ${place + 1} of ${wanted.length} …`);
        const sized = { ...recipe, size: studio.saving.size };
        const answer = await send("live/file/image", sized);
        const stem = `${String(place + 1).padStart(3, "0")}-${recipe.checkpoint}`;
        files.push({ name: `${stem}.png`, bytes: new Uint8Array(await answer.arrayBuffer()) });
        const text = JSON.stringify(sized, null, 1);
        files.push({ name: `${stem}.json`, bytes: new TextEncoder().encode(text) });
      }
      offer(zip(files), "tray.zip");
      studio.note(`Saved ${wanted.length} pictures and their recipes.`);
    } catch (error) {
      studio.say(error.message);
    } finally {
      this.exportButton.disabled = false;
    }
  }
}
