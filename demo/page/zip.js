// Zip archives of files that are packed already (PKWARE APPNOTE 6.3, method 0).

const TABLE = Uint32Array.from({ length: 256 }, (_, n) => {
  let value = n;
  for (let bit = 0; bit < 8; bit++) value = value & 1 ? (value >>> 1) ^ 0xedb88320 : value >>> 1;
  return value;
});

function crc32(bytes) {
  let value = 0xffffffff;
  for (const byte of bytes) value = (value >>> 8) ^ TABLE[(value ^ byte) & 255];
  return (value ^ 0xffffffff) >>> 0;
}

/** Return numbers of 2 or 4 bytes, little-endian. */
function fields(...pairs) {
  const view = new DataView(new ArrayBuffer(pairs.reduce((sum, [size]) => sum + size, 0)));
  let place = 0;
  for (const [size, value] of pairs) {
    if (size === 2) view.setUint16(place, value, true);
    else view.setUint32(place, value, true);
    place += size;
  }
  return view.buffer;
}

/** Return a zip file of `files`, each {name, bytes}, as a Blob. */
export function zip(files) {
  const parts = [];
  const directory = [];
  let offset = 0;
  let listed = 0;
  const day = [
    [2, 0],
    [2, 0x21], // the first day of 1980: the archive tells nothing of when
  ];
  for (const { name, bytes } of files) {
    const title = new TextEncoder().encode(name);
    const sizes = [
      [4, crc32(bytes)],
      [4, bytes.length],
      [4, bytes.length],
      [2, title.length],
      [2, 0],
    ];
    const kind = [[2, 20], [2, 0x800], [2, 0], ...day]; // version, names in UTF-8, stored
    const local = fields([4, 0x04034b50], ...kind, ...sizes);
    parts.push(local, title, bytes);
    const rest = [2, 2, 2].map((size) => [size, 0]);
    const entry = fields([4, 0x02014b50], [2, 20], ...kind, ...sizes, ...rest, [4, 0], [4, offset]);
    directory.push(entry, title);
    listed += entry.byteLength + title.length;
    offset += local.byteLength + title.length + bytes.length;
  }
  const count = files.length;
  const end = fields([4, 0x06054b50], [2, 0], [2, 0], [2, count], [2, count], [4, listed], [4, offset], [2, 0]);
  return new Blob([...parts, ...directory, end], { type: "application/zip" });
}
