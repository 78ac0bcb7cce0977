"""What can be wrong when a set is prepared; rendered cars; the commands."""

import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest

from tests.training.data.photos import box, index, mask_of, photo, prepared
from training.__main__ import main
from training.config import DataConfig
from training.data.folder import PictureSet
from training.data.layouts import LAYOUTS
from training.data.prepare import Prepare, PrepareCars
from training.data.writing import whole_folder

# What can be wrong


def test_bad_photos_are_named_counted_and_left_out(plain, tmp_path, caplog, capsys):
    (plain / "red" / "0.jpg").write_bytes(b"no photo")
    (plain / "red" / "1.jpg").write_bytes((plain / "red" / "2.jpg").read_bytes()[:400])
    table = tmp_path / "boxes.csv"
    lines = ["red/2.jpg,20,30,320,90", "red/3.jpg,20,30,20,90", "red/4.jpg,-1,0,201,150", "red/9.jpg,1,1,5,5"]
    lines.append("blue/0.png,-2,10,-0.5,40")
    table.write_text("\n".join(["file,x0,y0,x1,y1", *lines]))
    with caplog.at_level(logging.WARNING):
        rows = prepared(plain, boxes=table)
    assert len(rows) == 7
    assert json.loads(capsys.readouterr().out)["left_out"] == 6
    told = "\n".join(caplog.messages)
    assert "red/0.jpg is not a picture" in told
    assert "red/1.jpg is damaged or cut short" in told
    assert "red/2.jpg: its box (20, 30, 320, 90) is not inside the picture; expected 0 <= x0 < x1 <= 200" in told
    assert "red/3.jpg: its box (20, 30, 20, 90)" in told
    assert "red/9.jpg: boxes.csv names it, but it is not there" in told
    assert "blue/0.png: its box (-2, 10, -0.5, 40) is not inside the picture" in told
    fine = {row["source"]: row for row in rows}["red/4.jpg"]
    assert box(fine) == [0, 0, 1, 1]  # one pixel over the border is rounding, not a mistake
    assert len(list((plain.parent / "prepared" / "images").iterdir())) == 7


def test_photos_beside_their_masks_come_with_them(source):
    mask = np.pad(np.full((50, 80), 255, np.uint8), ((60, 40), (100, 20)))
    (source / "masks").mkdir()
    for i in range(4):
        photo(source / "images" / f"{i}.jpg")
        if i < 3:
            PIL.Image.fromarray(mask).save(source / "masks" / f"{i}.png")
    rows = prepared(source)
    assert [row["source"] for row in rows] == [f"images/{i}.jpg" for i in range(4)]
    assert box(rows[0]) == pytest.approx([0.5, 0.4, 0.9, 0.4 + 50 / 150], abs=1e-3)  # the mask's
    masks = sorted(path.name for path in (source.parent / "prepared" / "masks").iterdir())
    assert masks == [f"{Path(row['file']).stem}.png" for row in rows[:3]]


def test_objects_on_white_are_put_before_environments(source, tmp_path):
    (source / "images").mkdir()
    (source / "masks").mkdir()
    maps = tmp_path / "maps"
    maps.mkdir()
    np.savez(maps / "blue.npz", radiance=np.tile(np.array([0.01, 0.02, 1], np.float32), (16, 32, 1)))
    for i in range(3):  # a red rectangle on white, 60 x 40, its mask; the last has none
        picture = PIL.Image.new("RGB", (100, 100), "white")
        picture.paste((200, 30, 30), (20, 30, 80, 70))
        picture.save(source / "images" / f"{i}.png")
        mask = PIL.Image.new("L", (100, 100))
        mask.paste(255, (20, 30, 80, 70))
        if i < 2:
            mask.save(source / "masks" / f"{i}.png")
    options: Any = {"backgrounds": maps, "find_boxes": False, "size": 32, "views": "all-sides"}
    Prepare(source=source, out=tmp_path / "set", **options).run()
    Prepare(source=source, out=tmp_path / "again", **options).run()
    made = json.loads((tmp_path / "set" / "set.json").read_text())
    assert len(made["left_out"]) == 1 and "no mask" in made["left_out"][0]
    pictures = PictureSet(tmp_path / "set", DataConfig(size=32, object_margin=1.5), None)
    batch = pictures.get([0, 1])
    assert batch.box is not None and batch.mask is not None
    x0, y0, x1, y1 = batch.box[0].tolist()
    assert (x0 + x1) / 2 == pytest.approx(0.5, abs=0.03) and (x1 - x0) == pytest.approx(1 / 1.5, abs=0.05)
    assert (y1 - y0) == pytest.approx(40 / 60 / 1.5, abs=0.05)
    object_, place = batch.mask > 0.95, batch.mask < 0.05
    red, blue = batch.image[:, 0:1], batch.image[:, 2:3]
    assert red[object_].min() > blue[object_].max() and blue[place].min() > red[place].max()
    assert red[place].max() < 0.5, "white of the photo is left"
    first, second = (sorted((tmp_path / name / "images").iterdir()) for name in ("set", "again"))
    assert [path.read_bytes() for path in first] == [path.read_bytes() for path in second]


def test_names_that_are_no_utf8_get_backgrounds(source, tmp_path):
    name = os.fsdecode(b"gr\xfcn")
    photo(source / "images" / f"{name}.png")
    mask_of(source / "masks" / f"{name}.png")
    (tmp_path / "maps").mkdir()
    np.savez(tmp_path / "maps" / "grey.npz", radiance=np.ones((16, 32, 3), np.float32))
    (row,) = prepared(source, backgrounds=tmp_path / "maps", find_boxes=False, size=32)
    assert row["source"] == "images/gr\\udcfcn.png"


def test_objects_before_new_backgrounds_have_no_boxes_of_the_old_pictures(source, tmp_path):
    for folder in (source / "images", source / "masks", tmp_path / "maps"):
        folder.mkdir()
    np.savez(tmp_path / "maps" / "grey.npz", radiance=np.ones((16, 32, 3), np.float32))
    PIL.Image.new("RGB", (100, 100), (200, 30, 30)).save(source / "images" / "0.png")
    mask = PIL.Image.new("L", (100, 100))
    mask.paste(255, (20, 30, 80, 70))
    mask.save(source / "masks" / "0.png")
    (source / "index.csv").write_text(
        "file,mask,yaw_deg,head_x0,head_y0,head_x1,head_y1\nimages/0.png,masks/0.png,12.5,20,30,40,50\n"
    )
    kept = {}
    for name, maps in (("as they are", None), ("pasted", tmp_path / "maps")):
        Prepare(source=source, out=tmp_path / name, backgrounds=maps, find_boxes=False, size=32, views="front").run()
        kept[name] = set(PictureSet(tmp_path / name, DataConfig(size=32), None).factors)
    assert kept["as they are"] - kept["pasted"] == {"head_x0", "head_y0", "head_x1", "head_y1"}
    assert "yaw_deg" in kept["pasted"]


def test_a_mask_with_a_damaged_chunk_is_left_out(cub):
    path = cub / "segmentations" / "001.Albatross" / "a.png"
    rng = np.random.default_rng(0)
    PIL.Image.fromarray(rng.integers(0, 256, (400, 400), np.uint8)).save(path)
    content = bytearray(path.read_bytes())
    second = content.index(b"IDAT", content.index(b"IDAT") + 4)
    content[second] = 1
    path.write_bytes(content)
    assert "001.Albatross/a.jpg" not in [row["source"] for row in prepared(cub)]


def test_names_that_are_no_utf8_and_kinds_that_cannot_be_read(plain, capsys, caplog):
    (plain / "red" / "0.jpg").rename(plain / os.fsdecode(b"gr\xfcn.jpg"))
    (plain / "red" / "1.jpg").rename(plain / "red" / "1.jfif")
    (plain / "red" / "2.jpg").rename(plain / "red" / "2.heic")
    (plain / "red" / "2.heic").write_bytes(b"no jpeg any more")
    with caplog.at_level(logging.WARNING):
        rows = prepared(plain)
    assert "gr\\udcfcn.jpg" in [row["source"] for row in rows]
    assert "red/1.jfif" in [row["source"] for row in rows]
    assert json.loads(capsys.readouterr().out)["left_out"] == 1
    assert "red/2.heic is not a picture" in caplog.text


def test_masks_that_do_not_fit_are_left_out(cub):
    mask_of(cub / "segmentations" / "001.Albatross" / "a.png", 20, 20)
    (cub / "segmentations" / "001.Albatross" / "b.png").unlink()
    assert [row["source"] for row in prepared(cub)] == ["002.Auklet/c.jpg"]


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ("file,x0,y0,x1\nred/0.jpg,1,2,3\n", r"boxes\.csv lacks the column y1"),
        ("file,x0,y0,x1,y1\nred/0.jpg,1,two,3,4\n", r"boxes\.csv: 'two' in the line of red/0\.jpg is not a number"),
        (None, r"boxes\.csv does not exist"),
    ],
)
def test_a_listing_that_cannot_be_used_stops_everything(plain, tmp_path, table, said):
    if table is not None:
        (tmp_path / "boxes.csv").write_text(table)
    before = sorted(tmp_path.iterdir())
    with pytest.raises(ValueError, match=said):
        prepared(plain, boxes=tmp_path / "boxes.csv")
    assert sorted(tmp_path.iterdir()) == before


def test_nothing_to_prepare(source, tmp_path):
    with pytest.raises(ValueError, match=r"source has no photos in it"):
        prepared(source)
    (source / "a.jpg").write_bytes(b"no photo")
    with pytest.raises(ValueError, match=r"none of the 1 photos in .*source can be used; the first: a\.jpg is not"):
        prepared(source)
    with pytest.raises(ValueError, match="nowhere is not a folder"):
        Prepare(source=tmp_path / "nowhere", out=tmp_path / "out").run()
    assert [path.name for path in tmp_path.iterdir()] == ["source"]


def test_what_is_there_is_not_touched(plain, tmp_path):
    out = tmp_path / "prepared"
    out.mkdir()
    (out / "mine.txt").write_text("mine")
    with pytest.raises(ValueError, match="prepared is there already"):
        prepared(plain)
    with pytest.raises(ValueError, match="prepared is there already"):
        PrepareCars(out=out, count=1, test=0).run()
    assert [path.name for path in out.iterdir()] == ["mine.txt"]
    (out / "mine.txt").unlink()
    assert len(prepared(plain)) == 12  # an empty folder gives way


def test_an_interrupted_set_leaves_nothing(tmp_path):
    def interrupted() -> None:
        with whole_folder(tmp_path / "set") as folder:
            (folder / "images").mkdir()
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert list(tmp_path.iterdir()) == []


def test_impossible_settings_are_refused(tmp_path):
    wrong: dict[str, Any]
    for wrong in ({"size": 2}, {"held_out": 1.0}, {"margin": 0.5}, {"quality": 0}):
        with pytest.raises(ValueError, match="cannot prepare"):
            Prepare(source=tmp_path, out=tmp_path / "out", **wrong)
    for wrong in ({"size": 2}, {"count": 0}, {"test": -1}, {"seed": -1}, {"workers": -1}):
        with pytest.raises(ValueError, match="cannot render"):
            PrepareCars(out=tmp_path / "out", **wrong)


def test_every_layout_can_be_asked_for():
    choices = Prepare.__dataclass_fields__["layout"].type.__args__
    assert set(choices) == {"auto", *LAYOUTS}


# Rendered cars


def test_cars_are_the_same_whoever_renders_them(tmp_path):
    """Two processes, or one; more training pictures, or fewer: the same picture under the same name."""
    PrepareCars(out=tmp_path / "one", size=16, count=54, test=3, seed=5, workers=1).run()
    PrepareCars(out=tmp_path / "two", size=16, count=53, test=3, seed=5, workers=2).run()
    one, two = index(tmp_path / "one"), index(tmp_path / "two")
    assert len(one) == 57
    assert one[:53] + one[54:] == two
    for row in (one[0], one[52], one[54]):
        for folder in ("images", "masks"):
            path = Path(folder) / row["file"]
            assert (tmp_path / "one" / path).read_bytes() == (tmp_path / "two" / path).read_bytes()
    assert {row["split"] for row in one[:54]} == {"train"}
    assert {row["split"] for row in one[54:]} == {"test"}


def test_cars_come_with_their_factors(tmp_path):
    PrepareCars(out=tmp_path / "cars", size=16, count=8, test=2, workers=1).run()
    pictures = PictureSet(tmp_path / "cars", DataConfig(size=16))
    assert {"rotation", "elevation", "scale", "ty", "tz", "hue", "mesh"} <= set(pictures.factors)
    assert pictures.has_boxes
    assert pictures.has_masks
    batch = pictures.get(range(8))
    assert batch.mask is not None
    assert batch.mask.amax((1, 2, 3)).min() == 1
    made = json.loads((tmp_path / "cars" / "set.json").read_text())
    assert made["arguments"] == {"size": 16, "count": 8, "test": 2, "seed": 0, "shadow": False}


def test_commands(plain, tmp_path, capsys):
    """As a person calls them: a set and a line of JSON, or one sentence and nothing."""
    assert main(["prepare", "photos", "--source", str(plain), "--out", str(tmp_path / "a"), "--size", "32"]) == 0
    assert json.loads(capsys.readouterr().out)["pictures"] == len(index(tmp_path / "a")) == 12
    assert main(["prepare", "photos", "--source", str(tmp_path / "no"), "--out", str(tmp_path / "b")]) == 2
    assert capsys.readouterr().err.splitlines()[-1].startswith("error: ")
    assert not (tmp_path / "b").exists()
    small = ["--size", "16", "--count", "2", "--test", "1", "--workers", "1"]
    assert main(["prepare", "cars", "--out", str(tmp_path / "c"), *small]) == 0
    assert json.loads(capsys.readouterr().out)["splits"] == {"train": 2, "test": 1}
