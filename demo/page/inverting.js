// A photo that becomes knobs: its pose at once, then the picture sharpens; and the bar with what belongs to it.

import { button, contents, filePicker, firstFile, lines, make, png, send } from "./dom.js";
import { paint } from "./stage.js";
import { photos, putPhoto } from "./store.js";

const SIDE = 512; // pixels of the photo beside its picture
const HINT = "Or drop or paste a photo, to turn what it shows.";
const UNSURE = "It is not clear which end is the front.";

export class Inverting {
  known = new Map(); // photo as the generator saw it -> {file, caption, view, square, turned, turns, unsure, unlike}
  running = null; // {control, part} of the photo that is being inverted

  constructor(studio) {
    this.studio = studio;
    this.part = null; // for which the next photo is chosen; null for all
    this.picker = filePicker("image/*", (file) => this.take(file, this.part), { "aria-label": "Photo to start from" });
    this.chooseButton = button({
      picture: "upload",
      text: "Photo",
      name: "Start from a photo of your own",
      press: () => this.choose(),
    });
    this.thumb = make("img", { class: "photo-thumb", alt: "The photo", hidden: true });
    this.wipeButton = button({
      picture: "split",
      text: "Compare",
      class: "bare",
      name: "Photo and picture on both sides of a line",
      "aria-pressed": "false",
      press: () => (studio.compare.pressed === this.wipeButton ? studio.compare.leaveSplit() : this.wipe()),
    });
    this.turnButton = button({
      picture: "reset",
      text: "Front or back?",
      name: "Start again from the other end of the object",
      press: () => this.turnRound(),
    });
    this.progress = make("progress", { max: 1, value: 0, "aria-label": "How far the photo is" });
    this.cancelButton = button({ text: "Cancel", name: "Keep the picture as it is (Escape)", press: () => this.end() });
    this.says = make("span", { class: "hint", role: "status" });
    this.element = make(
      "div",
      { class: "photo-bar", role: "group", "aria-label": "Photo" },
      this.chooseButton,
      this.picker,
      this.thumb,
      this.wipeButton,
      this.turnButton,
      this.progress,
      this.cancelButton,
      this.says,
    );
  }

  /** Hear what is pasted, and the key that ends a photo. */
  listen() {
    document.addEventListener("paste", (event) => {
      if (this.studio.offsetParent && !event.target.matches?.("input, textarea"))
        this.take(firstFile(event.clipboardData));
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape" && this.studio.offsetParent) this.end();
    });
  }

  /** Know the photos that were chosen here before. */
  async recall() {
    for (const photo of await photos()) this.known.set(photo.picture, photo);
  }

  /** Whether a photo can give a part of the chosen model, or with null all of them. */
  can(part = null) {
    const { parts } = this.studio.model;
    return part ? parts.includes(part) : parts.length > 0;
  }

  /** Open the dialog for a photo of a part, or of everything. */
  choose(part = null) {
    this.part = part;
    this.picker.click();
  }

  /** Let photos be dropped on the row of a part. */
  takes(element, part) {
    element.classList.add("takes-photo");
    element.addEventListener("dragover", (event) => {
      if (!event.dataTransfer.types.includes("Files")) return;
      event.preventDefault();
      element.classList.add("over");
    });
    element.addEventListener("dragleave", () => element.classList.remove("over"));
    element.addEventListener("drop", (event) => {
      event.preventDefault();
      element.classList.remove("over");
      this.take(firstFile(event.dataTransfer), part);
    });
  }

  /** Take everything, or one part, from a person's file. */
  async take(file, part = null) {
    if (file && this.can(part)) await this.start({ file, caption: file.name || "pasted photo" }, { part });
  }

  /** Invert a photo: what is found of all parts, or of one, goes into the recipe as it comes. */
  async start({ file, caption }, { part = null, turned = false } = {}) {
    const { studio } = this;
    this.end();
    if (!studio.ready) return;
    studio.remember();
    studio.hush();
    const run = { control: new AbortController(), part, turned, file, caption };
    this.running = run;
    this.told({ done: 0 });
    try {
      const query = new URLSearchParams({ model: studio.model.name, name: caption, turned });
      const answer = await send(`live/invert?${query}`, await contents(file), run.control.signal);
      for await (const line of lines(answer, ({ stage }) => stage === "done")) {
        if (this.running !== run) return;
        this.heard(run, line);
      }
    } catch (error) {
      if (this.running === run) studio.say(error.message);
    } finally {
      if (this.running === run) this.end();
    }
  }

  /** End the photo that is being inverted; the codes that came so far stay. */
  end() {
    const run = this.running;
    if (!run) return;
    this.running = null;
    run.control.abort();
    this.show(this.studio.recipe);
    this.studio.remember();
    this.studio.live.want(this.studio.recipe); // which is drawn finer, now that it rests
  }

  heard(run, line) {
    const { studio } = this;
    if (line.unlike) {
      const photo = { ...this.known.get(run.picture), unlike: line.unlike };
      putPhoto(photo);
      this.known.set(run.picture, photo);
    }
    this.told(line);
    if (!line.codes) return;
    if (line.picture) {
      const view = `data:image/jpeg;base64,${line.view}`;
      const { picture, box, square, turns, unsure } = line;
      const photo = { file: run.file, caption: run.caption, picture, view, box, square, turns, unsure };
      if (!this.known.has(picture)) putPhoto(photo);
      this.known.set(picture, { ...photo, turned: run.turned });
      run.picture = picture;
      if (run.part) return; // of a part nothing is read at once
    }
    const recipe = { ...studio.recipe, slots: { ...studio.recipe.slots } };
    for (const name of run.part ? [run.part] : studio.model.parts)
      if (!studio.locked.has(name)) recipe.slots[name] = { picture: run.picture, codes: { [name]: line.codes[name] } };
    if (!run.part) recipe.knobs = { ...recipe.knobs, ...studio.resting(), ...line.knobs };
    studio.set(recipe, { remember: false, inverting: true });
  }

  /** Say how far the photo is. */
  told({ done, waits = false }) {
    this.progress.value = done;
    this.waits = waits;
    this.show(this.studio.recipe);
  }

  /** The photo of a recipe: that of the first of its parts that has one. */
  photoOf(recipe) {
    return this.studio.model.parts.map((part) => recipe?.slots?.[part]?.picture).find(Boolean) ?? null;
  }

  /** Show what can be done with the photo of a recipe. */
  show(recipe) {
    this.element.hidden = !this.can();
    const busy = Boolean(this.running);
    const picture = this.photoOf(recipe);
    const known = this.known.get(picture);
    this.progress.hidden = this.cancelButton.hidden = !busy;
    this.thumb.hidden = this.wipeButton.hidden = !picture;
    if (picture && this.thumb.dataset.of !== picture) this.thumb.src = png(picture);
    this.thumb.dataset.of = picture ?? "";
    this.turnButton.hidden = !known?.turns;
    this.turnButton.classList.toggle("main", Boolean(known?.unsure));
    const working = this.waits ? "Waiting for another photo …" : "Sharpening …";
    const warning = known?.unlike ?? (known?.unsure && !busy ? UNSURE : "");
    const says = warning || (busy ? working : picture ? "" : HINT);
    this.says.className = says === working && !this.waits ? "unseen" : "hint"; // beside the bar it takes a row of its own
    if (this.says.textContent !== says) this.says.textContent = says;
  }

  /** Start again with front and back exchanged. */
  turnRound() {
    const { file, caption, turned } = this.known.get(this.photoOf(this.studio.recipe));
    this.start({ file, caption }, { turned: !turned });
  }

  /** Show photo and picture on both sides of a line. */
  async wipe() {
    const { studio } = this;
    const { recipe } = studio;
    const canvas = await this.drawn(this.photoOf(recipe));
    if (recipe !== studio.recipe) return;
    const { thumbs } = studio.stage;
    const photo = thumbs.map(() => canvas);
    const picture = thumbs.map((thumb) => thumb.canvas); // the live ones: they go on sharpening
    studio.compare.open(photo, picture, "Line between the photo and its picture", this.wipeButton);
  }

  /** Return a canvas with a photo as the generator sees it, with more detail where the photo itself is known. */
  async drawn(picture) {
    const canvas = make("canvas", { width: SIDE, height: SIDE });
    paint(canvas, await decoded(png(picture)));
    const { view, square } = this.known.get(picture) ?? {};
    if (!view || !square) return canvas;
    const whole = await decoded(view);
    const [x0, y0, x1, y1] = square;
    if (whole.width * (x1 - x0) <= this.studio.model.resolution) return canvas;
    const [width, height] = [SIDE / (x1 - x0), SIDE / (y1 - y0)];
    canvas.getContext("2d").drawImage(whole, -x0 * width, -y0 * height, width, height);
    return canvas;
  }
}

async function decoded(source) {
  const image = make("img", { src: source });
  await image.decode();
  return image;
}

/** Whether a file may hold a recipe: one of text, an archive, or a PNG file that was saved here. */
export async function holdsRecipe(file) {
  const head = new Uint8Array(await file.slice(0, 4).arrayBuffer());
  const [text, archive] = [/\.json$/i.test(file.name) || head[0] === 0x7b, head[0] === 0x50 && head[1] === 0x4b];
  if (text || archive) return true;
  if (head[0] !== 0x89) return false;
  return new TextDecoder("latin1").decode(await file.arrayBuffer()).includes("iTXtrecipe\0"); // demo.recipes.KEY
}
