"""python -m giraffe_hd render | sweep | turntable | mesh, on tiny files of all three families."""

import json
import subprocess
from dataclasses import replace
from pathlib import Path

import imageio_ffmpeg
import PIL.Image
import pytest
import torch

from giraffe_hd.__main__ import main
from giraffe_hd.fast.config import GeneratorConfig
from giraffe_hd.fast.generator import Generator
from giraffe_hd.giraffe2021.config import GeneratorConfig as GiraffeConfig
from giraffe_hd.giraffe2021.generator import Generator as GiraffeGenerator
from giraffe_hd.giraffe2021.presets import CLEVR2_256
from giraffe_hd.paper import config as paper
from giraffe_hd.paper.generator import Generator as PaperGenerator
from giraffe_hd.paper.presets import COMPCAR_256
from training.checkpoint import save_generator
from training.films import knob_values, there_and_back, turn_offsets
from training.metrics.knobs import BACKGROUND
from training.types import Generator as AnyGenerator
from training.types import Knob

VOLUME = paper.VolumeConfig(resolution=8, n_samples=32)


def fast() -> AnyGenerator:
    return Generator(
        GeneratorConfig(
            resolution=16, rays=16, object_channels=(8,), background_channels=(8, 8, 8), z_dim=8, w_dim=8, field_dim=16,
            features=8, mask_channels=8,
        )
    )  # fmt: skip


def published() -> AnyGenerator:
    config = paper.GeneratorConfig(
        resolution=16, volume=VOLUME, z_dim=8, z_dim_bg=8, feat_dim=8, n_mlp=2, prior=COMPCAR_256.generator.prior
    )
    return PaperGenerator(config)


def clevr(n_objects: int = 3) -> AnyGenerator:
    prior = replace(CLEVR2_256.generator.prior, n_objects=n_objects)
    made = GiraffeGenerator(GiraffeConfig(resolution=16, volume=VOLUME, z_dim=8, z_dim_bg=8, feat_dim=8, prior=prior))
    with torch.no_grad():
        made.object_field.sigma_out.weight.abs_().mul_(1000)  # a field with something in it
    return made


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("files")
    torch.manual_seed(0)
    makes = {"fast": fast, "paper": published, "clevr": clevr, "chairs": lambda: clevr(1)}
    for name, make in makes.items():
        save_generator(folder / f"{name}.safetensors", make())
    return {name: folder / f"{name}.safetensors" for name in makes}


def run(capsys, *arguments: str | Path) -> dict:
    assert main([str(a) for a in arguments]) == 0
    return json.loads(capsys.readouterr().out)


@pytest.mark.parametrize("family", ["fast", "paper", "clevr"])
def test_render_with_layers(files, tmp_path, capsys, family):
    out = tmp_path / "sheet.png"
    said = run(capsys, "render", "--checkpoint", files[family], "--out", out, "--n", "3", "--layers")
    assert said["columns"] == 3 and said["rows"][0] == "image" and {"mask", "alpha", "depth"} <= set(said["rows"])
    assert "spread" not in said["rows"]
    with PIL.Image.open(out) as sheet:
        assert sheet.size == (3 * 18 - 2, len(said["rows"]) * 18 - 2)


def test_render_sets_knobs(files, tmp_path, capsys):
    common = ("render", "--checkpoint", files["paper"], "--n", "1")
    pictures = {}
    for name, more in {
        "plain": (), "again": (), "turned": ("--set", "rotation=90", "look=3"), "injected": ("--inject-index", "4")
    }.items():  # fmt: skip
        run(capsys, *common, "--out", tmp_path / f"{name}.png", *more)
        pictures[name] = (tmp_path / f"{name}.png").read_bytes()
    assert pictures["plain"] == pictures["again"]
    assert len(set(pictures.values())) == 3


@pytest.mark.parametrize(
    ("family", "knob", "more", "frames"),
    [
        ("fast", "rotation", (), 5),
        ("paper", "rotation", ("--low", "0", "--high", "90"), 8),
        ("paper", "azimuth", ("--low", "-20", "--high", "20"), 8),
        ("paper", "radius", ("--low", "2.5", "--high", "3"), 8),
        ("paper", "y", (), 8),
        ("paper", "look", ("--mode", "interpolate"), 8),
        ("fast", "shape", ("--mode", "resample"), 5),
        ("clevr", "x_2", (), 8),
    ],
)
@pytest.mark.parametrize("kind", ["png", "gif"])
def test_sweeps(files, tmp_path, capsys, family, knob, more, frames, kind):
    out = tmp_path / f"sweep.{kind}"
    said = run(
        capsys, "vary", "--checkpoint", files[family], "--out", out, "--knob", knob, "--steps", "5", "--n", "2", *more
    )
    if kind == "png":
        assert said["frames"] == 5
        with PIL.Image.open(out) as sheet:
            assert sheet.size == (5 * 18 - 2, 2 * 18 - 2)
            first, last = sheet.crop((0, 0, 16, 16)), sheet.crop((72, 0, 88, 16))
            assert first.tobytes() != last.tobytes()
    else:
        assert said["frames"] == frames
        with PIL.Image.open(out) as film:
            assert film.size == (32, 16) and film.n_frames <= frames  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", ["mp4", "webp", "png"])
def test_turntables(files, tmp_path, capsys, kind):
    out = tmp_path / f"turn.{kind}"
    said = run(
        capsys,
        "turntable",
        "--checkpoint",
        files["paper"],
        "--out",
        out,
        "--frames",
        "6",
        "--n",
        "3",
        "--turn",
        "azimuth",
    )
    assert said["frames"] == 6
    if kind == "mp4":
        command = [
            imageio_ffmpeg.get_ffmpeg_exe(),
            "-v",
            "error",
            "-i",
            out,
            "-f",
            "rawvideo",
            "-pix_fmt",
            "rgb24",
            "-",
        ]
        assert len(subprocess.run(command, capture_output=True, check=True).stdout) == 6 * 32 * 32 * 3
    else:
        with PIL.Image.open(out) as picture:
            assert picture.size == ((32, 32) if kind == "webp" else (6 * 18 - 2, 3 * 18 - 2))


@pytest.mark.parametrize(("family", "more"), [("fast", ()), ("paper", ()), ("clevr", ("--index", "3"))])
def test_meshes(files, tmp_path, capsys, family, more):
    level = "0.05" if family == "clevr" else "0.01"
    out = tmp_path / "object.ply"
    said = run(
        capsys, "mesh", "--checkpoint", files[family], "--out", out, "--resolution", "16", "--level", level, *more
    )
    assert said["faces"] > 10
    assert out.read_bytes().startswith(b"ply\n")


@pytest.mark.parametrize("family", ["fast", "paper", "chairs"])
def test_meshes_of_one_object_are_written_as_glb(files, tmp_path, capsys, family):
    """With colours where the generator draws the object by itself; the published GIRAFFE does not."""
    words = ("--resolution", "16", "--level", "0.05" if family == "chairs" else "0.01")
    run(capsys, "mesh", "--checkpoint", files[family], "--out", tmp_path / "object.glb", *words)
    content = (tmp_path / "object.glb").read_bytes()
    assert content.startswith(b"glTF") and (b"COLOR_0" in content) == (family != "chairs")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("render", "--out", "a.png", "--n", "0"), "--n is 0; ask for at least 1 scene"),
        (("render", "--out", "a.txt"), "cannot write a.txt: expected a name that ends in .png"),
        (("render", "--out", "a.png", "--set", "size=3"), "--set size=3: no knob 'size'"),
        (("vary", "--out", "a.png", "--knob", "wheels"), "no knob 'wheels'; this generator has rotation"),
        (("sweep", "--out", "a.png", "--knob", "azimuth"), "training held azimuth still, so it has no range"),
        (("render", "--out", "a.png", "--set", "rotation", "30"), "--set takes KNOB=VALUE, such as rotation=30"),
        (("vary", "--out", "a.png", "--knob", "x", "--steps", "1"), "a film or a row needs at least 2"),
        (("sweep", "--out", "a.png", "--knob", "look", "--low", "1"), "look is a code and has no --low and --high"),
        (("sweep", "--out", "a.mov", "--knob", "x"), "cannot write a.mov: expected a name that ends in .mp4"),
        (("sweep", "--out", "a.gif", "--knob", "x", "--fps", "0"), "cannot write a.gif with 0 pictures a second"),
        (("turntable", "--out", "a.mp4", "--frames", "1"), "a turn needs at least 2"),
        (("turntable", "--out", "a.avi"), "cannot write a.avi: expected a name that ends in .mp4, .webp, .gif"),
        (("turntable", "--out", "a.mp4", "--degrees", "nan"), "--degrees is nan; expected a number"),
        (("mesh", "--out", "a.stl"), "cannot write a.stl"),
        (("mesh", "--out", "a.obj", "--index", "2"), "these scenes have 1 object(s), counted from 1"),
        (("mesh", "--out", "a.obj", "--resolution", "8", "--level", "1e9"), "no density of this object passes 1e+09"),
    ],
)
def test_mistakes_are_said_in_one_sentence(files, tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    verb, *rest = arguments
    assert main([verb, "--checkpoint", str(files["paper"]), *rest]) == 2
    said = capsys.readouterr()
    assert message in said.err and said.err.count("\n") == 1 and not said.out
    assert list(tmp_path.iterdir()) == []


def test_values_of_a_sweep():
    rotation = Knob(name="rotation", label="", kind="angle", high=360)
    assert knob_values(rotation, 4, low=0, high=360) == [0, 90, 180, 270]  # the end is the start
    assert knob_values(rotation, 4, low=0, high=90) == [0, 30, 60, 90]
    assert there_and_back([0, 0.5, 1]) == [0, 0.5, 1, 0.5]
    assert turn_offsets(4) == [0, 90, 180, 270]
    assert turn_offsets(4, 60) == pytest.approx([0, 30, 0, -30])


def test_a_look_from_another_layer_is_refused_where_one_code_paints(files, tmp_path, capsys):
    words = ["render", "--checkpoint", str(files["clevr"]), "--out", str(tmp_path / "a.png"), "--inject-index", "2"]
    assert main(words) == 2
    assert "no --inject-index" in capsys.readouterr().err


@pytest.mark.parametrize("make", [fast, published, clevr])
def test_every_knob_of_the_background_is_known_as_one(make):
    seeds = {knob.name for knob in make().knobs if knob.kind == "seed"}
    assert seeds & set(BACKGROUND) == {name for name in seeds if "background" in name} != set()


@pytest.mark.parametrize(("family", "size"), [("fast", 32), ("fast", 40), ("paper", 32)])
def test_size_of_the_pictures(files, tmp_path, capsys, family, size):
    out = tmp_path / "sheet.png"
    run(capsys, "render", "--checkpoint", files[family], "--out", out, "--n", "2", "--layers", "--size", str(size))
    with PIL.Image.open(out) as sheet:
        assert sheet.width == 2 * (size + 2) - 2
    run(capsys, "vary", "--checkpoint", files[family], "--out", out, "--knob", "look", "--steps", "3", "--n", "1",
        "--size", str(size))  # fmt: skip
    with PIL.Image.open(out) as sheet:
        assert sheet.size == (3 * (size + 2) - 2, size)
