// The tab "Mix photos": a photo for each slot, and the picture that is mixed from them.

import { openCamera } from "./camera.js";
import { CropTool } from "./crop.js";
import { address, anySeed, button, contents, filePicker, firstFile, make, png, send } from "./dom.js";
import { Nine } from "./nine.js";
import { modeSwitch, slotCard } from "./slots.js";
import { photos, putPhoto } from "./store.js";
import { Studio } from "./studio.js";

/** Photos in slots; each recipe slot holds the photo as the generator saw it and what it read from it. */
export class PhotoStudio extends Studio {
  photos = true;
  known = new Map(); // photo as the generator saw it -> {caption, view, box, square, file | example}
  turns = {}; // slot's name -> how often something was chosen for it

  async connectedCallback() {
    window.photoStudio = this;
    await super.connectedCallback();
  }

  build() {
    this.nine = new Nine(this);
    super.build();
    this.stage.canvas.addEventListener("pointerdown", (event) => this.dragSplit(event));
    document.addEventListener("paste", (event) => {
      if (!this.offsetParent || event.target.matches?.("input, textarea")) return;
      this.take(firstFile(event.clipboardData));
    });
  }

  /** Move the line between A and B where it is dragged in the picture. */
  dragSplit(event) {
    if (!this.stage.split) return;
    const { canvas } = this.stage;
    const follow = ({ clientX, clientY }) =>
      this.stage.split && this.compare.splitAt((1 + this.stage.place(clientX, clientY).right) / 2);
    canvas.setPointerCapture(event.pointerId);
    canvas.addEventListener("pointermove", follow);
    canvas.addEventListener("lostpointercapture", () => canvas.removeEventListener("pointermove", follow), {
      once: true,
    });
    follow(event);
  }

  async recall() {
    for (const photo of await photos()) this.known.set(photo.picture, photo);
    await super.recall();
  }

  empty(model) {
    return { checkpoint: model.name, seed: 0, slots: {}, mode: model.mode };
  }

  /** Return a recipe of the first examples; throws where one cannot be read. */
  async fresh(model) {
    const recipe = this.empty(model);
    const names = model.slots.map((slot) => slot.name);
    const examples = model.examples.slice(0, names.length);
    const photos = await Promise.all(
      examples.map((example) => this.read({ example: example.name, caption: example.caption }, null, model)),
    );
    photos.forEach((photo, i) => {
      recipe.slots[names[i]] = { ...photo, strength: 1 };
    });
    return recipe;
  }

  /** Go back to the first examples; where they cannot be read, say so and change nothing. */
  async reset() {
    const model = this.model;
    for (const { name } of model.slots) this.begin(name);
    try {
      await this.step(await this.fresh(model));
    } catch (error) {
      if (model === this.model) this.say(error.message);
    }
  }

  /** Return {picture, codes} of a photo, an example's name or a file, and remember where it came from. */
  async read(source, box, model = this.model) {
    const query = new URLSearchParams({ model: model.name, name: source.caption ?? "" });
    if (box === "find") query.set("find", "true");
    else if (box) query.set("box", box.map((edge) => edge.toFixed(5)).join(","));
    if (source.example) query.set("example", source.example);
    const file = source.file && (await contents(source.file));
    const answer = await (await send(`live/photo?${query}`, file ?? new Blob())).json();
    const { picture, codes, square, unlike } = answer;
    const view = `data:image/jpeg;base64,${answer.view}`;
    const photo = { ...source, picture, file, view, box: answer.box, square, unlike };
    if (!this.known.has(picture) && file) putPhoto(photo);
    this.known.set(picture, photo);
    return { picture, codes };
  }

  extraTools() {
    return [
      this.nine.button,
      button({
        picture: "reset",
        text: "Reset",
        class: "bare",
        name: "Back to the first examples",
        press: () => this.reset(),
      }),
    ];
  }

  leave() {
    super.leave();
    this.nine.close();
  }

  /** What nine variations can be made of. */
  get variable() {
    return this.model.slots.filter((slot) => slot.seed);
  }

  /** Return the recipe with a slot's factor drawn from another seed, that much of it. */
  varied(name, share) {
    return { ...this.recipe, slots: { ...this.recipe.slots, [name]: { seed: anySeed(), strength: share } } };
  }

  controls() {
    this.selected = this.model.slots[0].name;
    this.cards = Object.fromEntries(this.model.slots.map((slot) => [slot.name, slotCard(this, slot)]));
    const cards = Object.values(this.cards).map((card) => card.element);
    this.wholeNote = make(
      "p",
      { class: "hint", hidden: true },
      "The shape's photo gives outline and pose in full, so the strengths of Pose and Shape do nothing; " +
        "the pose's photo gives what other slots leave open.",
    );
    const all = make(
      "section",
      { class: "group", "aria-label": "Photos" },
      make("h2", {}, "Take from each photo"),
      make("div", { class: "slots" }, ...cards),
      this.wholeNote,
      make("p", { class: "hint" }, `Measured: ${this.model.mixing.join(" and ")}.`),
    );
    const modes = modeSwitch(this.model, (mode) => this.set({ ...this.recipe, mode }));
    this.modeInputs = modes?.inputs ?? [];
    this.nine.fill();
    return [all, this.chooser(), ...(modes ? [modes.element] : [])];
  }

  captionOf(example) {
    return this.model.examples.find((each) => each.name === example)?.caption ?? "";
  }

  example({ name, caption }) {
    const route = `live/examples/${encodeURIComponent(this.model.name)}/${encodeURIComponent(name)}`;
    const properties = {
      type: "button",
      class: "example",
      title: caption,
      "aria-label": `Example: ${caption}`,
      draggable: "true",
      "data-example": name,
      onclick: () => this.fill({ example: name, caption }),
      ondragstart: (event) => event.dataTransfer.setData("text/example", name),
    };
    return make("button", properties, make("img", { src: address(route), alt: "", draggable: "false" }));
  }

  /** Return the buttons by which a photo comes into the selected slot. */
  photoTools() {
    const picker = filePicker("image/*", (file) => this.take(file));
    const upload = { picture: "upload", text: "Upload", name: "Choose a photo from this device" };
    const seed = { picture: "dice", text: "Seed", name: "Draw this from a seed, without a photo" };
    return make(
      "div",
      { class: "tools" },
      button({ ...upload, press: () => picker.click() }),
      picker,
      button({ picture: "camera", text: "Camera", name: "Take a photo", press: () => this.shoot() }),
      button({ picture: "paste", text: "Paste", name: "Paste a photo", press: () => this.pasteButton() }),
      this.model.slots.some((slot) => slot.seed) ? button({ ...seed, press: () => this.throwOne() }) : null,
    );
  }

  chooser() {
    this.heading = make("h2", {});
    this.crop = new CropTool(
      (box) => this.recrop(box),
      (message) => this.say(message),
    );
    this.cropFold = make("details", { class: "fold" }, make("summary", {}, "Box around the object"), this.crop.element);
    const examples = this.model.examples.map((example) => this.example(example));
    this.fromTray = make("div", { class: "examples", role: "group", "aria-label": "From the tray" });
    this.trayChanged();
    this.chooserSection = make(
      "section",
      { class: "group" },
      this.heading,
      this.photoTools(),
      make("p", { class: "hint" }, "Or drop a photo on a slot, or paste one with Ctrl+V."),
      examples.length ? make("div", { class: "examples", role: "group", "aria-label": "Examples" }, ...examples) : null,
      this.fromTray,
      this.cropFold,
    );
    return this.chooserSection;
  }

  present(recipe) {
    const whole = recipe.mode === "feature" && Boolean(recipe.slots.shape?.picture); // demo.recipes.keeps_outline
    this.wholeNote.hidden = !whole;
    for (const { name } of this.model.slots) {
      const card = this.cards[name];
      const slot = recipe.slots[name];
      card.element.classList.toggle("empty", !slot?.picture);
      if (slot?.picture) card.image.src = png(slot.picture);
      else card.image.removeAttribute("src");
      card.caption.textContent = slot
        ? slot.picture
          ? (this.known.get(slot.picture)?.caption ?? "from a recipe")
          : `seed ${slot.seed}`
        : "no photo yet";
      card.warning.textContent = (slot?.picture && this.known.get(slot.picture)?.unlike) || "";
      card.strength.disabled = !slot || (whole && ["pose", "shape"].includes(name));
      this.showStrength(name, slot?.strength ?? 1);
    }
    for (const input of this.modeInputs) input.checked = input.value === (recipe.mode ?? "code");
    this.pick(this.selected);
  }

  showStrength(name, strength) {
    const card = this.cards[name];
    card.strength.value = strength;
    card.percent.textContent = `${Math.round(100 * strength)} %`;
    card.strength.setAttribute("aria-valuetext", card.percent.textContent);
  }

  /** Make one slot the one that photos go into. */
  pick(name) {
    this.selected = name;
    for (const [each, card] of Object.entries(this.cards))
      card.pick.setAttribute("aria-pressed", String(each === name));
    const { label } = this.model.slots.find((slot) => slot.name === name);
    this.heading.textContent = `Choose the ${label.toLowerCase()} photo`;
    const slot = this.recipe?.slots[name];
    const known = slot && this.known.get(slot.picture);
    this.cropFold.hidden = !slot?.picture;
    if (slot?.picture) this.crop.show(known?.view ?? png(slot.picture), known?.box ?? [0, 0, 1, 1], known?.square);
  }

  weigh(name, strength) {
    const slot = { ...this.recipe.slots[name], strength };
    this.set({ ...this.recipe, slots: { ...this.recipe.slots, [name]: slot } }, { present: false });
    this.showStrength(name, strength);
  }

  /** Draw the selected slot's factor from a seed, in place of a photo. */
  throwOne() {
    this.begin(this.selected);
    const slots = {
      ...this.recipe.slots,
      [this.selected]: { seed: anySeed(), strength: this.recipe.slots[this.selected]?.strength ?? 1 },
    };
    this.step({ ...this.recipe, slots });
  }

  /** Offer the pictures of the tray as photos for the selected slot. */
  trayChanged() {
    if (!this.fromTray) return;
    const items = this.tray.items.map((item, place) => {
      const properties = { type: "button", class: "example", "aria-label": `Tray: picture ${place + 1}` };
      const image = make("img", { src: item.thumb, alt: "", draggable: "false" });
      return make("button", { ...properties, onclick: () => this.fillFromTray(item) }, image);
    });
    this.fromTray.replaceChildren(...items);
    this.fromTray.hidden = items.length === 0;
  }

  /** Return a picture of the tray as a file. */
  async pictureOf({ recipe }) {
    const answer = await send("live/file/image", { ...recipe, size: undefined });
    return new File([await answer.blob()], "from the tray.png", { type: "image/png" });
  }

  async fillFromTray(item) {
    try {
      await this.fill({ file: await this.pictureOf(item), caption: "from the tray" }, [0, 0, 1, 1]);
    } catch (error) {
      this.say(error.message);
    }
  }

  /** Return {picture, codes} of the photos of a sheet: examples, one's own, those of the tray. */
  async photosFrom(sources, most = 5) {
    const found = [];
    if (sources.includes("own"))
      for (const photo of [...this.known.values()].filter((each) => each.file && each.caption !== "from the tray"))
        found.push(() => this.read({ file: photo.file, caption: photo.caption }, photo.box));
    if (sources.includes("tray"))
      for (const item of this.tray.items)
        found.push(async () => this.read({ file: await this.pictureOf(item), caption: "from the tray" }, [0, 0, 1, 1]));
    if (sources.includes("examples"))
      for (const { name, caption } of this.model.examples)
        found.push(() => this.read({ example: name, caption }, null));
    const read = [];
    for (const each of found.slice(0, sources.length === 1 && sources[0] === "examples" ? most : 12))
      read.push(await each());
    return read;
  }

  /** Put a person's file into the selected slot. */
  async take(file) {
    if (file) await this.fill({ file, caption: file.name || "pasted photo" });
  }

  /** Begin a choice for a slot and give up earlier ones; return a function that says whether it still is the last. */
  begin(name) {
    const model = this.model;
    const turn = (this.turns[name] ?? 0) + 1;
    this.turns[name] = turn;
    this.cards[name].element.classList.remove("waiting");
    return () => model === this.model && turn === this.turns[name];
  }

  async fill(source, box = null) {
    const name = this.selected;
    const last = this.begin(name);
    this.cards[name].element.classList.add("waiting");
    try {
      const photo = await this.read(source, box);
      if (!last()) return;
      const strength = this.recipe.slots[name]?.strength ?? 1;
      await this.step({ ...this.recipe, slots: { ...this.recipe.slots, [name]: { ...photo, strength } } });
      this.note("");
    } catch (error) {
      if (last()) this.say(error.message);
    } finally {
      if (last()) this.cards[name].element.classList.remove("waiting");
    }
  }

  async recrop(box) {
    const { picture } = this.recipe.slots[this.selected];
    const decoded = () => new Blob([Uint8Array.from(atob(picture), (letter) => letter.charCodeAt(0))]);
    const { file, example, caption } = this.known.get(picture) ?? { file: decoded(), caption: "from a recipe" };
    await this.fill({ file, example, caption }, box);
  }

  async pasteButton() {
    try {
      for (const item of await navigator.clipboard.read()) {
        const type = item.types.find((each) => each.startsWith("image/"));
        if (type) return await this.take(new File([await item.getType(type)], "pasted photo", { type }));
      }
      this.say("There is no picture on the clipboard; copy one first.");
    } catch {
      this.say("This browser does not let the page read the clipboard; press Ctrl+V instead.");
    }
  }

  async shoot() {
    try {
      await openCamera(this, (file) => this.take(file));
    } catch {
      this.say("There is no camera that this page may use; upload a photo instead.");
    }
  }

  /** Show what a seed in place of a photo gives, once the picture rests. */
  tell(recipe) {
    super.tell(recipe);
    for (const { name } of this.model.slots) {
      if (recipe.slots[name]?.seed === undefined || recipe !== this.recipe) continue;
      this.cards[name].image.src = this.stage.layer(name === "background" ? name : "image").toDataURL();
      this.cards[name].element.classList.remove("empty");
    }
  }

  /** Return in words what is new in a recipe. */
  words(recipe, before) {
    const changed = this.model.slots.filter(
      ({ name }) => before && JSON.stringify(recipe.slots[name]) !== JSON.stringify(before.slots[name]),
    );
    return before ? changed.map(({ label }) => `another ${label.toLowerCase()}`).join(", ") : this.model.title;
  }
}
