"""Prepared sets as batches: what a training step gets is what the index says."""

import csv
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from mixnmatch.paper.presets import CUB
from training.config import DataConfig
from training.data.folder import PictureSet
from training.types import Batch

N = 12


@pytest.fixture
def prepared(tmp_path) -> Path:
    """Photos of a white rectangle on a dark ground that gets lighter to the right; its mask; its box."""
    rng = np.random.default_rng(0)
    (tmp_path / "images").mkdir()
    (tmp_path / "masks").mkdir()
    rows = []
    for i in range(N):
        width, height = (96, 128) if i % 2 else (140, 96)
        x0, y0 = int(rng.integers(4, width - 60)), int(rng.integers(4, height - 60))
        x1, y1 = x0 + int(rng.integers(24, 50)), y0 + int(rng.integers(24, 50))
        picture = np.zeros((height, width, 3), np.uint8)
        picture[:] = (np.arange(width) * 100 // width)[None, :, None]
        picture[..., 2] = 10 * i
        picture[y0:y1, x0:x1] = 255
        mask = np.zeros((height, width), np.uint8)
        mask[y0:y1, x0:x1] = 255
        PIL.Image.fromarray(picture).save(tmp_path / "images" / f"{i}.png")
        PIL.Image.fromarray(mask).save(tmp_path / "masks" / f"{i}.png")
        box = {"x0": x0, "y0": y0, "x1": x1, "y1": y1}
        shape = {"width": width, "height": height}
        split = "test" if i >= N - 2 else "train"
        rows.append(
            {"file": f"{i}.png", "split": split, "label": "ab"[i % 2], **shape, **box, "turn": i / 4, "by": "me"}
        )
    write_rows(tmp_path, rows)
    return tmp_path


def write_rows(folder: Path, rows: list[dict]) -> None:
    with (folder / "index.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def read_rows(folder: Path) -> list[dict]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def assert_box_holds_the_white(image: torch.Tensor, boxes: torch.Tensor, slack: float = 1.5) -> None:
    """The white rectangle, to within `slack` pixels, is where the box says."""
    size = image.shape[-1]
    for picture, box in zip(image, boxes, strict=True):
        y, x = torch.nonzero(picture[0] > 0.4, as_tuple=True)
        found = torch.stack([x.min(), y.min(), x.max() + 1, y.max() + 1])
        assert (found - box * size).abs().max() <= slack


CONFIGS = [
    DataConfig(size=32),
    DataConfig(size=32, object_margin=1.5),
    DataConfig(size=32, object_margin=1.5, scene=True),
    DataConfig(size=32, object_margin=1.5, scene=True, jitter=0.2),
    DataConfig(size=32, object_margin=1.5, scene=True, scene_size=24, jitter=0.2),
    DataConfig(size=32, object_margin=1.75, scene=True, jitter=0.4, jitter_size=True),
]


@pytest.mark.parametrize("config", CONFIGS[1:])
def test_boxes_and_masks_follow_cuts_and_mirrors(prepared, rng, config):
    pictures = PictureSet(prepared, config)
    for _ in range(4):
        batch = pictures.batch(range(len(pictures)), rng)
        assert batch.image.shape == (10, 3, 32, 32)
        assert batch.box is not None
        assert batch.mask is not None
        assert_box_holds_the_white(batch.image, batch.box)
        assert_box_holds_the_white(batch.mask * 2 - 1, batch.box)
        assert ((batch.image[:, :1] > 0.5) != (batch.mask > 0.75)).float().mean() < 0.03


def test_crops_of_many_sizes_show_objects_smaller_and_larger(prepared, rng):
    pictures = PictureSet(prepared, DataConfig(size=32, object_margin=1.75, jitter=0.4, jitter_size=True, flip=False))
    whole = PictureSet(prepared, DataConfig(size=32, object_margin=1.75, flip=False)).get(range(10)).box
    assert whole is not None
    larger, places = [], []
    for _ in range(60):
        box = pictures.batch(range(10), rng).box
        assert box is not None
        larger.append((box[:, 2:] - box[:, :2]) / (whole[:, 2:] - whole[:, :2]))
        places.append(box[:, :2] + box[:, 2:])
    seen = torch.stack(larger)
    assert 0.97 < float(seen.min()) < 1.05 and 1.33 < float(seen.max()) < 1.43  # all of what is loaded; 1 / 1.4 of it
    assert float(torch.stack(places).std(0).min()) > 0.05
    one, same, seventh = (pictures.get(indices) for indices in (range(10), range(10), [7]))
    assert torch.equal(one.image, same.image) and torch.equal(one.image[7:8], seventh.image)
    assert one.box is not None
    assert float((one.box - whole).abs().max()) > 0.05


def test_scenes_show_the_whole_picture(prepared, rng):
    """The longer side is cut at random; the box says where the object is in what is left."""
    pictures = PictureSet(prepared, DataConfig(size=32, object_margin=1.5, scene=True))
    seen = set()
    for _ in range(6):
        batch = pictures.batch([0, 1], rng)
        assert batch.scene is not None
        assert batch.scene_box is not None
        assert batch.scene.shape == (2, 3, 32, 32)
        inside = [i for i in range(2) if batch.scene_box[i].min() > 0 and batch.scene_box[i].max() < 1]
        assert_box_holds_the_white(batch.scene[inside], batch.scene_box[inside])
        seen.add(tuple(batch.scene_box[1].tolist()))
    assert len(seen) > 2


def test_scenes_are_cut_from_larger_ones_too(tmp_path):
    """The published MixNMatch: scenes of 149 pixels cut to 126, anywhere; the box goes along."""
    side = 298
    x, y = np.meshgrid(np.arange(side), np.arange(side))
    (tmp_path / "images").mkdir()
    picture = np.stack([x * 255 / side, y * 255 / side, 0 * x], -1).astype(np.uint8)
    PIL.Image.fromarray(picture).save(tmp_path / "images" / "0.png")
    row = {"file": "0.png", "split": "train", "label": "", "width": side, "height": side}
    write_rows(tmp_path, [row | {"x0": 100, "y0": 120, "x1": 200, "y1": 180}])
    pictures = PictureSet(tmp_path, replace(CUB.data, flip=False))
    rng, corners = torch.Generator().manual_seed(0), []
    for _ in range(200):
        batch = pictures.batch([0], rng)
        assert batch.scene is not None and batch.scene_box is not None
        assert batch.scene.shape == (1, 3, 126, 126)
        left, top = ((batch.scene[0, i, 63, 63] + 1) * 127.5 / 255 * 149 - 63 for i in (0, 1))
        wanted = torch.tensor([50, 60, 100, 90]) - torch.tensor([left, top, left, top])
        torch.testing.assert_close(batch.scene_box[0] * 126, wanted, atol=1.0, rtol=0)
        corners.append((round(float(left)), round(float(top))))
    for edges in zip(*corners, strict=True):  # 149 - 126 = 23 pixels to choose from, both ways
        assert min(edges) <= 1 and 22 <= max(edges) <= 24
        assert len(set(edges)) >= 20
    middle = pictures.get([0]).scene_box
    assert middle is not None
    torch.testing.assert_close(middle[0] * 126, torch.tensor([38.0, 48.0, 88.0, 78.0]), atol=0.51, rtol=0)


def test_half_are_mirrored(prepared, rng):
    pictures = PictureSet(prepared, DataConfig(size=32))
    plain = pictures.get([0]).image
    batches = [pictures.batch([0], rng).image for _ in range(200)]
    mirrored = sum(torch.equal(image, plain.flip(-1)) for image in batches)
    assert mirrored + sum(torch.equal(image, plain) for image in batches) == 200
    assert 60 < mirrored < 140
    unmirrored = PictureSet(prepared, DataConfig(size=32, flip=False))
    assert all(torch.equal(unmirrored.batch([0], rng).image, plain) for _ in range(20))


@pytest.mark.parametrize("config", CONFIGS)
def test_same_indices_and_rng_give_the_same_batch_in_memory_or_not(prepared, config):
    def draw(memory: int) -> Batch:
        pictures = PictureSet(prepared, config, memory=memory)
        return pictures.batch([3, 1, 1, 9], torch.Generator().manual_seed(5))

    first, again, streamed = draw(1 << 30), draw(1 << 30), draw(0)
    for name in ("image", "box", "mask", "scene", "scene_box"):
        one = getattr(first, name)
        if one is None:
            assert name.startswith("scene")
            assert not config.scene
            continue
        assert torch.equal(one, getattr(again, name))
        assert torch.equal(one, getattr(streamed, name))
    assert first.index == (3, 1, 1, 9)


def test_whole_pictures_are_centre_squares_with_their_box(prepared):
    pictures = PictureSet(prepared, DataConfig(size=96))
    row = read_rows(prepared)[0]  # 140 x 96: 22 pixels go on either side
    batch = pictures.get([0])
    with PIL.Image.open(prepared / "images" / "0.png") as picture:
        wanted = np.asarray(picture)[:, 22:118]
    assert np.array_equal(((batch.image[0].permute(1, 2, 0) + 1) * 127.5).round().numpy(), wanted)
    assert batch.box is not None
    wanted_box = [(int(row["x0"]) - 22) / 96, int(row["y0"]) / 96, (int(row["x1"]) - 22) / 96, int(row["y1"]) / 96]
    assert batch.box[0].tolist() == pytest.approx([min(max(edge, 0), 1) for edge in wanted_box])


def test_labels_and_factors(prepared):
    pictures = PictureSet(prepared, DataConfig(size=8))
    assert pictures.label_names == ("a", "b")
    assert pictures.labels.tolist() == [0, 1] * 5
    assert list(pictures.factors) == ["turn"]  # "by" holds words
    assert pictures.factors["turn"].tolist() == [i / 4 for i in range(10)]
    assert pictures.files[:2] == ("0.png", "1.png")


def test_splits(prepared):
    config = DataConfig(size=8)
    assert [len(PictureSet(prepared, config, split)) for split in ("train", "test", None)] == [10, 2, 12]
    with pytest.raises(ValueError, match="no pictures in the split 'validation'; it has test, train"):
        PictureSet(prepared, config, "validation")


def test_a_walk_through_the_set_shows_each_picture_once(prepared):
    pictures = PictureSet(prepared, DataConfig(size=16))
    batches = list(pictures.batches(size=4))
    assert [len(batch.image) for batch in batches] == [4, 4, 2]
    assert [i for batch in batches for i in batch.index] == list(range(10))
    assert torch.equal(pictures.pictures(), torch.cat([pictures.get([i]).image for i in range(10)]))
    assert [i for batch in pictures.batches(5) for i in batch.index] == [0, 2, 4, 6, 8]
    with pytest.raises(ValueError, match="has 10 pictures in this split, 11 were asked for"):
        pictures.pictures(11)


def test_sets_without_boxes_or_masks(prepared, rng):
    write_rows(prepared, [{**row, "x0": "", "y0": "", "x1": "", "y1": ""} for row in read_rows(prepared)])
    (prepared / "masks" / "0.png").unlink()
    batch = PictureSet(prepared, DataConfig(size=16, object_margin=1.5, scene=True)).batch([0, 1], rng)
    assert (batch.box, batch.scene_box, batch.mask) == (None, None, None)
    assert batch.image.shape == (2, 3, 16, 16)


def test_a_picture_without_box_is_all_object(prepared):
    rows = read_rows(prepared)
    rows[0] |= {"x0": "", "y0": "", "x1": "", "y1": ""}
    write_rows(prepared, rows)
    batch = PictureSet(prepared, DataConfig(size=16, object_margin=1.5)).get([0, 1])
    assert batch.box is not None
    assert batch.box[0].tolist() == [0, 0, 1, 1]
    assert batch.box[1].tolist() != [0, 0, 1, 1]


def test_what_is_wrong_with_a_set_is_said(prepared, tmp_path):
    config = DataConfig(size=8)
    with pytest.raises(ValueError, match=r"nowhere is no prepared set.*prepare"):
        PictureSet(tmp_path / "nowhere", config)
    rows = read_rows(prepared)
    write_rows(prepared, [{k: v for k, v in row.items() if k not in ("x0", "label")} for row in rows])
    with pytest.raises(ValueError, match="lacks the column label, x0"):
        PictureSet(prepared, config)
    write_rows(prepared, [{**rows[0], "x1": ""}])
    with pytest.raises(ValueError, match=r"the line of 0\.png is not right: a box needs all"):
        PictureSet(prepared, config)
    write_rows(prepared, rows)
    (prepared / "images" / "3.png").write_bytes(b"no picture")
    with pytest.raises(ValueError, match=r"3\.png cannot be read"):
        PictureSet(prepared, config)
    with pytest.raises(ValueError, match="a batch of no pictures"):
        PictureSet(prepared, config, "test").get([])


@pytest.mark.parametrize("wrong", [{"size": 0}, {"object_margin": 0.5}, {"jitter": -0.1}, {"scene_size": 0}])
def test_impossible_settings_are_refused(wrong):
    with pytest.raises(ValueError, match="expected"):
        DataConfig(**wrong)
