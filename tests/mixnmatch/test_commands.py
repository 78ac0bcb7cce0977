"""The commands of MixNMatch on a small generator and pictures drawn here."""

import json
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from mixnmatch.__main__ import film, main
from mixnmatch.fast.config import GeneratorConfig
from mixnmatch.fast.generator import Generator
from tests.odd_files import GOOD
from training.__main__ import main as training
from training.checkpoint import load_generator, read_card, save_generator
from training.imaging.video import probe
from training.objects import margin_of
from training.pictures import open_picture

SMALL = GeneratorConfig(
    resolution=32, n_backgrounds=3, n_shapes=2, n_textures=4, field_dim=16, samples=3, feature_dim=8,
    texture_dim=16, background_dim=16, style_dim=16, encoder_dim=16,
)  # fmt: skip


@pytest.fixture
def checkpoint(tmp_path):
    torch.manual_seed(0)
    path = tmp_path / "small.safetensors"
    save_generator(path, Generator(SMALL))
    return str(path)


@pytest.fixture
def pictures(tmp_path):
    rng, paths = np.random.default_rng(0), []
    for i in range(4):
        path = tmp_path / f"photo{i}.png"
        PIL.Image.fromarray(rng.integers(0, 255, (40, 50, 3), dtype=np.uint8)).save(path)
        paths.append(str(path))
    return paths


def size(path) -> tuple[int, int]:
    with PIL.Image.open(path) as picture:
        return picture.size


def said(capsys) -> dict:
    return json.loads(capsys.readouterr().out.strip().splitlines()[-1])


@pytest.mark.parametrize("mode", ["code", "feature"])
def test_mix_of_four_photos(checkpoint, pictures, tmp_path, capsys, mode):
    names = ("--background", "--pose", "--shape", "--texture")
    slots = [word for pair in zip(names, pictures, strict=True) for word in pair]
    out = tmp_path / "mix.png"
    assert main(["mix", "--checkpoint", checkpoint, "--out", str(out), "--mode", mode, "--layers", *slots]) == 0
    assert size(out) == (32, 32)
    assert (tmp_path / "mix-parent-mask.png").is_file()
    found = said(capsys)
    assert len(found["files"]) == 6
    assert ("pose" in found["photos"]) == (mode == "code")  # else it comes with the shape


def test_feature_mode_without_a_shape_says_so(checkpoint, tmp_path, capsys):
    assert main(["mix", "--checkpoint", checkpoint, "--out", str(tmp_path / "x.png"), "--mode", "feature"]) == 2
    assert "--shape" in capsys.readouterr().err
    assert not (tmp_path / "x.png").exists()


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ("mix --shape photo0", (48, 48)),
        ("vary --n 2 --photos photo0", (3 * 50 - 2, 48)),
        ("grid --rows photo0 --columns photo1 photo2", (3 * 50 - 2, 2 * 50 - 2)),
        ("interpolate photo0 photo1 --factor texture --steps 2", (4 * 50 - 2, 48)),
    ],
)
def test_size_of_the_pictures(checkpoint, pictures, tmp_path, words, expected):
    out = tmp_path / "sized.png"
    named = [str(tmp_path / f"{word}.png") if word.startswith("photo") else word for word in words.split()]
    assert main([*named, "--checkpoint", checkpoint, "--out", str(out), "--size", "48"]) == 0
    assert size(out) == expected


def test_vary_gives_a_row_a_photo(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / "vary.png"
    arguments = ["--factor", "shape", "--n", "3", "--out", str(out), "--photos", *pictures[:2]]
    assert main(["vary", "--checkpoint", checkpoint, *arguments]) == 0
    assert size(out) == (4 * 32 + 3 * 2, 2 * 32 + 2)
    assert said(capsys)["rows"] == 2


def test_grid_crosses_rows_with_columns(checkpoint, pictures, tmp_path):
    out = tmp_path / "grid.png"
    arguments = ["--rows", *pictures[:2], "--columns", *pictures[1:], "--take", "shape", "texture", "--out", str(out)]
    assert main(["grid", "--checkpoint", checkpoint, *arguments]) == 0
    assert size(out) == (4 * 34 - 2, 3 * 34 - 2)


@pytest.mark.parametrize("mode", ["code", "feature"])
def test_video_follows_its_reference(checkpoint, pictures, tmp_path, capsys, caplog, mode):
    reference = tmp_path / "reference.gif"
    first, *rest = [open_picture(Path(path)) for path in pictures]
    first.save(reference, save_all=True, append_images=rest, duration=100)
    out = tmp_path / "out.gif"
    arguments = ["--reference", str(reference), "--out", str(out), "--texture", pictures[0], "--mode", mode]
    assert main(["video", "--checkpoint", checkpoint, *arguments]) == 0
    assert said(capsys)["frames"] == 4
    with PIL.Image.open(out) as painted:
        assert getattr(painted, "n_frames", 1) > 1
        assert painted.info["duration"] == 100  # as fast as its reference
    assert main(["video", "--checkpoint", checkpoint, *arguments, "--most", "2", "--fps", "4"]) == 0
    assert "has more than 2 frames" in caplog.text
    with PIL.Image.open(out) as painted:
        assert painted.info["duration"] == 250


@pytest.mark.parametrize("ending", [".gif", ".webp", ".png"])
def test_transparent_films_are_over_white_at_their_own_pace(tmp_path, ending):
    frames = [PIL.Image.new("RGBA", (16, 16), (0, 0, 0, 0)) for _ in range(2)]
    for i, frame in enumerate(frames):
        frame.paste((255, 0, 0, 255), (4 + i, 4, 12, 12))
    frames[0].save(tmp_path / f"film{ending}", save_all=True, append_images=frames[1:], duration=100)
    read = list(film(tmp_path / f"film{ending}", 10))
    assert len(read) == 2
    for picture in read:
        pixels = np.asarray(picture)
        assert pixels[0, 0].min() > 240
        assert pixels[9, 9, 1] < 60
    assert probe(tmp_path / f"film{ending}").fps == pytest.approx(10)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["mix", "--checkpoint", "none.safetensors", "--out", "x.png"], "no checkpoint"),
        (["mix", "--checkpoint", "CHECKPOINT", "--out", "x.png", "--pose", "none.png"], "does not exist"),
        (["mix", "--checkpoint", "CHECKPOINT", "--out", "x.txt"], "ends in"),
        (["video", "--checkpoint", "CHECKPOINT", "--out", "x.mp4", "--reference", "none.mp4"], "no film"),
    ],
)
def test_mistakes_are_said_in_one_sentence(checkpoint, capsys, arguments, message):
    assert main([checkpoint if word == "CHECKPOINT" else word for word in arguments]) == 2
    error = capsys.readouterr().err
    assert message in error
    assert error.count("\n") == 1


def test_a_walk_goes_from_photo_to_photo_factor_by_factor(checkpoint, pictures, tmp_path, capsys):
    out = tmp_path / "walk.png"
    assert main(["interpolate", *pictures[:2], "--checkpoint", checkpoint, "--out", str(out), "--steps", "3"]) == 0
    assert said(capsys)["rows"] == ["background", "pose", "shape", "texture", "background+pose+shape+texture"]
    assert size(out) == (5 * 34 - 2, 5 * 34 - 2)
    with PIL.Image.open(out) as sheet:
        cells = np.stack(
            [np.asarray(sheet.crop((34 * c, 34 * r, 34 * c + 32, 34 * r + 32))) for r in range(5) for c in range(5)]
        )
    cells = cells.reshape(5, 5, 32, 32, 3)
    assert (cells[:, 1] == cells[:1, 1]).all()  # every walk begins at the first photo's codes
    assert (cells[4, 1] != cells[4, 3]).any()
    film = tmp_path / "walk.gif"
    arguments = ["--factor", "texture", "--steps", "3", "--mode", "feature", "--out", str(film)]
    assert main(["interpolate", *pictures[:2], "--checkpoint", checkpoint, *arguments]) == 0
    assert (said(capsys)["frames"], size(film)) == (4, (96, 32))


def test_photos_are_cut_to_the_boxes_given(checkpoint, tmp_path, capsys):
    """A red square in a grey corner: with its box, the photo at the left of the row is mostly red, else mostly grey."""
    pixels = np.full((64, 96, 3), 128, np.uint8)
    pixels[4:24, 60:80] = (255, 0, 0)
    photo = tmp_path / "corner.png"
    PIL.Image.fromarray(pixels).save(photo)
    arguments = ["vary", "--checkpoint", checkpoint, "--n", "1", "--photos", str(photo)]
    red = {}
    for name, how in {"box": ["--box", "60", "4", "20", "20"], "centre": ["--crop", "centre"]}.items():
        out = tmp_path / f"{name}.png"
        assert main([*arguments, *how, "--out", str(out)]) == 0
        boxes = said(capsys)["boxes"]
        with PIL.Image.open(out) as sheet:
            shown = np.asarray(sheet.crop((0, 0, 32, 32))).astype(int)
        red[name] = ((shown[..., 0] > 200) & (shown[..., 1] < 60)).mean()
        assert boxes == {str(photo): [60, 4, 20, 20] if name == "box" else None}
    assert red["box"] > 2 * red["centre"] > 0
    table = tmp_path / "boxes.json"
    table.write_text('{"corner.png": [900, 4, 20, 20]}')
    assert main([*arguments, "--boxes", str(table), "--out", str(tmp_path / "x.png")]) == 2
    assert "holds nothing of its 96 x 64 pixels" in capsys.readouterr().err
    twice = ["mix", "--checkpoint", checkpoint, "--pose", str(photo), "--shape", str(photo)]
    two = [*twice, "--box", "60", "4", "20", "20", "0", "0", "30", "30", "--out", str(tmp_path / "x.png")]
    assert main(two) == 2
    assert "corner.png has two boxes" in capsys.readouterr().err


@pytest.fixture(scope="module")
def cars(tmp_path_factory):
    folder = tmp_path_factory.mktemp("cars") / "cars"
    assert training(["prepare", "cars", "--out", str(folder), "--size", "64", "--count", "80", "--test", "4"]) == 0
    return folder


CRITIC, MODEL = Path("checkpoints/resume/giraffe-hd-cars-64"), Path("checkpoints/mixnmatch-cars-64.safetensors")


def test_split_moves_two_shapes_and_nothing_else(cars, tmp_path, capsys):
    out = tmp_path / "split.safetensors"
    words = ["--data", str(cars), "--shapes", "0", "1", "--photos", "8", "--steps", "1", "--out", str(out)]
    assert main(["split", "--sources", str(CRITIC), str(MODEL), *words]) == 0
    assert said(capsys)["shapes"] == [0, 1]
    before, after = (load_generator(path).state_dict() for path in (MODEL, out))
    moved = {name for name in before if not torch.equal(before[name], after[name])}
    assert moved == {"parent.embed.weight"}
    columns = (before["parent.embed.weight"] != after["parent.embed.weight"]).any(0)
    assert columns.nonzero()[:, 0].tolist() == [0, 1]
    assert margin_of(read_card(out)) is None  # whole pictures, as the model was trained on


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([MODEL, "--shapes", "2", "2"], "two different shapes of 0 to 9"),
        ([MODEL, "--shapes", "0", "10"], "two different shapes of 0 to 9"),
        (["checkpoints/mixnmatch-clothing-128.safetensors", "--shapes", "0", "1"], "no solid shapes"),
        ([MODEL, CRITIC, "--shapes", "0", "1"], "is a folder; give the path of a .safetensors file"),
        ([MODEL, "--shapes", "0", "1"], "holds an image discriminator"),
    ],
)
def test_split_refuses_what_it_cannot_tell_apart(cars, tmp_path, capsys, words, message):
    out = tmp_path / "split.safetensors"
    assert main(["split", "--data", str(cars), "--out", str(out), "--sources", *map(str, words)]) == 2
    assert message in capsys.readouterr().err
    assert not out.exists()


def test_phone_photos_of_many_megapixels_are_mixed(checkpoint, tmp_path):
    for name in ("24", "50"):
        (tmp_path / f"{name}.jpg").write_bytes(GOOD[f"{name} megapixels"])
    photos = ["--background", str(tmp_path / "24.jpg"), "--texture", str(tmp_path / "50.jpg")]
    assert main(["mix", "--checkpoint", checkpoint, "--out", str(tmp_path / "mix.png"), *photos]) == 0
    assert size(tmp_path / "mix.png") == (32, 32)


def test_out_of_memory_is_one_sentence(checkpoint, tmp_path, capsys, monkeypatch):
    def full(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")

    monkeypatch.setattr(Generator, "forward", full)
    assert main(["mix", "--checkpoint", checkpoint, "--out", str(tmp_path / "mix.png")]) == 2
    assert capsys.readouterr().err.startswith("error: out of memory; ")
