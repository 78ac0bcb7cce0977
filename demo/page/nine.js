// Nine variations of one thing, to go on from one of them.

import { button, make } from "./dom.js";
import { drawn } from "./live.js";

const HOW = [
  ["A little", 0.3],
  ["Much", 0.6],
  ["Anew", 1],
];

export class Nine {
  /** `studio` gives `variable`, a list of {name, label}, and `varied(name, share)`, a recipe with that much of it new. */
  constructor(studio) {
    this.studio = studio;
    this.button = button({
      picture: "nine",
      text: "Nine",
      class: "bare",
      name: "Nine variations to choose from",
      "aria-pressed": "false",
      press: () => (this.element.hidden ? this.open() : this.close()),
    });
    this.what = make("select", { "aria-label": "What varies", onchange: () => this.draw() });
    this.how = make(
      "select",
      { "aria-label": "How much", onchange: () => this.draw() },
      ...HOW.map(([words, share]) => make("option", { value: share }, words)),
    );
    this.how.selectedIndex = HOW.length - 1;
    this.grid = make("div", { class: "nine-grid" });
    const more = button({ picture: "dice", name: "Nine others", press: () => this.draw() });
    const shut = button({ picture: "close", name: "Back to the picture", press: () => this.close() });
    const bar = make("div", { class: "nine-bar" }, this.what, this.how, more, make("span", { class: "gap" }), shut);
    const name = { class: "nine", role: "group", "aria-label": "Nine variations", hidden: true };
    this.element = make("div", name, bar, this.grid);
    this.element.addEventListener("keydown", (event) => event.key === "Escape" && this.close());
    studio.stage.frame.append(this.element);
  }

  /** Offer what the chosen model can vary. */
  fill() {
    const { variable } = this.studio;
    this.what.replaceChildren(...variable.map(({ name, label }) => make("option", { value: name }, label)));
    this.button.hidden = variable.length === 0;
  }

  open() {
    this.element.hidden = false;
    this.button.setAttribute("aria-pressed", "true");
    this.draw();
    this.what.focus();
  }

  close() {
    const inside = this.element.contains(document.activeElement);
    this.element.hidden = true;
    this.button.setAttribute("aria-pressed", "false");
    this.asked?.abort();
    if (inside) this.button.focus();
  }

  /** Draw nine variations, one after another; another wish ends that. */
  async draw() {
    this.asked?.abort();
    const asked = new AbortController();
    this.asked = asked;
    const { studio } = this;
    const share = Number(this.how.value);
    const cells = Array.from({ length: 9 }, (_, place) => {
      const recipe = studio.varied(this.what.value, share);
      const canvas = make("canvas", { width: 64, height: 64, "aria-hidden": "true" });
      const go = () => {
        this.close();
        studio.step(recipe);
      };
      const name = { type: "button", "aria-label": `Variation ${place + 1}: go on from it`, onclick: go };
      return { recipe, canvas, element: make("button", { class: "variation", ...name }, canvas) };
    });
    this.grid.replaceChildren(...cells.map((cell) => cell.element));
    try {
      for (const { recipe, canvas } of cells) {
        const [picture] = await drawn(recipe, 1, asked.signal);
        canvas.width = canvas.height = picture.width;
        canvas.getContext("2d").drawImage(picture, 0, 0);
        canvas.dataset.drawn = "";
      }
    } catch (error) {
      if (error.name !== "AbortError") studio.say(error.message);
    }
  }
}
