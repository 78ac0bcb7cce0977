"""Commands that make prepared sets: of photos, `prepare photos`, and of rendered cars, `prepare cars`."""

import logging
import os
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import tyro
from tqdm import tqdm

from training.data.account import Account, show
from training.data.backgrounds import read_environments
from training.data.layouts import LAYOUTS, detect, with_boxes
from training.data.masked_photos import PrepareMasked
from training.data.new_backgrounds import NewBackgrounds
from training.data.photo_writer import PhotoWriter, Written
from training.data.prepare_cars import PrepareCars
from training.data.prepare_composites import PrepareComposites
from training.data.sheet import write_sheet
from training.data.sources import SUFFIXES, Photo, Reading, split_of
from training.data.tables import BoxForm, texts
from training.data.writing import report, whole_folder, write_index
from training.segmentation.load import load_finder
from training.segmentation.subject import SubjectFinder

log = logging.getLogger(__name__)

FALLEN = "(held out)"
"""Provisional split of photos held out by their names, until it is known that training photos remain."""

Views = Literal["all-sides", "front", "flat"]
LayoutName = Literal[
    "auto", "table", "clothing", "cub", "dogs", "cars", "compcars", "ffhq", "afhq", "celebahq", "lsun", "plain"
]


@dataclass(frozen=True, kw_only=True)
class Prepare:
    """Make a training set from a folder of photos: checked and resized, with boxes and masks where known."""

    source: Path
    """The folder with the photos."""
    out: Path
    """The folder to make."""
    size: int = 64
    """Side of the training pictures in pixels; photos are stored larger, so that objects can be cropped."""
    layout: LayoutName = "auto"
    """Layout of the source folder; `auto` detects it."""
    boxes: Path | None = None
    """A CSV of boxes with the columns file (relative to `source`), x0, y0, x1, y1 and optionally split and label. A
    plain folder's own boxes.csv is used by default. `x`, `y`, `width`, `height` are read as COCO's boxes."""
    box_form: BoxForm = "auto"
    """Format of a table's boxes: corners in `pixels`, corners as `fractions` of the photo, `yolo` (centre, width and
    height as fractions) or `xywh` (corner, width and height in pixels). `auto` decides by the names of the columns and
    refuses ambiguous tables."""
    box_prefix: str = ""
    """Prefix of the columns of the boxes, where a table has several: `head_` takes head_x0, ..., head_y1. Photos
    without such a box are left to the finder: a mask tells where the whole object is, not its part."""
    label: str | None = None
    """Column of an index.csv or a CSV of boxes that holds the labels; by default label, class, garment, category,
    species, breed or kind."""
    only: tuple[str, ...] = ()
    """Labels to keep; by default all."""
    require: tuple[Literal["box", "mask"], ...] = ()
    """Leave out photos without a known box, or without a mask: training uses masks only if all photos have one."""
    repair_masks: bool = False
    """Repair the source's masks, where they were made automatically, by the colours of the photos: what has the
    background's colours goes, what has the object's is added. Look at sheet.jpg afterwards."""
    suspicious_masks: Literal["keep", "leave-out"] = "keep"
    """Whether to keep photos whose mask is suspicious by `mask_share` or `mask_rim`."""
    mask_share: tuple[float, float] = (0.1, 0.7)
    """Smallest and largest share of the picture that a mask covers; others are suspicious."""
    mask_rim: float = 0.15
    """Largest share of the picture's rim that a mask covers; others are suspicious."""
    find_boxes: bool = True
    """In a folder of photos or a table, find the object of each photo without a box or a mask; where none is found,
    take the centre of the photo. The table at the end counts each case."""
    finder: str = ""
    """The object finder: a YOLACT checkpoint, an .onnx file, or `classical`, which segments by colour and gives boxes
    only. By default the bundled network, and `classical` where there is none."""
    finder_label: tuple[str, ...] = ()
    """Labels of the finder to accept; by default all, of which the largest confident object is taken."""
    finder_sure: float = 0.5
    """Score from which a network's object counts as confident; only such objects give masks, others mark the photo."""
    backgrounds: Path | None = None
    """A folder of .npz environment maps (`radiance`, linear, equirectangular); the objects, cut out by their masks, are
    pasted onto views of them. For photos on white; photos without a mask are left out."""
    held_out: float = 0.1
    """Share of the photos to hold out for testing, where the source has no splits."""
    margin: float = 1.5
    """Side of the crop around an object, over the longer side of its box."""
    views: Views | None = None
    """Views of the objects, which set the range of a rotation knob: from all sides (vehicles, furniture), from the
    front and a little aside (faces), or flat (garments, posters). By default asked at a terminal, else all-sides."""
    quality: int = 95
    """JPEG quality of the photos written, 1 to 100."""

    def __post_init__(self) -> None:
        low, high = self.mask_share
        if not (0 <= low < high <= 1 and 0 <= self.mask_rim <= 1):
            raise ValueError(
                f"mask_share {low:g} {high:g} and mask_rim {self.mask_rim:g} are no shares; expected 0 to 1"
            )
        if self.size < 8 or not 0 <= self.held_out < 1 or self.margin < 1 or not 1 <= self.quality <= 100:
            raise ValueError(
                f"cannot prepare pictures of {self.size} px, held out {self.held_out}, margin {self.margin}, quality "
                f"{self.quality}; expected at least 8 px, 0 to 1, at least 1, and 1 to 100"
            )

    def run(self) -> None:
        """Write the set; photos that cannot be used are logged, counted and left out.

        Raises: ValueError, before anything is written, if the source, a listing or all photos cannot be used.
        """
        if not self.source.is_dir():
            raise ValueError(f"{self.source} is not a folder; give the folder that holds the photos")
        layout = detect(self.source) if self.layout == "auto" else self.layout
        reading = Reading(
            held_out=self.held_out,
            label=self.label,
            box=self.box_prefix.strip().lower(),
            box_form=self.box_form,
            boxes=self._table_of_boxes(layout),
        )
        photos = self._photos(layout, reading)
        for sentence in reading.said:
            log.warning("%s", sentence)
        told = len(reading.said)
        finder = self._finder(layout)
        views = self.views or _asked_views()  # before the long part
        account = Account(reading=reading, finder=finder.name if finder else "")
        with whole_folder(self.out) as folder:
            (folder / "images").mkdir()
            if any(photo.mask for photo in photos) or (finder is not None and finder.is_network):
                (folder / "masks").mkdir()
            for photo, result in zip(photos, self._written(folder, photos, finder), strict=True):
                account.add(photo.name, result)
            self._sort_out(folder, account)
            if not account.rows:
                raise ValueError(
                    f"none of the {len(photos)} photos in {self.source} can be used; the first: {account.left_out[0]}"
                )
            counts = self._finish(folder, account, layout, views)
        show(str(self.out), counts, [*reading.said[told:], *_advice(counts)])
        report(self.out, account.rows, len(account.left_out), layout)

    def _sort_out(self, folder: Path, account: Account) -> None:
        """Remove pictures that look like masks and, with `suspicious_masks`, photos of suspicious ones; set the
        splits."""
        for one in account.masks_among_photos():
            account.drop(one, "it looks like a mask, not like a photo")
        if self.suspicious_masks == "leave-out":
            for one in [one for one in account.written if any(why.startswith("mask ") for why in one.odd)]:
                account.drop(one, "its " + next(why for why in one.odd if why.startswith("mask ")))
        kept = {row["file"] for row in account.rows}
        for path in (folder / "images").iterdir():
            if path.name not in kept:
                path.unlink()
                (folder / "masks" / f"{path.stem}.png").unlink(missing_ok=True)
        fallen = [row for row in account.rows if row["split"] == FALLEN]
        lone = bool(fallen) and not any(row["split"] == "train" for row in account.rows)
        if lone:
            account.reading.say("all photos are for training: their names would have held out every one (--held-out)")
        for row in fallen:
            row["split"] = "train" if lone else "test"

    def _finish(self, folder: Path, account: Account, layout: str, views: Views) -> dict[str, Any]:
        """Write the index, `set.json` and the sheet; return the counts."""
        masks = sum(1 for _ in (folder / "masks").iterdir()) if (folder / "masks").is_dir() else 0
        counts = account.counts(masks)
        arguments = {k: v.name if isinstance(v, Path) else v for k, v in asdict(self).items() if k != "out"}
        made = {
            "made_by": "python -m training prepare photos",
            "arguments": arguments | {"layout": layout},
            "views": views,
            "counts": counts,
            "said": account.reading.said,
            "left_out": account.left_out,
        }
        write_index(folder, account.rows, made)
        write_sheet(folder, account.rows, account.odd, self.margin)
        return counts

    def _photos(self, layout: str, reading: Reading) -> list[Photo]:
        """Return the photos of the source with the labels in `only`. Raises: ValueError if there are none."""
        photos = LAYOUTS[layout](self.source, reading)
        if reading.boxes is not None:
            photos = with_boxes(photos, self.source, reading.boxes, reading)
        if not photos:
            raise ValueError(f"{self.source} has no photos in it (looked for {', '.join(sorted(SUFFIXES))})")
        if self.only:
            kept = self._of_labels(photos)
            reading.passed_over["other labels"] += len(photos) - len(kept)
            photos = kept
        for name in self.require if not self._looks(layout) else ():
            photos = [replace(p, problem=p.problem or _lacks(p, name, parts=bool(self.box_prefix))) for p in photos]
        return [p if p.split else replace(p, split=_drawn_split(p.name, self.held_out)) for p in photos]

    def _table_of_boxes(self, layout: str) -> Path | None:
        """Return the CSV of boxes; None for none. Raises: ValueError for options of a table, if none is read."""
        own = self.source / "boxes.csv"
        if self.boxes is not None or (layout == "plain" and own.is_file()):
            return self.boxes or own
        given = {"--label": self.label, "--box-prefix": self.box_prefix.strip()}
        given["--box-form"] = "" if self.box_form == "auto" else self.box_form
        came = [f"{name} {value}" for name, value in given.items() if value]
        if came and layout not in ("table", "clothing"):
            raise ValueError(
                f"got {' and '.join(came)}, but no table is read from {self.source} (layout {layout}); expected an "
                "index.csv there, or a CSV given by --boxes; add one, or leave the option out"
            )
        return None

    def _of_labels(self, photos: list[Photo]) -> list[Photo]:
        """Return the photos with the labels in `only`. Raises: ValueError for one that no photo bears."""
        wanted = {label.strip().casefold() for label in self.only}
        labels = {photo.label for photo in photos}
        if missing := ", ".join(sorted(wanted - {label.casefold() for label in labels})):
            known = texts(sorted(filter(None, labels)), 12)
            if not known:
                raise ValueError(
                    f"got --only {missing}, but no labels are known; give --label with the column of the table that "
                    "holds them, or put the photos into folders with the labels' names"
                )
            raise ValueError(f"no photo bears the label {missing}; there are {known}")
        return [photo for photo in photos if photo.label.casefold() in wanted]

    def _looks(self, layout: str) -> bool:
        """Whether a finder is used for a layout."""
        return self.find_boxes and layout in ("plain", "table", "clothing")

    def _finder(self, layout: str) -> SubjectFinder | None:
        """Return the finder; None if none is used. Raises: ValueError if it cannot be loaded."""
        if not self._looks(layout):
            return None
        return load_finder(self.finder, self.finder_label, sure=self.finder_sure)

    def _backgrounds(self) -> NewBackgrounds | None:
        """Return what replaces the photos' backgrounds. Raises: ValueError if the environment maps cannot be read."""
        if self.backgrounds is None:
            return None
        return NewBackgrounds(tuple(read_environments(self.backgrounds).values()), self.margin)

    def _written(self, folder: Path, photos: list[Photo], finder: SubjectFinder | None) -> Iterator[Written | str]:
        """Write photos in parallel; yield each one's entry, or why it cannot be used."""
        workers = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
        writer = PhotoWriter(
            folder=folder,
            size=self.size,
            margin=self.margin,
            quality=self.quality,
            finder=finder,
            mask_share=self.mask_share,
            mask_rim=self.mask_rim,
            require=self.require,
            parts=bool(self.box_prefix),
            repair_masks=self.repair_masks,
            backgrounds=self._backgrounds(),
        )
        with ThreadPoolExecutor(workers + 1) as pool, tqdm(total=len(photos), unit="photos", disable=None) as bar:
            for start in range(0, len(photos), 1000):  # so that a long list does not become as many pending tasks
                numbers = range(start, min(start + 1000, len(photos)))
                for result in pool.map(lambda i: writer.write(i, photos[i]), numbers):
                    bar.update()
                    yield result


def _drawn_split(name: str, held_out: float) -> str:
    """Return the split of a photo that the source gives none."""
    return "train" if split_of(name, held_out) == "train" else FALLEN


def _lacks(photo: Photo, name: str, *, parts: bool) -> str:
    """Return why a photo without its box or mask is left out; "" if it has it. A mask gives the box of a whole object,
    not of `parts`."""
    by_mask = photo.mask is not None and not (name == "box" and parts)
    known = by_mask or (name == "box" and photo.box is not None)
    return "" if known else f"it has no {name}, which was required"


def _advice(counts: dict[str, Any]) -> Iterator[str]:
    """Yield advice on a set's counts."""
    masks = counts["masks"]
    if masks["with"] and masks["without"]:
        yield (
            f"{masks['without']} of {counts['taken']} photos have no mask, and training uses masks only if all have "
            "one; --require mask leaves the others out"
        )
    if "train" not in counts["splits"]:
        yield "no photo is for training, all are held out by the listing or its folders; training needs a split train"
    elif len(counts["splits"]) == 1:
        yield "no photo is held out for testing; more photos, or a larger --held-out, leave some"
    suspicious = sum(n for why, n in counts["suspicious"].items() if why.startswith("mask "))
    if suspicious:
        yield "look at sheet.jpg, suspicious photos are framed; --suspicious-masks leave-out leaves such masks out"


def _asked_views() -> Views:
    """Ask for the views at a terminal; otherwise log the default."""
    if not sys.stdin.isatty():
        log.info("views: all-sides; give --views front or flat if no photo shows the object's back")
        return "all-sides"
    known: tuple[Views, ...] = get_args(Views)
    print("How do the objects stand in your photos? It sets what a rotation knob can be.", file=sys.stderr)
    for place, words in enumerate(
        ("seen from all sides, such as vehicles", "from the front, such as faces", "flat, such as garments or posters"),
        1,
    ):
        print(f"  {place}  {words}", file=sys.stderr)
    while True:
        try:
            answer = input("1, 2 or 3 [1]: ").strip() or "1"
        except EOFError:
            answer = "1"
        if answer in ("1", "2", "3"):
            return known[int(answer) - 1]


COMMAND = (
    Annotated[PrepareCars, tyro.conf.subcommand("cars")]
    | Annotated[Prepare, tyro.conf.subcommand("photos")]
    | Annotated[PrepareMasked, tyro.conf.subcommand("masked")]
    | Annotated[PrepareComposites, tyro.conf.subcommand("composites")]
)
"""Commands of `python -m training prepare`."""
