// What was, what may come back: undo and redo.

/** A line of states with a place in it; a new state drops what was undone. */
export class History {
  constructor(limit = 200) {
    this.limit = limit;
    this.states = [];
    this.place = -1;
  }

  /** Add a state, unless it equals the present one. */
  push(state) {
    if (this.place >= 0 && JSON.stringify(this.states[this.place]) === JSON.stringify(state)) return;
    this.states = [...this.states.slice(0, this.place + 1), state].slice(-this.limit);
    this.place = this.states.length - 1;
  }

  get canUndo() {
    return this.place > 0;
  }

  get canRedo() {
    return this.place < this.states.length - 1;
  }

  /** Return the state before the present one, which becomes the present one. */
  undo() {
    this.place = Math.max(0, this.place - 1);
    return this.states[this.place];
  }

  /** Return the state that was undone last. */
  redo() {
    this.place = Math.min(this.states.length - 1, this.place + 1);
    return this.states[this.place];
  }

  /** Return this history as plain values in which each photo, with what was found in it, stands once. */
  packed() {
    const photos = [];
    const places = new Map();
    const numbered = ({ picture, codes, ...slot }) => {
      if (!picture) return slot;
      const key = picture + JSON.stringify(codes);
      if (!places.has(key)) places.set(key, photos.push({ picture, codes }) - 1);
      return { ...slot, photo: places.get(key) };
    };
    return { place: this.place, photos, states: this.states.map((state) => withSlots(state, numbered)) };
  }

  /** Return the history in packed values. */
  static unpacked({ place, photos, states }) {
    const made = new History();
    made.states = states.map((state) =>
      withSlots(state, ({ photo, ...slot }) => (photo === undefined ? slot : { ...slot, ...photos[photo] })),
    );
    made.place = place;
    return made;
  }
}

function withSlots(state, change) {
  if (!state.slots) return state;
  const slots = Object.fromEntries(Object.entries(state.slots).map(([name, slot]) => [name, change(slot)]));
  return { ...state, slots };
}
