"""Layouts of published data sets: CUB-200-2011, Stanford Dogs and Cars, CompCars, FFHQ, AFHQ.

A listing that is missing or lacks a column raises ValueError with the file's name; faults of single photos are reported
when they are read.
"""

import csv
import xml.etree.ElementTree as ET
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import scipy.io

from training.data.sources import Photo, PixelBox, Reading, pictures, split_of


def cub(source: Path, reading: Reading) -> list[Photo]:
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


def dogs(source: Path, reading: Reading) -> list[Photo]:
    """List a Stanford Dogs tree: `Images/`, `Annotation/` (the largest box of each photo), and its lists if present."""
    splits: dict[str, str] = {}
    for split in ("train", "test"):
        matlab = source / f"{split}_list.mat"
        if matlab.is_file():
            splits |= {str(row.item()): split for row in _matlab(matlab, "file_list")["file_list"].ravel()}
    photos = []
    for path, name in pictures(source / "Images", reading):
        split = splits.get(name) or split_of(name, reading.held_out)
        annotation = source / "Annotation" / path.parent.name / path.stem
        box, problem = None, ""
        try:
            box = _largest_box(annotation)
        except (OSError, ET.ParseError, ValueError) as error:
            problem = f"its annotation {annotation.name} cannot be used ({type(error).__name__})"
        label = path.parent.name.partition("-")[2]
        photos.append(Photo(path=path, name=name, split=split, label=label, box=box, problem=problem))
    return photos


def cars(source: Path, reading: Reading) -> list[Photo]:
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
    for path, name in pictures(source, reading):
        for key in (name, f"{_cars_split(name)}/{path.name}"):
            found.setdefault(key, []).append(path)
    photos = []
    for file, split, label, box in rows:
        paths = found.get(file) or found.get(f"{split}/{Path(file).name}") or [source / file]
        photos.append(Photo(path=paths[0], name=file, split=split, label=label, box=box))
    return photos


def compcars(source: Path, reading: Reading) -> list[Photo]:
    """List a CompCars tree: `image/`, `label/` (viewpoint, count, box), `train_test_split/classification/` if there."""
    root = source / "data" if (source / "data" / "image").is_dir() else source
    splits: dict[str, str] = {}
    for split in ("train", "test"):
        table = root / "train_test_split" / "classification" / f"{split}.txt"
        if table.is_file():
            splits |= dict.fromkeys(table.read_text().split(), split)
    photos = []
    for path, name in pictures(root / "image", reading):
        table = root / "label" / Path(name).with_suffix(".txt")
        box, problem = None, ""
        try:
            x0, y0, x1, y1 = (float(text) for text in table.read_text().splitlines()[2].split())
            box = (x0, y0, x1, y1)
        except (OSError, ValueError, IndexError) as error:
            problem = f"its label file {table.name} cannot be used ({type(error).__name__})"
        split = splits.get(name) or split_of(name, reading.held_out)
        photos.append(Photo(path=path, name=name, split=split, label=Path(name).parts[0], box=box, problem=problem))
    return photos


def ffhq(source: Path, reading: Reading) -> list[Photo]:
    """List FFHQ: numbered photos; the last seventh, from 60000 on, is its validation set."""
    photos = []
    for path, name in pictures(source, reading):
        number = int(path.stem) if path.stem.isdigit() else -1
        photos.append(Photo(path=path, name=name, split="validation" if number >= 60_000 else "train"))
    return photos


def afhq(source: Path, reading: Reading) -> list[Photo]:
    """List AFHQ: `train/`, and `val/` or `test/`, with a folder for each kind of animal."""
    names = {"train": "train", "val": "validation", "test": "test"}
    photos = []
    for folder, split in names.items():
        if (source / folder).is_dir():
            photos += [
                Photo(path=path, name=f"{folder}/{name}", split=split, label=Path(name).parent.name)
                for path, name in pictures(source / folder, reading)
            ]
    if not photos:
        raise ValueError(f"{source} has no folder train, val or test; is it AFHQ?")
    return photos


def _number(text: str, table: Path, name: str) -> float:
    """Return a number of a listing. Raises: ValueError that names the file."""
    try:
        return float(text)
    except ValueError:
        raise ValueError(f"{table}: {text!r} in the line of {name} is not a number") from None


def _numbered(path: Path, values: int) -> dict[str, list[str]]:
    """Return the lines of one of CUB's listings, a number and `values` values, by the number."""
    if not path.is_file():
        raise ValueError(f"{path} does not exist; CUB-200-2011 comes with it")
    table = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        if line.strip():
            number, *rest = line.split(maxsplit=values)
            if len(rest) != values:
                raise ValueError(f"{path}: the line {line!r} lacks values; expected a number and {values} more")
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
    """Return the variables of a .mat file. Raises: ValueError if `variable` is not one of them."""
    try:
        content = scipy.io.loadmat(path)
    except Exception as error:  # a damaged file raises whatever its reader met
        raise ValueError(f"{path} cannot be read as a MATLAB file ({type(error).__name__})") from error
    if variable not in content:
        raise ValueError(f"{path} lacks the variable {variable}")
    return content


def _has_labels(path: Path) -> bool:
    """Whether the version of a test listing that has labels exists beside it."""
    return (path.parent / f"{path.stem}_withlabels.mat").is_file()


def _cars_matlab(path: Path) -> Iterator[tuple[str, str, str, PixelBox]]:
    """Yield file, split, label and box of a listing of Stanford Cars."""
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
    """Yield the same of a listing of Stanford Cars without a header: file, x0, y0, x1, y1, class."""
    with path.open(newline="", encoding="utf-8-sig") as file:
        for number, line in enumerate(csv.reader(file)):
            if number == 0 and len(line) > 1 and not line[1].strip().lstrip("-").isdigit():
                continue  # some copies have a header
            if len(line) < 6:
                raise ValueError(f"{path} lacks a column in line {number + 1}; expected file, x0, y0, x1, y1, class")
            x0, y0, x1, y1 = (_number(text, path, line[0]) for text in line[1:5])
            yield line[0], _cars_split(path.name), line[5], (x0, y0, x1, y1)


def _cars_split(name: str) -> str:
    """Return the split in the name of a file or folder."""
    return "test" if "test" in name else "train"
