"""Weights that others published: where they are looked for, how fetched, and what is said if they are not to be had."""

import atexit
import hashlib
import logging
import os
import shutil
import tempfile
import urllib.request
from pathlib import Path

from training.files import write_whole

log = logging.getLogger(__name__)


class WeightsMissingError(ValueError):
    """A network that a metric needs is neither on this machine nor to be downloaded; the message says what to do."""


def cache_dir() -> Path:
    """Return the user's cache folder of this toolkit (not made yet): `$XDG_CACHE_HOME` or `~/.cache`.

    A user without a home, as in many containers, has none: a folder that lasts as long as this process takes its place.
    """
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knobs-without-labels"
    except RuntimeError:
        return _passing_folder()


_passing: list[Path] = []


def _passing_folder() -> Path:
    """Return a folder of this process alone, which goes when it ends."""
    if not _passing:
        _passing.append(Path(tempfile.mkdtemp(prefix="knobs-without-labels-")))
        atexit.register(shutil.rmtree, _passing[0], ignore_errors=True)
        log.warning("there is no cache folder that can be written to: what is fetched or counted is not kept")
    return _passing[0]


def keep(path: Path, content: bytes) -> Path:
    """Write `content` to `path` in the cache; where that cannot be, warn, and keep it while this process lasts.

    Returns where it is.
    """
    try:
        write_whole(path, content)
    except OSError as error:
        log.warning("%s cannot be kept in the cache (%s)", path, error.strerror)
        path = _passing_folder() / path.name
        write_whole(path, content)
    return path


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path, *, digest: str | None, what: str, remedy: str) -> Path:
    """Return `path`, fetched from `url` if it is not there yet and checked against its sha256 `digest`.

    Raises: WeightsMissingError with what is missing and the `remedy`, if `url` is out of reach or sends another file.
    """
    if path.is_file():
        if digest is None or sha256(path) == digest:
            return path
        log.warning("%s is not %s (its sha256 differs) and is fetched anew", path, what.lower())
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
