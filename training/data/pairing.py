"""Finds the masks among the pictures of a folder and their photos: by name, else by content."""

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Sequence
from itertools import combinations, groupby
from pathlib import Path, PurePosixPath

from training.data.sources import PHOTO_FOLDERS, RAW, SUFFIXES, Reading
from training.data.tables import texts

MASK_WORDS = {
    "mask", "masks", "segmentation", "segmentations", "segmentationclass", "segmentationobject", "seg", "segs",
    "matte", "mattes", "alpha", "alphas", "gt", "groundtruth", "silhouette", "silhouettes", "trimap", "trimaps",
}  # fmt: skip
"""Words in the names of files and folders of masks."""
PHOTO_WORDS = PHOTO_FOLDERS | {"color", "colour", "jpegs"}
HOW = "a mask belongs in masks/ under the name that its photo has in images/, as PNG, 255 on the object"
LOOKS = 8
"""Pictures of a folder that are checked before all of its pictures count as masks."""
MOST_KINDS = 12
"""Most pairs of folders that are compared by content."""
SHARED = 0.8
"""Share of common names from which one folder may hold the masks of another."""

Look = Callable[[Path, str], bool | None]
"""Whether a picture looks like a mask; None if it cannot be read."""
Key = tuple[tuple[str, ...], str]


def words(text: str) -> list[str]:
    """Return the words in a name, lower case; combining marks, such as vowel signs, are parts of words."""
    text = re.sub(r"([a-z])([A-Z])", r"\1 \2", unicodedata.normalize("NFC", text))
    parts = ["".join(run) for kind, run in groupby(text, _kind) if kind]
    joined = "".join(parts).lower()
    return [joined] if joined in MASK_WORDS else [part.lower() for part in parts]


def _kind(character: str) -> str:
    """Return whether a character is of a word or a number; "" for what separates them."""
    if character.isdecimal():
        return "number"
    return "word" if character.isalnum() or unicodedata.category(character).startswith("M") else ""


def names_mask(name: str) -> bool:
    """Whether a file's path names it a mask."""
    place = PurePosixPath(name)
    if any(set(words(part)) & MASK_WORDS for part in place.parts[:-1]):
        return True
    of_stem = words(place.stem)
    return len(of_stem) > 1 and (of_stem[-1] in MASK_WORDS or of_stem[0] in MASK_WORDS)


def key_of(name: str) -> Key:
    """Return the part of the path that a photo and its mask share, spelled in any way."""
    place = PurePosixPath(name)
    folders = [loose for part in place.parts[:-1] if (loose := _loose_folder(part))]
    of_stem = words(_stem(place))
    for several in (MASK_WORDS, PHOTO_WORDS):
        if len(of_stem) > 1 and of_stem[-1] in several:
            of_stem = of_stem[:-1]
        if len(of_stem) > 1 and of_stem[0] in several:
            of_stem = of_stem[1:]
    return tuple(folders), " ".join(of_stem)


def exact_key_of(name: str) -> Key:
    """Return the part of the path that a photo and its mask share, as spelled; folders named as those of masks or
    photos are reduced to their other words."""
    place = PurePosixPath(name)
    folders = []
    for part in place.parts[:-1]:
        named = set(words(part)) & (MASK_WORDS | PHOTO_WORDS)
        folders.append(_loose_folder(part) if named else unicodedata.normalize("NFC", part))
    return tuple(filter(None, folders)), unicodedata.normalize("NFC", _stem(place))


def _loose_folder(part: str) -> str:
    """Return a folder's words without those that say that it holds masks or photos."""
    kept = [word for word in words(part) if word not in MASK_WORDS]
    if len(kept) == 1 and kept[0] in PHOTO_WORDS:
        return ""
    return " ".join(word for word in kept if word not in PHOTO_WORDS) or " ".join(kept)


def _stem(place: PurePosixPath) -> str:
    """Return a file's name without its endings, such as in 1.jpg.png."""
    stem = place.stem
    while Path(stem).suffix.lower() in SUFFIXES | RAW:
        stem = Path(stem).stem
    return stem


def pair(
    files: Sequence[tuple[Path, str]], reading: Reading, look: Look
) -> tuple[list[tuple[Path, str]], dict[str, Path]]:
    """Return the photos among pictures, and the mask of each photo that has one.

    A file that is named a mask but fits no photo is skipped, with a note, if it looks like one.
    """
    paths = {name: path for path, name in files}
    seen: dict[str, bool | None] = {}

    def looks(names: Sequence[str]) -> float:
        """Return the share of masks among some of these pictures."""
        chosen = [names[i * len(names) // min(LOOKS, len(names))] for i in range(min(LOOKS, len(names)))]
        for name in chosen:
            if name not in seen:
                seen[name] = look(paths[name], name)
        known = [seen[name] for name in chosen if seen[name] is not None]
        return sum(map(bool, known)) / max(1, len(known))

    called = [name for name in paths if names_mask(name)]
    rest = [name for name in paths if name not in set(called)]
    masks = _by_name(rest, called, reading)
    if masks and looks(sorted(masks.values())) < 0.5:
        reading.say(
            f"{len(masks)} pictures are named as masks are but look like photos; they are taken as photos: "
            + texts(sorted(masks.values()))
        )
        masks, rest, called = {}, list(paths), []
    single = sorted(set(called) - set(masks.values()))
    if single and looks(single) < 0.5:
        reading.say(f"{len(single)} pictures are named as masks are but look like photos: {texts(single)}")
        rest, single = [name for name in paths if name in set(rest) | set(single)], []
    if single:
        reading.say(f"{len(single)} masks fit no photo and were skipped: {texts(single)}; {HOW}")
        reading.passed_over["mask without a photo"] += len(single)
    more = _by_looks([name for name in rest if name not in masks], looks)
    if more:
        reading.say(f"{len(more)} pictures look like masks of others and are taken so: {texts(sorted(more.values()))}")
    masks |= more
    hidden = set(masks.values()) | set(single)
    return (
        [(path, name) for path, name in files if name not in hidden],
        {photo: paths[mask] for photo, mask in masks.items()},
    )


def _by_name(photos: Sequence[str], called: Sequence[str], reading: Reading) -> dict[str, str]:
    """Return the masks that have their photos' names, spelled alike or, for the rest, in any way: photo -> mask."""
    pairs: dict[str, str] = {}
    for fitting, masks in _sharing(photos, called, exact_key_of):
        if len(fitting) == 1 and len(masks) == 1:
            pairs[fitting[0]] = masks[0]
    paired, unclear = {*pairs, *pairs.values()}, []
    rest, left = ([name for name in names if name not in paired] for names in (photos, called))
    for fitting, masks in _sharing(rest, left, key_of):
        if len(fitting) > 1:
            fitting = [name for name in fitting if PurePosixPath(name).stem == PurePosixPath(masks[0]).stem] or fitting
        if len(fitting) == 1 and len(masks) == 1:
            pairs[fitting[0]] = masks[0]
        elif fitting:
            unclear += masks
    if unclear:
        reading.say(f"{len(unclear)} masks fit several photos, or share one: {texts(sorted(unclear))}; {HOW}")
    return pairs


def _sharing(
    photos: Sequence[str], masks: Sequence[str], key: Callable[[str], Key]
) -> list[tuple[list[str], list[str]]]:
    """Return photos and masks that share a key, for each key of a mask."""
    of_key: dict[Key, list[str]] = defaultdict(list)
    masks_of_key: dict[Key, list[str]] = defaultdict(list)
    for name in photos:
        of_key[key(name)].append(name)
    for name in masks:
        masks_of_key[key(name)].append(name)
    return [(of_key.get(shared, []), fitting) for shared, fitting in masks_of_key.items()]


def _by_looks(names: Sequence[str], looks: Callable[[Sequence[str]], float]) -> dict[str, str]:
    """Return the masks in folders, or with suffixes, whose names do not say so: photo -> mask."""
    slots: dict[tuple, list[tuple[str, str]]] = defaultdict(list)
    sizes: dict[tuple, int] = defaultdict(int)
    for name in names:
        place = PurePosixPath(name)
        folders, stem = place.parts[:-1], place.stem.casefold()
        variants: list[tuple[tuple, str]] = [(("ending", folders, stem), place.suffix.lower())]
        for i in range(len(folders) + 1):
            if i < len(folders):
                variants.append((("folder", i, folders[:i] + folders[i + 1 :], stem), folders[i]))
            variants.append((("folder", i, folders, stem), ""))
        for slot, variant in variants:
            slots[slot].append((variant, name))
            sizes[slot[0], slot[1] if slot[0] == "folder" else None, variant] += 1
    kinds: dict[tuple, list[tuple[str, str]]] = defaultdict(list)
    for slot, members in slots.items():
        if 2 <= len(members) <= 3:
            for (a, first), (b, second) in combinations(sorted(members), 2):
                if a != b:
                    kinds[slot[0], slot[1] if slot[0] == "folder" else None, a, b].append((first, second))
    found: dict[str, str] = {}
    for (kind, place, a, b), both in sorted(kinds.items(), key=lambda item: -len(item[1]))[:MOST_KINDS]:
        if len(both) < SHARED * min(sizes[kind, place, a], sizes[kind, place, b]):
            continue
        first, second = looks([one for one, _ in both]), looks([two for _, two in both])
        if min(first, second) <= 0.25 and max(first, second) >= 0.75:
            for one, two in both:
                photo, mask = (two, one) if first > second else (one, two)
                if photo not in found and photo not in found.values() and mask not in found:
                    found[photo] = mask
    return found
