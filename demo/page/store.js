// What a person has made, in the browser's own storage: it outlives reloads, crashes and restarts of the server.

const NAME = `knobs ${new URL("..", import.meta.url).pathname}`; // of this page, also below a path of a proxy
const MOST_PHOTOS = 80; // that were chosen here, with their files, to be cut again

let opening = null;
function database() {
  opening ??= new Promise((done, failed) => {
    const asked = indexedDB.open(NAME, 1);
    asked.onupgradeneeded = () => {
      asked.result.createObjectStore("states");
      asked.result.createObjectStore("tray", { keyPath: "id" });
      asked.result.createObjectStore("photos", { autoIncrement: true });
    };
    asked.onsuccess = () => done(asked.result);
    asked.onerror = () => failed(asked.error);
  });
  return opening;
}

/** Do something in one store and return its result; nothing where the browser keeps nothing, as in some private windows. */
async function within(store, mode, act) {
  try {
    const transaction = (await database()).transaction(store, mode);
    const asked = act(transaction.objectStore(store));
    transaction.commit?.();
    return await new Promise((done, failed) => {
      transaction.oncomplete = () => done(asked?.result);
      transaction.onerror = transaction.onabort = () => failed(transaction.error);
    });
  } catch {
    return undefined;
  }
}

const waiting = new Map(); // key -> the latest value, until it is written
let writing = false;

/** Keep `value` under `key`; of several in a row the last is written. */
export function keep(key, value) {
  waiting.set(key, value);
  if (!writing) write();
}

async function write() {
  writing = true;
  while (waiting.size) {
    const [[key, value]] = waiting;
    await within("states", "readwrite", (store) => store.put({ value, time: Date.now() }, key));
    if (waiting.get(key) === value) waiting.delete(key);
  }
  writing = false;
}

/** What is still on its way as the page goes is kept in a store that writes at once. */
addEventListener("pagehide", () => {
  try {
    if (waiting.size) localStorage.setItem(NAME, JSON.stringify({ time: Date.now(), values: [...waiting] }));
  } catch {
    // too much, or no such store
  }
});

let late;
function leftOver() {
  if (late === undefined) {
    late = { time: 0, values: new Map() };
    try {
      const found = JSON.parse(localStorage.getItem(NAME) ?? "null");
      if (found) late = { time: found.time, values: new Map(found.values) };
      localStorage.removeItem(NAME);
    } catch {
      // nothing that can be read
    }
    for (const [key, value] of late.values) keep(key, value);
  }
  return late;
}

/** Return what is kept under `key`. */
export async function kept(key) {
  const { time, values } = leftOver();
  const found = await within("states", "readonly", (store) => store.get(key));
  return values.has(key) && !(found?.time > time) ? values.get(key) : found?.value;
}

/** Return all pictures of the tray. */
export const trayItems = async () => (await within("tray", "readonly", (store) => store.getAll())) ?? [];
export const putTray = (item) => within("tray", "readwrite", (store) => store.put(item));
export const dropTray = (id) => within("tray", "readwrite", (store) => store.delete(id));

/** Return the photos that were chosen here: {picture, caption, view, box, file or example}. */
export const photos = async () => (await within("photos", "readonly", (store) => store.getAll())) ?? [];

/** Keep a photo; the oldest gives way to it where there are many. */
export async function putPhoto(photo) {
  await within("photos", "readwrite", (store) => store.put(photo));
  const keys = (await within("photos", "readonly", (store) => store.getAllKeys())) ?? [];
  for (const key of keys.slice(0, -MOST_PHOTOS)) await within("photos", "readwrite", (store) => store.delete(key));
}

/** Return whether this browser does something here for the first time. */
export function firstTime(what) {
  try {
    const key = `${NAME} ${what}`;
    if (localStorage.getItem(key)) return false;
    localStorage.setItem(key, "1");
    return true;
  } catch {
    return false;
  }
}
