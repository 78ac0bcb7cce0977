"""A prepared set written whole: it appears under its name when it is complete, or not at all."""

import contextlib
import csv
import errno
import json
import os
import shutil
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from ..files import make_folder, sync_folder, sync_tree
from .folder import COLUMNS

LAST = "index.csv"
"""The file that makes a folder a prepared set."""


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Give a temporary folder beside `out`; it becomes `out` only if nothing went wrong, else it is removed.

    A link to an empty folder is filled where it leads. An empty mount point cannot give way to another folder: its set
    is made inside it and moved up when it is complete, `index.csv` last.

    Raises: ValueError, before any work, if `out` is there already and is not an empty folder, or leads nowhere.
    """
    named = f"{out}, a link to {out.resolve()}," if out.is_symlink() else str(out)
    if out.is_symlink() and not out.exists():
        raise ValueError(f"{named} leads to nothing; choose another --out, or remove it first")
    out = out.resolve()
    if out.exists() and (not out.is_dir() or any(e.name != "lost+found" for e in out.iterdir())):
        raise ValueError(f"{named} is there already and is no empty folder; choose another --out, or remove it first")
    inside = out.is_dir() and _cannot_give_way(out)
    if not inside:
        make_folder(out.parent)
    temporary = Path(tempfile.mkdtemp(dir=out if inside else out.parent, prefix=f".{out.name}-"))
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp keeps others out; a set is an ordinary folder
        sync_tree(temporary)
        if inside or not _gave_way(temporary, out):
            _move_up(temporary, out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)


def _cannot_give_way(out: Path) -> bool:
    """Return whether no other folder can be put in the place of the empty folder `out`."""
    return out.is_mount() or any(out.iterdir()) or not os.access(out.parent, os.W_OK | os.X_OK)


def _gave_way(temporary: Path, out: Path) -> bool:
    """Rename `temporary` to `out`, where an empty folder gives way; return whether that was possible.

    A folder bound from the same disk is a mount point too, and only the renaming shows it.
    """
    try:
        temporary.replace(out)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        return False
    return True


def _move_up(temporary: Path, out: Path) -> None:
    """Move what `temporary` holds into `out`, `index.csv` last; take it back if that fails."""
    moved = []
    try:
        for entry in sorted(temporary.iterdir(), key=lambda entry: entry.name == LAST):
            moved.append(out / entry.name)
            shutil.move(entry, out / entry.name)
        sync_tree(out)
    except BaseException:
        for entry in moved:
            with contextlib.suppress(OSError):
                shutil.rmtree(entry) if entry.is_dir() else entry.unlink(missing_ok=True)
        raise


def write_index(folder: Path, rows: Sequence[Mapping[str, Any]], made: Mapping[str, Any]) -> None:
    """Write `index.csv`, its columns those of the first row, and `set.json`, which says how the set was made."""
    names = [*COLUMNS, *(name for name in rows[0] if name not in COLUMNS)]
    with (folder / "index.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps(dict(made), indent=2, default=str, ensure_ascii=False)
    (folder / "set.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")
