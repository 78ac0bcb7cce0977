// Numbers that people type: cleaned or refused, with a word about it.

const MOST_SEED = 2 ** 31 - 1; // demo.knobs.MAX_SEED

/** Whether a knob goes once around. */
export const goesRound = (knob) => knob.kind === "angle" && knob.high - knob.low >= 360;

/** Return {value, note} of a text for a number knob: the present value where it is no number. */
export function numberOf(text, knob, present) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value))
    return { value: present, note: `${knob.label} takes a number; it stays as it was.` };
  if (goesRound(knob)) return { value: wrapped(value, knob), note: "" };
  const inside = within(value, knob);
  const note = inside === value ? "" : `${knob.label} goes from ${plain(knob.reachLow)} to ${plain(knob.reachHigh)}.`;
  return { value: inside, note };
}

/** Return a value within a knob's reach; once around goes on from the other end. */
export function within(value, knob) {
  return goesRound(knob) ? wrapped(value, knob) : Math.min(knob.reachHigh, Math.max(knob.reachLow, value));
}

function wrapped(value, knob) {
  if (value >= knob.low && value <= knob.high) return value;
  const span = knob.high - knob.low;
  return ((((value - knob.low) % span) + span) % span) + knob.low;
}

/** Return {value, note} of a text for a seed. */
export function seedOf(text, label, present) {
  const value = Number(text);
  if (text.trim() === "" || !Number.isFinite(value))
    return { value: present, note: `${label} takes a whole number; it stays as it was.` };
  const whole = Math.min(MOST_SEED, Math.max(0, Math.round(value)));
  return { value: whole, note: whole === value ? "" : `Seeds are whole numbers from 0 to ${MOST_SEED}.` };
}

const plain = (value) => String(Number(value.toPrecision(3)));

/** Let a number field `give(text)` what is typed, once it is; Escape, or Ctrl+Z before that, gives it up: `show()`. */
export function typedInto(field, give, show) {
  const end = () => {
    delete field.dataset.typed;
  };
  field.addEventListener("input", () => {
    field.dataset.typed = "";
  });
  field.addEventListener("change", () => {
    end();
    give(field.value);
  });
  const giveUp = () => {
    end();
    show();
  };
  field.addEventListener("giveup", giveUp);
  field.addEventListener("keydown", (event) => event.key === "Escape" && giveUp());
  field.addEventListener("blur", () => "typed" in field.dataset && giveUp());
}
