"""How known data sets lie on disk: each layout is a function from a folder to the photos that it lists.

A listing that is missing or lacks a column stops everything, with a ValueError that names the file; what is wrong with
single photos comes out when they are read.
"""

import csv
import hashlib
import os
import xml.etree.ElementTree as ET
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import scipy.io

SUFFIXES = {
    ".jpg", ".jpeg", ".jpe", ".jfif", ".png", ".webp", ".bmp", ".gif", ".tif", ".tiff", ".avif", ".ppm"
}  # fmt: skip
UNREADABLE = {".heic", ".heif", ".jp2", ".jxl", ".dng", ".cr2", ".cr3", ".nef", ".arw", ".raw"}
"""Photos that cannot be read: they are named, not passed over without a word."""
MASK_FRACTIONS = (0.05, 0.9)
"""Masks of the clothing photos that cover less or more than this were not found well, nor were their boxes."""

PixelBox = tuple[float, float, float, float]


@dataclass(frozen=True, slots=True, kw_only=True)
class Photo:
    """One photo of a source and what is known about it."""

    path: Path
    name: str
    """Its place in the source, for people."""
    split: str
    label: str = ""
    box: PixelBox | None = None
    """x0 y0 x1 y1 in pixels, y down."""
    mask: Path | None = None
    problem: str = ""
    """Why it has to be left out, if the listing already tells."""


Layout = Callable[[Path, float], list[Photo]]
"""Lists a source's photos; the number is the share to hold out for testing where the source has no splits."""


def detect(source: Path) -> str:
    """Return the name of the layout that a folder has; `plain` if it looks like no other."""
    for name, marks in MARKS.items():
        if all(any(source.glob(mark)) for mark in marks):
            return name
    return "plain"


def clothing(source: Path, held_out: float) -> list[Photo]:
    """List `images/`, `masks/` and `index.csv` with file, split, garment, x0, y0, x1, y1, mask_fraction."""
    wanted = ("file", "split", "garment", "x0", "y0", "x1", "y1", "mask_fraction")
    photos = []
    for line in read_table(source / "index.csv", wanted):
        fraction = _number(line["mask_fraction"], source / "index.csv", line["file"])
        bad = not MASK_FRACTIONS[0] <= fraction <= MASK_FRACTIONS[1]
        photos.append(
            Photo(
                path=source / "images" / line["file"],
                name=line["file"],
                split=line["split"],
                label=line["garment"],
                box=_box(line, ("x0", "y0", "x1", "y1"), source / "index.csv", line["file"]),
                mask=source / "masks" / f"{Path(line['file']).stem}.png",
                problem=f"its mask covers {fraction:.0%} of it, which marks a bad one" if bad else "",
            )
        )
    return photos


def cub(source: Path, held_out: float) -> list[Photo]:
    """List a CUB-200-2011 tree: images.txt and its companions, `images/`, and `segmentations/` where it is there."""
    files = _numbered(source / "images.txt", 1)
    boxes = _numbered(source / "bounding_boxes.txt", 4)
    labels = _numbered(source / "image_class_labels.txt", 1)
    training = _numbered(source / "train_test_split.txt", 1)
    segmentations = (source / "segmentations").is_dir()
    photos = []
    for number, (file,) in files.items():
        for table, name in ((boxes, "bounding_boxes"), (labels, "image_class_labels"), (training, "train_test_split")):
            if number not in table:
                raise ValueError(f"{source / name}.txt has no line for image {number}, {file}")
        x, y, width, height = (_number(text, source / "bounding_boxes.txt", file) for text in boxes[number])
        photos.append(
            Photo(
                path=source / "images" / file,
                name=file,
                split="train" if training[number][0] == "1" else "test",
                label=Path(file).parent.name,
                box=(x, y, x + width, y + height),
                mask=source / "segmentations" / Path(file).with_suffix(".png") if segmentations else None,
            )
        )
    return photos


def dogs(source: Path, held_out: float) -> list[Photo]:
    """List a Stanford Dogs tree: `Images/`, `Annotation/` (the largest box of each photo), and its lists if present."""
    splits: dict[str, str] = {}
    for split in ("train", "test"):
        matlab = source / f"{split}_list.mat"
        if matlab.is_file():
            splits |= {str(row.item()): split for row in _matlab(matlab, "file_list")["file_list"].ravel()}
    photos = []
    for path, name in _pictures(source / "Images"):
        split = splits.get(name) or _split(name, held_out)
        annotation = source / "Annotation" / path.parent.name / path.stem
        box, problem = None, ""
        try:
            box = _largest_box(annotation)
        except (OSError, ET.ParseError, ValueError) as error:
            problem = f"its annotation {annotation.name} cannot be used ({type(error).__name__})"
        label = path.parent.name.partition("-")[2]
        photos.append(Photo(path=path, name=name, split=split, label=label, box=box, problem=problem))
    return photos


def cars(source: Path, held_out: float) -> list[Photo]:
    """List a Stanford Cars tree: `cars_train/` and `cars_test/` with the development kit's .mat files, `car_ims/` with
    `cars_annos.mat`, or CSV files `anno_train.csv` and `anno_test.csv` (file, x0, y0, x1, y1, class)."""
    tables = sorted(source.glob("**/anno*train*.csv")) + sorted(source.glob("**/anno*test*.csv"))
    matlab = [path for path in sorted(source.glob("**/cars_*annos*.mat")) if not _has_labels(path)]
    if tables:
        rows = [row for table in tables for row in _cars_csv(table)]
    elif matlab:
        rows = [row for path in matlab for row in _cars_matlab(path)]
    else:
        raise ValueError(f"{source} has no anno_train.csv and no cars_annos.mat or cars_train_annos.mat")
    found: dict[str, list[Path]] = {}
    for path, name in _pictures(source):
        for key in (name, f"{_cars_split(name)}/{path.name}"):
            found.setdefault(key, []).append(path)
    photos = []
    for file, split, label, box in rows:
        paths = found.get(file) or found.get(f"{split}/{Path(file).name}") or [source / file]
        photos.append(Photo(path=paths[0], name=file, split=split, label=label, box=box))
    return photos


def compcars(source: Path, held_out: float) -> list[Photo]:
    """List a CompCars tree: `image/`, `label/` (viewpoint, count, box), `train_test_split/classification/` if there."""
    root = source / "data" if (source / "data" / "image").is_dir() else source
    splits: dict[str, str] = {}
    for split in ("train", "test"):
        table = root / "train_test_split" / "classification" / f"{split}.txt"
        if table.is_file():
            splits |= dict.fromkeys(table.read_text().split(), split)
    photos = []
    for path, name in _pictures(root / "image"):
        table = root / "label" / Path(name).with_suffix(".txt")
        box, problem = None, ""
        try:
            x0, y0, x1, y1 = (float(text) for text in table.read_text().splitlines()[2].split())
            box = (x0, y0, x1, y1)
        except (OSError, ValueError, IndexError) as error:
            problem = f"its label file {table.name} cannot be used ({type(error).__name__})"
        split = splits.get(name) or _split(name, held_out)
        photos.append(Photo(path=path, name=name, split=split, label=Path(name).parts[0], box=box, problem=problem))
    return photos


def ffhq(source: Path, held_out: float) -> list[Photo]:
    """List FFHQ: numbered photos; the last seventh, from 60000 on, is its validation set."""
    photos = []
    for path, name in _pictures(source):
        number = int(path.stem) if path.stem.isdigit() else -1
        photos.append(Photo(path=path, name=name, split="validation" if number >= 60_000 else "train"))
    return photos


def afhq(source: Path, held_out: float) -> list[Photo]:
    """List AFHQ: `train/`, and `val/` or `test/`, with a folder for each kind of animal."""
    names = {"train": "train", "val": "validation", "test": "test"}
    photos = []
    for folder, split in names.items():
        if (source / folder).is_dir():
            photos += [
                Photo(path=path, name=f"{folder}/{name}", split=split, label=Path(name).parent.name)
                for path, name in _pictures(source / folder)
            ]
    if not photos:
        raise ValueError(f"{source} has no folder train, val or test; is it AFHQ?")
    return photos


def whole(source: Path, held_out: float) -> list[Photo]:
    """List every picture under a folder, labelled by its own folder: CelebA-HQ, LSUN as pictures, or any other."""
    if any(source.glob("**/data.mdb")):
        raise ValueError(f"{source} holds a database (data.mdb), not pictures; export its pictures into a folder first")
    pictures = list(_pictures(source))
    masks = _masks_beside([name for _, name in pictures])
    hidden = set(masks.values())
    return [
        Photo(
            path=path,
            name=name,
            split=_split(name, held_out),
            label="" if masks else Path(name).parent.name,
            mask=source / masks[name] if name in masks else None,
        )
        for path, name in pictures
        if name not in hidden
    ]


def _masks_beside(names: list[str]) -> dict[str, str]:
    """Return the masks of a folder that holds nothing but `images/` and `masks/`: photo -> mask of the same stem."""
    by_stem = {Path(name).stem: name for name in names if Path(name).parent.as_posix() == "masks"}
    photos = [name for name in names if Path(name).parts[0] == "images"]
    if not by_stem or len(photos) + len(by_stem) < len(names):
        return {}
    return {name: by_stem[Path(name).stem] for name in photos if Path(name).stem in by_stem}


LAYOUTS: dict[str, Layout] = {
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
    "clothing": ("images/", "masks/", "index.csv"),
    "cub": ("images.txt", "bounding_boxes.txt"),
    "dogs": ("Images/", "Annotation/"),
    "compcars": ("image/", "label/"),
    "afhq": ("train/cat/",),
}
"""What a folder must hold to be taken for a layout; Stanford Cars is next, where it lies in several ways."""
MARKS |= {"cars": ("**/cars_*annos*.mat",)}


def with_boxes(photos: list[Photo], source: Path, table: Path) -> list[Photo]:
    """Return photos with the boxes (and splits and labels, where it has them) of a CSV: file, x0, y0, x1, y1.

    Files are named from `source`; a line whose file is not there becomes a photo with a problem.
    """
    lines = {line["file"]: line for line in read_table(table, ("file", "x0", "y0", "x1", "y1"))}
    result = []
    for photo in photos:
        line = lines.pop(photo.name, None)
        result.append(photo if line is None else _with_line(photo, line, table))
    for file in lines:
        result.append(
            Photo(path=source / file, name=file, split="train", problem=f"{table.name} names it, but it is not there")
        )
    return result


def _with_line(photo: Photo, line: dict[str, str], table: Path) -> Photo:
    """Return a photo with what its line of a boxes CSV says."""
    return Photo(
        path=photo.path,
        name=photo.name,
        split=line.get("split") or photo.split,
        label=line.get("label") or photo.label,
        box=_box(line, ("x0", "y0", "x1", "y1"), table, photo.name),
        mask=photo.mask,
    )


def read_table(path: Path, wanted: tuple[str, ...]) -> list[dict[str, str]]:
    """Return the lines of a CSV by column name; ValueError that names the file if it or a column is missing."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; wanted a CSV with the columns {', '.join(wanted)}")
    with path.open(newline="", encoding="utf-8-sig") as file:
        reader = csv.DictReader(file)
        missing = [name for name in wanted if name not in (reader.fieldnames or ())]
        if missing:
            raise ValueError(f"{path} lacks the column {', '.join(missing)}; wanted {', '.join(wanted)}")
        return [{k: v or "" for k, v in line.items() if k is not None} for line in reader]


def _pictures(folder: Path) -> Iterator[tuple[Path, str]]:
    """Go through the pictures under a folder in order, each with its place in the folder."""
    if not folder.is_dir():
        raise ValueError(f"{folder} is not a folder; wanted one with pictures")
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        hidden = any(part.startswith(".") for part in name.parts)
        if path.suffix.lower() in SUFFIXES | UNREADABLE and path.is_file() and not hidden:
            yield path, name.as_posix()


def _split(name: str, held_out: float) -> str:
    """Return the split of a photo from its name alone: it stays there when others come or go."""
    place = int.from_bytes(hashlib.sha256(os.fsencode(name)).digest()[:8], "big") / 2**64
    return "test" if place < held_out else "train"


def _number(text: str, table: Path, name: str) -> float:
    """Return a number of a listing; ValueError that names the file."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{table}: {text!r} in the line of {name} is not a number") from None


def _box(line: dict[str, str], columns: tuple[str, str, str, str], table: Path, name: str) -> PixelBox | None:
    """Return a line's box, None if all four are empty."""
    texts = [line[column].strip() for column in columns]
    if not any(texts):
        return None
    x0, y0, x1, y1 = (_number(text, table, name) for text in texts)
    return x0, y0, x1, y1


def _numbered(path: Path, values: int) -> dict[str, list[str]]:
    """Return the lines of one of CUB's listings, a number and `values` values, by the number."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; CUB-200-2011 comes with it")
    table = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            number, *rest = line.split(maxsplit=values)
            if len(rest) != values:
                raise ValueError(f"{path}: the line {line!r} lacks values; wanted a number and {values} more")
            table[number] = rest
    return table


def _largest_box(annotation: Path) -> PixelBox:
    """Return the largest box of an annotation in Pascal VOC's XML."""
    boxes = []
    for element in ET.parse(annotation).iter("bndbox"):
        x0, y0, x1, y1 = (float(element.findtext(name) or "nan") for name in ("xmin", "ymin", "xmax", "ymax"))
        boxes.append((x0, y0, x1, y1))
    if not boxes:
        raise ValueError("no box")
    return max(boxes, key=lambda box: (box[2] - box[0]) * (box[3] - box[1]))


def _matlab(path: Path, variable: str) -> dict[str, Any]:
    """Return the variables of a .mat file; ValueError if `variable` is not one of them."""
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # a damaged file raises whatever its reader met
        raise ValueError(f"{path} cannot be read as a MATLAB file ({type(error).__name__})") from error
    if variable not in content:
        raise ValueError(f"{path} lacks the variable {variable}")
    return content


def _has_labels(path: Path) -> bool:
    """Whether a better file lies beside a test listing: the one with labels."""
    return (path.parent / f"{path.stem}_withlabels.mat").is_file()


def _cars_matlab(path: Path) -> Iterator[tuple[str, str, str, PixelBox]]:
    """Go through a listing of Stanford Cars: file, split, label, box."""
    annotations = _matlab(path, "annotations")["annotations"].ravel()
    names = annotations.dtype.names or ()
    file = "relative_im_path" if "relative_im_path" in names else "fname"
    corners = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")
    missing = [name for name in (file, *corners) if name not in names]
    if missing:
        raise ValueError(f"{path} lacks the column {', '.join(missing)}")
    for row in annotations:
        x0, y0, x1, y1 = (float(row[name].item()) for name in corners)
        split = ("test" if row["test"].item() else "train") if "test" in names else _cars_split(path.name)
        label = str(row["class"].item()) if "class" in names else ""
        yield str(row[file].item()), split, label, (x0, y0, x1, y1)


def _cars_csv(path: Path) -> Iterator[tuple[str, str, str, PixelBox]]:
    """Go through a listing of Stanford Cars without a header: file, x0, y0, x1, y1, class."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, line in enumerate(csv.reader(file)):
            if number == 0 and len(line) > 1 and not line[1].strip().lstrip("-").isdigit():
                continue  # some copies have a header
            if len(line) < 6:
                raise ValueError(f"{path} lacks a column in line {number + 1}; wanted file, x0, y0, x1, y1, class")
            x0, y0, x1, y1 = (_number(text, path, line[0]) for text in line[1:5])
            yield line[0], _cars_split(path.name), line[5], (x0, y0, x1, y1)


def _cars_split(name: str) -> str:
    """Return the split that a file's or folder's name tells."""
    return "test" if "test" in name else "train"
