// Films and sheets: what is ordered is drawn by the server while this page listens.

import { address, button, contents, filePicker, fresh, lines, make, send } from "./dom.js";

const STORIES = {
  knob: ["One knob", "film"],
  around: ["Once around", "film"],
  ab: ["From A to B", "film"],
  rows: ["Rows: one knob, for each picture of the tray", "rows"],
  sheet: ["A sheet of mixes", "sheet"],
  follow: ["Follow a video", "follow"],
};
const FIELDS = {
  knob: ["knob", "frames", "fps", "file", "width"],
  around: ["frames", "fps", "file", "width"],
  ab: ["frames", "fps", "file", "width"],
  rows: ["knob", "columns", "width"],
  sheet: ["across", "down", "sources", "width"],
  follow: ["video", "frames", "fps", "file", "width"],
};
const SOURCES = { examples: "Examples", own: "My photos", tray: "Tray" };

const options = (pairs) => pairs.map(([value, words]) => make("option", { value }, words));

export class Filming {
  constructor(studio) {
    this.studio = studio;
    this.fields = {};
    this.inputs = {};
    this.story = make("select", { onchange: () => this.show() });
    this.field("knob", "Knob", make("select", {}));
    this.field("across", "Along a row, change", make("select", {}));
    this.field("down", "From row to row, change", make("select", {}));
    this.field("sources", "Photos", this.sources());
    this.field("video", "Video", this.video());
    this.field("frames", "Frames", make("input", { type: "number", min: 4, max: 120, value: 36 }));
    this.field("columns", "Pictures a row", make("input", { type: "number", min: 2, max: 12, value: 6 }));
    this.field("fps", "Frames a second", make("input", { type: "number", min: 5, max: 30, value: 20 }));
    const kinds = ["MP4", "WebP", "GIF", "Filmstrip"];
    this.field("file", "File", make("select", {}, ...options(kinds.map((kind) => [kind, kind]))));
    const widths = [
      [0, "The model's own"],
      [256, "256 px"],
      [512, "512 px"],
    ];
    this.field("width", "Width of a picture", make("select", {}, ...options(widths)));
    this.inputs.width.value = 256;
    this.goButton = button({
      text: "Make it",
      name: "Make the film or sheet",
      class: "main",
      press: () => this.make(),
    });
    this.stopButton = button({ text: "Stop", name: "Stop the film", press: () => this.stop(), hidden: true });
    this.progress = make("progress", { max: 1, value: 0, hidden: true, "aria-label": "How far the film is" });
    this.says = make("p", { class: "hint", role: "status" });
    this.result = make("div", { class: "made" });
    const buttons = make("div", { class: "tools" }, this.goButton, this.stopButton, this.progress);
    const fields = make(
      "div",
      { class: "fields" },
      this.labelled("What happens", this.story),
      ...Object.values(this.fields),
    );
    const form = make(
      "div",
      { class: "film" },
      make("div", { class: "film-form" }, fields, buttons, this.says),
      this.result,
    );
    this.element = make("details", { class: "fold" }, make("summary", {}, "Make a film or a sheet"), form);
  }

  labelled(words, input) {
    input.id ||= fresh("film");
    return make("div", { class: "field" }, make("label", { for: input.id }, words), input);
  }

  field(name, words, input) {
    this.inputs[name] = input;
    this.fields[name] = this.labelled(words, input);
  }

  sources() {
    this.chosen = {};
    const group = make("div", { class: "sources", role: "group", "aria-label": "Photos of the sheet" });
    for (const [name, words] of Object.entries(SOURCES)) {
      this.chosen[name] = make("input", { type: "checkbox", checked: name === "examples" });
      group.append(make("label", {}, this.chosen[name], words));
    }
    return group;
  }

  video() {
    const name = make("span", {}, "none");
    const picker = filePicker("video/*", (file) => {
      this.film = file;
      name.textContent = file?.name ?? "none";
    });
    picker.setAttribute("aria-label", "A video to follow");
    const choose = button({ picture: "upload", text: "Choose", name: "Choose a video", press: () => picker.click() });
    return make("span", { class: "tools" }, choose, picker, name);
  }

  /** Offer what the chosen model can do. */
  fill() {
    const { model } = this.studio;
    const names = new Set(model.knobs.map((knob) => knob.name));
    const turns = ["rotation", "azimuth"].some((name) => names.has(name));
    const stories = this.studio.photos
      ? ["sheet", "follow", "ab"]
      : ["knob", ...(turns ? ["around"] : []), "ab", "rows"];
    this.story.replaceChildren(...options(stories.map((story) => [story, STORIES[story][0]])));
    this.inputs.knob.replaceChildren(...options(model.knobs.map((knob) => [knob.name, knob.label])));
    const slots = model.slots.map((slot) => [slot.name, slot.label]);
    this.inputs.across.replaceChildren(...options(slots));
    this.inputs.across.selectedIndex = slots.length - 1;
    this.inputs.down.replaceChildren(...options([["Nothing", "Nothing"], ...slots]));
    this.inputs.down.selectedIndex = slots.length ? 1 : 0;
    this.show();
  }

  show() {
    for (const [name, field] of Object.entries(this.fields)) field.hidden = !FIELDS[this.story.value].includes(name);
  }

  number(name) {
    const input = this.inputs[name];
    const value = Math.round(Number(input.value));
    const found = Math.min(Number(input.max), Math.max(Number(input.min), Number.isFinite(value) ? value : 0));
    input.value = found; // the field shows what is made
    return found;
  }

  /** Return what is asked of the server. */
  async order() {
    const { studio } = this;
    const what = STORIES[this.story.value][1];
    const { recipe } = studio;
    const { A, B } = studio.compare.recipes;
    const order = { what, recipe, width: Number(this.inputs.width.value), knob: this.inputs.knob.value };
    if (what === "rows") {
      const rows = studio.tray.items.map((item) => item.recipe).filter((each) => each.checkpoint === studio.model.name);
      return { ...order, rows, frames: this.number("columns") };
    }
    if (what === "sheet") {
      const chosen = Object.keys(SOURCES).filter((name) => this.chosen[name].checked);
      const photos = (await studio.photosFrom(chosen)).map(({ picture }) => ({ picture }));
      return { ...order, across: this.inputs.across.value, down: this.inputs.down.value, photos };
    }
    const film = { frames: this.number("frames"), fps: this.number("fps"), file: this.inputs.file.value };
    if (what === "follow") return { ...order, ...film, video: await this.sent() };
    return { ...order, ...film, story: STORIES[this.story.value][0], a: A, b: B };
  }

  /** Send the chosen video; return its name on the server. */
  async sent() {
    if (!this.film) return "";
    const route = `cutouts/upload?name=${encodeURIComponent(this.film.name)}`;
    return (await (await send(route, await contents(this.film))).json()).file;
  }

  async make() {
    this.running = new AbortController();
    const { signal } = this.running;
    this.busy(true);
    this.tell("Beginning …");
    try {
      const answer = await send("live/film", await this.order(), signal);
      for await (const line of lines(answer, ({ file }) => file)) this.drawn(line);
    } catch (error) {
      if (signal.aborted) this.tell("Stopped.");
      else this.tell(error.message, true);
    } finally {
      this.busy(false);
    }
  }

  stop() {
    this.running?.abort();
  }

  busy(whether) {
    this.goButton.disabled = whether;
    this.stopButton.hidden = this.progress.hidden = !whether;
    if (whether) this.progress.value = 0;
  }

  tell(message, wrong = false) {
    this.says.textContent = message;
    this.says.classList.toggle("wrong", wrong);
  }

  drawn({ done, of, file, name }) {
    this.progress.value = done / of;
    if (!file) {
      this.tell(done < of ? `Frame ${done} of ${of}.` : "Writing …");
      return;
    }
    this.tell(`${name} is done.`);
    const source = address(`gradio_api/file=${file}`);
    const save = make("a", { class: "save", href: source, download: name }, "Save the file");
    this.result.replaceChildren(shownFilm(source, name), save);
  }
}

/** Return a film or sheet to look at; what moves waits where a person wants less motion. */
function shownFilm(source, name) {
  const still = matchMedia("(prefers-reduced-motion: reduce)").matches;
  if (name.endsWith(".mp4")) {
    const video = make("video", { src: source, controls: true, loop: true, playsinline: true, "aria-label": name });
    video.muted = true;
    if (!still) video.play().catch(() => {});
    return video;
  }
  const image = make("img", { src: source, alt: name });
  if (!still || name.endsWith(".png")) return image;
  const canvas = make("canvas", { role: "img", "aria-label": `${name}, its first picture` });
  image.decode().then(() => {
    [canvas.width, canvas.height] = [image.naturalWidth, image.naturalHeight];
    canvas.getContext("2d").drawImage(image, 0, 0);
  });
  const play = button({ text: "Play", name: "Play the film", press: () => box.replaceChildren(image) });
  const box = make("div", { class: "still" }, canvas, play);
  return box;
}
