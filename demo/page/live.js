// The live picture: one request at a time, and always for what is wanted last.

import { send } from "./dom.js";

const AGAIN = 700; // milliseconds until a server that was away is asked again

/** Shows the picture of the recipe that was wanted last; what is wanted meanwhile is skipped, never the last one. */
export class Live {
  /** `show(strip, recipe, milliseconds)` draws; `say(message)` tells what went wrong, "" that all is well again. */
  constructor(show, say) {
    this.show = show;
    this.say = say;
    this.wanted = null;
    this.busy = false;
    this.failed = false;
  }

  /** Ask for the picture of `recipe`, an object that is not changed afterwards. */
  want(recipe) {
    this.wanted = recipe;
    if (!this.busy) this.run();
  }

  async run() {
    this.busy = true;
    let shown = null;
    while (this.wanted !== shown) {
      const recipe = this.wanted;
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
    }
    this.busy = false;
  }
}
