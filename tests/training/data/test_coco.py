"""COCO sets: read whatever is right, refuse what is not and say which annotation."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.ndimage

from tests.odd_files import BAD
from training.data.coco import CocoError, CocoSet, CocoWriter, find_split
from training.data.mask_codes import (
    MaskError,
    decode,
    fill,
    from_run_lengths,
    pack,
    run_lengths,
    to_polygons,
    to_rle,
    unpack,
)
from training.data.polygons import trace

W, H = 30, 20


def square(x: int = 4, y: int = 5, side: int = 6) -> np.ndarray:
    mask = np.zeros((H, W), bool)
    mask[y : y + side, x : x + side] = True
    return mask


def content(**change) -> dict:
    """Return a set of two pictures, one with an object; ids from 0 and with gaps, and an unused category."""
    annotation = {
        "id": 7,
        "image_id": 0,
        "category_id": 5,
        "bbox": [4, 5, 6, 6],
        "area": 36,
        "iscrowd": 0,
        "segmentation": [[4, 5, 10, 5, 10, 11, 4, 11]],
    }
    return {
        "images": [
            {"id": 0, "file_name": "a.png", "width": W, "height": H},
            {"id": 900, "file_name": "b.png", "width": W, "height": H},
        ],
        "annotations": [annotation | change],
        "categories": [{"id": 90, "name": "unused"}, {"id": 5, "name": "cat"}, {"id": 0, "name": "dog"}],
    }


def written(folder: Path, what: dict | str) -> Path:
    (folder / "images").mkdir(exist_ok=True)
    for name in "ab":
        PIL.Image.new("RGB", (W, H), "red").save(folder / "images" / f"{name}.png")
    path = folder / "set.json"
    path.write_text(what if isinstance(what, str) else json.dumps(what))
    return path


def test_ids_from_zero_gaps_unused_categories_and_empty_pictures(tmp_path):
    found = CocoSet(written(tmp_path, content()))
    assert found.categories == ("dog", "cat", "unused")
    assert len(found) == 2
    first, second = found.load(0), found.load(1)
    assert first.image.shape == (H, W, 3)
    assert first.boxes.tolist() == [[4, 5, 10, 11]]
    assert first.labels.tolist() == [1]
    assert (first.masks[0] == square()).all()
    assert second.masks.shape == (0, H, W)
    assert second.boxes.shape == (0, 4)


@pytest.mark.parametrize("kind", ["packed", "plain", "polygons", "two polygons"])
def test_every_kind_of_mask(tmp_path, kind):
    mask = square()
    kinds = {
        "packed": to_rle(mask),
        "plain": {"size": [H, W], "counts": run_lengths(mask)},
        "polygons": [[4, 5, 10, 5, 10, 11, 4, 11]],
        "two polygons": [[4, 5, 7, 5, 7, 11, 4, 11], [7, 5, 10, 5, 10, 11, 7, 11]],
    }
    found = CocoSet(written(tmp_path, content(segmentation=kinds[kind], iscrowd=1)))
    assert (found.load(0).masks[0] == mask).all()
    assert found.load(0).crowd.tolist() == [True]


WRONG = {
    "box outside": {"bbox": [25, 5, 60, 6]},
    "box of no area": {"bbox": [4, 5, 0, 6]},
    "box of words": {"bbox": ["4", 5, 6, 6]},
    "box not finite": {"bbox": [float("nan"), 5, 6, 6]},
    "no box": {"bbox": None},
    "empty polygon": {"segmentation": [[]]},
    "polygon of a line": {"segmentation": [[1, 1, 5, 5]]},
    "no polygons": {"segmentation": []},
    "odd polygon": {"segmentation": [[1, 2, 3, 4, 5, 6, 7]]},
    "endless polygon": {"segmentation": [[1, 2, 3, 4, float("inf"), 6]]},
    "mask of another size": {"segmentation": {"size": [W, H], "counts": [W * H]}},
    "runs that do not fill": {"segmentation": {"size": [H, W], "counts": [10, 10]}},
    "negative runs": {"segmentation": {"size": [H, W], "counts": [-10, 10, H * W]}},
    "empty mask": {"segmentation": {"size": [H, W], "counts": [H * W]}},
    "runs of words": {"segmentation": {"size": [H, W], "counts": ["a"]}},
    "string no tool writes": {"segmentation": {"size": [H, W], "counts": "\x01\x02"}},
    "string cut short": {"segmentation": {"size": [H, W], "counts": "Z"}},
    "unknown picture": {"image_id": 12},
    "unknown category": {"category_id": 1},
    "crowd of two": {"iscrowd": 2},
}


@pytest.mark.parametrize("change", WRONG.values(), ids=WRONG)
def test_wrong_annotations_are_named_in_one_sentence(tmp_path, change):
    path = written(tmp_path, content(**change))
    with pytest.raises(CocoError) as refused:
        CocoSet(path)
    assert "annotation 7" in str(refused.value)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 250
    kept = CocoSet(path, faults="leave out")
    assert len(kept.load(0).masks) == 0


def without(what: dict, *names: str) -> dict:
    return {k: v for k, v in what.items() if k not in names}


LISTS = {
    "not JSON": "{",
    "empty": "",
    "cut short": json.dumps(content())[:200],
    "deep": "[" * 100_000,
    "a list": "[]",
    "no images": without(content(), "images"),
    "no categories": content() | {"categories": []},
    "nameless category": content() | {"categories": [{"id": 5}]},
    "double category": content() | {"categories": [{"id": 5, "name": "cat"}, {"id": 6, "name": "cat"}]},
    "double picture": content() | {"images": [content()["images"][0]] * 2},
    "picture without a size": content() | {"images": [without(content()["images"][0], "width")]},
    "picture of no size": content() | {"images": [content()["images"][0] | {"width": 0}]},
    "huge picture": content() | {"images": [content()["images"][0] | {"width": 10**6, "height": 10**6}]},
    "missing file": content() | {"images": [content()["images"][0] | {"file_name": "c.png"}]},
    "file outside": content() | {"images": [content()["images"][0] | {"file_name": "../../etc/passwd"}]},
    "file at the root": content() | {"images": [content()["images"][0] | {"file_name": "/etc/passwd"}]},
    "double annotation": content() | {"annotations": content()["annotations"] * 2},
    "annotation without id": content() | {"annotations": [without(content()["annotations"][0], "id")]},
}


@pytest.mark.parametrize("what", LISTS.values(), ids=LISTS)
def test_wrong_lists_are_refused_in_one_sentence(tmp_path, what):
    with pytest.raises(CocoError) as refused:
        CocoSet(written(tmp_path, what))
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 250


def test_missing_files_name_an_annotation(tmp_path):
    path = written(tmp_path, content())
    (tmp_path / "images" / "a.png").unlink()
    with pytest.raises(CocoError, match=r"annotation 7.*a\.png is missing"):
        CocoSet(path)


def test_pictures_of_another_size_or_none_are_refused(tmp_path):
    found = CocoSet(written(tmp_path, content()))
    PIL.Image.new("RGB", (W, H + 1)).save(tmp_path / "images" / "a.png")
    with pytest.raises(CocoError, match=r"annotation 7.*another size"):
        found.load(0)
    for data in BAD.values():
        (tmp_path / "images" / "a.png").write_bytes(data)
        with pytest.raises(CocoError, match="annotation 7"):
            found.load(0)


@pytest.mark.parametrize("upright", [False, True], ids=["masks as stored", "masks upright"])
def test_a_photos_turn_is_applied_to_both_or_none(tmp_path, upright):
    """A photo stored W x H that its EXIF mark turns; the object is red, in the corner the mask says."""
    pixels = np.zeros((H, W, 3), np.uint8)
    pixels[:6, :10] = (255, 0, 0)
    mask = pixels[..., 0] > 0
    shown = np.rot90(mask, -1) if upright else mask  # mark 6: turn clockwise to see it upright
    exif = PIL.Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "images").mkdir()
    PIL.Image.fromarray(pixels).save(tmp_path / "images" / "a.png", exif=exif)
    writer = CocoWriter(["cat"])
    writer.add(writer.add_image("a.png", shown.shape[1], shown.shape[0]), "cat", np.ascontiguousarray(shown))
    writer.write(tmp_path / "set.json")
    picture = CocoSet(tmp_path / "set.json").load(0)
    assert picture.image.shape[:2] == shown.shape
    assert ((picture.image[..., 0] > 127) == picture.masks[0]).all()


def test_boxes_may_reach_out_by_rounding(tmp_path):
    found = CocoSet(written(tmp_path, content(bbox=[-0.4, 0, W + 0.9, H + 0.4])))
    assert found.load(0).boxes.tolist() == [[0, 0, W, H]]


def test_written_sets_are_read_back(tmp_path):
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    writer = CocoWriter(["cat", "dog"], made_by="a test")
    masks = []
    for k in range(4):
        PIL.Image.fromarray(rng.integers(0, 255, (H, W, 3), dtype=np.uint8)).save(tmp_path / "images" / f"{k}.png")
        image = writer.add_image(f"{k}.png", W, H)
        masks.append(scipy.ndimage.gaussian_filter(rng.random((H, W)), 2) > 0.5)
        writer.add(image, "dog", masks[-1], polygons=k % 2 == 0)
    writer.write(tmp_path / "train.json")
    found = find_split(tmp_path, "train")
    for k, mask in enumerate(masks):
        picture = found.load(k)
        assert (picture.masks[0] == mask).all()
        rows, columns = np.flatnonzero(mask.any(1)), np.flatnonzero(mask.any(0))
        assert picture.boxes[0].tolist() == [columns[0], rows[0], columns[-1] + 1, rows[-1] + 1]
    with pytest.raises(CocoError, match="no split 'validation'"):
        find_split(tmp_path, "validation")
    with pytest.raises(ValueError, match="0 pixels"):
        writer.add(1, "dog", np.zeros((H, W), bool))


def test_merging_counts_ids_on():
    first, second = CocoWriter(["cat"]), CocoWriter(["cat"])
    for writer in (first, second):
        writer.add(writer.add_image("a.png", W, H), "cat", square())
    first.merge(second)
    assert [image["id"] for image in first.images] == [1, 2]
    assert [(a["id"], a["image_id"]) for a in first.annotations] == [(1, 1), (2, 2)]
    with pytest.raises(ValueError, match="categories"):
        first.merge(CocoWriter(["dog"]))


def test_annotations_layout_of_coco_itself(tmp_path):
    (tmp_path / "annotations").mkdir()
    (tmp_path / "train2017").mkdir()
    for name in "ab":
        PIL.Image.new("RGB", (W, H)).save(tmp_path / "train2017" / f"{name}.png")
    (tmp_path / "annotations" / "instances_train2017.json").write_text(json.dumps(content()))
    assert len(find_split(tmp_path, "train").load(0).masks) == 1


def test_run_lengths_are_those_of_coco_tools():
    from pycocotools import mask as tools

    rng = np.random.default_rng(0)
    for size in ((1, 1), (1, 9), (9, 1), (13, 17), (40, 64)):
        for share in (0.0, 0.1, 0.5, 1.0):
            mask = rng.random(size) < share
            theirs: Any = tools.encode(np.asfortranarray(mask.astype(np.uint8)))
            assert to_rle(mask) == {"size": list(size), "counts": theirs["counts"].decode()}
            assert unpack(pack(run_lengths(mask))).tolist() == run_lengths(mask)
            assert (from_run_lengths(run_lengths(mask), size) == mask).all()
    with pytest.raises(MaskError, match="do not fill"):
        from_run_lengths([1, 2], (2, 2))


@pytest.mark.parametrize("sigma", [0.0, 1.5])
def test_outlines_fill_to_the_mask_with_holes_and_corners(sigma):
    rng = np.random.default_rng(0)
    for _ in range(40):
        values = rng.random(rng.integers(1, 30, 2))
        mask = (scipy.ndimage.gaussian_filter(values, sigma) if sigma else values) > 0.5
        if mask.any():
            assert (decode(to_polygons(mask), mask.shape) == mask).all()


def test_outlines_with_tolerance_have_fewer_points_and_stay_near():
    y, x = np.mgrid[:200, :200]
    ring = (np.hypot(x - 100, y - 100) < 80) & (np.hypot(x - 110, y - 100) > 30)
    exact, rough = to_polygons(ring), to_polygons(ring, 1.0)
    again = decode(rough, ring.shape)
    assert len(rough[0]) < len(exact[0]) / 3
    assert (again & ring).sum() / (again | ring).sum() > 0.97
    assert len(trace(ring)) == 1


def test_thin_polygons_are_not_lost():
    thin = [[3.1, 3.1, 3.2, 3.1, 3.2, 3.2]]
    assert not fill(np.array(thin[0]).reshape(-1, 2), (H, W)).any()
    assert decode(thin, (H, W)).sum() == 1
