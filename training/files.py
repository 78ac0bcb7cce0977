"""Crash-safe files: atomic writes, synced folders, locks, and reading that follows no links."""

import contextlib
import errno
import fcntl
import glob
import hashlib
import logging
import os
import secrets
import socket
import stat
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

log = logging.getLogger(__name__)

UNSYNCED = (errno.EINVAL, errno.ENOTSUP, errno.EACCES, errno.EPERM, errno.EBADF)
"""Errors of filesystems that cannot sync folders."""


def sync_folder(folder: Path) -> None:
    """Sync the entries of `folder`, so that a new or renamed file survives a power cut.

    Filesystems that do not support it are ignored. Raises: OSError where the disk fails.
    """
    try:
        descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError as error:
        if error.errno not in UNSYNCED:
            raise


def sync_tree(folder: Path) -> None:
    """Sync every file and folder under `folder`, and `folder` itself; links are not followed."""
    paths = [Path(here) / name for here, _, names in os.walk(folder) for name in names]
    with ThreadPoolExecutor(16) as pool:  # many files sync in hardly more time than one
        list(pool.map(_sync_file, [path for path in paths if path.is_file() and not path.is_symlink()]))
    for here, _, _ in os.walk(folder):
        sync_folder(Path(here))


def _sync_file(path: Path) -> None:
    with opened_plain(path) as descriptor:
        os.fsync(descriptor)


def make_folder(folder: Path) -> None:
    """Create `folder` and its missing parents, each synced.

    Raises: OSError where one cannot be created, such as where a file has that name.
    """
    if folder.is_dir():
        return
    if folder.parent != folder:
        make_folder(folder.parent)
    folder.mkdir(exist_ok=True)
    sync_folder(folder.parent)


def write_whole(path: Path, content: bytes) -> None:
    """Write `content` to `path` atomically: a reader, or a crash at any moment, leaves the old file or the new one.

    A link at `path` is replaced, not followed. Temporary files of killed writers of `path` are removed.
    """
    make_folder(path.parent)
    _sweep_parts(path)
    part, descriptor = _new_part(path)
    try:
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
            part.replace(path)  # still locked, so that no other writer removes it as a leftover
        sync_folder(path.parent)
    finally:
        part.unlink(missing_ok=True)


def _new_part(path: Path) -> tuple[Path, int]:
    """Return a new temporary file beside `path` and its descriptor, locked while this process lives."""
    while True:
        part = path.with_name(f".{path.name}.{secrets.token_hex(4)}.part")
        descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
        with contextlib.suppress(OSError):  # a filesystem without locks: leftovers cannot be told from files in use
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        if part.exists():  # otherwise another process removed it between the two lines above
            return part, descriptor
        os.close(descriptor)


def _sweep_parts(path: Path) -> None:
    """Remove the temporary files that killed writers of `path` left beside it."""
    for part in path.parent.glob(f".{glob.escape(path.name)}.*.part"):
        with contextlib.suppress(OSError), opened_plain(part) as descriptor:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # held by a living writer
            part.unlink()


@contextlib.contextmanager
def opened_plain(path: Path, flags: int = os.O_RDONLY) -> Iterator[int]:
    """Yield a descriptor of a regular file.

    Raises: OSError, also for links, and for pipes and devices, which might block forever.
    """
    try:
        descriptor = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
    except OSError as error:
        if error.errno in (errno.ELOOP, errno.EMLINK):
            raise OSError(error.errno, "it is a link, which is not followed", str(path)) from error
        raise
    try:
        if not stat.S_ISREG(os.fstat(descriptor).st_mode):
            raise OSError(errno.EINVAL, "it is not a regular file", str(path))
        yield descriptor
    finally:
        os.close(descriptor)


def read_plain_file(path: Path, most: int | None = None) -> bytes:
    """Return the content of a regular file of at most `most` bytes.

    Raises: OSError for a file that is missing, larger or not regular, and for links.
    """
    with opened_plain(path) as descriptor:
        size = os.fstat(descriptor).st_size
        if most is not None and size > most:
            raise OSError(errno.EFBIG, f"it has {size} bytes and at most {most} are read", str(path))
        with os.fdopen(os.dup(descriptor), "rb") as file:
            return file.read()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 of a file, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def append_line(path: Path, line: str) -> None:
    """Append `line` to a text file; an incomplete last line, left by a killed process, is ended first.

    Raises: OSError, also where `path` is a link, a pipe or a device.
    """
    with opened_plain(path, os.O_RDWR | os.O_APPEND | os.O_CREAT) as descriptor:
        size = os.fstat(descriptor).st_size
        cut = size > 0 and os.pread(descriptor, 1, size - 1) != b"\n"
        content = ("\n" if cut else "") + line + "\n"
        with os.fdopen(os.dup(descriptor), "ab") as file:
            file.write(content.encode())


def check_folder(folder: Path, option: str = "--out") -> None:
    """Create `folder`, the value of `option`, and check that files can be written there, before any work.

    Raises: ValueError if it is not a folder or not writable.
    """
    try:
        make_folder(folder)
        probe = folder / f".{secrets.token_hex(8)}.part"
        os.close(os.open(probe, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666))
        probe.unlink()
    except OSError as error:
        where = f"{folder}, a link to {folder.readlink()}," if folder.is_symlink() else str(folder)
        raise ValueError(
            f"{option} {where} cannot be written to ({error.strerror}); give a folder that can, or a new one"
        ) from error


@contextlib.contextmanager
def locked(folder: Path, name: str, what: str) -> Iterator[None]:
    """Lock `folder` for this process inside the block; `what` names the kind of process in messages.

    The lock of a dead process does not count. On a filesystem without locks a warning is logged instead.
    Raises: ValueError if another process holds the lock.
    """
    path = folder / name
    while True:
        try:
            descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o666)
        except OSError as error:
            raise ValueError(
                f"{path} cannot be locked ({error.strerror}); remove it, or give another folder"
            ) from error
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            holder = os.pread(descriptor, 200, 0).decode(errors="replace").strip() or "another process"
            os.close(descriptor)
            raise ValueError(
                f"{folder} is in use by another {what} ({holder}); wait for it to end, or give another --out"
            ) from None
        except OSError as error:
            log.warning("%s cannot be locked (%s): start no second %s on it", folder, error.strerror, what)
            break
        if path.exists() and os.path.samestat(path.stat(), os.fstat(descriptor)):
            break
        os.close(descriptor)  # its last holder removed it in the meantime
    try:
        os.ftruncate(descriptor, 0)
        os.pwrite(descriptor, f"process {os.getpid()} on {socket.gethostname()}\n".encode(), 0)
        yield
    finally:
        with contextlib.suppress(OSError):
            path.unlink()
        os.close(descriptor)
