"""Folders, names and tables of photo sets; sets of one photo, killed and gone on with."""

import json
import logging
import os
import shutil
import unicodedata
from pathlib import Path

import pytest

from tests.training.data.sets.photo_sets import disc, fractions, prepared, saved
from training.config import DataConfig
from training.data.folder import PictureSet
from training.data.prepare import Prepare
from training.data.sources import Names, split_depth
from training.data.tables import boxes_of, number, read_table
from training.data.writing import whole_folder

# Folders and names


def test_folders_of_splits():
    assert split_depth(["train/a/1.jpg", "val/a/2.jpg"]) == 0
    assert split_depth(["images/training/1.jpg", "images/test/2.jpg"]) == 1
    assert split_depth(["train/1.jpg", "car/2.jpg", "ship/3.jpg"]) is None  # a class of trains
    assert split_depth(["1.jpg"]) is None


def test_folders_of_splits_decide(source):
    for i, (folder, label) in enumerate([("train", "oak"), ("train", "elm"), ("valid", "oak"), ("Test", "elm")]):
        saved(disc(i)[0], source / folder / label / f"{i}.jpg")
    rows = sorted(prepared(source), key=lambda row: row["source"][-5])
    assert [(row["split"], row["label"]) for row in rows] == [
        ("train", "oak"), ("train", "elm"), ("validation", "oak"), ("test", "elm")
    ]  # fmt: skip


def test_linked_folders_are_followed_once(source, tmp_path, caplog):
    saved(disc(0)[0], tmp_path / "elsewhere" / "a.jpg")
    saved(disc(1)[0], source / "own" / "b.jpg")
    (source / "linked").symlink_to(tmp_path / "elsewhere")
    (source / "again").symlink_to(tmp_path / "elsewhere")
    (source / "own" / "round").symlink_to(source)
    (source / "gone.jpg").symlink_to(tmp_path / "nowhere.jpg")
    os.mkfifo(source / "pipe.jpg")
    with caplog.at_level(logging.WARNING):
        assert sorted(row["source"] for row in prepared(source)) == ["again/a.jpg", "own/b.jpg"]
    for said in (
        "linked/ is a link to a folder that is in the source already",
        "own/round/ is a link",
        "gone.jpg is a link to",
    ):
        assert said in caplog.text
    assert "pipe.jpg is neither a file nor a folder" in caplog.text


def test_names_find_their_files(tmp_path):
    nfd, nfc = (unicodedata.normalize(form, "café.jpg") for form in ("NFD", "NFC"))
    names = Names(["sub/w.jpg", "UP.JPG", nfd, "x/1.jpg", "y/1.jpg"], tmp_path)
    for written, found in {
        "sub\\w.jpg": "sub/w.jpg", "./sub//w.jpg": "sub/w.jpg", str(tmp_path / "sub/w.jpg"): "sub/w.jpg",
        "w.jpg": "sub/w.jpg", "x/1.jpg": "x/1.jpg",
        "C:\\photos\\sub\\w.jpg": "sub/w.jpg", " up.jpg ": "UP.JPG", nfc: nfd,
    }.items():  # fmt: skip
        assert names.find(written) == {found}, written
    assert names.find("1.jpg") == {"x/1.jpg", "y/1.jpg"}
    assert names.find("z/1.jpg") == names.find("") == set()


def test_two_lines_for_one_photo_are_said(source, caplog):
    saved(disc()[0], source / "a.jpg")
    (source / "boxes.csv").write_text("file,x0,y0,x1,y1\na.jpg,30,18,90,72\n./A.jpg,0,0,20,20\n")
    with caplog.at_level(logging.WARNING):
        (row,) = prepared(source)
    assert fractions(row) == pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.01)
    assert "names 1 photos twice" in caplog.text


# Tables


FORMS = {
    "BOM": ("utf-8-sig", ",", "\r\n"),
    "semicolons": ("utf-8", ";", "\r\n"),
    "UTF-16 with tabs": ("utf-16", "\t", "\r\n"),
    "UTF-16 without a mark": ("utf-16-le", "\t", "\r\n"),
    "Windows-1252": ("cp1252", ";", "\r\n"),
    "spaces": ("utf-8", ", ", "\n"),
}


@pytest.mark.parametrize("form", FORMS)
def test_tables_of_spreadsheets(tmp_path, form):
    code, separator, end = FORMS[form]
    path = tmp_path / "boxes.csv"
    rows = [["File", "X0", "Y0", "X1", "Y1"], ["Weiß.jpg", "1", "2,5" if separator == ";" else "2.5", "3", "4"]]
    path.write_bytes((end.join(separator.join(row) for row in rows) + end).encode(code))
    table = read_table(path)
    assert table.lines[0]["file"] == "Weiß.jpg"
    assert boxes_of(table) == ([(1, 2.5, 3, 4)], False)


def test_numbers():
    assert number("1,5", commas=True) == 1.5
    assert number("12,50", commas=False) == 12.5
    assert number("1,234", commas=False) is None  # a thousand, or one and a quarter
    assert [number(text, commas=True) for text in ("1_0", "nan", "inf", "1e999", "")] == [None] * 5


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"", "is empty"),
        (b"file,x0,x0\na,1,2\n", "two columns of the name x0"),
        (b"file,x0,y0,x1,y1\na.jpg,1,2,3,4,5\n", "line 2 has 6 values, the header 5"),
        (b"name of photo,left edge\na,1\n", "lacks the column file"),
    ],
)
def test_tables_that_cannot_be_read_are_named(tmp_path, content, said):
    (tmp_path / "boxes.csv").write_bytes(content)
    with pytest.raises(ValueError, match=rf"boxes\.csv.*{said}"):
        read_table(tmp_path / "boxes.csv", ("file",))


# Sets of a table


@pytest.fixture
def listed(source) -> Path:
    """A table as researchers have it: labels of two kinds, boxes of two kinds, angles; some of it empty."""
    for i in range(4):
        picture, mask = disc(i)
        saved(picture, source / "images" / f"{i}.webp", quality=95)
        if i:
            saved(mask, source / "masks" / f"{i}.png")
    (source / "index.csv").write_text(
        "file,split,species,class,width,height,x0,y0,x1,y1,head_x0,head_y0,head_x1,head_y1,yaw_deg\n"
        "0.webp,train,cat,Birman,120,90,,,,,,,,,\n"
        "1.webp,train,cat,Birman,120,90,30,18,90,72,40,20,60,40,12.5\n"
        "2.webp,val,dog,Boxer,120,90,30,18,90,72,40,20,60,40,25\n"
        "3.webp,test,dog,Boxer,120,90,,,,,,,,,37.5\n"
    )
    return source


def test_a_table_is_read_as_it_is(listed):
    rows = prepared(listed)
    assert [row["split"] for row in rows] == ["train", "train", "validation", "test"]
    assert [row["label"] for row in rows] == ["Birman", "Birman", "Boxer", "Boxer"]
    assert [row["box_from"] for row in rows] == ["found", "listing", "listing", "mask"]
    assert float(rows[1]["head_x0"]) == pytest.approx(40 * float(rows[1]["width"]) / 120, abs=0.01)
    pictures = PictureSet(Path(rows[0]["out"]), DataConfig(size=16), None)
    assert pictures.factors["yaw_deg"].nan_to_num(-1).tolist() == [-1, 12.5, 25, 37.5]


def test_factors_with_decimal_commas_are_numbers(source):
    for i in range(3):
        saved(disc(i)[0], source / "images" / f"{i}.png")
    (source / "index.csv").write_text(
        "file;yaw_deg;note;id;x0;y0;x1;y1\n0.png;12,5;1,5;007;30,5;18;90;72\n1.png;;a;8;;;;\n2.png;-,5;b;9;;;;\n"
    )
    rows = prepared(source, find_boxes=False)
    assert [row["yaw_deg"] for row in rows] == ["12.5", "", "-.5"]
    assert [row["note"] for row in rows] == ["1,5", "a", "b"]  # text stays as it is
    assert rows[0]["id"] == "007"
    pictures = PictureSet(Path(rows[0]["out"]), DataConfig(size=16), None)
    assert pictures.factors["yaw_deg"].nan_to_num(0).tolist() == [12.5, 0, -0.5]


def test_a_table_without_lines_and_labels_that_are_unknown_are_said(source):
    saved(disc()[0], source / "images" / "0.png")
    with pytest.raises(ValueError, match="got --only cat, but no labels are known; give --label"):
        prepared(source, only=("cat",))
    (source / "index.csv").write_text("file,sort\n0.png,cat\n")
    with pytest.raises(ValueError, match="got --only cat, but no labels are known; give --label"):
        prepared(source, only=("cat",))
    (source / "index.csv").write_text("file,sort\n")
    with pytest.raises(ValueError, match=r"index\.csv has a header but no lines; expected a line for each photo"):
        prepared(source)


def test_labels_boxes_and_photos_of_a_table_are_chosen(listed):
    rows = prepared(listed, label="species", only=("Cat",), box_prefix="head_", require=("mask",))
    assert [(row["source"], row["label"]) for row in rows] == [("1.webp", "cat")]
    assert fractions(rows[0]) == pytest.approx([40 / 120, 20 / 90, 60 / 120, 40 / 90], abs=0.01)
    part = prepared(listed, box_prefix="head_")  # photo 3 has a mask, which is of more than the head
    assert [row["box_from"] for row in part] == ["found", "listing", "listing", "found"]
    assert len(prepared(listed, box_prefix="head_", find_boxes=False, require=("box",))) == 2
    with pytest.raises(ValueError, match="no photo bears the label cow; there are"):
        prepared(listed, label="species", only=("cow",))
    with pytest.raises(ValueError, match="has no column colour; it has file, split"):
        prepared(listed, label="colour")


def test_a_prepared_set_is_a_source_and_none_inside_one(listed, tmp_path, caplog):
    first = prepared(listed)
    again = prepared(Path(first[0]["out"]))
    for one, two in zip(first, again, strict=True):
        assert [one[k] for k in ("split", "label", "yaw_deg")] == [two[k] for k in ("split", "label", "yaw_deg")]
        assert fractions(one) == pytest.approx(fractions(two), abs=0.01)
    plain = tmp_path / "plain"
    saved(disc()[0], plain / "a.jpg")
    for _ in range(2):
        Prepare(source=plain, out=plain / f"set{_}", size=16).run()
    with caplog.at_level(logging.WARNING):
        assert len(prepared(plain)) == 1
    assert "set0/ is a prepared set: skipped" in caplog.text


@pytest.mark.parametrize("change", ["utf-8-sig", "crlf", "semicolons", "cp1252"])
def test_an_index_saved_by_a_spreadsheet_is_read(listed, change):
    index = Path(prepared(listed)[0]["out"]) / "index.csv"
    text = index.read_text(encoding="utf-8").replace("Birman", "Grün")
    new = {
        "utf-8-sig": text.encode("utf-8-sig"),
        "crlf": text.replace("\n", "\r\n").encode(),
        "semicolons": text.replace(",", ";").replace(".5;", ",5;").encode(),
        "cp1252": text.encode("cp1252"),
    }[change]
    index.write_bytes(new)
    pictures = PictureSet(index.parent, DataConfig(size=16), None)
    assert len(pictures) == 4
    assert "Grün" in pictures.label_names


# One photo, and what is killed


@pytest.mark.parametrize("name", ["k", "IMG_0001", "p"])
def test_one_photo_is_trained_on(tmp_path, name):
    saved(disc()[0], tmp_path / name / f"{name}.jpg")
    Prepare(source=tmp_path / name, out=tmp_path / "set", size=16, held_out=0.99).run()
    assert len(PictureSet(tmp_path / "set", DataConfig(size=16))) == 1


def test_same_pictures_in_two_splits_are_counted(source):
    for folder in ("train", "test"):
        saved(disc()[0], source / folder / "a.png")
    counts = json.loads((Path(prepared(source)[0]["out"]) / "set.json").read_text())["counts"]
    assert counts["suspicious"]["same picture as one of another split"] == 1
    assert counts["splits"] == {"test": 1, "train": 1}


def test_what_a_killed_prepare_left_is_swept(tmp_path):
    """A killed command's folder holds no lock; those of the living, and what is not ours, stay."""
    saved(disc()[0], tmp_path / "source" / "a.jpg")
    dead, foreign = tmp_path / ".set-abcd_123", tmp_path / ".set-photos12"
    saved(disc()[0], dead / "images" / "0000000.jpg")
    saved(disc()[0], foreign / "mine.jpg")
    with whole_folder(tmp_path / "set") as living:
        (living / "images").mkdir()
        assert not dead.exists()
        dead.mkdir()
        Prepare(source=tmp_path / "source", out=tmp_path / "set", size=16).run()
        assert living.exists() and foreign.exists() and not dead.exists()
        assert (tmp_path / "set" / "index.csv").is_file()
        shutil.rmtree(tmp_path / "set")
    assert sorted(path.name for path in tmp_path.iterdir()) == [".set-photos12", "set", "source"]


def test_a_half_moved_set_is_swept(tmp_path):
    """Of a command that was killed while it moved its set up into a mount point."""
    out = tmp_path / "set"
    (out / ".set-abcd_123").mkdir(parents=True)
    saved(disc()[0], out / "images" / "0000000.jpg")
    saved(disc()[0], tmp_path / "source" / "a.jpg")
    Prepare(source=tmp_path / "source", out=out, size=16).run()
    assert sorted(path.name for path in out.iterdir()) == ["images", "index.csv", "set.json", "sheet.jpg"]
