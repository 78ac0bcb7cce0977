"""Training sets made from sources: each layout in small, and what happens when something is wrong."""

import csv
import json
import logging
import os
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import scipy.io

from tests.places import CLOTHING
from training.__main__ import main
from training.config import DataConfig
from training.data.folder import PictureSet
from training.data.layouts import LAYOUTS, detect
from training.data.prepare import Prepare, PrepareCars
from training.data.writing import whole_folder

EXAMPLES = CLOTHING


def photo(path: Path, width: int = 200, height: int = 150, mode: str = "RGB") -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    PIL.Image.new(mode, (width, height), 90).save(path)
    return path


def mask_of(path: Path, width: int = 200, height: int = 150) -> Path:
    """A mask of a rectangle in the middle."""
    path.parent.mkdir(parents=True, exist_ok=True)
    mask = PIL.Image.new("L", (width, height))
    mask.paste(255, (width // 4, height // 4, 3 * width // 4, 3 * height // 4))
    mask.save(path)
    return path


def prepared(source: Path, **options) -> list[dict[str, str]]:
    """Prepare a source into a folder beside it; return the lines of its index."""
    out = source.parent / "prepared"
    Prepare(source=source, out=out, **options).run()
    return index(out)


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def box(row: dict[str, str]) -> list[float]:
    """A line's box in fractions of its picture."""
    width, height = float(row["width"]), float(row["height"])
    return [float(row[k]) / size for k, size in zip(("x0", "y0", "x1", "y1"), (width, height) * 2, strict=True)]


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


# Layouts


def test_plain_folder(plain):
    rows = prepared(plain)
    assert [row["source"] for row in rows] == [
        f"{c}/{i}.{e}" for c, e in (("blue", "png"), ("red", "jpg")) for i in range(6)
    ]
    assert {row["label"] for row in rows} == {"red", "blue"}
    assert {(row["width"], row["height"]) for row in rows} == {("128", "96"), ("96", "192")}  # short side 1.5 * 64
    assert all(float(row["x0"]) == pytest.approx(0.05 * float(row["width"]), abs=0.01) for row in rows)  # no object
    assert detect(plain) == "plain"


def test_what_is_held_out_depends_on_names_only(plain):
    splits = {row["source"]: row["split"] for row in prepared(plain, held_out=0.5)}
    assert set(splits.values()) == {"train", "test"}
    photo(plain / "another.jpg")
    Prepare(source=plain, out=plain.parent / "again", held_out=0.5).run()
    again = {row["source"]: row["split"] for row in index(plain.parent / "again")}
    assert splits.items() <= again.items()


def test_plain_folder_with_boxes(plain, tmp_path):
    table = tmp_path / "boxes.csv"
    table.write_text("file,x0,y0,x1,y1,split\nred/0.jpg,20,30,120,90,test\nred/1.jpg,0,0,200,150,\n")
    rows = {row["source"]: row for row in prepared(plain, boxes=table, held_out=0, find_boxes=False)}
    assert box(rows["red/0.jpg"]) == pytest.approx([0.1, 0.2, 0.6, 0.6], abs=1e-3)
    assert rows["red/0.jpg"]["split"] == "test"
    assert box(rows["red/1.jpg"]) == [0, 0, 1, 1]
    assert rows["red/2.jpg"]["x0"] == ""
    assert len(rows) == 12
    table.rename(plain / "boxes.csv")
    Prepare(source=plain, out=tmp_path / "again", held_out=0, find_boxes=False).run()  # its own, unasked
    assert index(tmp_path / "again") == list(rows.values())


def test_photos_without_a_box_beside_photos_with_one_are_looked_at(plain, tmp_path):
    with PIL.Image.open(plain / "red" / "2.jpg") as backdrop:
        picture = PIL.Image.new("RGB", backdrop.size, (230, 230, 230))
    picture.paste((200, 20, 20), (60, 40, 140, 110))
    picture.save(plain / "red" / "2.jpg")
    table = tmp_path / "boxes.csv"
    table.write_text("file,x0,y0,x1,y1\nred/0.jpg,20,30,120,90\n")
    rows = {row["source"]: row for row in prepared(plain, boxes=table)}
    assert box(rows["red/0.jpg"]) == pytest.approx([0.1, 0.2, 0.6, 0.6], abs=1e-3)
    assert box(rows["red/2.jpg"]) == pytest.approx([60 / 200, 40 / 150, 140 / 200, 110 / 150], abs=0.03)


def test_photos_of_small_objects_are_kept_larger(plain, tmp_path):
    photo(plain / "red" / "0.jpg", 800, 600)
    table = tmp_path / "boxes.csv"
    table.write_text("file,x0,y0,x1,y1\nred/0.jpg,300,200,400,280\n")
    rows = {row["source"]: row for row in prepared(plain, boxes=table)}
    assert rows["red/0.jpg"]["height"] == "192"  # three times 64, not half as long again
    photo(plain / "tiny.png", 20, 30)
    Prepare(source=plain, out=tmp_path / "again").run()
    tiny = {row["source"]: row for row in index(tmp_path / "again")}["tiny.png"]
    assert (tiny["width"], tiny["height"]) == ("20", "30")


def test_clothing_examples_of_this_project(tmp_path):
    """The bundled examples become a set whose batches have objects, scenes, masks and boxes."""
    out = tmp_path / "clothing"
    Prepare(source=EXAMPLES, out=out, size=32).run()
    config = DataConfig(size=32, object_margin=1.5, scene=True)
    training, held_out = PictureSet(out, config), PictureSet(out, config, "validation")
    assert (len(training), len(held_out)) == (107, 13)
    assert len(training.label_names) == 10
    batch = training.get(range(107))
    assert batch.mask is not None
    assert batch.box is not None
    x0, y0, x1, y1 = (batch.box * 32).round().long().T
    inside = [m[0, t:b, left:r].sum() / m.sum() for m, left, t, r, b in zip(batch.mask, x0, y0, x1, y1, strict=True)]
    assert np.mean(inside) > 0.95  # masks are in their boxes
    made = json.loads((out / "set.json").read_text())
    assert (made["arguments"]["layout"], made["arguments"]["size"]) == ("clothing", 32)
    assert str(tmp_path) not in (out / "set.json").read_text()


def test_clothing_leaves_out_bad_masks(source):
    for name in "ab":
        photo(source / "images" / f"{name}.jpg")
        mask_of(source / "masks" / f"{name}.png")
    head = "file,split,garment,width,height,x0,y0,x1,y1,mask_fraction\n"
    (source / "index.csv").write_text(
        head + "a.jpg,train,hat,200,150,1,1,9,9,0.5\nb.jpg,train,hat,200,150,1,1,9,9,0.95\n"
    )
    assert [row["source"] for row in prepared(source)] == ["a.jpg"]


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


def test_cub(cub):
    assert detect(cub) == "cub"
    rows = prepared(cub)
    assert [row["split"] for row in rows] == ["train", "test", "train"]
    assert [row["label"] for row in rows] == ["001.Albatross", "001.Albatross", "002.Auklet"]
    assert box(rows[0]) == pytest.approx([0.1, 0.1, 0.6, 0.5], abs=1e-3)  # x y width height in CUB's own file
    assert len(list((cub.parent / "prepared" / "masks").iterdir())) == 3


def test_cub_without_segmentations_or_with_holes(cub):
    for path in (cub / "segmentations").rglob("*.png"):
        path.unlink()
    for folder in [*(cub / "segmentations").iterdir(), cub / "segmentations"]:
        folder.rmdir()
    assert len(prepared(cub)) == 3
    assert not (cub.parent / "prepared" / "masks").exists()
    (cub / "train_test_split.txt").write_text("1 1\n2 0\n")
    with pytest.raises(ValueError, match=r"train_test_split\.txt has no line for image 3"):
        Prepare(source=cub, out=cub.parent / "again").run()
    (cub / "bounding_boxes.txt").write_text("1 3.0 4.0 5.0\n")
    with pytest.raises(ValueError, match=r"bounding_boxes\.txt: the line '1 3\.0 4\.0 5\.0' lacks values"):
        Prepare(source=cub, out=cub.parent / "again").run()
    (cub / "bounding_boxes.txt").unlink()
    with pytest.raises(ValueError, match=r"bounding_boxes\.txt does not exist"):
        Prepare(source=cub, out=cub.parent / "again", layout="cub").run()
    assert not (cub.parent / "again").exists()


def annotation(path: Path, *boxes: tuple[int, int, int, int]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    items = "".join(
        f"<object><bndbox><xmin>{a}</xmin><ymin>{b}</ymin><xmax>{c}</xmax><ymax>{d}</ymax></bndbox></object>"
        for a, b, c, d in boxes
    )
    path.write_text(f"<annotation>{items}</annotation>")


def test_dogs(source):
    for name, boxes in (("n1_1", [(10, 10, 30, 30), (20, 15, 120, 90)]), ("n1_2", [(0, 0, 200, 150)]), ("n1_3", [])):
        photo(source / "Images" / "n1-Border_collie" / f"{name}.jpg")
        annotation(source / "Annotation" / "n1-Border_collie" / name, *boxes)
    assert detect(source) == "dogs"
    rows = prepared(source)
    assert [row["source"] for row in rows] == ["n1-Border_collie/n1_1.jpg", "n1-Border_collie/n1_2.jpg"]  # n1_3: no box
    assert box(rows[0]) == pytest.approx([0.1, 0.1, 0.6, 0.6], abs=1e-3)  # the largest
    assert rows[0]["label"] == "Border_collie"
    for split, name in (("train", "n1_2"), ("test", "n1_1")):
        files = np.array([[np.array([f"n1-Border_collie/{name}.jpg"])]], dtype=object)
        scipy.io.savemat(source / f"{split}_list.mat", {"file_list": files})
    Prepare(source=source, out=source.parent / "again").run()
    assert [row["split"] for row in index(source.parent / "again")] == ["test", "train"]


def matlab_cars(path: Path, rows: list[tuple], names: tuple[str, ...]) -> None:
    """Write a listing as the authors did: a struct array called annotations."""
    array = np.zeros((1, len(rows)), dtype=[(name, object) for name in names])
    for i, row in enumerate(rows):
        array[0, i] = row
    path.parent.mkdir(parents=True, exist_ok=True)
    scipy.io.savemat(path, {"annotations": array})


CORNERS = ("bbox_x1", "bbox_y1", "bbox_x2", "bbox_y2")


def test_stanford_cars_with_the_development_kit(source):
    names = (*CORNERS, "class", "fname")
    for folder in ("cars_train", "cars_test"):
        photo(source / folder / "00001.jpg")
    matlab_cars(source / "devkit" / "cars_train_annos.mat", [(20, 15, 120, 90, 14, "00001.jpg")], names)
    matlab_cars(source / "devkit" / "cars_test_annos.mat", [(1, 1, 2, 2, "00001.jpg")], (*CORNERS, "fname"))
    labelled = source / "devkit" / "cars_test_annos_withlabels.mat"
    matlab_cars(labelled, [(0, 0, 100, 75, 3, "00001.jpg")], names)
    assert detect(source) == "cars"
    rows = {row["split"]: row for row in prepared(source)}
    assert box(rows["train"]) == pytest.approx([0.1, 0.1, 0.6, 0.6], abs=1e-3)
    assert box(rows["test"]) == pytest.approx([0, 0, 0.5, 0.5], abs=1e-3)
    assert (rows["train"]["label"], rows["test"]["label"]) == ("14", "3")


def test_stanford_cars_in_one_folder(source):
    photo(source / "car_ims" / "000001.jpg")
    photo(source / "car_ims" / "000002.jpg")
    rows = [("car_ims/000001.jpg", 20, 15, 120, 90, 1, 0), ("car_ims/000002.jpg", 20, 15, 120, 90, 2, 1)]
    names = ("relative_im_path", *CORNERS, "class", "test")
    matlab_cars(source / "cars_annos.mat", rows, names)
    assert [row["split"] for row in prepared(source, layout="cars")] == ["train", "test"]
    matlab_cars(source / "cars_annos.mat", [row[:4] + row[5:] for row in rows], (*names[:4], *names[5:]))
    with pytest.raises(ValueError, match=r"cars_annos\.mat lacks the column bbox_y2"):
        Prepare(source=source, out=source.parent / "again").run()
    (source / "cars_annos.mat").write_bytes(b"nothing of MATLAB's")
    with pytest.raises(ValueError, match=r"cars_annos\.mat cannot be read as a MATLAB file"):
        Prepare(source=source, out=source.parent / "again").run()


def test_stanford_cars_with_csv(source):
    photo(source / "car_data" / "train" / "Acura" / "00001.jpg")
    photo(source / "car_data" / "test" / "Audi" / "00001.jpg")
    (source / "anno_train.csv").write_text("00001.jpg,20,15,120,90,14\n")
    (source / "anno_test.csv").write_text("file,x0,y0,x1,y1,class\n00001.jpg,0,0,100,75,3\n")
    rows = {row["split"]: row for row in prepared(source, layout="cars")}
    assert box(rows["train"])[0] == pytest.approx(0.1, abs=1e-3)
    assert box(rows["test"])[2] == pytest.approx(0.5, abs=1e-3)
    (source / "anno_test.csv").write_text("00001.jpg,0,0,100\n")
    with pytest.raises(ValueError, match=r"anno_test\.csv lacks a column in line 1"):
        Prepare(source=source, out=source.parent / "again", layout="cars").run()


def test_compcars(source):
    for number, text in (("a", "1\n1\n20 15 120 90\n"), ("b", "1\n1\n")):
        photo(source / "data" / "image" / "78" / "1" / "2014" / f"{number}.jpg")
        label = source / "data" / "label" / "78" / "1" / "2014" / f"{number}.txt"
        label.parent.mkdir(parents=True, exist_ok=True)
        label.write_text(text)
    lists = source / "data" / "train_test_split" / "classification"
    lists.mkdir(parents=True)
    (lists / "test.txt").write_text("78/1/2014/a.jpg\n")
    (row,) = prepared(source / "data")
    assert (row["label"], row["split"]) == ("78", "test")
    assert box(row)[2] == pytest.approx(0.6, abs=1e-3)


def test_faces_and_animals(source, tmp_path):
    for folder, names in {"ffhq": ["00000/00007.png", "60000/60001.png"], "lsun": ["a.webp", "b.webp"]}.items():
        for name in names:
            photo(source / folder / name)
    for name in ("train/cat/1.jpg", "val/dog/2.jpg"):
        photo(source / "afhq" / name)
    Prepare(source=source / "ffhq", out=tmp_path / "1", layout="ffhq").run()
    assert [row["split"] for row in index(tmp_path / "1")] == ["train", "validation"]
    assert detect(source / "afhq") == "afhq"
    Prepare(source=source / "afhq", out=tmp_path / "2").run()
    assert [(row["split"], row["label"]) for row in index(tmp_path / "2")] == [("train", "cat"), ("validation", "dog")]
    Prepare(source=source / "lsun", out=tmp_path / "3", layout="lsun", held_out=0).run()
    assert len(index(tmp_path / "3")) == 2
    (source / "lsun" / "data.mdb").write_bytes(b"")
    with pytest.raises(ValueError, match=r"data\.mdb.*export its pictures"):
        Prepare(source=source / "lsun", out=tmp_path / "4", layout="lsun").run()
    with pytest.raises(ValueError, match="no folder train, val or test"):
        Prepare(source=source / "ffhq", out=tmp_path / "4", layout="afhq").run()


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
