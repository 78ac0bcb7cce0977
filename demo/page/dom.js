// Elements, files and messages.

import { icon } from "./icons.js";

const ROOT = new URL("..", import.meta.url); // where the page is, also below a path of a reverse proxy
const LARGEST = 30_000_000; // bytes, demo.uploads.MAX_BYTES

/** Return a new element; `children` are nodes or text, `on*` properties listen. */
export function make(tag, properties = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(properties)) {
    if (key.startsWith("on")) element.addEventListener(key.slice(2), value);
    else if (key === "class") element.className = value;
    else if (key === "html") element.innerHTML = value;
    else if (value === true) element.setAttribute(key, "");
    else if (value !== false && value !== null && value !== undefined) element.setAttribute(key, value);
  }
  element.append(...children.filter((child) => child !== null && child !== undefined));
  return element;
}

/** Return a button; with `picture` an icon, and with `text` its words beside it, else its name is only spoken. */
export function button({ picture, name, text, press, ...rest }) {
  const inside = (picture ? icon(picture) : "") + (text ? "<span></span>" : "");
  const element = make("button", {
    type: "button",
    "aria-label": text ? null : name,
    title: name,
    html: inside,
    ...rest,
  });
  if (text) element.querySelector("span").textContent = text;
  element.addEventListener("click", press);
  return element;
}

/** Return a hidden file input; each file that is chosen goes to `take`. */
export function filePicker(accept, take, properties = {}) {
  const choose = () => {
    take(picker.files[0]);
    picker.value = ""; // so that the same file can be chosen again
  };
  const picker = make("input", { type: "file", accept, hidden: true, onchange: choose, ...properties });
  return picker;
}

let count = 0;
/** Return an id that no other element has. */
export const fresh = (stem) => `${stem}-${++count}`;

/** Return the address of a route of this server. */
export const address = (route) => new URL(route, ROOT).href;

/** Send JSON or bytes to a route and return the answer; throws an Error whose message a person can read. */
export async function send(route, body, signal) {
  let answer;
  try {
    const data = body instanceof Blob ? body : JSON.stringify(body);
    answer = await fetch(address(route), { method: "POST", body: data, signal });
  } catch (error) {
    if (error.name === "AbortError") throw error;
    throw Object.assign(new Error("The server does not answer; is it still running?"), { away: true });
  }
  if (answer.ok) return answer;
  let message = "Something went wrong here; please try again.";
  try {
    message = (await answer.json()).message ?? message;
  } catch {
    // an answer without a message
  }
  throw Object.assign(new Error(message), { away: answer.status === 503 });
}

/** Yield the lines of JSON of an answer; throws the mistake that a line tells, or where it ends without a last line. */
export async function* lines(answer, isLast) {
  const reader = answer.body.pipeThrough(new TextDecoderStream()).getReader();
  const lost = () => new Error("The connection was lost; please try again.");
  let text = "";
  let last = null;
  while (true) {
    const part = await reader.read().catch((error) => {
      throw error.name === "AbortError" ? error : lost();
    });
    if (part.done) break;
    const found = (text + part.value).split("\n");
    text = found.pop();
    for (const line of found) {
      last = JSON.parse(line);
      if (last.error) throw new Error(last.error);
      yield last;
    }
  }
  if (!last || !isLast(last)) throw lost();
}

/** Return the address of a PNG file in base64. */
export const png = (text) => `data:image/png;base64,${text}`;

/** Return what a file holds now, whatever becomes of it; throws an Error whose message a person can read. */
export async function contents(file) {
  if (file.size > LARGEST)
    throw new Error(`This file is larger than ${LARGEST / 1e6} MB; please choose a smaller one.`);
  let bytes;
  try {
    bytes = await file.arrayBuffer();
  } catch {
    throw new Error("This file cannot be read; please choose it again.");
  }
  return new Blob([bytes]);
}

/** Offer a blob to the person as a file. */
export function offer(blob, name) {
  const link = make("a", { href: URL.createObjectURL(blob), download: name });
  link.click();
  setTimeout(() => URL.revokeObjectURL(link.href), 10_000);
}

/** Return the first file in a drop or a paste, if there is one. */
export function firstFile(transfer) {
  return [...(transfer?.files ?? [])][0] ?? null;
}

/** Turn to the tab of this name; return whether there is one. */
export function openTab(name) {
  const tabs = [...document.querySelectorAll("[role=tab]")].filter((tab) => tab.textContent.trim() === name);
  const tab = tabs.find((each) => each.offsetParent) ?? tabs[0];
  tab?.click();
  return Boolean(tab);
}

/** Return a random seed that is short enough to read. */
export const anySeed = () => Math.floor(Math.random() * 100_000);
