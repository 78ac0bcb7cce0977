"""Published weights of third parties: cache, download, and errors that say how to get them."""

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from training.files import file_sha256, write_whole

log = logging.getLogger(__name__)


class WeightsMissingError(ValueError):
    """A network that a metric needs is missing and cannot be downloaded; the message says what to do."""


def cache_dir() -> Path:
    """Return this toolkit's folder in the user's cache, `$XDG_CACHE_HOME` or `~/.cache`; it may not exist yet.

    Without a home directory, as in many containers, it is a temporary folder of this process.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knobs-without-labels"
    except RuntimeError:
        return _passing_folder()


_passing: list[Path] = []


def _passing_folder() -> Path:
    """Return a temporary folder, removed when this process ends."""
    if not _passing:
        _passing.append(Path(tempfile.mkdtemp(prefix="knobs-without-labels-")))
        atexit.register(shutil.rmtree, _passing[0], ignore_errors=True)
        log.warning("there is no cache folder that can be written to: what is fetched or counted is not kept")
    return _passing[0]


def keep(path: Path, content: bytes) -> Path:
    """Write `content` to `path` in the cache or, with a warning, to a temporary folder; return the path."""
    try:
        write_whole(path, content)
    except OSError as error:
        log.warning("%s cannot be kept in the cache (%s)", path, error.strerror)
        path = _passing_folder() / path.name
        write_whole(path, content)
    return path


def download(url: str, path: Path, *, digest: str | None, what: str, remedy: str) -> Path:
    """Return `path`, downloaded from `url` if it is missing, and checked against its SHA-256 `digest`.

    Raises: WeightsMissingError with the `remedy` if `url` cannot be reached or sends another file.
    """
    if path.is_file():
        if digest is None or file_sha256(path) == digest:
            return path
        log.warning("%s is not %s (its sha256 differs) and is downloaded again", path, what.lower())
    try:
        with urllib.request.urlopen(url, timeout=30) as answer:
            data = answer.read()
    except OSError as problem:
        reason = getattr(problem, "reason", problem)
        raise WeightsMissingError(
            f"{what} are not on this machine and {url} cannot be reached ({reason}). {remedy}"
        ) from None
    if digest is not None and hashlib.sha256(data).hexdigest() != digest:
        raise WeightsMissingError(f"{url} sent a file that is not {what.lower()} (its sha256 differs). {remedy}")
    return keep(path, data)
