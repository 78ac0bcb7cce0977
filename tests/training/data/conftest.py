"""Folders of photos in the forms of published sets."""

from pathlib import Path

import pytest

from tests.training.data.photos import mask_of, photo


@pytest.fixture
def source(tmp_path) -> Path:
    """A folder whose name tells nothing; what is made lies beside it."""
    folder = tmp_path / "source"
    folder.mkdir()
    return folder


@pytest.fixture
def plain(source) -> Path:
    for i in range(6):
        photo(source / "red" / f"{i}.jpg")
        photo(source / "blue" / f"{i}.png", 150, 300)
    (source / "notes.txt").write_text("no photo")
    return source


@pytest.fixture
def cub(source) -> Path:
    names = ["001.Albatross/a.jpg", "001.Albatross/b.jpg", "002.Auklet/c.jpg"]
    for name in names:
        photo(source / "images" / name)
        mask_of((source / "segmentations" / name).with_suffix(".png"))
    lists = {
        "images": names,
        "bounding_boxes": ["20.0 15.0 100.0 60.0", "0.0 0.0 200.0 150.0", "50 30 100 90"],
        "image_class_labels": ["1", "1", "2"],
        "train_test_split": ["1", "0", "1"],
    }
    for name, values in lists.items():
        (source / f"{name}.txt").write_text("".join(f"{i + 1} {value}\n" for i, value in enumerate(values)))
    return source
