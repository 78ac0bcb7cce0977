"""Files of visitors: what they sent, what was made for them; each is given to its own visitor only.

A file lies in a folder of its own whose name nobody can guess, inside one folder of this server. Only paths in the
registry exist for visitors: no name, link or climb through `..` leads to anything else.
"""

import atexit
import fcntl
import os
import re
import secrets
import shutil
import stat
import tempfile
import threading
import time
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import IO

PREFIX = "knobs-"
LOCK = ".in-use"
TOTAL_BYTES = 400_000_000
"""Of all files kept at once; the oldest give way."""
BYTES_EACH = 80_000_000
"""Of one visitor's files."""
SMALLEST = 65_536
"""Bytes that a file counts for at least, so that there are not too many either."""
SECONDS_UPLOADED = 3600
SECONDS_MADE = 86_400
LOCKLESS_AGE = 86_400
"""Folders without a lock were left by an older version, if nobody has written there for this many seconds."""


@dataclass(frozen=True, slots=True)
class Visitor:
    """Who asks: a browser by the cookie that the page gave it, anyone else by address."""

    id: str
    address: str
    anonymous: bool = False
    """Whether it sent no cookie, as Gradio's client."""
    connection: str = ""
    """Tells apart those who ask at once from one address."""


@dataclass(slots=True)
class Held:
    """A file in the registry."""

    path: Path
    owner: Visitor
    size: int
    until: float
    session: str | None = None
    """Of an anonymous owner: the session that used the file first, and alone may use it."""


class Files:
    """The registry of visitors' files over one folder; safe to use from many threads."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._held: dict[str, Held] = {}
        self._lock = threading.Lock()

    def place(self, name: str) -> Path:
        """Return the path of a new file in a folder that nobody can guess; its name keeps letters, digits and dots."""
        plain = re.sub(r"[^\w.-]+", "_", name.replace("\\", "/").rpartition("/")[2]).strip("._")[-80:] or "file"
        folder = self.folder / secrets.token_hex(16)
        folder.mkdir(mode=0o700)
        return folder / plain

    def save(self, owner: Visitor, name: str, data: bytes) -> Path:
        """Write what a visitor sent; return its path."""
        path = self.place(name)
        path.write_bytes(data)
        self.own(owner, path, SECONDS_UPLOADED)
        return path

    def own(self, owner: Visitor, path: Path, seconds: float = SECONDS_MADE) -> None:
        """Let a visitor have a file made at `place`; where too much is kept, the oldest files give way."""
        now = time.monotonic()
        with self._lock:
            self._held[str(path)] = Held(path, owner, max(SMALLEST, path.stat().st_size), now + seconds)
            gone = [held for held in self._held.values() if held.until < now]
            own = [held for held in self._held.values() if held.owner.id == owner.id and held not in gone]
            gone += _oldest_over(own, BYTES_EACH)
            gone += _oldest_over([held for held in self._held.values() if held not in gone], TOTAL_BYTES)
            for held in gone:
                self._held.pop(str(held.path), None)
        for held in gone:
            shutil.rmtree(held.path.parent, ignore_errors=True)

    def may(self, visitor: Visitor, path: str, session: str | None = None) -> Path | None:
        """Return the file at `path` if this visitor may have it, else None.

        With a `session`, an anonymous visitor's file becomes that session's own.
        """
        with self._lock:
            held = self._held.get(path)
            if held is None or held.owner.id != visitor.id or held.until < time.monotonic():
                return None
            if visitor.anonymous and session is not None:
                if held.session not in (None, session):
                    return None
                held.session = session
            return held.path


def _oldest_over(files: list[Held], limit: int) -> list[Held]:
    """Return the files, oldest first, without which the rest fit in `limit` bytes."""
    over, gone = sum(held.size for held in files) - limit, []
    for held in files[:-1]:  # the newest stays
        if over <= 0:
            break
        over -= held.size
        gone.append(held)
    return gone


@cache
def server_folder() -> Path:
    """Return the folder of this process for visitors' files, removed when it ends; remove those that dead ones left.

    It is made in `GRADIO_TEMP_DIR` or the system's folder, and Gradio told to use it. A server holds a lock on a file
    in its folder, which the system lets go when its process ends, however it ends.
    """
    parent = Path(os.environ.get("GRADIO_TEMP_DIR") or tempfile.gettempdir())
    parent.mkdir(parents=True, exist_ok=True)
    remove_abandoned(parent)
    folder = Path(tempfile.mkdtemp(prefix=PREFIX, dir=parent))
    lock = (folder / LOCK).open("w")
    fcntl.flock(lock, fcntl.LOCK_EX)
    atexit.register(_remove, folder, lock)
    os.environ["GRADIO_TEMP_DIR"] = str(folder)
    return folder


def _remove(folder: Path, lock: IO[str]) -> None:
    shutil.rmtree(folder, ignore_errors=True)
    lock.close()


def remove_abandoned(parent: Path) -> list[Path]:
    """Remove folders of visitors' files whose server is gone; return them. Links and folders of others stay."""
    gone = []
    for folder in parent.glob(f"{PREFIX}*"):
        try:
            found = folder.lstat()
            if not stat.S_ISDIR(found.st_mode) or found.st_uid != os.getuid():
                continue
            if _left_over(folder, found):
                shutil.rmtree(folder, ignore_errors=True)
                gone.append(folder)
        except OSError:  # another server was faster
            continue
    return gone


def _left_over(folder: Path, found: os.stat_result) -> bool:
    """Return whether no living server holds the lock in a folder."""
    try:
        lock = os.open(folder / LOCK, os.O_RDWR | os.O_NOFOLLOW)
    except FileNotFoundError:
        return time.time() - found.st_mtime > LOCKLESS_AGE
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(lock)
    return True
