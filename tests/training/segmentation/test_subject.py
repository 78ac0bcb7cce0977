"""The one object of a photo: chosen among what a network finds, doubts said, and taken by `prepare photos`."""

import csv
import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.places import ROOT
from training.data import prepare
from training.data.folder import _read_index
from training.data.prepare import Prepare
from training.objects import WIDE
from training.pictures import square_crop, square_region
from training.segmentation.classical import ClassicalSegmenter
from training.segmentation.contract import Instance
from training.segmentation.load import load_finder, propose_box, square_around
from training.segmentation.subject import LOOKED_AT, SubjectFinder, overlap

Found = tuple[str, float, tuple[int, int, int, int]]
"""Label, score, box in a photo of 200 x 150."""


class Told:
    """A segmenter that gives what it is told for each photo, by the photo's mean colour or for all."""

    labels = ("cat", "dog")

    def __init__(self, tell: Callable[[np.ndarray], list[Found]]) -> None:
        self.tell = tell

    def __call__(self, image: np.ndarray) -> list[Instance]:
        found = []
        for label, score, (x0, y0, x1, y1) in self.tell(image):
            mask = np.zeros(image.shape[:2], np.float32)
            mask[y0:y1, x0:x1] = 1
            found.append(Instance(mask, (float(x0), float(y0), float(x1), float(y1)), label, score))
        return sorted(found, key=lambda instance: -instance.score)


def quiet(colour: tuple[int, int, int] = (200, 40, 30)) -> PIL.Image.Image:
    """Return a thing in the box 60..140 x 40..110 before a quiet ground."""
    pixels = np.full((150, 200, 3), 150) + np.random.default_rng(0).integers(-6, 7, (150, 200, 3))
    pixels[40:110, 60:140] = colour
    return PIL.Image.fromarray(pixels.astype(np.uint8))


def noise(seed: int = 0) -> PIL.Image.Image:
    """Return a photo in which nothing stands out."""
    return PIL.Image.fromarray(np.random.default_rng(seed).integers(0, 256, (150, 200, 3), dtype=np.uint8))


def finder(*found: Found, labels: tuple[str, ...] = ()) -> SubjectFinder:
    return SubjectFinder(Told(lambda _: list(found)), labels)


SMALL: Found = ("cat", 0.95, (10, 10, 40, 40))
LARGE: Found = ("dog", 0.7, (50, 20, 190, 140))
FAINT: Found = ("dog", 0.3, (0, 0, 200, 150))


def test_the_largest_of_the_sure_ones_is_the_object():
    subject = finder(SMALL, LARGE, FAINT)(noise())
    assert subject is not None and subject.sure and subject.label == "dog"
    assert subject.box == (50 / 200, 20 / 150, 190 / 200, 140 / 150)
    assert subject.mask is not None and subject.mask.sum() == 140 * 120


def test_labels_choose_and_wrong_ones_are_said():
    subject = finder(SMALL, LARGE, labels=("cat",))(noise())
    assert subject is not None and subject.label == "cat"
    assert finder(LARGE, labels=("cat",))(quiet()) is None  # what stands out has no label
    with pytest.raises(ValueError, match="unknown label 'horse'; this finder knows cat, dog"):
        finder(labels=("horse",))


def test_where_the_network_is_unsure_a_clear_backdrop_helps():
    subject = finder(FAINT)(quiet())
    assert subject is not None and subject.sure and subject.origin == "backdrop"
    assert subject.box == pytest.approx((0.3, 40 / 150, 0.7, 110 / 150), abs=0.03)
    subject = finder(FAINT)(noise())
    assert subject is not None and not subject.sure and subject.origin == "network"
    assert finder()(PIL.Image.new("RGB", (90, 60))) is None


def test_a_known_box_picks_the_instance_that_lies_in_it():
    subject = finder(SMALL, LARGE)(noise(), (0.04, 0.05, 0.22, 0.28))
    assert subject is not None and subject.label == "cat"
    assert finder(LARGE)(noise(), (0.0, 0.0, 0.2, 0.2)) is None


def test_large_photos_are_made_smaller_first():
    seen = []
    SubjectFinder(Told(lambda image: seen.append(image.shape) or []))(PIL.Image.new("RGB", (3000, 1500)))
    assert seen == [(LOOKED_AT // 2, LOOKED_AT, 3)]


def test_a_box_is_proposed_whatever_is_found():
    assert propose_box(noise(), finder(LARGE)) == (50 / 200, 20 / 150, 190 / 200, 140 / 150)
    assert propose_box(PIL.Image.new("RGB", (90, 60)), finder()) == WIDE
    assert propose_box(PIL.Image.new("RGB", (3, 3)), finder()) == (0.0, 0.0, 1.0, 1.0)


def test_overlap_by_hand():
    assert overlap((0, 0, 2, 2), (1, 0, 3, 2)) == pytest.approx(1 / 3)
    assert overlap((0, 0, 1, 1), (1, 0, 2, 1)) == 0


def test_the_classical_finder_knows_no_labels_and_gives_no_mask():
    found = load_finder("classical")
    assert isinstance(found.segmenter, ClassicalSegmenter) and not found.is_network
    subject = found(quiet())
    assert subject is not None and subject.sure and subject.mask is None
    with pytest.raises(ValueError, match="unknown label 'cat'"):
        load_finder("classical", ["cat"])


# prepare photos

PHOTOS = {"a-large.png": LARGE, "b-faint.png": FAINT, "c-quiet.png": None, "d-nothing.png": None}


@pytest.fixture
def source(tmp_path: Path) -> Path:
    folder = tmp_path / "source"
    folder.mkdir()
    for seed, name in enumerate(PHOTOS):
        (quiet() if "quiet" in name else noise(seed)).save(folder / name)
    return folder


@pytest.fixture
def told(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `prepare` find in each photo what `PHOTOS` says; they are told apart by their first pixel."""
    known = {noise(seed).getpixel((0, 0)): found for seed, found in enumerate(PHOTOS.values())}

    def tell(image: np.ndarray) -> list[Found]:
        found = known.get(tuple(int(v) for v in image[0, 0]))
        return [found] if found else []

    monkeypatch.setattr(
        prepare, "load_finder", lambda name, labels, sure: SubjectFinder(Told(tell), labels, sure=sure, name="told")
    )


def made(source: Path, tmp_path: Path, **options) -> tuple[list[dict[str, str]], dict]:
    out = tmp_path / f"set-{len(list(tmp_path.iterdir()))}"
    Prepare(source=source, out=out, size=64, views="flat", held_out=0, **options).run()
    with (out / "index.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    return rows, json.loads((out / "set.json").read_text()) | {"out": out}


@pytest.mark.usefixtures("told")
def test_prepare_finds_and_says_how_sure_it_was(source, tmp_path, caplog):
    caplog.set_level("INFO")
    rows, about = made(source, tmp_path)
    assert [row["box_from"] for row in rows] == ["found", "unsure", "backdrop", "middle"]
    assert [row["mask_from"] for row in rows] == ["finder", "", "", ""]
    assert [row["finder_confidence"] for row in rows][:2] == ["0.700", "0.300"]
    assert rows[0]["finder_label"] == "dog"
    assert [float(rows[0][x]) / int(rows[0]["width"]) for x in ("x0", "x1")] == pytest.approx([0.25, 0.95], abs=0.02)
    counts = about["counts"]
    assert counts["finder"] == {"name": "told", "found": 1, "unsure": 1, "backdrop": 1, "middle": 1, "masks": 1}
    assert counts["suspicious"]["the finder is not sure of the object"] == 1
    assert counts["suspicious"]["no object was found: the middle is taken"] == 1
    assert "told: 1 found, 1 unsure, 2 fell back (1 to what stands out, 1 to the middle); 1 masks" in caplog.text
    mask = np.asarray(PIL.Image.open(about["out"] / "masks" / f"{Path(rows[0]['file']).stem}.png"))
    size = (int(rows[0]["height"]), int(rows[0]["width"]))
    assert mask.shape == size and mask[size[0] // 2, size[1] // 2] == 255 and mask[0, 0] == 0
    sheet = np.asarray(PIL.Image.open(about["out"] / "sheet.jpg").convert("RGB")).astype(int)
    framed = [np.abs(sheet[1, 164 * i + 80] - (255, 150, 0)).max() < 60 for i in range(4)]
    assert framed == [True, True, False, False]
    assert "finder_confidence" not in _read_index(about["out"], "train")[1]  # not a factor of the pictures


@pytest.mark.usefixtures("told")
def test_required_masks_may_be_found_ones(source, tmp_path):
    rows, about = made(source, tmp_path, require=("mask",))
    assert [row["source"] for row in rows] == ["a-large.png"]
    assert all("none was found with confidence" in sentence for sentence in about["left_out"])
    rows, _ = made(source, tmp_path, require=("box",))
    assert [row["source"] for row in rows] == ["a-large.png", "c-quiet.png"]


@pytest.mark.usefixtures("told")
def test_boxes_of_a_listing_stay_and_get_masks(source, tmp_path):
    (source / "boxes.csv").write_text("file,x0,y0,x1,y1\na-large.png,55,25,185,135\nb-faint.png,0,0,20,20\n")
    rows, about = made(source, tmp_path)
    assert [row["box_from"] for row in rows][:2] == ["listing", "listing"]
    assert [row["mask_from"] for row in rows][:2] == ["finder", ""]
    assert about["counts"]["finder"]["found"] == 0


def test_an_unknown_label_is_said_before_anything_is_written(source, tmp_path):
    with pytest.raises(ValueError, match="unknown label 'cat'"):
        made(source, tmp_path, finder="classical", finder_label=("cat",))
    with pytest.raises(ValueError, match="no checkpoint"):
        made(source, tmp_path, finder=str(tmp_path / "none.safetensors"))


def test_bundled_networks_find_garments():
    """On every third example photo, against the boxes that come with them."""
    clothing, right = ROOT / "training" / "data" / "clothing", []
    with (clothing / "index.csv").open(newline="") as file:
        lines = [line for line in csv.DictReader(file) if 0.05 <= float(line["mask_fraction"]) <= 0.9][::3]
    for path in (ROOT / "checkpoints").glob("yolact-*.safetensors"):
        found = load_finder(path)
        for line in lines:
            with PIL.Image.open(clothing / "images" / line["file"]) as picture:
                subject, (width, height) = found(picture), picture.size
            x0, y0, x1, y1 = (float(line[name]) for name in ("x0", "y0", "x1", "y1"))
            known = (x0 / width, y0 / height, x1 / width, y1 / height)
            right.append(subject is not None and overlap(subject.box, known) > 0.6)
        assert np.mean(right) > 0.8, path.name


def test_a_square_beyond_the_photo_shows_its_object_once() -> None:
    pixels = np.zeros((200, 60, 3), np.uint8)
    pixels[10:190, :40] = 255, 0, 0  # touches the left edge, where the photo is mirrored
    photo, box = PIL.Image.fromarray(pixels), (0.0, 0.05, 40 / 60, 0.95)
    told = finder(("cat", 0.9, (0, 10, 40, 190)))
    left = -square_region(60, 200, box)[0]
    plain = np.asarray(square_crop(photo, box))
    clean = np.asarray(square_around(photo, box, margin=1.5, finder=told))
    assert np.array_equal(plain[:, left : left + 60], clean[:, left : left + 60])
    assert plain[:, left - 20, 0].max() == 255
    assert np.delete(clean, np.s_[left : left + 60], axis=1)[..., 0].max() == 0
    nothing = np.asarray(square_around(photo, box, margin=1.5, finder=finder()))
    assert np.array_equal(nothing, plain)


def test_a_square_inside_the_photo_needs_no_search() -> None:
    photo, box = quiet(), (0.3, 0.27, 0.7, 0.73)

    def tell(_: np.ndarray) -> list[Found]:
        raise AssertionError("searched")

    square = square_around(photo, box, margin=1.5, finder=SubjectFinder(Told(tell)))
    assert square.tobytes() == square_crop(photo, box).tobytes()
