"""A prepared set written whole: it appears under its name when it is complete, or not at all."""

import csv
import json
import logging
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from .folder import COLUMNS

log = logging.getLogger(__name__)


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out`; it becomes `out` only if nothing went wrong, else it is removed.

    Raises: ValueError if `out` is there already and is not an empty folder.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise ValueError(f"{out} is there already; choose another --out, or remove it first")
    out.parent.mkdir(parents=True, exist_ok=True)
    temporary = Path(tempfile.mkdtemp(dir=out.parent, prefix=f".{out.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp keeps others out; a set is an ordinary folder
        temporary.replace(out)  # an empty folder of that name gives way
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def write_index(folder: Path, rows: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> None:
    """Write `index.csv`, its columns those of the first row, and `set.json`, which says how the set was made."""
    names = [*COLUMNS, *(name for name in rows[0] if name not in COLUMNS)]
    with (folder / "index.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps(dict(made), indent=2, default=str, ensure_ascii=False)
    (folder / "set.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def report(out: Path, rows: list[dict[str, Any]], left_out: int, layout: str) -> None:
    """Tell people and programs what came of it."""
    splits = Counter(row["split"] for row in rows)
    said = ", ".join(f"{n} {split}" for split, n in splits.items())
    log.info("%s: %s; %d left out; layout: %s", out, said, left_out, layout)
    found = {"out": str(out), "layout": layout, "pictures": len(rows), "left_out": left_out, "splits": splits}
    print(json.dumps(found))
