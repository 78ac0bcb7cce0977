"""The authors' MixNMatch files: what their program computes, ours does; what is no such file is refused whole."""

import argparse
import io
import json
import pickle
import subprocess
import sys
import zipfile
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from mixnmatch.codes import Codes
from mixnmatch.paper.config import GeneratorConfig
from mixnmatch.paper.discriminators import view
from mixnmatch.paper.generator import Generator
from mixnmatch.paper.official import read
from tests.conformance.cases import fill, load_case, relative_error
from training.checkpoint import load_generator, read_card
from training.data.folder import evaluation_data
from training.objects import margin_of
from training.official import ImportOfficial, read_official, read_plain

TINY = GeneratorConfig(n_shapes=3, n_textures=6, n_backgrounds=6, z_dim=5, width=4, encoder_width=2, extractor_width=2)
TARGET = 2e-4


def official_files(folder: Path, generator: Generator, *, prefix: str = "module.", old: bool = True) -> list[Path]:
    """Write a generator as the authors' program would: three state dicts, in PyTorch's format before 1.6."""
    folder.mkdir(parents=True, exist_ok=True)
    files: dict[str, dict[str, Tensor]] = {"G": {}, "E": {}, "EX": {}}
    for name, tensor in generator.state_dict().items():
        part, _, rest = name.partition(".")
        kind, key = {"encoders": ("E", rest), "extractor": ("EX", rest)}.get(part, ("G", name))
        files[kind][prefix + key] = tensor.clone()
    for kind, state in files.items():
        torch.save(state, folder / f"{kind}.pth", _use_new_zipfile_serialization=not old)
    return [folder / f"{kind}.pth" for kind, state in files.items() if state]


def random_generator(config: GeneratorConfig, seed: int = 0) -> Generator:
    torch.manual_seed(seed)
    generator = Generator(config)
    for name, buffer in generator.named_buffers():
        if name.endswith(("running_mean", "running_var")):
            buffer.uniform_(0.5, 1.5)
    return generator.eval()


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    return official_files(tmp_path_factory.mktemp("tiny"), random_generator(TINY))


@pytest.fixture(scope="module")
def imported(tmp_path_factory: pytest.TempPathFactory) -> Generator:
    """The conformance case, read from official-looking files."""
    folder = tmp_path_factory.mktemp("official")
    case, _ = load_case("mixnmatch_cub")
    for kind, manifest in case["checkpoint"].items():
        torch.save(fill(manifest), folder / f"{kind}.pth")
    generator = read_official([folder / f"{kind}.pth" for kind in ("G", "E", "EX")])
    for path in folder.iterdir():  # half a gigabyte
        path.unlink()
    assert isinstance(generator, Generator)
    return generator


@pytest.fixture(scope="module")
def outputs(imported: Generator) -> dict[str, Tensor]:
    _, arrays = load_case("mixnmatch_cub")
    with torch.no_grad():
        pose = imported.encode(arrays["in_pose"], factors=("z",))
        background = imported.encode(arrays["in_background"], factors=("z", "b"))
        shape = imported.encode(arrays["in_shape"], factors=("p",))
        texture = imported.encode(arrays["in_texture"], factors=("c",))
        codes = replace(pose, b=background.b, z_background=background.z_background, p=shape.p, c=texture.c)
        feature = imported.shape_feature(arrays["in_shape"])
        rendered = {"code": imported(codes), "feature": imported(codes, feature=feature)}
    assert background.z_background is not None
    ours = {
        "code_pose": pose.z,
        "code_background_z": background.z_background,
        "code_background": background.b,
        "code_shape": shape.p,
        "code_texture": texture.c,
        "shape_feature": feature,
    }
    for mode, layers in rendered.items():
        ours |= {f"{mode}_{name}": getattr(layers, name) for name in ("image", "parent", "parent_mask", "child_mask")}
        ours[f"{mode}_background_126"] = view(layers.background)
    return ours


def output_names() -> list[str]:
    return [name for name in load_case("mixnmatch_cub")[1] if not name.startswith("in_")]


@pytest.mark.parametrize("name", output_names())
def test_conformance_with_the_authors_program(outputs: dict[str, Tensor], name: str):
    _, arrays = load_case("mixnmatch_cub")
    assert outputs[name].shape == arrays[name].shape
    assert relative_error(outputs[name], arrays[name]) <= TARGET


def test_the_import_reads_the_settings_from_the_weights(imported: Generator):
    assert imported.config == GeneratorConfig()  # CUB's


@pytest.mark.parametrize(
    "counts",
    [
        {"n_shapes": 12, "n_textures": 120, "n_backgrounds": 120},
        {"n_shapes": 20, "n_textures": 196, "n_backgrounds": 196},
        {"n_shapes": 1, "n_textures": 1, "n_backgrounds": 2, "z_dim": 7, "width": 8, "encoder_width": 3},
        {"extractor_width": 4},
    ],
    ids=["Dogs", "Cars", "odd", "extractor"],
)
@pytest.mark.parametrize(("prefix", "old"), [("module.", True), ("", False)])
def test_other_settings_are_read_too(tmp_path: Path, counts: dict[str, int], prefix: str, old: bool):
    theirs = random_generator(replace(TINY, **counts))
    paths = official_files(tmp_path, theirs, prefix=prefix, old=old)
    ours = read(*reversed(paths))
    assert ours.config == theirs.config
    rng = torch.Generator().manual_seed(0)
    codes, photo = theirs.sample(1, rng, tied=False), torch.rand(1, 3, 128, 128, generator=rng) * 2 - 1
    with torch.no_grad():
        assert torch.equal(ours(codes).image, theirs(codes).image)
        assert torch.equal(ours.encode(photo).c, theirs.encode(photo).c)
        assert torch.equal(ours.shape_feature(photo), theirs.shape_feature(photo))


def test_an_imported_file_paints_the_same_picture(tiny: list[Path], tmp_path: Path):
    out = tmp_path / "tiny.safetensors"
    ImportOfficial(files=tuple(tiny), out=out).run()
    theirs, ours = random_generator(TINY), load_generator(out)
    codes = theirs.sample(2, torch.Generator().manual_seed(0), tied=False)
    with torch.no_grad():
        assert torch.equal(ours(codes).image, theirs(codes).image)


def test_without_the_extractor_there_is_no_feature_mode(tiny: list[Path], tmp_path: Path):
    out = tmp_path / "stage1.safetensors"
    ImportOfficial(files=tuple(tiny[:2]), out=out).run()
    generator = load_generator(out)
    assert isinstance(generator, Generator)
    assert not generator.config.feature_mode
    with pytest.raises(ValueError, match=r"import EX\.pth too"):
        generator.shape_feature(torch.zeros(1, 3, 128, 128))


def test_the_command_says_what_it_wrote(tiny: list[Path], tmp_path: Path):
    out = tmp_path / "tiny.safetensors"
    command = [sys.executable, "-m", "training", "import-official", *map(str, tiny), "--out", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    said = json.loads(done.stdout)
    assert said["family"] == "mixnmatch_paper"
    assert said["parameters"] == sum(p.numel() for p in load_generator(out).parameters())
    assert set(read_card(out)["files"]) == {"G.pth", "E.pth", "EX.pth"}
    assert margin_of(read_card(out)) == pytest.approx(1.5 / 1.1875)  # as its photos were cut, for the page ...
    cut = evaluation_data(out, load_generator(out))  # ... and for FID
    assert (cut.size, cut.object_margin, cut.jitter) == (128, 1.5, 0.1875)


# What is refused


class Hostile:
    """A pickle that would run a command."""

    def __init__(self, mark: Path) -> None:
        self.mark = mark

    def __reduce__(self):
        import os

        return os.system, (f"touch {self.mark}",)


def refused(files: list[Path], out_folder: Path, says: str) -> None:
    """Assert one clear sentence, and nothing written."""
    out_folder.mkdir(exist_ok=True)
    with pytest.raises(ValueError, match=says) as caught:
        ImportOfficial(files=tuple(files), out=out_folder / "out.safetensors").run()
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 300
    assert list(out_folder.iterdir()) == []


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("share", [0.0, 0.001, 0.3, 0.9, 0.9999])
def test_truncated_files(tmp_path: Path, share: float, old: bool):
    paths = official_files(tmp_path / "files", random_generator(TINY), old=old)
    content = paths[1].read_bytes()
    paths[1].write_bytes(content[: int(share * len(content))])
    refused(paths, tmp_path / "out", r"E\.pth is (not a whole PyTorch checkpoint|refused)")


def test_a_changed_byte_in_a_new_file_is_noticed(tmp_path: Path):
    paths = official_files(tmp_path / "files", random_generator(TINY), old=False)
    content = bytearray(paths[0].read_bytes())
    content[len(content) // 2] ^= 1
    paths[0].write_bytes(content)
    refused(paths, tmp_path / "out", r"G\.pth is not a whole PyTorch checkpoint")


@pytest.mark.parametrize("old", [True, False])
@pytest.mark.parametrize("where", ["whole", "entry", "argument"])
def test_hostile_files_are_not_run(tiny: list[Path], tmp_path: Path, old: bool, where: str):
    mark, bad = tmp_path / "mark", tmp_path / "bad.pth"
    hostile = Hostile(mark)
    content = {
        "whole": hostile,
        "entry": torch.load(tiny[0], weights_only=True) | {"module.extra": hostile},
        "argument": {"g_ema": {}, "args": argparse.Namespace(size=hostile)},
    }[where]
    torch.save(content, bad, _use_new_zipfile_serialization=not old)
    refused([bad, *tiny[1:]], tmp_path / "out", r"bad\.pth is refused: .* (posix|nt)\.system")
    assert not mark.exists()


def test_plain_settings_are_read(tmp_path: Path):
    path = tmp_path / "plain.pt"
    torch.save({"args": argparse.Namespace(size=256, fov=[10.0], name="x"), "w": torch.ones(2)}, path)
    content = read_plain(path)
    assert content["args"] == argparse.Namespace(size=256, fov=[10.0], name="x")


def test_archives_that_inflate_are_refused(tiny: list[Path], tmp_path: Path):
    bomb = tmp_path / "bomb.pth"
    buffer = io.BytesIO()
    torch.save({"module.background_stage.fc.0.weight": torch.zeros(1000, 1000)}, buffer)
    with zipfile.ZipFile(buffer) as source, zipfile.ZipFile(bomb, "w", zipfile.ZIP_DEFLATED) as target:
        for entry in source.infolist():
            target.writestr(entry.filename, source.read(entry))
    refused([bomb, *tiny[1:]], tmp_path / "out", r"bomb\.pth is not a whole")


def saved(path: Path, content: object) -> Path:
    torch.save(content, path)
    return path


def test_unknown_files(tiny: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    text = tmp_path / "readme.txt"
    text.write_text("not weights")
    refused([text], out, r"readme\.txt is not a whole PyTorch checkpoint")
    (tmp_path / "plain.pkl").write_bytes(pickle.dumps({"a": 1}))
    refused([tmp_path / "plain.pkl"], out, r"plain\.pkl")
    refused([tmp_path / "none.pth"], out, "there is no file")
    refused([tmp_path], out, "there is no file")
    refused([saved(tmp_path / "list.pth", [torch.ones(1)])], out, "no official checkpoint")
    refused([saved(tmp_path / "resnet.pth", {"conv1.weight": torch.ones(1)})], out, "no official checkpoint")
    refused([*tiny, saved(tmp_path / "D0.pth", {"module.rf_logits.0.bias": torch.ones(1)})], out, r"D0\.pth is no")
    odd = saved(tmp_path / "odd.pth", {"first.conv.weight": torch.ones(1)})
    refused([odd], out, r"odd\.pth holds none of MixNMatch's networks")
    refused([saved(tmp_path / "numbers.pth", {"first.0": 1})], out, "is no state dict")
    refused([], out, "got no file to import")


def test_files_that_make_no_model(tiny: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    G, E, EX = tiny
    other = official_files(tmp_path / "dogs", random_generator(replace(TINY, n_textures=7, n_backgrounds=7)))
    refused([G], out, r"E\.pth is missing")
    refused([E, EX], out, r"G\.pth is missing")
    refused([G, E, other[1]], out, "two of the files hold MixNMatch's E")
    refused([G, E, EX, G], out, "got 4 files")
    refused([G, other[1], EX], out, "do not belong together")
    giraffe = saved(tmp_path / "giraffe.pt", {"g_ema": {}, "args": argparse.Namespace()})
    refused([G, giraffe], out, "2 families")


def changed(path: Path, folder: Path, key: str, tensor: Tensor | None) -> Path:
    state = torch.load(path, weights_only=True)
    if tensor is None:
        del state[key]
    else:
        state[key] = tensor
    return saved(folder / path.name, state)


def test_incomplete_or_broken_weights(tiny: list[Path], tmp_path: Path):
    out = tmp_path / "out"
    G, E, EX = tiny
    key = "module.child_stage.samesample.0.weight"
    weight = torch.load(G, weights_only=True)[key]
    refused([changed(G, tmp_path, key, None), E, EX], out, "they lack 'child_stage.samesample.0.weight'")
    refused([changed(G, tmp_path, "module.more", weight), E, EX], out, "hold 'more' besides")
    refused([changed(G, tmp_path, key, weight[:1]), E, EX], out, "is of shape")
    refused([changed(G, tmp_path, key, weight * float("nan")), E, EX], out, "no finite weights")
    refused([changed(G, tmp_path, key, weight.long()), E, EX], out, "no finite weights")
    huge = torch.zeros(1).expand(10**9, 10**4)  # claims more than any machine has, holds one number
    refused(
        [changed(G, tmp_path, "module.background_stage.fc.0.weight", huge), E, EX],
        out,
        "must be from 1 to 10000|shape|not a whole PyTorch checkpoint",
    )
    small = "module.parent_stage.jointConv.0.weight"
    refused([changed(G, tmp_path, small, torch.ones(1)), E, EX], out, "no proper")


def test_a_failed_import_leaves_an_older_file_alone(tiny: list[Path], tmp_path: Path):
    out = tmp_path / "model.safetensors"
    ImportOfficial(files=tuple(tiny), out=out).run()
    before = out.read_bytes()
    with pytest.raises(ValueError, match="missing"):
        ImportOfficial(files=tuple(tiny[:1]), out=out).run()
    assert out.read_bytes() == before
    with pytest.raises(ValueError, match=r"end it in \.safetensors"):
        ImportOfficial(files=tuple(tiny), out=tmp_path / "model.pt").run()


def test_reading_returns_a_generator_ready_for_use(tiny: list[Path]):
    generator: Any = read_official(tiny)
    assert not generator.training
    assert not any(parameter.requires_grad for parameter in generator.parameters())
    codes = generator.sample(1, torch.Generator().manual_seed(0))
    assert isinstance(codes, Codes)


def rewritten(files: list[Path], folder: Path, change: Callable[[dict[str, Tensor]], Any]) -> list[Path]:
    folder.mkdir()
    for path in files:
        torch.save(change(torch.load(path, weights_only=True)), folder / path.name)
    return [folder / path.name for path in files]


WRAPPED: dict[str, Callable[[dict[str, Tensor]], Any]] = {
    "state_dict": lambda s: {"state_dict": s, "epoch": 3},
    "model, in bytes of NumPy": lambda s: {"model": s, "best": np.float32(0.5), "losses": np.arange(3.0)},
    "twice": lambda s: {"checkpoint": {"net": s}},
    "compiled and parallel": lambda s: {f"_orig_mod.{key}": tensor for key, tensor in s.items()},
    "not counted": lambda s: {k: v for k, v in s.items() if not k.endswith("num_batches_tracked")},
    "half": lambda s: {k: v.half() if v.is_floating_point() else v for k, v in s.items()},
}


@pytest.mark.parametrize("form", WRAPPED)
def test_the_forms_that_programs_save_them_in(tiny: list[Path], tmp_path: Path, form: str):
    theirs, ours = read(*tiny).state_dict(), read(*rewritten(tiny, tmp_path / "new", WRAPPED[form])).state_dict()
    for name, tensor in theirs.items():
        if not name.endswith("num_batches_tracked"):
            assert torch.equal(ours[name], tensor.half().float() if form == "half" else tensor)


def test_all_networks_in_one_file(tiny: list[Path], tmp_path: Path):
    torch.save({p.stem: torch.load(p, weights_only=True) for p in tiny}, tmp_path / "all.pth")
    theirs, ours = read(*tiny).state_dict(), read(tmp_path / "all.pth").state_dict()
    assert all(torch.equal(tensor, ours[name]) for name, tensor in theirs.items())


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"zip", r"is a zip archive; unpack it and give the checkpoint files"),
        (b"\x1f\x8b" + bytes(100), "is a gzip archive; unpack it"),
        (b"<!DOCTYPE html><html>quota</html>", "is a web page, not a checkpoint"),
        (b"version https://git-lfs.github.com/spec/v1\n", "is a pointer of Git LFS"),
    ],
)
def test_what_downloads_yield_instead_is_told(tiny: list[Path], tmp_path: Path, content: bytes, message: str):
    path = tmp_path / "models"
    path.write_bytes(content)
    if content == b"zip":
        with zipfile.ZipFile(path, "w") as archive:
            for file in tiny:
                archive.write(file, file.name)
    with pytest.raises(ValueError, match=message):
        read_official([path])


def test_a_file_of_one_repeated_number_takes_no_memory(tmp_path: Path):
    torch.save({"background_stage.fc.0.weight": torch.zeros(1).half().expand(10**10)}, tmp_path / "G.pth")
    with pytest.raises(ValueError, match="not a whole PyTorch checkpoint"):
        read_official([tmp_path / "G.pth"])
