// The row of a knob that draws something anew: pictures to choose from, and the number behind them.

import { address, anySeed, button, fresh, make, png } from "./dom.js";
import { icon } from "./icons.js";
import { markOf } from "./mark.js";
import { seedOf, typedInto } from "./numbers.js";

/** Fill a row with small pictures of seeds that differ, as the server has drawn them. */
async function thumbnails(model, knob, choose) {
  const route = `live/seeds/${encodeURIComponent(model.name)}/${encodeURIComponent(knob.name)}`;
  const answer = await fetch(address(route));
  if (!answer.ok) return [];
  const strip = await createImageBitmap(await answer.blob());
  return answer.headers
    .get("X-Seeds")
    .split(",")
    .map((seed, place) => {
      const canvas = make("canvas", { width: strip.height, height: strip.height, "aria-hidden": "true" });
      canvas.getContext("2d").drawImage(strip, -place * strip.height, 0);
      const name = `${knob.label}, seed ${seed}`;
      const press = () => choose(Number(seed));
      const properties = { type: "button", class: "seed-thumb", title: name, "aria-label": name, onclick: press };
      return make("button", { ...properties, "data-seed": seed }, canvas);
    });
}

/** Return the button by which a photo gives a part; it shows the photo that does. */
function photoTile(studio, knob) {
  const press = () => studio.inverting.choose(knob.name);
  const image = make("img", { alt: "", draggable: "false", hidden: true });
  const tile = make("button", { type: "button", class: "seed-thumb photo-tile", onclick: press }, image);
  tile.insertAdjacentHTML("beforeend", icon("upload"));
  return tile;
}

function showTile(tile, knob, picture) {
  const [image, sign] = tile.children;
  tile.title = picture ? `${knob.label}: photo` : `Take ${knob.label} from a photo`;
  tile.setAttribute("aria-label", tile.title);
  image.hidden = !picture;
  sign.toggleAttribute("hidden", Boolean(picture));
  if (picture && image.src !== png(picture)) image.src = png(picture);
}

/** Return {element, show(value)} for a knob of a studio. */
export function seedRow(studio, knob) {
  const id = fresh("seed");
  const current = () => studio.recipe.knobs[knob.name] ?? knob.default;
  const isWay = () => typeof current() === "object";
  const start = () => (isWay() ? current().start : current());
  const photo = () => studio.recipe?.slots?.[knob.name]?.picture;
  let folded = null; // a blend whose line was put away
  const choose = (seed) => {
    if (!studio.locked.has(knob.name)) studio.step(studio.turned({ [knob.name]: seed }));
  };
  const turn = (change) => {
    if (isWay() && current() !== folded) studio.turn(knob.name, { ...current(), ...change });
    else if ("start" in change) studio.turn(knob.name, change.start);
  };
  const field = (part, properties) => {
    const input = make("input", { type: "number", min: 0, step: 1, inputmode: "numeric", ...properties });
    const present = () => (part === "start" ? start() : (current().end ?? 0));
    typedInto(
      input,
      (text) => {
        const { value, note } = seedOf(text, knob.label, present());
        input.value = value;
        if (value !== present() || photo()) turn({ [part]: value });
        if (note) studio.note(note);
      },
      () => {
        input.value = present();
      },
    );
    return input;
  };
  const first = field("start", { id, "aria-label": knob.label });
  const second = field("end", { "aria-label": `${knob.label}, second seed` });
  const slider = make("input", {
    type: "range",
    min: 0,
    max: 1,
    step: 0.01,
    "aria-label": `${knob.label}, between two seeds`,
    oninput: () => turn({ at: Number(slider.value) }),
  });
  const quiet = (picture, name, press, more = {}) => button({ picture, name, press, class: "quiet", ...more });
  const lock = quiet("unlock", `Lock ${knob.label}`, () => {
    if (!studio.locked.delete(knob.name)) studio.locked.add(knob.name);
    showLock();
    studio.keepHistory();
  });
  const dice = quiet("dice", `Shuffle ${knob.label}`, () => choose(anySeed()));
  const otherDice = quiet("dice", `Shuffle the second seed of ${knob.label}`, () => turn({ end: anySeed() }));
  const way = quiet(
    "between",
    `${knob.label}: go between two seeds`,
    () => {
      if (!isWay()) studio.turn(knob.name, { start: start(), end: anySeed(), at: 0 });
      else if (folded === current()) folded = null;
      else folded = current();
      row.show(current());
    },
    { "aria-pressed": "false" },
  );
  const showLock = () => {
    const locked = studio.locked.has(knob.name);
    lock.setAttribute("aria-pressed", String(locked));
    lock.innerHTML = icon(locked ? "lock" : "unlock");
    dice.disabled = locked;
    for (const thumb of thumbs.children) thumb.disabled = locked;
  };
  const tiles = studio.inverting.can(knob.name) ? [photoTile(studio, knob)] : [];
  const thumbs = make("div", { class: "seed-thumbs", role: "group", "aria-label": `${knob.label}: choose` }, ...tiles);
  const line = make("div", { class: "between", hidden: true }, slider, second, otherDice);
  const number = make("p", { class: "seed-number" }, make("span", {}, "Seed "), first);
  const { button: mark, panel } = markOf(knob, number);
  const row = {
    element: make(
      "div",
      { class: "knob seed", "data-knob": knob.name },
      make("span", { class: "name", title: knob.help }, knob.label),
      thumbs,
      dice,
      lock,
      way,
      mark,
      line,
      panel,
    ),
    async fill() {
      thumbs.replaceChildren(...tiles, ...(await thumbnails(studio.model, knob, choose)));
      showLock();
      if (studio.ready) row.show(current());
    },
    show(value) {
      const two = typeof value === "object";
      if (!two || value !== folded) folded = null;
      const picture = photo();
      for (const tile of tiles) showTile(tile, knob, picture);
      first.placeholder = picture ? "photo" : "";
      if (!("typed" in first.dataset)) first.value = picture ? "" : two ? value.start : value;
      way.disabled = Boolean(picture);
      line.hidden = !two || folded === value;
      way.setAttribute("aria-pressed", String(!line.hidden));
      for (const thumb of thumbs.children)
        thumb.setAttribute(
          "aria-pressed",
          String(thumb.dataset.seed ? !picture && !two && Number(thumb.dataset.seed) === value : Boolean(picture)),
        );
      if (!two) return;
      if (!("typed" in second.dataset)) second.value = value.end;
      slider.value = value.at;
    },
  };
  showLock();
  if (tiles.length) studio.inverting.takes(row.element, knob.name);
  return row;
}
