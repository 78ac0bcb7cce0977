// The tab "Cut out objects": a photo, a film or the camera; what is found is outlined, what is chosen is cut out.

import { address, button, contents, filePicker, firstFile, fresh, lines, make, offer, openTab, send } from "./dom.js";
import { models } from "./studio.js";
import { Viewfinder } from "./viewfinder.js";

const FILM = /^video\/|\.(mp4|m4v|webm|mov|avi|mkv)$/i;
const RESULTS = { cutout: "Cut-out", mask: "Mask", rest: "Everything else" };
const SVG = "http://www.w3.org/2000/svg";

const png = (text) => `data:image/png;base64,${text}`;
/** Return the colour of the object at a place in the list; neighbours differ. */
const colour = (place) => `hsl(${(place * 137 + 210) % 360} 85% 60%)`;

/** Draw outlines of `objects`, found in a picture of `width` x `height`, into an SVG element. */
export function drawOutlines(svg, { width, height, objects }, press = null) {
  svg.setAttribute("viewBox", `0 0 ${width} ${height}`);
  const paths = objects.map(({ outline, label }, place) => {
    const path = document.createElementNS(SVG, "path");
    const rings = outline.map((ring) => `M${ring.join(" ")}Z`);
    path.setAttribute("d", rings.join(""));
    path.setAttribute("fill-rule", "evenodd");
    path.style.setProperty("--own", colour(place));
    const title = document.createElementNS(SVG, "title");
    title.textContent = label;
    path.append(title);
    if (press) path.addEventListener("click", () => press(place));
    return path;
  });
  svg.replaceChildren(...paths);
  return paths;
}

export class CutoutStudio extends HTMLElement {
  async connectedCallback() {
    if (this.begun) return;
    this.begun = true;
    window.cutoutStudio = this;
    this.turn = 0;
    this.build();
    this.listen();
    this.reset();
    await Promise.all([this.tellAbout(), this.offerSlots()]);
    this.dataset.ready = "";
  }

  build() {
    this.image = make("img", { alt: "The photo that objects are cut out of", hidden: true, draggable: "false" });
    this.svg = document.createElementNS(SVG, "svg");
    this.svg.setAttribute("aria-hidden", "true");
    this.film = make("video", { controls: true, loop: true, playsinline: true, muted: true, hidden: true });
    this.invitation = make("p", { class: "invitation" }, "Drop a photo or a film here, or choose one below.");
    this.stage = make("div", { class: "cut-stage" }, this.image, this.film, this.svg, this.invitation);
    this.status = make("p", { class: "status", role: "status" });
    this.picker = filePicker("image/*,video/*", (file) => this.take(file), { "aria-label": "Photo or film" });
    this.stopButton = button({ text: "Stop", name: "Stop what is under way", press: () => this.stop(), hidden: true });
    const tools = make(
      "div",
      { class: "tools", role: "toolbar", "aria-label": "Photo, film or camera" },
      button({
        picture: "upload",
        text: "Photo or film",
        name: "Choose a photo or film",
        press: () => this.picker.click(),
      }),
      this.picker,
      button({ picture: "paste", text: "Paste", name: "Paste a photo", press: () => this.pasteButton() }),
      button({
        picture: "camera",
        text: "Camera",
        name: "Find objects in the camera's picture",
        press: () => this.watch(),
      }),
      this.stopButton,
    );
    this.examples = make("div", { class: "examples", role: "group", "aria-label": "Examples" });
    this.about = make("p", { class: "hint" });
    this.list = make("div", { class: "found", role: "group", "aria-label": "Objects found" });
    this.results = make("div", { class: "results" });
    this.slotChoice = make("select", { id: fresh("slot") });
    this.giving = make(
      "div",
      { class: "tools giving" },
      make("label", { for: this.slotChoice.id }, "Use it in Mix photos as"),
      this.slotChoice,
      button({ text: "Send", name: "Send the cut-out to Mix photos", press: () => this.give() }),
    );
    this.foundGroup = make("section", { class: "group" }, make("h2", {}, "Objects"), this.list);
    this.resultGroup = make("section", { class: "group" }, make("h2", {}, "Cut out"), this.results, this.giving);
    const left = make("div", { class: "left" }, this.stage, tools, this.status);
    const tries = make("section", { class: "group" }, make("h2", {}, "Examples"), this.examples, this.about);
    const right = make("div", { class: "right" }, this.foundGroup, this.resultGroup, tries);
    this.replaceChildren(make("div", { class: "studio cutouts" }, left, right));
  }

  listen() {
    const mine = (event) => this.offsetParent && event.dataTransfer.types.includes("Files");
    document.addEventListener("dragover", (event) => {
      if (!mine(event)) return;
      event.preventDefault();
      this.stage.classList.add("over");
    });
    document.addEventListener("dragleave", (event) => {
      if (!event.relatedTarget) this.stage.classList.remove("over");
    });
    document.addEventListener("drop", (event) => {
      this.stage.classList.remove("over");
      if (!mine(event)) return;
      event.preventDefault();
      this.take(firstFile(event.dataTransfer));
    });
    document.addEventListener("paste", (event) => {
      if (!this.offsetParent || event.target.matches?.("input, textarea")) return;
      this.take(firstFile(event.clipboardData));
    });
  }

  async tellAbout() {
    const { finder, labels, examples } = await (await fetch(address("cutouts/about"))).json();
    this.about.textContent =
      labels.length === 1
        ? "No network is installed here: the one object that stands out from a quiet backdrop is found."
        : `${finder} finds: ${labels.join(", ")}.`;
    this.examples.replaceChildren(...examples.map((example) => this.example(example)));
  }

  example({ name, caption }) {
    const source = address(`cutouts/examples/${name}`);
    const press = async () => {
      const blob = await (await fetch(source)).blob();
      await this.take(new File([blob], `${name.split("/").at(-1)}.png`, { type: blob.type }));
    };
    const image = make("img", { src: source, alt: "", loading: "lazy", draggable: "false" });
    return make(
      "button",
      { type: "button", class: "example", title: caption, "aria-label": `Example: ${caption}`, onclick: press },
      image,
    );
  }

  /** Offer the slots of "Mix photos", where there is that tab. */
  async offerSlots() {
    const slots = (await models()).find((model) => model.readsPhotos)?.slots ?? [];
    this.giving.hidden = slots.length === 0;
    this.slotChoice.replaceChildren(...slots.map(({ name, label }) => make("option", { value: name }, label)));
    const look = slots.findIndex(({ name }) => name === "texture");
    if (look >= 0) this.slotChoice.selectedIndex = look;
  }

  /** Give up what is under way and show nothing; return a function that says whether this still is the last choice. */
  reset() {
    this.stop();
    this.turn += 1;
    const turn = this.turn;
    this.file = null;
    this.found = null;
    this.chosen = new Set();
    this.image.hidden = true;
    this.film.hidden = true;
    this.film.removeAttribute("src");
    this.svg.replaceChildren();
    this.invitation.hidden = false;
    this.foundGroup.hidden = true;
    this.resultGroup.hidden = true;
    delete this.dataset.found;
    return () => turn === this.turn;
  }

  say(message) {
    this.status.textContent = message;
    this.status.classList.add("wrong");
  }

  note(message) {
    this.status.textContent = message;
    this.status.classList.remove("wrong");
  }

  /** Take a person's photo or film. */
  async take(file) {
    if (!file) return;
    const last = this.reset();
    const name = file.name || "photo.png";
    const moves = FILM.test(file.type) || FILM.test(name);
    this.note(`Reading ${name} …`);
    try {
      const route = `cutouts/upload?name=${encodeURIComponent(name)}`;
      const { file: path } = await (await send(route, await contents(file))).json();
      if (!last()) return;
      this.file = { path, name };
      await (moves ? this.paintFilm(last) : this.search(last));
    } catch (error) {
      if (last() && error.name !== "AbortError") this.say(error.message);
    }
  }

  async search(last) {
    const found = await (await send("cutouts/find", { file: this.file.path })).json();
    if (!last()) return;
    this.found = found;
    this.image.src = `data:image/jpeg;base64,${found.view}`;
    this.image.hidden = false;
    this.invitation.hidden = true;
    this.paths = drawOutlines(this.svg, found, (place) => this.toggle(place));
    this.foundGroup.hidden = false;
    this.buttons = found.objects.map(({ label, score }, place) => {
      const press = () => this.toggle(place);
      const mark = make("i", { style: `--own: ${colour(place)}` });
      const words = [make("b", {}, label), " ", make("small", {}, `${Math.round(100 * score)} %`)];
      return make("button", { type: "button", class: "object", onclick: press }, mark, ...words);
    });
    const empty = make(
      "p",
      { class: "hint" },
      "Nothing was found in this photo; try another, or one with a quieter backdrop.",
    );
    this.list.replaceChildren(...(found.objects.length ? this.buttons : [empty]));
    this.note(found.objects.length > 1 ? "Click one or more objects, on the photo or in the list." : "");
    if (found.objects.length === 1) this.toggle(0);
    else this.present();
    this.dataset.found = String(found.objects.length);
  }

  toggle(place) {
    if (!this.chosen.delete(place)) this.chosen.add(place);
    this.present();
    this.preview();
  }

  present() {
    this.buttons.forEach((each, place) => {
      each.setAttribute("aria-pressed", String(this.chosen.has(place)));
    });
    this.paths.forEach((path, place) => {
      path.classList.toggle("chosen", this.chosen.has(place));
    });
    this.resultGroup.hidden = this.chosen.size === 0;
  }

  /** Return what is asked of the server. */
  request() {
    return { file: this.file.path, objects: [...this.chosen].sort((a, b) => a - b) };
  }

  /** Show what would be saved; of several wishes only the last is waited for. */
  async preview() {
    if (this.chosen.size === 0) return;
    this.previewing?.abort();
    const mine = new AbortController();
    this.previewing = mine;
    const asked = this.request();
    try {
      const made = await (await send("cutouts/preview", asked, mine.signal)).json();
      if (mine !== this.previewing || asked.file !== this.file?.path) return;
      const figures = Object.entries(RESULTS).map(([what, words]) => this.result(what, words, made[what]));
      this.results.replaceChildren(...figures);
      this.dataset.shown = JSON.stringify(asked);
    } catch (error) {
      if (error.name !== "AbortError") this.say(error.message);
    }
  }

  result(what, words, picture) {
    const image = make("img", { src: png(picture), alt: words, class: what === "mask" ? "" : "clear" });
    const save = button({ picture: "save", text: words, name: `Save as PNG: ${words}`, press: () => this.save(what) });
    return make("div", { class: "result" }, image, save);
  }

  async save(what) {
    try {
      const answer = await send(`cutouts/cut/${what}`, this.request());
      offer(await answer.blob(), `${this.file.name.replace(/\.[^.]*$/, "")}-${what}.png`);
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Put the cut-out, on white, into a slot of the other tab. */
  async give() {
    try {
      const answer = await send("cutouts/cut/white", this.request());
      const box = answer.headers.get("X-Box").split(",").map(Number);
      const name = this.file.name.replace(/\.[^.]*$/, "");
      const file = new File([await answer.blob()], `${name}.png`, { type: "image/png" });
      openTab("Mix photos");
      while (!window.photoStudio?.ready) await new Promise((done) => setTimeout(done, 50));
      window.photoStudio.pick(this.slotChoice.value);
      await window.photoStudio.fill({ file, caption: `${name}, cut out` }, box);
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Have a film painted, telling how far it is. */
  async paintFilm(last) {
    this.running = new AbortController();
    this.stopButton.hidden = false;
    this.note("Finding objects in the film …");
    const answer = await send("cutouts/film", { file: this.file.path }, this.running.signal);
    for await (const line of lines(answer, ({ file }) => file)) if (last()) this.filmed(line);
    if (last()) this.stopButton.hidden = true;
  }

  filmed({ frames, most, file, name, identities }) {
    if (!file) {
      if (frames) this.note(`${frames} pictures done, at most ${most} are painted.`);
      return;
    }
    const source = address(`gradio_api/file=${file}`);
    this.film.src = source;
    this.film.hidden = false;
    this.film.play().catch(() => {});
    this.invitation.hidden = true;
    const kinds = Object.entries(identities).map(([number, label]) => make("li", {}, `${number}: ${label}`));
    const save = make("a", { class: "save", href: source, download: name }, "Save the film");
    this.list.replaceChildren(
      save,
      kinds.length ? make("ul", {}, ...kinds) : make("p", { class: "hint" }, "Nothing was found."),
    );
    this.foundGroup.hidden = false;
    this.note(`${frames} pictures.`);
    this.dataset.found = String(kinds.length);
  }

  /** Find objects in the camera's picture until it is stopped. */
  async watch() {
    const last = this.reset();
    try {
      const shot = (file) => this.take(file);
      const finder = await Viewfinder.open((message, wrong) => (wrong ? this.say(message) : this.note(message)), shot);
      if (!last()) return finder.close();
      this.viewfinder = finder;
      this.stage.append(finder.element);
      this.invitation.hidden = true;
      this.stopButton.hidden = false;
      finder.run(drawOutlines);
    } catch {
      if (last()) this.say("There is no camera that this page may use; choose a photo instead.");
    }
  }

  stop() {
    this.running?.abort();
    this.running = null;
    this.viewfinder?.close();
    this.viewfinder = null;
    this.stopButton.hidden = true;
    if (!this.found && this.film.hidden) this.invitation.hidden = false;
    this.note("");
  }

  async pasteButton() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((each) => each.startsWith("image/"));
        if (type) return await this.take(new File([await item.getType(type)], "pasted photo.png", { type }));
      }
      this.say("There is no picture on the clipboard; copy one first.");
    } catch {
      this.say("This browser does not let the page read the clipboard; press Ctrl+V instead.");
    }
  }
}
