"""Photo sets as people have them: read right, or refused with what to do; nothing is misread in silence."""

import csv
import json
import logging
import os
import shutil
import unicodedata
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from training.config import DataConfig
from training.data.folder import PictureSet
from training.data.pairing import key_of, names_mask
from training.data.photo_writer import odd_mask
from training.data.prepare import Prepare
from training.data.sources import Names, split_depth
from training.data.tables import boxes_of, number, read_table
from training.data.writing import whole_folder
from training.imaging.masks import looks_like_mask, meaning
from training.imaging.read import TURNS, PictureError

WIDTH, HEIGHT = 120, 90


def disc(seed: int = 0, centre: float = 0.5) -> tuple[PIL.Image.Image, PIL.Image.Image]:
    """A red disc before a plain ground, and its mask."""
    y, x = np.mgrid[:HEIGHT, :WIDTH]
    inside = ((x - WIDTH * centre) / 26) ** 2 + ((y - 40) / 22) ** 2 < 1
    pixels = 235 + np.random.default_rng(seed).integers(-6, 6, (HEIGHT, WIDTH, 3))
    pixels[inside] = (200, 40, 40)
    return PIL.Image.fromarray(pixels.astype(np.uint8)), PIL.Image.fromarray((inside * 255).astype(np.uint8))


def saved(picture: PIL.Image.Image, path: Path, **options) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.save(path, **options)
    return path


@pytest.fixture
def source(tmp_path) -> Path:
    (tmp_path / "source").mkdir()
    return tmp_path / "source"


def prepared(source: Path, **options) -> list[dict[str, str]]:
    out = source.parent / f"set{len(list(source.parent.iterdir()))}"
    Prepare(source=source, out=out, size=32, held_out=0, **options).run()
    with (out / "index.csv").open(newline="", encoding="utf-8") as file:
        return [line | {"out": str(out)} for line in csv.DictReader(file)]


def overlap(row: dict[str, str]) -> float:
    """IoU of a line's mask with what is red in its picture."""
    out, stem = Path(row["out"]), Path(row["file"]).stem
    with PIL.Image.open(out / "images" / row["file"]) as picture:
        pixels = np.asarray(picture).astype(int)
    with PIL.Image.open(out / "masks" / f"{stem}.png") as picture:
        mask = np.asarray(picture) > 127
    red = pixels[..., 0] - pixels[..., 1] > 80
    return (mask & red).sum() / (mask | red).sum()


def fractions(row: dict[str, str]) -> list[float]:
    sides = (float(row["width"]), float(row["height"])) * 2
    return [float(row[k]) / side for k, side in zip(("x0", "y0", "x1", "y1"), sides, strict=True)]


# Boxes


@pytest.mark.parametrize(
    ("columns", "line", "form"),
    [
        ("x0,y0,x1,y1", "0.25,0.2,0.75,0.8", "fractions"),
        ("x0,y0,x1,y1", "0.5,0.5,0.5,0.6", "yolo"),
        ("cx,cy,w,h", "0.5,0.5,0.5,0.6", "auto"),
        ("x0,y0,x1,y1", "30,18,60,54", "xywh"),
        ("x,y,w,h", "30,18,60,54", "auto"),
        ("xmin,ymin,xmax,ymax", "30,18,90,72", "auto"),
    ],
)
def test_boxes_in_every_form(source, columns, line, form):
    for i in range(2):
        saved(disc(i)[0], source / f"{i}.png")
    (source / "boxes.csv").write_text(f"file,{columns}\n0.png,{line}\n1.png,{line}\n")
    for row in prepared(source, box_form=form):
        assert fractions(row) == pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.01)
        assert row["box_from"] == "listing"


def test_yolo_label_files(source, caplog):
    for i in range(2):
        saved(disc(i)[0], source / "images" / "train" / f"{i}.jpg")
    labels = source / "labels" / "train"
    labels.mkdir(parents=True)
    (labels / "0.txt").write_text("0 0.5 0.5 0.5 0.6\n3 0.1 0.1 0.1 0.1\n")
    with caplog.at_level(logging.WARNING):
        rows = prepared(source)
    assert fractions(rows[0]) == pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.01)
    assert [row["box_from"] for row in rows] == ["listing", "found"]
    assert "1 photos have their box from YOLO label files" in caplog.text


@pytest.mark.parametrize(
    ("lines", "said"),
    [
        (["0.25,0.2,0.75,0.8"] * 4, "all lie within 0 to 1.*--box-form fractions"),
        (["0.5,0.5,0.4,0.5"] * 4, "all lie within 0 to 1.*yolo"),
        (["60,45,30,20"] * 4, "4 of 4 boxes end before they begin.*--box-form xywh"),
    ],
)
def test_boxes_of_uncertain_form_are_refused(tmp_path, lines, said):
    path = tmp_path / "boxes.csv"
    path.write_text("file,x0,y0,x1,y1\n" + "".join(f"{i}.png,{line}\n" for i, line in enumerate(lines)))
    with pytest.raises(ValueError, match=said):
        boxes_of(read_table(path))


def test_boxes_measured_in_other_sizes_or_of_a_pixel_are_left_out(source, caplog):
    for i in range(3):
        saved(disc(i)[0], source / "images" / f"{i}.png")
    (source / "index.csv").write_text(
        "file,width,height,x0,y0,x1,y1\n0.png,240,180,60,40,180,140\n1.png,120,90,30,20,90,70\n2.png,120,90,3,2,3.5,2.5\n"
    )
    with caplog.at_level(logging.WARNING):
        assert [row["source"] for row in prepared(source)] == ["1.png"]
    assert "0.png: its box was measured in 240 x 180 pixels, but the photo has 120 x 90" in caplog.text
    assert "2.png: its box (3, 2, 3.5, 2.5) is a pixel or less" in caplog.text


# Masks


LAYOUTS = {
    "nested": ("images/{c}/{i}.jpg", "masks/{c}/{i}.png"),
    "suffixed beside": ("{i}.jpg", "{i}_mask.png"),
    "other words": ("JPEGImages/{i}.jpg", "SegmentationClass/{i}.png"),
    "in splits": ("train/images/{i}.jpg", "train/Masks/{i}.png"),
    "kaggle": ("train/{i}.jpg", "train_masks/{i}_mask.gif"),
    "silent folder": ("a/{i}.jpg", "b/{i}.png"),
    "silent ending": ("{i}.jpg", "{i}.png"),
    "name and ending": ("images/{i}.jpg", "masks/{i}.jpg.png"),
}


@pytest.mark.parametrize("kind", LAYOUTS)
def test_masks_are_paired_wherever_they_lie(source, kind):
    for i in range(4):
        photo, mask = (name.format(i=i, c="xy"[i % 2]) for name in LAYOUTS[kind])
        picture, shown = disc(i, 0.4 + 0.05 * i)
        saved(picture, source / photo)
        saved(shown, source / mask)
    saved(disc(9)[0], source / "preview.jpg")
    rows = prepared(source)
    assert len(rows) == 5
    assert [overlap(row) > 0.9 for row in rows if "preview" not in row["source"]] == [True] * 4
    made = json.loads((Path(rows[0]["out"]) / "set.json").read_text())
    assert made["counts"]["masks"] == {"with": 4, "without": 1}


def test_masks_without_photos_are_no_photos(source, caplog):
    for i in range(4):
        saved(disc(i)[0], source / "images" / f"photo{i}x.jpg")
        saved(disc(i)[1], source / "masks" / f"other{i}.png")
    with caplog.at_level(logging.WARNING):
        assert len(prepared(source)) == 4
    assert "4 masks fit no photo and were skipped" in caplog.text


def test_a_class_called_mask_is_a_class(source):
    for i in range(3):
        saved(disc(i)[0], source / "mask" / f"{i}.jpg")
        saved(disc(i + 5)[0], source / "hat" / f"h{i}.jpg")
    assert sorted({row["label"] for row in prepared(source)}) == ["hat", "mask"]


def test_a_stray_mask_is_left_out_and_drawings_are_kept(source, caplog):
    for i in range(3):
        saved(disc(i)[0], source / f"p{i}.jpg")
    saved(disc()[1], source / "zz.png")
    with caplog.at_level(logging.WARNING):
        assert len(prepared(source)) == 3
    assert "zz.png: it looks like a mask" in caplog.text
    for path in source.glob("p*.jpg"):
        path.unlink()
    assert len(prepared(source)) == 1


def in_palette(mask: np.ndarray, colours: list[int], numbers: tuple[int, int]) -> PIL.Image.Image:
    picture = PIL.Image.fromarray(np.where(mask > 0, numbers[1], numbers[0]).astype(np.uint8), "L")
    picture.putpalette(colours + [0] * (768 - len(colours)))
    return picture


def mask_forms() -> dict[str, PIL.Image.Image]:
    _, shown = disc()
    mask = np.asarray(shown)
    white, photo = PIL.Image.new("RGB", shown.size, "white"), disc()[0].copy()
    white.putalpha(shown)
    photo.putalpha(shown)
    voc = np.where(mask > 0, 15, 0).astype(np.uint8)
    voc[0] = 255  # a thin border that belongs to nothing
    red = np.zeros((*mask.shape, 3), np.uint8)
    red[mask > 0] = (128, 0, 0)
    return {
        "grey": shown,
        "bits": shown.convert("1"),
        "16 bits": PIL.Image.fromarray(mask.astype(np.uint16) * 257),
        "0 and 1": PIL.Image.fromarray(mask // 255),
        "0 and 1 of 16 bits": PIL.Image.fromarray((mask // 255).astype(np.uint16)),
        "0 and 128": PIL.Image.fromarray((mask > 0).astype(np.uint8) * 128),
        "classes with a border": PIL.Image.fromarray(voc),
        "palette": in_palette(mask, [0, 0, 0, 128, 0, 0], (0, 1)),
        "palette upside down": in_palette(mask, [255, 255, 255, 0, 0, 0], (1, 0)),
        "palette without colours": in_palette(mask, [0, 0, 0, 0, 0, 0], (0, 1)),
        "colours": PIL.Image.fromarray(red),
        "alpha": white,
        "cut out": photo,
    }


@pytest.mark.parametrize("form", mask_forms())
def test_masks_mean_what_they_mean(form):
    wanted = np.asarray(disc()[1]) > 127
    got = meaning(mask_forms()[form], "m.png") > 127
    assert (got & wanted).sum() / (got | wanted).sum() > 0.97


@pytest.mark.parametrize(
    "numbers",
    [[1, 2, 3], [0, 3, 7], [0, 0, 0], [255, 255, 255], [90, 120, 250]],
    ids=["trimap", "classes", "empty", "full", "no background"],
)
def test_masks_that_may_mean_two_things_are_refused(numbers):
    values = np.repeat(np.array(numbers, np.uint8), 300).reshape(30, 30)
    with pytest.raises(PictureError, match="0 for the background and 255 for the object"):
        meaning(PIL.Image.fromarray(values), "m.png")


@pytest.mark.parametrize("orientation", [2, 3, 5, 6, 8])
@pytest.mark.parametrize("stored", [True, False], ids=["mask as stored", "mask upright"])
def test_masks_of_photos_turned_by_exif(source, caplog, orientation, stored):
    """Read right, or left out by name where the mask fits both ways; an upside-down mask is never taken."""
    back = {5: 5, 6: 8, 8: 6, 2: 2, 3: 3}[orientation]
    picture, mask = disc(centre=0.3)
    exif = PIL.Image.Exif()
    exif[0x0112] = orientation
    saved(picture.transpose(TURNS[back]), source / "images" / "a.jpg", exif=exif)
    saved(mask.transpose(TURNS[back]) if stored else mask, source / "masks" / "a.png")
    saved(disc(1)[0], source / "images" / "b.jpg")
    saved(disc(1)[1], source / "masks" / "b.png")
    with caplog.at_level(logging.WARNING):
        rows = prepared(source)
    if orientation < 5:
        assert [row["source"] for row in rows] == ["images/b.jpg"]
        assert "a.jpg is rotated by EXIF" in caplog.text
    else:
        assert len(rows) == 2
        assert min(overlap(row) for row in rows) > 0.9


def test_suspicious_masks_are_counted_framed_and_left_out_if_wanted(source):
    for i in range(3):
        picture, mask = disc(i)
        saved(picture, source / "images" / f"{i}.jpg")
        if i == 2:
            mask.paste(255, (0, 0, WIDTH, 70))
        saved(mask, source / "masks" / f"{i}.png")
    rows = prepared(source)
    out = Path(rows[0]["out"])
    suspicious = json.loads((out / "set.json").read_text())["counts"]["suspicious"]
    assert suspicious == {"mask over 0.7 of the picture": 1, "mask over 0.15 of the rim": 1}
    with PIL.Image.open(out / "sheet.jpg") as sheet:
        frame = np.asarray(sheet)[2, 2].astype(int)
    assert np.abs(frame - (255, 150, 0)).max() < 30
    assert [row["source"] for row in prepared(source, suspicious_masks="leave-out")] == ["images/0.jpg", "images/1.jpg"]
    assert odd_mask(np.ones((40, 40), bool), (0.1, 0.7), 0.15) != []


def test_looks_like_mask():
    picture, mask = disc()
    assert [looks_like_mask(p) for p in (picture, mask, mask.convert("RGB"))] == [False, True, True]
    assert not looks_like_mask(PIL.Image.new("RGB", (50, 50), (90, 0, 0)))
    nearly = PIL.Image.new("RGB", (50, 50), (254, 0, 0))
    nearly.paste((255, 0, 0), (0, 0, 25, 25))
    assert not looks_like_mask(nearly)  # one colour, as lossy files keep it


def test_words_of_masks():
    assert names_mask("masks/a.png") and names_mask("SegmentationClass/a.png") and names_mask("x/a-mask.png")
    assert not names_mask("masked_ball/a.png") and not names_mask("damask/rose.jpg")
    assert key_of("Images/cat/IMG_1.jpg") == key_of("masks/cat/IMG_1_mask.png")
    assert key_of("train_masks/1.png") == key_of("train/1.jpg") != key_of("test/1.jpg")


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


def test_labels_boxes_and_photos_of_a_table_are_chosen(listed):
    rows = prepared(listed, label="species", only=("Cat",), box_prefix="head_", require=("mask",))
    assert [(row["source"], row["label"]) for row in rows] == [("1.webp", "cat")]
    assert fractions(rows[0]) == pytest.approx([40 / 120, 20 / 90, 60 / 120, 40 / 90], abs=0.01)
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
