"""Layouts of published photo sets, prepared."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import scipy.io

from tests.places import CLOTHING
from tests.training.data.photos import box, index, mask_of, photo, prepared
from training.config import DataConfig
from training.data.folder import PictureSet
from training.data.layouts import detect
from training.data.prepare import Prepare

EXAMPLES = CLOTHING


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
