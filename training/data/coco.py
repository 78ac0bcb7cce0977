"""Pictures with masks in COCO's instances JSON: reading with checks, and writing.

Photos are not rotated by their EXIF orientation, as in COCO's own tools, unless the JSON gives the size of the rotated
photo, because then its masks were drawn on that.
"""

import json
import logging
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Literal, NamedTuple

import numpy as np
import PIL.Image
from jaxtyping import Bool, Float, Int, UInt8

from ..checkpoint import write_whole
from ..pictures import opened, upright_rgb
from .mask_codes import MaskError, check, decode, to_polygons, to_rle

log = logging.getLogger(__name__)

SLACK = 2.0
"""Pixels by which a box may exceed its picture, because of rounding."""
MAX_PIXELS = 150_000_000
"""Pictures above this are refused."""
BOMBS = (PIL.Image.DecompressionBombError, PIL.Image.DecompressionBombWarning)
ORIENTATION = 0x0112
"""EXIF tag of a photo's orientation."""


class CocoError(ValueError):
    """A COCO file that cannot be used; the message names the annotation."""


class CocoPicture(NamedTuple):
    """One picture and its objects."""

    image: UInt8[np.ndarray, "h w 3"]
    boxes: Float[np.ndarray, "n 4"]
    """x0 y0 x1 y1 in pixels, inside the picture."""
    masks: Bool[np.ndarray, "n h w"]
    labels: Int[np.ndarray, " n"]
    """Indices into `CocoSet.categories`."""
    crowd: Bool[np.ndarray, " n"]
    """Crowd annotations: they count neither as found nor as missed."""


@dataclass(frozen=True, slots=True)
class CocoObject:
    """One annotation, its mask still encoded."""

    id: int | str
    box: tuple[float, float, float, float]
    label: int
    crowd: bool
    area: float
    segmentation: Any


@dataclass(frozen=True, slots=True)
class CocoImage:
    """One entry of the list of pictures."""

    id: int | str
    path: Path
    name: str
    """File name as in the list."""
    width: int
    height: int
    objects: tuple[CocoObject, ...]


class CocoSet:
    """The pictures of one COCO instances JSON, including those without objects.

    Ids may start anywhere and have gaps; labels are indices into `categories`, sorted by id.
    """

    def __init__(
        self, annotations: Path, images: Path | None = None, *, faults: Literal["refuse", "leave out"] = "refuse"
    ) -> None:
        """Read and check the list; pictures are opened by `load`.

        Args:
            annotations: the JSON.
            images: the folder that its file names start from; None looks beside the JSON.
            faults: whether an annotation that cannot be used is an error, or left out with a warning.

        Raises: CocoError that names the annotation, for boxes outside their picture or of no area, masks that are
            empty or of another size, unknown pictures or categories, and missing files.
        """
        self.path, self._leave_out = annotations, faults == "leave out"
        content = _read(annotations)
        ids = _categories(content["categories"], annotations.name)
        self.categories = tuple(ids.values())
        self.category_ids = tuple(ids)
        listed = _images(content["images"], annotations.name)
        folder = images if images is not None else _folder_of(annotations, listed)
        objects: dict[Any, list[CocoObject]] = {key: [] for key in listed}
        places = {key: k for k, key in enumerate(ids)}
        known: set[Any] = set()
        for entry in content["annotations"]:
            try:
                image, item = _object(entry, listed, places, known)
                objects[image].append(item)
            except CocoError as error:
                if not self._leave_out:
                    raise CocoError(f"{annotations.name}: {error}") from error
                log.warning("%s: left out: %s", annotations.name, error)
        self.pictures = [self._picture(folder, entry, objects[key]) for key, entry in listed.items()]

    def __len__(self) -> int:
        return len(self.pictures)

    def load(self, i: int) -> CocoPicture:
        """Return picture `i` and its objects. Raises: CocoError if its file cannot be read or is of another size."""
        picture = self.pictures[i]
        size = picture.height, picture.width
        image = _pixels(picture)
        n = len(picture.objects)
        masks = np.zeros((n, *size), bool)
        for k, item in enumerate(picture.objects):
            masks[k] = decode(item.segmentation, size)
        return CocoPicture(
            image,
            np.array([item.box for item in picture.objects], np.float32).reshape(n, 4),
            masks,
            np.array([item.label for item in picture.objects], np.int64),
            np.array([item.crowd for item in picture.objects], bool),
        )

    def _picture(self, folder: Path, entry: dict[str, Any], objects: list[CocoObject]) -> CocoImage:
        """Return one entry of the list. Raises: CocoError if its file is missing."""
        name = entry["file_name"]
        path = folder / name
        if not path.is_file():
            first = f" (annotation {objects[0].id!r})" if objects else ""
            raise CocoError(f"{self.path.name}: image {entry['id']!r}{first}: its file {name} is missing")
        return CocoImage(entry["id"], path, name, entry["width"], entry["height"], tuple(objects))


def find_split(folder: Path, split: str) -> CocoSet:
    """Return a split of a folder: SPLIT.json, annotations/instances_SPLIT*.json, or SPLIT/_annotations.coco.json.

    Raises: CocoError that names the paths that were tried.
    """
    names = [f"{split}.json", f"annotations/{split}.json", f"{split}/_annotations.coco.json"]
    found = [folder / name for name in names if (folder / name).is_file()]
    found += sorted(folder.glob(f"annotations/instances_{split}*.json"))
    if not found:
        wanted = ", ".join([*names, f"annotations/instances_{split}*.json"])
        raise CocoError(f"{folder} has no split {split!r}: expected one of {wanted}")
    return CocoSet(found[0])


def _read(path: Path) -> dict[str, Any]:
    """Return the JSON's content with its three lists. Raises: CocoError if it is not a COCO instances JSON."""
    try:
        content = json.loads(path.read_text(encoding="utf-8-sig"))
    except FileNotFoundError as error:
        raise CocoError(f"{path} does not exist; give a COCO instances JSON") from error
    except OSError as error:
        raise CocoError(f"{path} cannot be read: {error.strerror}") from error
    except (ValueError, RecursionError) as error:
        raise CocoError(f"{path.name} is not JSON, or cut short; give a COCO instances JSON") from error
    names = ("images", "annotations", "categories")
    if not isinstance(content, dict) or not all(isinstance(content.get(name), list) for name in names):
        raise CocoError(f"{path.name} is not a COCO instances JSON: expected the lists {', '.join(names)}")
    for name in names:
        for k, entry in enumerate(content[name]):
            if not isinstance(entry, dict) or not isinstance(entry.get("id"), int | str):
                raise CocoError(f"{path.name}: entry {k} of {name!r} has no id")
    return content


def _categories(entries: Iterable[dict[str, Any]], name: str) -> dict[Any, str]:
    """Return id -> name, sorted by id. Raises: CocoError."""
    found: dict[Any, str] = {}
    for entry in entries:
        if not isinstance(entry.get("name"), str) or not entry["name"]:
            raise CocoError(f"{name}: category {entry['id']!r} has no name")
        if entry["id"] in found or entry["name"] in found.values():
            raise CocoError(f"{name}: category {entry['id']!r} ({entry['name']}) is listed twice")
        found[entry["id"]] = entry["name"]
    if not found:
        raise CocoError(f"{name}: no categories; expected at least one")
    return dict(sorted(found.items(), key=lambda pair: (isinstance(pair[0], str), pair[0])))


def _images(entries: Iterable[dict[str, Any]], name: str) -> dict[Any, dict[str, Any]]:
    """Return id -> entry. Raises: CocoError for invalid sizes and file names."""
    found: dict[Any, dict[str, Any]] = {}
    for entry in entries:
        key, file = entry["id"], entry.get("file_name")
        if key in found:
            raise CocoError(f"{name}: image {key!r} is listed twice")
        if not isinstance(file, str) or not file:
            raise CocoError(f"{name}: image {key!r} has no file_name")
        if "\0" in file or PurePosixPath(file).is_absolute() or ".." in PurePosixPath(file).parts:
            raise CocoError(f"{name}: image {key!r}: its file_name {file!r} leads out of the set's folder")
        width, height = entry.get("width"), entry.get("height")
        if type(width) is not int or type(height) is not int or not 0 < width * height <= MAX_PIXELS or width < 0:
            size = f"{width!r} x {height!r}"
            raise CocoError(f"{name}: image {key!r} is {size}, expected whole numbers of pixels, at most {MAX_PIXELS}")
        found[key] = entry
    return found


def _folder_of(annotations: Path, listed: Mapping[Any, dict[str, Any]]) -> Path:
    """Return the folder of the pictures: the first one near the JSON that contains the first picture."""
    here = annotations.parent
    split = annotations.stem.removeprefix("instances_")
    places = (here / "images", here, here / split, here.parent / split, here.parent / "images", here.parent)
    for entry in listed.values():
        for place in places:
            if (place / entry["file_name"]).is_file():
                return place
        break
    return here / "images"


def _object(
    entry: dict[str, Any], listed: Mapping[Any, dict[str, Any]], places: Mapping[Any, int], known: set[Any]
) -> tuple[Any, CocoObject]:
    """Return the id of an annotation's picture, and the annotation. Raises: CocoError."""
    name = f"annotation {entry['id']!r}"
    if entry["id"] in known:
        raise CocoError(f"{name} is listed twice")
    known.add(entry["id"])
    image, category = entry.get("image_id"), entry.get("category_id")
    if not isinstance(image, int | str) or image not in listed:
        raise CocoError(f"{name} is for image {image!r}, which is not listed")
    if not isinstance(category, int | str) or category not in places:
        raise CocoError(f"{name} is of category {category!r}, which is not listed")
    crowd = entry.get("iscrowd", 0)
    if crowd not in (0, 1):
        raise CocoError(f"{name} has iscrowd {crowd!r}, expected 0 or 1")
    width, height = listed[image]["width"], listed[image]["height"]
    box = _box(entry.get("bbox"), width, height, name)
    segmentation = entry.get("segmentation")
    try:
        check(segmentation, (height, width))
    except MaskError as error:
        raise CocoError(f"{name} {error}") from error
    area = entry.get("area")
    if not isinstance(area, int | float) or not 0 < area < float("inf"):
        area = float(decode(segmentation, (height, width)).sum())
    return image, CocoObject(entry["id"], box, places[category], bool(crowd), float(area), segmentation)


def _box(box: Any, width: int, height: int, name: str) -> tuple[float, float, float, float]:
    """Return x0 y0 x1 y1, clipped to the picture by at most `SLACK`. Raises: CocoError."""
    numbers = isinstance(box, list) and len(box) == 4 and all(isinstance(v, int | float) for v in box)
    if not numbers or not all(abs(v) < 1e6 for v in box):
        raise CocoError(f"{name} has the box {box!r}, expected four numbers x, y, width, height")
    x, y, w, h = (float(v) for v in box)
    if w <= 0 or h <= 0:
        raise CocoError(f"{name} has the box {box}, which has no area")
    inside = min(x, y) >= -SLACK and x + w <= width + SLACK and y + h <= height + SLACK
    x0, y0, x1, y1 = max(0.0, x), max(0.0, y), min(float(width), x + w), min(float(height), y + h)
    if not inside or x0 >= x1 or y0 >= y1:
        raise CocoError(f"{name} has the box {box}, which lies outside its picture of {width} x {height}")
    return x0, y0, x1, y1


def _pixels(picture: CocoImage) -> UInt8[np.ndarray, "h w 3"]:
    """Return a picture's pixels at the size that the list gives. Raises: CocoError."""
    first = f" (annotation {picture.objects[0].id!r})" if picture.objects else ""
    name = f"image {picture.id!r}{first}: {picture.name}"
    try:
        with opened(picture.path) as file:
            stored, wanted = file.size, (picture.width, picture.height)
            exif = file.getexif()
            turned = exif.get(ORIENTATION, 1) in (5, 6, 7, 8) and stored == wanted[::-1] != wanted
            if not turned and stored != wanted:
                sizes = f"{stored[0]} x {stored[1]}, the list says {wanted[0]} x {wanted[1]}"
                raise CocoError(f"{name} is {sizes}: its masks are of another size")
            if not turned:
                exif[ORIENTATION] = 1
            return np.array(upright_rgb(file))
    except CocoError:
        raise
    except (OSError, SyntaxError, ValueError, EOFError, *BOMBS) as error:  # whatever decoders raise on damaged files
        raise CocoError(f"{name} is no picture that can be read") from error


class CocoWriter:
    """Collects pictures and objects, and writes them as one COCO instances JSON; ids start at 1."""

    def __init__(self, categories: Sequence[str], **info: Any) -> None:
        self.categories, self.info = tuple(categories), info
        self.images: list[dict[str, Any]] = []
        self.annotations: list[dict[str, Any]] = []

    def add_image(self, file_name: str, width: int, height: int, **more: Any) -> int:
        """Add a picture; return its id."""
        number = len(self.images) + 1
        self.images.append({"id": number, "file_name": file_name, "width": width, "height": height, **more})
        return number

    def add(
        self,
        image: int,
        label: str,
        mask: Bool[np.ndarray, "h w"],
        *,
        polygons: bool = False,
        tolerance: float = 0.0,
        crowd: bool = False,
        **more: Any,
    ) -> None:
        """Add an object; box and area are those of the mask, `more` are further fields of the annotation.

        Raises: ValueError for an empty mask or an unknown label.
        """
        if not mask.any() or label not in self.categories:
            raise ValueError(f"got {int(mask.sum())} pixels of {label!r}; expected some, of {self.categories}")
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        x, y = int(columns[0]), int(rows[0])
        outline = to_polygons(mask, tolerance) if polygons else None
        self.annotations.append(
            {
                "id": len(self.annotations) + 1,
                "image_id": image,
                "category_id": self.categories.index(label) + 1,
                "bbox": [x, y, int(columns[-1]) + 1 - x, int(rows[-1]) + 1 - y],
                "area": int(mask.sum()),
                "iscrowd": int(crowd),
                "segmentation": outline or to_rle(mask),
                **more,
            }
        )

    def merge(self, other: "CocoWriter") -> None:
        """Add another writer's pictures and objects, renumbered. Raises: ValueError for other categories."""
        if other.categories != self.categories:
            raise ValueError(f"got the categories {other.categories}, expected {self.categories}")
        images, objects = len(self.images), len(self.annotations)
        self.images += [{**image, "id": image["id"] + images} for image in other.images]
        for item in other.annotations:
            self.annotations.append({**item, "id": item["id"] + objects, "image_id": item["image_id"] + images})

    def content(self) -> dict[str, Any]:
        """Return the content of the JSON."""
        categories = [{"id": k + 1, "name": name} for k, name in enumerate(self.categories)]
        return {"info": self.info, "images": self.images, "annotations": self.annotations, "categories": categories}

    def write(self, path: Path) -> None:
        """Write the JSON atomically."""
        write_whole(path, (json.dumps(self.content(), ensure_ascii=False) + "\n").encode())
