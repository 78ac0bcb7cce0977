"""Layouts of source folders: each layout is a function from a folder to the photos in it.

A listing that is missing or lacks a column raises ValueError with the file's name; faults of single photos are reported
when they are read.
"""

from dataclasses import replace
from pathlib import Path

from training.data.known_sets import afhq, cars, compcars, cub, dogs, ffhq
from training.data.pairing import pair
from training.data.photo_writer import CORNERS, LIMITS
from training.data.sources import (
    PHOTO_FOLDERS,
    SPLITS,
    Layout,
    Names,
    Photo,
    PixelBox,
    Reading,
    known_split,
    label_of,
    pictures,
    several,
    split_depth,
)
from training.data.tables import Corners, Table, boxes_of, number, read_table, texts
from training.imaging.decoders import DECODERS
from training.imaging.read import PictureError

MASK_FRACTIONS = (0.05, 0.9)
"""Smallest and largest share of the photo that a good mask covers, by `mask_fraction` of the clothing photos."""
LABEL_COLUMNS = ("label", "class", "garment", "category", "species", "breed", "kind")
"""Columns that may hold the labels unless `--label` names one; the first one present is used."""
OWN = {"file", "split", "label", "mask", "width", "height", "source", "box_from", "x0", "y0", "x1", "y1"} | {
    "mask_from", "finder_label", "finder_confidence"
}  # fmt: skip
"""Columns that a prepared set writes itself, or that have another use."""


def detect(source: Path) -> str:
    """Return the name of a folder's layout; `plain` if no other matches."""
    for name, marks in MARKS.items():
        if all(any(source.glob(mark)) for mark in marks):
            if name == "table" and {"garment", "mask_fraction"} <= set(read_table(source / "index.csv").columns):
                return "clothing"
            return name
    return "plain"


def table(source: Path, reading: Reading) -> list[Photo]:
    """List a folder with `index.csv`: file, and optionally split, label, a box, mask; prepared sets are such folders.

    Photos are in `images/` or at the path in `file`, masks in `masks/` under the same stem or at the path in `mask`.
    Empty boxes and masks are unknown; further columns are kept.
    """
    listing = read_table(source / "index.csv", ("file",))
    if not listing.lines:
        raise ValueError(f"{listing.path} has a header but no lines; expected a line for each photo")
    reading.columns.update(listing.columns)
    for sentence in listing.said:
        reading.say(f"{listing.path.name}: {sentence}")
    found = [(path, name) for path, name in pictures(source, reading) if name not in ("sheet.jpg", "index.jpg")]
    everything = {name: path for path, name in found}
    listed, masks = pair(found, reading, _look)
    files = {name: path for path, name in listed}
    names, all_names = Names(files, source), Names(everything, source)
    label = _label_column(listing, reading)
    boxes, fractions, of_box = _boxes_in(listing, reading)
    photos, taken = [], set()
    for line, box in zip(listing.plain_lines(), boxes, strict=True):
        photo = _listed(line, box, fractions, label, of_box)
        file, problem = _found(names, photo.name, listing)
        if file in taken:
            problem = f"{listing.path.name} names it twice"
        taken.add(file)
        mask, missing = masks.get(file), ""
        if "mask" in line:
            mask, missing = _named_mask(line["mask"], all_names, everything)
        fraction = listing.number(line["mask_fraction"], photo.name) if line.get("mask_fraction") else None
        if reading.bad_masks and fraction is not None and not MASK_FRACTIONS[0] <= fraction <= MASK_FRACTIONS[1]:
            problem = problem or f"its mask covers {fraction:.0%} of it, which marks a bad one"
        path = files.get(file, source / photo.name)
        photos.append(replace(photo, path=path, mask=mask, problem=photo.problem or problem or missing))
    if unlisted := sorted(set(files) - taken):
        reading.passed_over[f"not in {listing.path.name}"] += len(unlisted)
        reading.say(f"{len(unlisted)} pictures are not in {listing.path.name} and were skipped: {texts(unlisted)}")
    return photos


def _boxes_in(listing: Table, reading: Reading) -> tuple[list[Corners | None], bool, set[str]]:
    """Return each line's box, whether boxes are fractions, and the columns that hold them.

    Raises: ValueError if the table has none, although a prefix or a form was given and no further CSV may have them.
    """
    found = listing.box_columns(reading.box)
    if found is None and (reading.boxes is not None or (not reading.box and reading.box_form == "auto")):
        return [None] * len(listing.lines), False, set()
    boxes, fractions = boxes_of(listing, reading.box_form, reading.box)
    of_box = set(found[0]) if found else set()
    if {"x", "width"} <= of_box:
        reading.say(f"{listing.path.name}: x, y, width, height are read as boxes; rename them if they are none")
    return boxes, fractions, of_box


def _listed(line: dict[str, str], box: Corners | None, fractions: bool, label: str, of_box: set[str]) -> Photo:
    """Return the photo that a line describes, its file not yet located; `of_box` are the columns of its box.

    Those that are not scaled with the photo are not kept: in the set they would be wrong.
    """
    name = line["file"]
    width, height = ("" if {"width", "height"} & of_box else line.get(k, "") for k in ("width", "height"))
    scaled = not fractions and all(column.endswith(CORNERS) for column in of_box)  # as the photo is, by the writer
    return Photo(
        path=Path(name),
        name=name,
        split=known_split(line.get("split", "")),
        label=line.get(label, ""),
        box=box,
        fractions=fractions,
        size=(int(width), int(height)) if width.isdigit() and height.isdigit() and not fractions else None,
        values={k: v for k, v in line.items() if k not in OWN and (scaled or k not in of_box)},
        problem="" if name else "a line of the table names no file",
    )


def _label_column(listing: Table, reading: Reading) -> str:
    """Return the column of labels: the one of `--label`, else the first with a usual name; "" for none.

    Raises: ValueError if the one of `--label` is not there, nor in the source's other table.
    """
    if reading.label is not None:
        asked = reading.label.strip().lower()
        if asked not in listing.columns:
            if asked in reading.columns or reading.boxes not in (None, listing.path):
                return ""
            raise ValueError(f"{listing.path} has no column {reading.label}; it has {', '.join(listing.columns)}")
        return asked
    known = [name for name in LABEL_COLUMNS if name in listing.columns]
    if not known:
        return ""
    if known[0] != "label":
        others = f" (also there: {', '.join(known[1:])}; --label chooses)" if known[1:] else ""
        reading.say(f"labels are those of the column {known[0]}{others}")
    return known[0]


def _found(names: Names, written: str, listing: Table) -> tuple[str, str]:
    """Return the file that a listing names and "", or the name as written and why it cannot be used."""
    found = names.find(written)
    if len(found) == 1:
        return next(iter(found)), ""
    if found:
        return written, f"{listing.path.name} may mean {several(found)}; write which"
    return written, f"{listing.path.name} names it, but it is not there"


def _named_mask(written: str, names: Names, files: dict[str, Path]) -> tuple[Path | None, str]:
    """Return the path of the mask that a line names (None if it names none), and what is wrong with it."""
    if not written:
        return None, ""
    found = names.find(written)
    if len(found) == 1:
        return files[next(iter(found))], ""
    return None, f"its mask may be {several(found)}" if found else f"its mask {written} is not there"


def _look(path: Path, name: str) -> bool | None:
    """Return whether a picture looks like a mask; None if it cannot be read."""
    try:
        return DECODERS.is_mask(path, name, LIMITS)
    except PictureError:
        return None


def clothing(source: Path, reading: Reading) -> list[Photo]:
    """List the clothing photos: a table with the columns garment and mask_fraction, by which bad masks are rejected."""
    label = "garment" if reading.label is None else reading.label
    return table(source, replace(reading, label=label, bad_masks=True))  # the notes are shared


def whole(source: Path, reading: Reading) -> list[Photo]:
    """List every picture under a folder, labelled by its parent folder: CelebA-HQ, LSUN as pictures, or any other.

    Folders named train, test, val or similar define the splits.
    """
    if any(source.glob("**/data.mdb")):
        raise ValueError(f"{source} holds a database (data.mdb), not pictures; export its pictures into a folder first")
    files, masks = pair(pictures(source, reading), reading, _look)
    beside = next((f for f in source.absolute().parent.iterdir() if f.name.lower() in ("masks", "mask")), None)
    if not masks and beside is not None and beside.is_dir() and source.absolute().name.lower() in PHOTO_FOLDERS:
        reading.say(
            f"masks lie beside {source.name}/, in {beside.name}/; they are read if --source is the folder above"
        )
    depth = split_depth(name for _, name in files)
    if depth is not None:
        reading.say(
            "splits are those of the folders "
            + texts(sorted({Path(n).parts[depth] for _, n in files if len(Path(n).parts) > depth + 1}))
        )
    photos = []
    for path, name in files:
        parts = Path(name).parts
        split = SPLITS.get(parts[depth].lower(), "") if depth is not None and len(parts) > depth + 1 else ""
        photos.append(Photo(path=path, name=name, split=split, label=label_of(name, depth), mask=masks.get(name)))
    return _with_yolo(photos, reading)


def _with_yolo(photos: list[Photo], reading: Reading) -> list[Photo]:
    """Return photos with the largest box of their YOLO label files (class, centre, size in fractions) if they have any.

    Such a file is beside its photo, or in `labels/` if the photo is in `images/`.
    """
    boxes = {photo.name: box for photo in photos if (box := _yolo_box(photo.path)) is not None}
    if not boxes:
        return photos
    reading.say(f"{len(boxes)} photos have their box from YOLO label files, the largest of each: {texts(boxes)}")
    return [replace(p, box=boxes[p.name], fractions=True) if p.name in boxes else p for p in photos]


def _yolo_box(path: Path) -> Corners | None:
    """Return the largest box of a photo's label file as corners in fractions; None if it has no such file."""
    labels = [path.with_suffix(".txt")]
    for i in [i for i, part in enumerate(path.parts[:-1]) if part.lower() in PHOTO_FOLDERS][-1:]:
        labels.append(Path(*path.parts[:i], "labels", *path.parts[i + 1 :]).with_suffix(".txt"))
    for label in labels:
        if not label.is_file() or label.stat().st_size > 100_000:
            continue
        rows = [
            line.split() for line in label.read_text(encoding="utf-8", errors="replace").splitlines() if line.strip()
        ]
        values = [[number(text, commas=False) for text in row] for row in rows]
        boxes = [(v[1], v[2], v[3], v[4]) for v in values if len(v) == 5]
        known = [b for b in boxes if all(edge is not None and 0 <= edge <= 1 for edge in b)]
        if known and len(known) == len(rows):
            cx, cy, w, h = max(known, key=lambda b: (b[2] or 0) * (b[3] or 0))
            return cx - w / 2, cy - h / 2, cx + w / 2, cy + h / 2  # type: ignore[operator]
    return None


LAYOUTS: dict[str, Layout] = {
    "table": table,
    "clothing": clothing,
    "cub": cub,
    "dogs": dogs,
    "cars": cars,
    "compcars": compcars,
    "ffhq": ffhq,
    "afhq": afhq,
    "celebahq": whole,
    "lsun": whole,
    "plain": whole,
}
MARKS: dict[str, tuple[str, ...]] = {
    "table": ("index.csv",),
    "cub": ("images.txt", "bounding_boxes.txt"),
    "dogs": ("Images/", "Annotation/"),
    "compcars": ("image/", "label/"),
    "afhq": ("train/cat/",),
}
"""Files that a folder must have for a layout; Stanford Cars, which has several variants, is checked next."""
MARKS |= {"cars": ("**/cars_*annos*.mat",)}


def with_boxes(photos: list[Photo], source: Path, path: Path, reading: Reading) -> list[Photo]:
    """Return photos with the boxes (and splits and labels, where it has them) of a CSV: file, x0, y0, x1, y1.

    Labels are in the column of `--label`, by default `label`; if no photo has one yet, in one with another usual name.
    File names are relative to `source`; a line whose file is missing becomes a photo with a problem. Of several lines
    of one photo the largest box is taken, with a note.
    """
    listing = read_table(path, ("file",))
    boxes, fractions = boxes_of(listing, reading.box_form, reading.box)
    usual = reading.label is None and ("label" in listing.columns or any(photo.label for photo in photos))
    label = "label" if usual else _label_column(listing, reading)
    for sentence in listing.said:
        reading.say(f"{path.name}: {sentence}")
    names = Names((photo.name for photo in photos), source)
    chosen: dict[str, tuple[dict[str, str], PixelBox | None]] = {}
    lost, twice = [], []
    for line, box in zip(listing.lines, boxes, strict=True):
        name, problem = _found(names, line["file"], listing)
        if problem:
            lost.append(Photo(path=source / line["file"], name=line["file"], split="train", problem=problem))
        elif name not in chosen:
            chosen[name] = (line, box)
        else:
            twice.append(name)
            if _area(box) > _area(chosen[name][1]):
                chosen[name] = (line, box)
    if twice:
        reading.say(f"{path.name} names {len(set(twice))} photos twice, their largest box is taken: {texts(twice)}")
    if lost:
        reading.say(
            f"{path.name} names {len(lost)} files that are not in the source: {texts(photo.name for photo in lost)}"
        )
    found = [
        _with_line(photo, *chosen[photo.name], fractions, label) if photo.name in chosen else photo for photo in photos
    ]
    return found + lost


def _area(box: PixelBox | None) -> float:
    return 0.0 if box is None else (box[2] - box[0]) * (box[3] - box[1])


def _with_line(photo: Photo, line: dict[str, str], box: PixelBox | None, fractions: bool, label: str) -> Photo:
    """Return a photo with the box, split and label (of the column `label`) of its line in a boxes CSV."""
    split, named = known_split(line.get("split", "")), line.get(label)
    return replace(photo, split=split or photo.split, label=named or photo.label, box=box, fractions=fractions)
