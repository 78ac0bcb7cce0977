"""Source folders of photos: listing of pictures, matching of names in listings to files, and notes for the user."""

import hashlib
import os
import re
import unicodedata
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath

from training.data.tables import BoxForm, texts
from training.pictures import PixelBox

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"
}  # fmt: skip
RAW = {".heic", ".heif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"}
"""Endings of photo formats that mostly cannot be read; such files are reported, not skipped silently."""
SPLITS = {
    "train": "train", "training": "train", "trn": "train",
    "val": "validation", "valid": "validation", "validation": "validation", "dev": "validation",
    "test": "test", "testing": "test", "tst": "test", "held_out": "test", "holdout": "test",
}  # fmt: skip
"""Names of splits in folders and tables -> names in prepared sets."""
PHOTO_FOLDERS = {"images", "image", "imgs", "img", "photos", "photo", "pictures", "jpegimages", "rgb", "jpg", "png"}
"""Names of folders that are not labels."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photo of a source and its known properties."""

    path: Path
    name: str
    """Path relative to the source, for messages."""
    split: str = ""
    """"" if unknown."""
    label: str = ""
    box: PixelBox | None = None
    """x0 y0 x1 y1 in pixels, y down."""
    fractions: bool = False
    """Whether the box is in fractions of the photo instead."""
    mask: Path | None = None
    size: tuple[int, int] | None = None
    """Width and height in the listing."""
    values: dict[str, str] = field(default_factory=dict)
    """Further columns of the listing."""
    problem: str = ""
    """Why it cannot be used, if that is known from the listing."""


@dataclass(slots=True, kw_only=True)
class Reading:
    """Options for reading a source, and the notes made while doing so."""

    held_out: float = 0.1
    """Share of the photos to hold out for testing where the source has no splits."""
    label: str | None = None
    """Column of a table that holds the labels."""
    box: str = ""
    """Prefix of the columns of a table that hold the boxes."""
    box_form: BoxForm = "auto"
    boxes: Path | None = None
    """A CSV of boxes that is read after the layout; `label`, `box` and `box_form` may be meant for it alone."""
    columns: set[str] = field(default_factory=set)
    """Columns of the index.csv that was read."""
    bad_masks: bool = False
    """Whether the column mask_fraction of a table marks bad masks."""
    said: list[str] = field(default_factory=list)
    """Notes for the user, in order."""
    passed_over: Counter[str] = field(default_factory=Counter)
    """Files in the source that are not photos of the set: reason -> count."""

    def say(self, sentence: str) -> None:
        """Add a note, unless it was added before."""
        if sentence not in self.said:
            self.said.append(sentence)


Layout = Callable[[Path, Reading], list[Photo]]
"""Lists a source's photos."""


def pictures(folder: Path, reading: Reading) -> list[tuple[Path, str]]:
    """Return the pictures under a folder, sorted by name, each with its path relative to the folder.

    Linked folders are followed, each folder once. Hidden files, prepared sets and other files are counted in `reading`.
    Raises: ValueError if `folder` is not a folder.
    """
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; expected one with pictures")
    found: list[tuple[Path, str]] = []
    _walk(folder, "", {os.path.realpath(folder)}, found, reading)
    return sorted(found, key=lambda item: PurePosixPath(item[1]).parts)


def _walk(folder: Path, place: str, seen: set[str], found: list[tuple[Path, str]], reading: Reading) -> None:
    """Add the pictures of a folder and of those in it to `found`."""
    try:
        entries = sorted(os.scandir(folder), key=lambda entry: (entry.is_symlink(), entry.name))
    except OSError as error:
        reading.say(f"{place or folder}: this folder cannot be read ({error.strerror}) and was skipped")
        return
    for entry in entries:
        name, path = f"{place}{entry.name}", folder / entry.name
        kind = Path(entry.name).suffix.lower()
        if entry.name.startswith(".") or entry.name == "__MACOSX":
            reading.passed_over["hidden"] += 1
        elif _is(entry, "is_dir"):
            _enter(path, name, seen, found, reading)
        elif _is(entry, "is_file"):
            if kind in SUFFIXES | RAW:
                found.append((path, name))
            else:
                reading.passed_over[f"{kind or 'no ending'}, no picture"] += 1
        elif entry.is_symlink():
            reading.say(f"{name} is a link to {path.readlink()}, which is not there: skipped")
            reading.passed_over["link to nothing"] += 1
        else:
            reading.say(f"{name} is neither a file nor a folder: skipped")
            reading.passed_over["no file"] += 1


def _is(entry: os.DirEntry[str], test: str) -> bool:
    """Return the result of a test such as `is_dir`; False where it fails, as for circular links."""
    try:
        return bool(getattr(entry, test)())
    except OSError:
        return False


def _enter(path: Path, name: str, seen: set[str], found: list[tuple[Path, str]], reading: Reading) -> None:
    """Walk a subfolder, unless it is a prepared set or was walked before."""
    if (path / "index.csv").is_file() and (path / "set.json").is_file():
        reading.say(f"{name}/ is a prepared set: skipped")
        reading.passed_over["prepared set"] += 1
        return
    real = os.path.realpath(path)
    if real in seen or any(Path(real) in Path(other).parents for other in seen):
        reading.say(f"{name}/ is a link to a folder that is in the source already: skipped")
        reading.passed_over["folder linked again"] += 1
        return
    seen.add(real)
    _walk(path, f"{name}/", seen, found, reading)


def split_of(name: str, held_out: float) -> str:
    """Return the split of a photo by a hash of its name, so that other photos do not change it."""
    place = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64
    return "test" if place < held_out else "train"


def known_split(word: str) -> str:
    """Return the name of a split in prepared sets; unknown words are returned unchanged."""
    return SPLITS.get(word.strip().lower(), word.strip())


def split_depth(names: Iterable[str]) -> int | None:
    """Return the depth of the folders that name the splits (0: the first folder); None if there are none.

    All folders at that depth must have names of splits; a folder `train` beside `car` and `ship` is a label.
    """
    folders = [PurePosixPath(name).parts[:-1] for name in names]
    for depth in range(max((len(parts) for parts in folders), default=0)):
        words = {parts[depth].lower() for parts in folders if len(parts) > depth}
        if words <= set(SPLITS):
            return depth
        if words & {"train", "training"} and words & (set(SPLITS) - {"train", "training", "trn"}) and depth == 0:
            return depth
    return None


def label_of(name: str, depth: int | None) -> str:
    """Return a photo's label, the name of its folder; "" where that is a split or not a label."""
    folders = [part for i, part in enumerate(PurePosixPath(name).parts[:-1]) if i != depth]
    while folders and folders[-1].lower() in PHOTO_FOLDERS:
        folders.pop()
    return folders[-1] if folders else ""


class Names:
    """Finds the files that a listing names, in spite of differences in spelling."""

    def __init__(self, names: Iterable[str], root: Path) -> None:
        """Take the names of the files, relative to `root`."""
        self.exact = {name: name for name in names}
        self.root = root
        self.alike: dict[str, set[str]] = {}
        self.endings: dict[str, set[str]] = {}
        for name in self.exact:
            self.alike.setdefault(plain(name), set()).add(name)
            parts = plain(name).split("/")
            for i in range(len(parts)):
                self.endings.setdefault("/".join(parts[i:]), set()).add(name)

    def find(self, written: str) -> set[str]:
        """Return the files that match a name: one, none, or several if it is ambiguous."""
        if written in self.exact:
            return {written}
        for root in (str(self.root), str(self.root.absolute()), os.path.realpath(self.root)):
            if written.startswith(root + "/") and written[len(root) + 1 :] in self.exact:
                return {written[len(root) + 1 :]}
        key = plain(written)
        if found := self.alike.get(key):
            return found
        if found := self.endings.get(key):  # the listing has a part of the path
            return found
        parts = key.split("/")
        for i in range(1, len(parts)):  # or more than the path from the source
            if found := self.alike.get("/".join(parts[i:])):
                return found
        return set()


def plain(name: str) -> str:
    """Return a name normalised: slashes, case, Unicode form, surrounding spaces."""
    name = unicodedata.normalize("NFC", name.strip().strip("\"'").strip()).replace("\\", "/")
    name = re.sub(r"^(file://|[a-zA-Z]:)", "", name)
    parts = [part.strip() for part in name.split("/") if part.strip() not in ("", ".")]
    return unicodedata.normalize("NFC", "/".join(parts).casefold())


def several(found: set[str]) -> str:
    """Return the files that match one name, for a message."""
    return texts(sorted(found))
