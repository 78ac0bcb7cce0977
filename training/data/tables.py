"""CSV tables written by any program: their columns, and the boxes in them."""

import codecs
import csv
import io
import math
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

MAX_BYTES = 200_000_000
"""Larger tables are refused."""
SEPARATORS = {",": "commas", ";": "semicolons", "\t": "tabs", "|": "vertical bars"}
FILE_COLUMNS = ("file", "filename", "file_name", "image", "image_path", "path", "photo")
"""Accepted names of the file column; the first is that of prepared sets."""
BoxForm = Literal["auto", "pixels", "fractions", "yolo", "xywh"]
"""Corners in pixels; corners as fractions of the photo; centre, width and height as fractions; corner, width and height
in pixels."""
Corners = tuple[float, float, float, float]
BOX_COLUMNS: tuple[tuple[tuple[str, str, str, str], BoxForm], ...] = (
    (("x0", "y0", "x1", "y1"), "pixels"),
    (("xmin", "ymin", "xmax", "ymax"), "pixels"),
    (("x_min", "y_min", "x_max", "y_max"), "pixels"),
    (("left", "top", "right", "bottom"), "pixels"),
    (("x1", "y1", "x2", "y2"), "pixels"),
    (("x", "y", "w", "h"), "xywh"),
    (("cx", "cy", "w", "h"), "yolo"),
    (("x_center", "y_center", "width", "height"), "yolo"),
    (("x", "y", "width", "height"), "xywh"),
)
"""Accepted names of the columns of a box, and the format that they imply; the first are those of prepared sets. COCO's
come last: their width and height may be the photo's instead, if there are others."""
NUMBER = re.compile(r"[+-]?(\d+\.?\d*|\.\d+)([eE][+-]?\d+)?")
DECIMAL_COMMA = re.compile(r"[+-]?\d*,\d+")
THOUSANDS = re.compile(r"[+-]?\d{1,3}(,\d{3})+")


@dataclass(frozen=True, slots=True, kw_only=True)
class Table:
    """A table's lines by column name; names are lower case, values stripped."""

    path: Path
    columns: tuple[str, ...]
    lines: list[dict[str, str]]
    separator: str
    said: tuple[str, ...] = ()
    """Notes for the user on how it was read."""

    def number(self, text: str, name: str) -> float:
        """Return a number, with a decimal comma too. Raises: ValueError that names the table and the line of `name`."""
        value = number(text, commas=self.separator != ",")
        if value is None:
            raise ValueError(f"{self.path}: {text!r} in the line of {name} is not a number")
        return value

    def numeric(self, column: str) -> bool:
        """Whether all values of a column are numbers or empty."""
        texts = [line[column] for line in self.lines if line[column]]
        return bool(texts) and all(number(text, commas=self.separator != ",") is not None for text in texts)

    def plain_lines(self) -> list[dict[str, str]]:
        """Return the lines, with points for the decimal commas in columns of numbers."""
        if self.separator == ",":
            return self.lines
        numeric = [name for name in self.columns if name and self.numeric(name)]
        return [line | {name: line[name].replace(",", ".") for name in numeric} for line in self.lines]

    def box_columns(self, prefix: str = "") -> tuple[tuple[str, str, str, str], BoxForm] | None:
        """Return the four columns of boxes and the format that their names imply; None if there are none."""
        for names, form in BOX_COLUMNS:
            a, b, c, d = (prefix + name for name in names)
            if {a, b, c, d} <= set(self.columns):
                return (a, b, c, d), form
        return None


def read_table(path: Path, wanted: Sequence[str] = ()) -> Table:
    """Return a CSV with any usual separator, in UTF-8, UTF-16 or Windows-1252.

    Raises: ValueError that names the file if it is missing, cannot be read as a table, or lacks a column of `wanted`.
    """
    columns = ", ".join(wanted or ("file",))
    rows, separator, said = read_rows(path, columns)
    names = _header([name.strip().strip("\"'").strip().lower() for name in rows[0]], path)
    if missing := [name for name in wanted if name not in names]:
        raise ValueError(
            f"{path} lacks the column {', '.join(missing)}; expected {columns}, in UTF-8, separated by commas; "
            f"its first line is {separator.join(rows[0])[:80]!r}"
        )
    lines = [_line(names, row, number, path) for number, row in enumerate(rows[1:], 2)]
    return Table(path=path, columns=tuple(names), lines=lines, separator=separator, said=tuple(said))


def read_rows(path: Path, columns: str) -> tuple[list[list[str]], str, list[str]]:
    """Return the rows of a CSV, header first, their separator, and notes for the user.

    Raises: ValueError that names the file and the expected `columns` if it is missing or not a table.
    """
    if not path.is_file():
        raise ValueError(f"{path} does not exist; expected a CSV with the columns {columns}")
    if path.stat().st_size > MAX_BYTES:
        raise ValueError(f"{path} has more than {MAX_BYTES // 1_000_000} MB; expected a CSV with the columns {columns}")
    text, said = _text(path)
    if re.match(r'"?sep=.', text, re.IGNORECASE):  # a first line that Excel writes
        text = text.partition("\n")[2]
    head = next((line for line in text.splitlines() if line.strip()), "")
    separator = max(SEPARATORS, key=lambda mark: (_looks_right(head, mark), head.count(mark)))
    if separator != ",":
        said.append(f"its columns are separated by {SEPARATORS[separator]}")
    try:
        reader = csv.reader(io.StringIO(text, newline=""), delimiter=separator, skipinitialspace=True)
        rows = [row for row in reader if any(row)]
    except csv.Error as error:
        raise ValueError(f"{path} cannot be read as a table ({error}); expected a CSV in UTF-8 with commas") from error
    if not rows:
        raise ValueError(f"{path} is empty; expected a CSV with the columns {columns}")
    return rows, separator, said


def _looks_right(head: str, separator: str) -> bool:
    """Whether a header splits into known names."""
    names = {name.strip().strip("\"'").strip().lower() for name in head.split(separator)}
    return bool(names & set(FILE_COLUMNS)) and len(names) > 1


def _text(path: Path) -> tuple[str, list[str]]:
    """Return a file's text, and notes on its encoding."""
    data = path.read_bytes()
    if data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or data[:200].count(0) > len(data[:200]) // 4:
        marked = data.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE))
        encoding = "utf-16" if marked else "utf-16-le" if data[1:2] == b"\0" else "utf-16-be"
        try:
            return data.decode(encoding), ["it is in UTF-16"]
        except UnicodeDecodeError as error:
            raise ValueError(f"{path} is no text in UTF-8 or UTF-16; save it as CSV in UTF-8") from error
    try:
        return data.decode("utf-8-sig"), []
    except UnicodeDecodeError:
        return data.decode("cp1252", errors="replace"), ["it is not in UTF-8 and was read as Windows-1252"]


def _header(names: list[str], path: Path) -> list[str]:
    """Return the names of the columns, with the file column renamed to `file`."""
    if "file" not in names:
        known = [name for name in names if name in FILE_COLUMNS]
        if len(known) == 1:
            names = ["file" if name == known[0] else name for name in names]
    twice = {name for name in names if name and names.count(name) > 1}
    if twice:
        raise ValueError(f"{path} has two columns of the name {', '.join(sorted(twice))}; expected each name once")
    return names


def _line(names: list[str], row: list[str], number: int, path: Path) -> dict[str, str]:
    """Return a line by column; values beyond the header must be empty."""
    if any(value.strip() for value in row[len(names) :]):
        raise ValueError(
            f"{path}: line {number} has {len(row)} values, the header {len(names)}; put values that hold the separator "
            "in quotes"
        )
    values = [value.strip() for value in row] + [""] * (len(names) - len(row))
    return {name: value for name, value in zip(names, values, strict=False) if name}


def number(text: str, *, commas: bool) -> float | None:
    """Return a finite number, or None if the text is not one; a decimal comma is accepted where it is unambiguous.

    With `commas` a comma is always decimal; otherwise 1,234 might be a thousand, and None is returned.
    """
    text = text.strip()
    if NUMBER.fullmatch(text) is None:
        if DECIMAL_COMMA.fullmatch(text) is None or (not commas and THOUSANDS.fullmatch(text)):
            return None
        text = text.replace(",", ".")
    value = float(text)
    return value if math.isfinite(value) else None


def boxes_of(table: Table, form: BoxForm = "auto", prefix: str = "") -> tuple[list[Corners | None], bool]:
    """Return each line's box as corners x0 y0 x1 y1 (None: all four empty), and whether they are fractions.

    Raises: ValueError if the table has no boxes, or if their format is ambiguous and `form` is `auto`.
    """
    found = table.box_columns(prefix)
    if found is None:
        wanted = [prefix + name for name in BOX_COLUMNS[0][0]]
        missing = [name for name in wanted if name not in table.columns]
        asked = "" if form == "auto" else f" or other usual names of boxes; add them, or leave out --box-form {form}"
        raise ValueError(
            f"{table.path} lacks the column {', '.join(missing)}; expected {', '.join(('file', *wanted))}{asked}"
        )
    columns, named = found
    raw = [_four(table, line, columns) for line in table.lines]
    known = [box for box in raw if box is not None]
    certain = form if form != "auto" else named
    small = bool(known) and all(-1e-6 <= edge <= 1 + 1e-6 for box in known for edge in box)
    if form == "auto" and small and named != "yolo":
        raise ValueError(
            f"{table.path}: its {len(known)} boxes all lie within 0 to 1, so they are no pixels; say what they are "
            "with --box-form fractions (corners), yolo (centre, width, height) or, if they are pixels after all, pixels"
        )
    if certain in ("fractions", "yolo") and known and not small:
        raise ValueError(
            f"{table.path}: boxes as {certain} lie within 0 to 1, but some here do not; give another --box-form"
        )
    if certain == "pixels" and form == "auto":
        _not_reversed(known, table.path)
    return [None if box is None else _corners(box, certain) for box in raw], certain in ("fractions", "yolo")


def _four(table: Table, line: Mapping[str, str], columns: Sequence[str]) -> Corners | None:
    """Return the four numbers of a line's box; None if all are empty."""
    texts = [line[column] for column in columns]
    if all(text.lower() in ("", "nan", "none", "null") for text in texts):
        return None
    a, b, c, d = (table.number(text, line.get("file", "?")) for text in texts)
    return a, b, c, d


def _not_reversed(boxes: Sequence[Corners], path: Path) -> None:
    """Raise ValueError if most boxes have x1 < x0 or y1 < y0: their numbers are not corners."""
    wrong = sum(not (x0 < x1 and y0 < y1) for x0, y0, x1, y1 in boxes)
    if len(boxes) >= 4 and wrong > len(boxes) / 4:
        raise ValueError(
            f"{path}: {wrong} of {len(boxes)} boxes end before they begin, so they are no corners x0 y0 x1 y1; if they "
            "are corner, width and height, give --box-form xywh"
        )


def _corners(box: Corners, form: BoxForm) -> Corners:
    """Return a box in the format `form` as its corners."""
    a, b, c, d = box
    if form == "yolo":
        return a - c / 2, b - d / 2, a + c / 2, b + d / 2
    if form == "xywh":
        return a, b, a + c, b + d
    return a, b, c, d


def texts(values: Iterable[str], limit: int = 3) -> str:
    """Return the first values for a message, and how many more there are."""
    values = list(values)
    return ", ".join(values[:limit]) + (f" and {len(values) - limit} more" if len(values) > limit else "")
