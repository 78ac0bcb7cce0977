"""Boxes and masks of photo sets in every form that people keep them."""

import json
import logging
import unicodedata
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from tests.training.data.sets.photo_sets import WIDTH, disc, fractions, prepared, saved
from training.__main__ import main
from training.config import DataConfig
from training.data.folder import PictureSet
from training.data.pairing import key_of, names_mask, pair
from training.data.photo_writer import odd_mask
from training.data.sources import Reading
from training.data.tables import boxes_of, read_table
from training.imaging.masks import looks_like_mask, meaning
from training.imaging.read import TURNS, PictureError


def overlap(row: dict[str, str]) -> float:
    """IoU of a line's mask with what is red in its picture."""
    out, stem = Path(row["out"]), Path(row["file"]).stem
    with PIL.Image.open(out / "images" / row["file"]) as picture:
        pixels = np.asarray(picture).astype(int)
    with PIL.Image.open(out / "masks" / f"{stem}.png") as picture:
        mask = np.asarray(picture) > 127
    red = pixels[..., 0] - pixels[..., 1] > 80
    return (mask & red).sum() / (mask | red).sum()


# Boxes


@pytest.mark.parametrize(
    ("columns", "line", "form"),
    [
        ("x0,y0,x1,y1", "0.25,0.2,0.75,0.8", "fractions"),
        ("x0,y0,x1,y1", "0.5,0.5,0.5,0.6", "yolo"),
        ("cx,cy,w,h", "0.5,0.5,0.5,0.6", "auto"),
        ("x0,y0,x1,y1", "30,18,60,54", "xywh"),
        ("x,y,w,h", "30,18,60,54", "auto"),
        ("x,y,width,height", "30,18,60,54", "auto"),
        ("x,y,width,height", "30,18,60,54", "xywh"),
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


@pytest.mark.parametrize("form", ["auto", "xywh"])
def test_boxes_of_coco_in_a_table_are_no_factors_and_no_size(source, form, caplog):
    for i in range(2):
        saved(disc(i)[0], source / "images" / f"{i}.png")
    (source / "index.csv").write_text("file,x,y,width,height,yaw\n0.png,30,18,60,54,5\n1.png,30,18,60,54,6\n")
    with caplog.at_level(logging.WARNING):
        rows = prepared(source, box_form=form, require=("box",), find_boxes=False)
    assert [fractions(row) for row in rows] == [pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.01)] * 2
    assert {row["box_from"] for row in rows} == {"listing"}
    assert set(PictureSet(Path(rows[0]["out"]), DataConfig(size=16), None).factors) == {"yaw"}
    assert "x, y, width, height are read as boxes" in caplog.text


def test_width_and_height_beside_corners_are_the_photos(source):
    saved(disc()[0], source / "images" / "0.png")
    (source / "index.csv").write_text("file,x,y,width,height,x0,y0,x1,y1\n0.png,3,4,120,90,30,18,90,72\n")
    (row,) = prepared(source, find_boxes=False)
    assert fractions(row) == pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.01)
    assert (row["x"], row["y"]) == ("3", "4")


def test_a_form_for_boxes_that_are_not_there_is_refused(source, tmp_path, capsys):
    saved(disc()[0], source / "images" / "0.png")
    (source / "index.csv").write_text("file,yaw\n0.png,3\n")
    given = ["prepare", "photos", "--source", str(source), "--out", str(tmp_path / "set"), "--box-form", "xywh"]
    assert main(given) == 2
    (said,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("error: ")]
    assert "index.csv lacks the column x0, y0, x1, y1" in said and "leave out --box-form xywh" in said
    (tmp_path / "boxes.csv").write_text("file,a,b,c,d\n0.png,30,18,60,54\n")
    rows = tmp_path / "boxes.csv"
    with pytest.raises(ValueError, match=r"boxes\.csv lacks the column x0"):
        prepared(source, boxes=rows, box_form="xywh", find_boxes=False)
    rows.write_text("file,x,y,w,h\n0.png,30,18,60,54\n")  # the form is for it, not for the index.csv
    (row,) = prepared(source, boxes=rows, box_form="xywh", find_boxes=False)
    assert fractions(row) == pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.01)


def test_a_prefix_and_labels_of_a_table_of_boxes_are_read(source):
    for i in range(3):
        saved(disc(i)[0], source / f"{i}.png")
    (source / "boxes.csv").write_text(
        "file,x0,y0,x1,y1,head_x0,head_y0,head_x1,head_y1,kind\n"
        "0.png,0,0,120,90,30,18,90,72,cat\n1.png,0,0,120,90,,,,,dog\n2.png,0,0,120,90,30,18,90,72,cat\n"
    )
    rows = prepared(source, box_prefix="head_", label="kind", find_boxes=False)
    assert [row["label"] for row in rows] == ["cat", "dog", "cat"]
    assert fractions(rows[0]) == pytest.approx([0.25, 0.2, 0.75, 0.8], abs=0.01)
    assert [row["box_from"] for row in rows] == ["listing", "", "listing"]
    assert [row["label"] for row in prepared(source, find_boxes=False)] == ["cat", "dog", "cat"]  # a usual name
    with pytest.raises(ValueError, match="has no column colour; it has file, x0"):
        prepared(source, label="colour")
    with pytest.raises(ValueError, match="lacks the column ear_x0"):
        prepared(source, box_prefix="ear_")


def test_labels_of_folders_and_of_a_chosen_table_stay(source, tmp_path):
    saved(disc()[0], source / "cat" / "0.png")
    (source / "boxes.csv").write_text("file,x0,y0,x1,y1,class\ncat/0.png,30,18,90,72,7\n")
    (row,) = prepared(source, find_boxes=False)
    assert row["label"] == "cat"
    (source / "boxes.csv").rename(tmp_path / "boxes.csv")
    (source / "index.csv").write_text("file,species,class\ncat/0.png,lynx,9\n")
    for label, named in (("species", "lynx"), ("class", "7"), (None, "9")):  # in the index, in both, by its usual name
        (row,) = prepared(source, boxes=tmp_path / "boxes.csv", label=label, find_boxes=False)
        assert (row["label"], row["box_from"]) == (named, "listing")


@pytest.mark.parametrize("options", [{"label": "kind"}, {"box_prefix": "head_"}, {"box_form": "xywh"}])
def test_options_of_tables_are_refused_without_one(source, options):
    saved(disc()[0], source / "cat" / "0.png")
    (name, value), = options.items()  # fmt: skip
    with pytest.raises(ValueError, match=f"got --{name.replace('_', '-')} {value}, but no table is read.*expected an"):
        prepared(source, **options)


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


def test_masks_named_as_their_photos_are_paired_first(source):
    """Names that differ in punctuation, case or combining marks alone; decomposed as some disks store them."""
    stems = ["cat (1)", "cat1", "cat_1", "dog", "\N{DEVANAGARI LETTER KA}\N{DEVANAGARI VOWEL SIGN AA}"]
    stems += ["\N{DEVANAGARI LETTER KA}\N{DEVANAGARI VOWEL SIGN I}", "Dog", "b\u00e4r"]
    for i, stem in enumerate(stems):
        picture, mask = disc(i, 0.3 + 0.05 * i)
        saved(picture, source / "images" / f"{stem}.jpg")
        saved(mask, source / "masks" / f"{unicodedata.normalize('NFD', stem)}.png")
    rows = prepared(source)
    assert [overlap(row) > 0.9 for row in rows] == [True] * 8


def test_names_spelled_otherwise_are_paired_if_only_one_fits():
    reading = Reading()
    names = ["images/cat 1.jpg", "images/cat_1.jpg", "images/DOG.jpg", "images/\u0915\u093f.jpg"]
    masks = ["masks/cat_1.png", "masks/dog-mask.png", "masks/\u0915\u0940.png"]
    _, pairs = pair([(Path(name), name) for name in names + masks], reading, lambda path, name: "masks" in name)
    assert {photo: path.name for photo, path in pairs.items()} == {
        "images/cat_1.jpg": "cat_1.png",
        "images/DOG.jpg": "dog-mask.png",
    }
    assert "1 masks fit no photo" in reading.said[0]  # another vowel sign is another word


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


def test_masks_are_repaired_if_wanted(source):
    picture, mask = disc(0)
    saved(picture, source / "images" / "0.jpg")
    mask.paste(0, (0, 0, WIDTH, 28))  # its upper ten rows
    saved(mask, source / "masks" / "0.png")
    kept, repaired = (overlap(prepared(source, repair_masks=wanted)[0]) for wanted in (False, True))
    assert kept < 0.85 and repaired > 0.93
