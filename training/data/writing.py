"""Atomic writing of prepared sets: the folder appears when it is complete, or not at all."""

import contextlib
import csv
import errno
import fcntl
import glob
import json
import logging
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from training.data.folder import COLUMNS
from training.files import make_folder, sync_folder, sync_tree

log = logging.getLogger(__name__)
LAST = "index.csv"
"""The file that makes a folder a prepared set."""
PARTS = {"images", "masks", "set.json", "sheet.jpg", LAST}
"""Files and folders of a prepared set."""


@contextmanager
def whole_folder(out: Path) -> Iterator[Path]:
    """Yield a temporary folder beside `out`, which is renamed to `out` on success and removed on an error.

    A link to an empty folder is followed. An empty mount point cannot be replaced: the set is made inside it and moved
    up when it is complete, `index.csv` last. Leftovers of killed commands are removed.

    Raises: ValueError, before any work, if `out` exists and is not an empty folder, or is a broken link.
    """
    named = f"{out}, a link to {out.resolve()}," if out.is_symlink() else str(out)
    if out.is_symlink() and not out.exists():
        raise ValueError(f"{named} leads to nothing; choose another --out, or remove it first")
    out = out.resolve()
    _sweep(out)
    if out.exists() and (not out.is_dir() or any(e.name != "lost+found" for e in out.iterdir())):
        raise ValueError(f"{named} is there already and is no empty folder; choose another --out, or remove it first")
    inside = out.is_dir() and _cannot_give_way(out)
    if not inside:
        make_folder(out.parent)
    temporary, lock = _new_folder(out if inside else out.parent, f".{out.name}-")
    try:
        yield temporary
        temporary.chmod(0o755)  # mkdtemp makes it private; a set has the usual permissions
        sync_tree(temporary)
        if inside or not _gave_way(temporary, out):
            _move_up(temporary, out)
        sync_folder(out.parent)
    finally:
        shutil.rmtree(temporary, ignore_errors=True)
        os.close(lock)


def _new_folder(parent: Path, prefix: str) -> tuple[Path, int]:
    """Return a new hidden folder and its descriptor, locked while its command lives."""
    while True:
        folder = Path(tempfile.mkdtemp(dir=parent, prefix=prefix))
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        with contextlib.suppress(OSError):  # a filesystem without locks: leftovers are not removed there either
            fcntl.flock(lock, fcntl.LOCK_EX)
        if folder.exists():  # otherwise another process removed it between the lines above
            return folder, lock
        os.close(lock)


def _sweep(out: Path) -> None:
    """Remove leftovers of killed commands for `out`: hidden folders, and a set that was moved up in part."""
    hidden = f".{glob.escape(out.name)}-" + "?" * 8
    swept = [_remove_if_left(folder) for folder in out.parent.glob(hidden)]
    if out.is_dir():
        swept_inside = [_remove_if_left(folder) for folder in out.glob(hidden)]
        rest = {entry.name for entry in out.iterdir()} - {"lost+found"}
        if any(swept_inside) and rest <= PARTS - {LAST}:
            for name in rest:
                shutil.rmtree(out / name) if (out / name).is_dir() else (out / name).unlink()
        swept += swept_inside
    if any(swept):
        log.info("%s: removed what %d killed commands had left", out, sum(swept))


def _remove_if_left(folder: Path) -> bool:
    """Remove a hidden folder whose command is dead; return whether it was one."""
    try:
        if folder.is_symlink() or not {entry.name for entry in folder.iterdir()} <= PARTS:
            return False
        lock = os.open(folder, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC)
    except OSError:
        return False
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)  # locked by a running command
        shutil.rmtree(folder)
    except OSError:
        return False
    finally:
        os.close(lock)
    return True


def _cannot_give_way(out: Path) -> bool:
    """Return whether the empty folder `out` cannot be replaced by a rename, as a mount point."""
    return out.is_mount() or any(out.iterdir()) or not os.access(out.parent, os.W_OK | os.X_OK)


def _gave_way(temporary: Path, out: Path) -> bool:
    """Rename `temporary` to `out`, replacing an empty folder; return whether that was possible.

    A bind mount from the same disk is a mount point too, which only the rename reveals.
    """
    try:
        temporary.replace(out)
    except OSError as error:
        if error.errno not in (errno.EBUSY, errno.EXDEV):
            raise
        return False
    return True


def _move_up(temporary: Path, out: Path) -> None:
    """Move the content of `temporary` into `out`, `index.csv` last; undo it if that fails."""
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
    """Write `index.csv`, with the columns of the first row, and `set.json`, which records how the set was made."""
    names = [*COLUMNS, *(name for name in rows[0] if name not in COLUMNS)]
    with (folder / "index.csv").open("w", newline="", encoding="utf-8", errors="backslashreplace") as file:
        writer = csv.DictWriter(file, names, restval="")
        writer.writeheader()
        writer.writerows(rows)
    text = json.dumps(dict(made), indent=2, default=str, ensure_ascii=False)
    (folder / "set.json").write_text(text + "\n", encoding="utf-8", errors="backslashreplace")


def report(out: Path, rows: list[dict[str, Any]], left_out: int, layout: str) -> None:
    """Log the result, and print it as a line of JSON."""
    splits = Counter(row["split"] for row in rows)
    said = ", ".join(f"{n} {split}" for split, n in splits.items())
    log.info("%s: %s; %d left out; layout: %s", out, said, left_out, layout)
    found = {"out": str(out), "layout": layout, "pictures": len(rows), "left_out": left_out, "splits": splits}
    print(json.dumps(found))
