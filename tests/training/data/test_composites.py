"""Scenes whose masks are exact, and photos with masks, as COCO folders; held-out photos stay held out."""

import json
import logging
from pathlib import Path

import numpy as np
import PIL.Image
import pytest

from training.__main__ import main
from training.data.backgrounds import patch, pattern, view
from training.data.coco import CocoSet, CocoWriter, find_split
from training.data.composites import SceneOptions, Sources, make_scene, only
from training.data.cutouts import cut_out, turned

COLOURS = {"apple": (220, 20, 20), "pear": (20, 220, 20)}
GROUND = (0, 0, 255)


def prepared(folder: Path, label: str, n: int = 6, split: str = "train", first: int = 0) -> Path:
    """Write photos of a disc of the label's colour before blue, 60 px, as a prepared set lies on disk."""
    (folder / "images").mkdir(parents=True, exist_ok=True)
    (folder / "masks").mkdir(exist_ok=True)
    lines = [] if (folder / "index.csv").exists() else ["file,split,class"]
    y, x = np.mgrid[:60, :60]
    for k in range(first, first + n):
        mask = np.hypot(x - 30 - k % 3, y - 30) < 20
        pixels = np.where(mask[..., None], np.array(COLOURS[label]), np.array(GROUND)).astype(np.uint8)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{k}.png")
        PIL.Image.fromarray(mask.astype(np.uint8) * 255).save(folder / "masks" / f"{k}.png")
        lines.append(f"{k}.png,{split},{label}")
    with (folder / "index.csv").open("a") as file:
        file.write("\n".join(lines) + "\n")
    return folder


@pytest.fixture(scope="module")
def sets(tmp_path_factory) -> list[Path]:
    """Return two COCO folders with a train and a validation split."""
    root = tmp_path_factory.mktemp("sets")
    made = []
    for label in COLOURS:
        source = prepared(root / f"raw-{label}", label)
        prepared(source, label, 3, "validation", 100)
        assert main(["prepare", "masked", "--source", str(source), "--out", str(root / label)]) == 0
        made.append(root / label)
    return made


def sources(sets: list[Path]) -> Sources:
    found = [find_split(folder, "train") for folder in sets]
    light = np.random.default_rng(0).random((16, 32, 3)).astype(np.float32)
    return Sources(found, found, [light], [folder.name for folder in sets])


def test_masked_photos_keep_their_split_label_and_mask(sets):
    train, held = (find_split(sets[0], split) for split in ("train", "validation"))
    assert (len(train), len(held)) == (6, 3)
    assert train.categories == ("apple",)
    picture = train.load(0)
    assert (picture.image[picture.masks[0]] == COLOURS["apple"]).all()
    assert {p.name for p in held.pictures} == {"100.png", "101.png", "102.png"}


def test_photos_without_a_usable_mask_are_left_out(tmp_path, capsys):
    source = prepared(tmp_path / "raw", "pear", 5)
    PIL.Image.new("L", (60, 60)).save(source / "masks" / "0.png")
    PIL.Image.new("L", (30, 60), 255).save(source / "masks" / "1.png")
    (source / "masks" / "2.png").unlink()
    (source / "images" / "3.png").write_bytes(b"no picture")
    assert main(["prepare", "masked", "--source", str(source), "--out", str(tmp_path / "out"), "--label", "fruit"]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["train"], said["left out"], said["labels"]) == (1, 4, ["fruit"])
    assert main(["prepare", "masked", "--source", str(tmp_path), "--out", str(tmp_path / "other")]) == 2


def test_masks_that_all_have_another_size_are_an_error(tmp_path, capsys, caplog):
    source = prepared(tmp_path / "raw", "pear", 3)
    for path in (source / "masks").iterdir():
        PIL.Image.new("L", (30, 60), 255).save(path)
    with caplog.at_level(logging.WARNING):
        assert main(["prepare", "masked", "--source", str(source), "--out", str(tmp_path / "out")]) == 2
    assert "none of the 3 photos in" in capsys.readouterr().err
    for k in range(3):
        assert f"left out: {k}.png: its mask is 30 x 60, the photo 60 x 60" in caplog.messages
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize("split", ["", "../train"])
def test_a_split_of_masked_photos_has_a_name(tmp_path, capsys, split):
    source = prepared(tmp_path / "raw", "pear", 3)
    index = source / "index.csv"
    index.write_text(index.read_text().replace("1.png,train", f"1.png,{split}"))
    assert main(["prepare", "masked", "--source", str(source), "--out", str(tmp_path / "out")]) == 2
    assert f"1.png has the split '{split}'; expected a name such as train" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


def test_masked_photos_in_subfolders_stay_there(tmp_path, caplog):
    source = prepared(tmp_path / "raw", "pear", 3)
    prepared(source, "pear", 1, "validation", 10)
    for part in ("images", "masks"):
        for sub in ("a", "b"):
            (source / part / sub).mkdir()
        (source / part / "0.png").rename(source / part / "a" / "0.png")
        (source / part / "1.png").rename(source / part / "b" / "0.png")
    text = (source / "index.csv").read_text().replace("\n0.png", "\na/0.png").replace("\n1.png", "\nb/0.png")
    (source / "index.csv").write_text(text.replace("2.png", "../images/2.png"))
    with caplog.at_level(logging.WARNING):
        assert main(["prepare", "masked", "--source", str(source), "--out", str(tmp_path / "out")]) == 0
    train = find_split(tmp_path / "out", "train")
    assert [item.name for item in train.pictures] == ["a/0.png", "b/0.png"]
    assert [np.flatnonzero(train.load(k).masks[0].any(0))[0] for k in range(2)] == [11, 12]  # each has its own mask
    assert "../images/2.png: this is no name of a file in images" in caplog.text


@pytest.mark.parametrize("form", [("utf-8-sig", ","), ("utf-8", ";"), ("cp1252", ";")])
def test_masked_photos_of_a_spreadsheets_table(tmp_path, form, capsys):
    code, separator = form
    source = prepared(tmp_path / "raw", "pear", 2)
    lines = ["File,Split,Class,Top_x0,Top_y0,Top_x1,Top_y1", *(f"{k}.png,train,Kürbis,10,20.5,30,40" for k in range(2))]
    text = "\r\n".join(lines).replace(",", separator)
    (source / "index.csv").write_bytes((text.replace("20.5", "20,5") if separator == ";" else text).encode(code))
    given = ["prepare", "masked", "--source", str(source), "--box-prefix", "Top_", "--label-column", "Class"]
    assert main([*given, "--out", str(tmp_path / "out")]) == 0
    said = json.loads(capsys.readouterr().out)
    assert (said["train"], said["labels"]) == (2, ["Kürbis"])
    assert find_split(tmp_path / "out", "train").load(0).masks[0].any(1).argmax() == 20
    (source / "index.csv").write_text("file,split,class\n")
    assert main([*given, "--out", str(tmp_path / "other")]) == 2
    assert "index.csv has a header but no lines" in capsys.readouterr().err


def test_masks_are_cut_to_the_boxes_of_a_part(tmp_path, capsys):
    """Worked by hand: of a disc around (30, 30), the part in columns 10 to 29 and rows 20 to 39."""
    source = prepared(tmp_path / "raw", "pear", 1)
    prepared(source, "pear", 3, "validation", 1)
    boxes = [",top_x0,top_y0,top_x1,top_y1", ",10.4,20.6,29.5,40", ",,,,", ",a,b,c,d", ",-20,-20,-10,-10"]
    lines = (source / "index.csv").read_text().split()
    (source / "index.csv").write_text("\n".join(map("".join, zip(lines, boxes, strict=True))))
    given = ["prepare", "masked", "--source", str(source), "--label", "top", "--box-prefix"]
    assert main([*given, "top_", "--out", str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out) == {
        "out": str(tmp_path / "out"), "labels": ["top"], "train": 1, "left out": 3
    }  # fmt: skip
    (mask,) = find_split(tmp_path / "out", "train").load(0).masks
    y, x = np.mgrid[:60, :60]
    expected = (np.hypot(x - 30, y - 30) < 20) & (x >= 10) & (x < 30) & (y >= 20) & (y < 40)
    assert np.array_equal(mask, expected)
    assert main([*given, "ear_", "--out", str(tmp_path / "other")]) == 2


def test_masks_of_a_scene_are_what_is_seen(sets):
    """Apples are red and pears green, on any ground: inside a mask the colour is the label's, up to the light."""
    found, options = (
        sources(sets),
        SceneOptions(side=128, distractors=0.0, shadow=0.0, empty=0.0, on_photos=0.0, mosaics=0.0),
    )
    right = total = overlapping = 0
    for seed in range(12):
        scene = make_scene(found, options, np.random.default_rng(seed))
        assert scene.objects
        seen = np.zeros(scene.image.shape[:2], int)
        for item in scene.objects:
            seen += item.mask
            strongest = scene.image[item.mask].argmax(1)
            right += (strongest == (0 if item.label == "apple" else 1)).sum()
            total += item.mask.sum()
            hull = item.mask[np.ix_(item.mask.any(1), item.mask.any(0))]
            overlapping += hull.mean() < 0.7  # a disc fills .785 of its box: something lies before it
        assert seen.max() == 1  # no pixel belongs to two
    assert right / total > 0.97
    assert overlapping > 0


def test_the_same_seed_gives_the_same_scene(sets):
    found = sources(sets)
    first, again, other = (make_scene(found, SceneOptions(side=96), np.random.default_rng(seed)) for seed in (3, 3, 4))
    assert (first.image == again.image).all()
    assert all((a.mask == b.mask).all() for a, b in zip(first.objects, again.objects, strict=True))
    assert first.image.shape != other.image.shape or (first.image != other.image).any()


def test_scenes_for_measuring_hold_as_many_objects_as_asked(sets):
    options = only(SceneOptions(side=160), 2, 5)
    counts = [len(make_scene(sources(sets), options, np.random.default_rng(seed)).objects) for seed in range(8)]
    assert max(counts) <= 5 and np.mean(counts) > 2


def test_some_scenes_are_empty(sets):
    options = SceneOptions(side=96, empty=1.0)
    for seed in range(4):
        assert make_scene(sources(sets), options, np.random.default_rng(seed)).objects == []


def test_a_cut_out_carries_nothing_of_its_ground():
    y, x = np.mgrid[:60, :60]
    mask = np.hypot(x - 30, y - 30) < 20
    image = np.where(mask[..., None], np.array([220, 20, 20]), np.array(GROUND)).astype(np.uint8)
    item = cut_out(image, mask, "apple", "a")
    assert item is not None and item.ends == ()
    assert (item.colour[..., 2] < 60).all()
    assert abs(item.alpha.sum() - np.pi * 19**2) < 90
    colour, alpha = turned(item, 80, 30, mirror=True)
    assert colour.shape[:2] == alpha.shape
    assert cut_out(image, np.zeros((60, 60), bool), "apple", "a") is None
    edge = cut_out(image, mask | (y > 40), "apple", "a")
    assert edge is not None and "bottom" in edge.ends


def test_grounds_hold_none_of_the_photos_objects(sets):
    rng = np.random.default_rng(0)
    small = [find_split(sets[0], "train")]
    assert patch(small, (64, 48), rng) is None  # the disc leaves no band wide enough
    big = CocoSet(larger(sets[0].parent))
    found = patch([big], (64, 48), rng)
    assert found is not None and found.shape == (48, 64, 3)
    assert (found[..., 0] < 80).all()  # no apple in it
    assert view(np.ones((8, 16, 3), np.float32), (64, 48), rng).shape == (48, 64, 3)
    assert pattern((64, 48), rng).shape == (48, 64, 3)


def larger(folder: Path) -> Path:
    (folder / "big" / "images").mkdir(parents=True)
    mask = np.zeros((120, 120), bool)
    mask[40:100, 5:60] = True
    pixels = np.where(mask[..., None], np.array(COLOURS["apple"]), np.array(GROUND)).astype(np.uint8)
    PIL.Image.fromarray(pixels).save(folder / "big" / "images" / "a.png")
    writer = CocoWriter(["apple"])
    writer.add(writer.add_image("a.png", 120, 120), "apple", mask)
    writer.write(folder / "big" / "train.json")
    return folder / "big" / "train.json"


def test_composites_command_keeps_held_out_photos_out(sets, tmp_path, capsys):
    arguments = ["prepare", "composites", "--objects", *map(str, sets), "--photos", str(sets[0]), "--workers", "1"]
    arguments += ["--count", "6", "--held-out", "4", "--side", "96", "--out"]
    assert main([*arguments, str(tmp_path / "out")]) == 0
    assert json.loads(capsys.readouterr().out)["train"] == 6 + 6
    train, held = (json.loads((tmp_path / "out" / f"{s}.json").read_text()) for s in ("train", "validation"))
    names = {
        split: {a.get("source", "") for a in content["annotations"]} for split, content in (("t", train), ("v", held))
    }
    assert not any("/10" in name for name in names["t"])
    assert names["v"] and all("/10" in name for name in names["v"])
    assert find_split(tmp_path / "out", "train").categories == ("apple", "pear")
    assert main([*arguments, str(tmp_path / "out")]) == 2  # it is there already
    assert main(["prepare", "composites", "--objects", str(tmp_path), "--out", str(tmp_path / "new")]) == 2
    with pytest.raises(SystemExit):  # options that cannot be end the command before it runs
        main([*arguments, str(tmp_path / "new"), "--count", "0"])
