"""Weights that others published: where they are looked for, how fetched, and what is said if they are not to be had."""

import hashlib
import os
import urllib.request
from pathlib import Path

from training.checkpoint import write_whole


class WeightsMissingError(ValueError):
    """A network that a metric needs is neither on this machine nor to be downloaded; the message says what to do."""


def cache_dir() -> Path:
    """Return the user's cache folder of this toolkit (not made yet): `$XDG_CACHE_HOME` or `~/.cache`."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "knobs-without-labels"


def sha256(path: Path) -> str:
    """Return the hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def download(url: str, path: Path, *, digest: str | None, what: str, remedy: str) -> Path:
    """Return `path`, fetched from `url` if it is not there yet and checked against its sha256 `digest`.

    Raises: WeightsMissingError with what is missing and the `remedy`, if `url` is out of reach or sends another file.
    """
    if path.is_file():
        return path
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
    write_whole(path, data)
    return path
