// The live picture: one request at a time, and always for what is wanted last.

import { send } from "./dom.js";

const AGAIN = 700; // milliseconds until a server that was away is asked again
const REST = 150; // milliseconds without a change after which a picture is drawn finer
const LONG = 250; // milliseconds after which a picture on its way gets a mark

/** Shows the picture of the recipe that was wanted last; what is wanted meanwhile is skipped, never the last one. */
export class Live {
  /**
   * `show(strip, recipe, milliseconds)` draws; `say(message)` tells what went wrong, "" that all is well again;
   * `finer(recipe)` returns the side in pixels at which a picture at rest is drawn again, 0 for none;
   * `pend(whether)` hears that a picture is long on its way, and that it came.
   */
  constructor(show, say, finer = () => 0, pend = () => {}) {
    this.show = show;
    this.say = say;
    this.finer = finer;
    this.pend = pend;
    this.wanted = null;
    this.busy = false;
    this.failed = false;
  }

  /** Ask for the picture of `recipe`, an object that is not changed afterwards. */
  want(recipe) {
    this.wanted = recipe;
    clearTimeout(this.resting);
    this.refining?.abort();
    if (!this.busy) this.run();
  }

  async run() {
    this.busy = true;
    let shown = null;
    while (this.wanted !== shown) {
      const recipe = this.wanted;
      const mark = setTimeout(() => this.pend(true), LONG);
      try {
        const answer = await send("live/picture", recipe);
        const strip = await createImageBitmap(await answer.blob());
        this.show(strip, recipe, Number(answer.headers.get("X-Milliseconds")));
        if (this.failed) this.say("");
        this.failed = false;
        shown = recipe;
      } catch (error) {
        this.failed = true;
        this.say(error.message);
        if (error.away) await new Promise((done) => setTimeout(done, AGAIN));
        else shown = recipe; // the same recipe would fail again
      }
      clearTimeout(mark);
      if (!this.failed) this.pend(false);
    }
    this.busy = false;
    this.pend(false);
    if (!this.failed) this.resting = setTimeout(() => this.refine(shown), REST);
  }

  /** Show a picture at rest once more with more detail; the next change ends it, and without it the small one stays. */
  async refine(recipe) {
    const side = this.finer(recipe);
    if (!side) return;
    this.refining = new AbortController();
    try {
      const answer = await send(`live/picture?size=${side}`, recipe, this.refining.signal);
      const strip = await createImageBitmap(await answer.blob());
      if (this.wanted === recipe) this.show(strip, recipe, Number(answer.headers.get("X-Milliseconds")));
    } catch (error) {
      if (error.name !== "AbortError" && !error.away) this.say(error.message);
    }
  }
}

/** Return the small pictures of a recipe's layers, `count` of them, as canvases. */
export async function drawn(recipe, count, signal) {
  const answer = await send("live/picture", recipe, signal);
  const strip = await createImageBitmap(await answer.blob());
  return Array.from({ length: count }, (_, place) => {
    const canvas = Object.assign(document.createElement("canvas"), { width: strip.height, height: strip.height });
    canvas.getContext("2d").drawImage(strip, -place * strip.height, 0);
    return canvas;
  });
}
