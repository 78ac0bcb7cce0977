"""The prior of poses: by a word, from the set, and fitted to what a critic reads."""

import csv
import json
import math
from dataclasses import asdict, replace
from pathlib import Path

import PIL.Image
import pytest
import torch
from torch import nn

from giraffe_hd.__main__ import main
from giraffe_hd.fast.config import VIEWS, DiscriminatorConfig, GeneratorConfig, PoseConfig
from giraffe_hd.fast.fit_prior import fitted
from giraffe_hd.fast.generator import Generator
from giraffe_hd.fast.presets import CARS_64, CATS_64, PHOTOS_64
from giraffe_hd.fast.prior import pose_targets
from training.config import DataConfig, LoopConfig
from training.data import prepare
from training.data.folder import PictureSet
from training.loop.train import train
from training.nn.discriminator import Discriminator
from training.registry import preset

WIDE = PoseConfig(elevation=(0.0, 40.0), rotation=(0.0, 360.0), scale=(0.2, 0.4), y=(-0.1, 0.1), z=(-0.1, 0.1))


def readings(there: PoseConfig, prior: PoseConfig, n: int = 4000) -> torch.Tensor:
    """Return what a head that was taught `prior` and errs by 1 % reads off objects that stand as in `there`."""
    codes = Generator(GeneratorConfig(pose=there, z_dim=4, w_dim=4)).sample(n, torch.Generator().manual_seed(0))
    read = pose_targets(codes, prior)
    return read + 0.01 * torch.randn(read.shape, generator=torch.Generator().manual_seed(1))


def test_ranges_that_photos_do_not_fill_are_narrowed_to_what_they_fill():
    there = replace(WIDE, elevation=(10.0, 20.0), rotation=(330.0, 390.0), scale=(0.25, 0.3), z=(-0.02, 0.06))
    found = fitted(WIDE, readings(there, WIDE))
    assert found.elevation == pytest.approx((10.25, 19.75), abs=0.5)  # 95 % of it
    assert found.scale == pytest.approx((0.251, 0.299), abs=0.004)
    assert found.y == pytest.approx((-0.095, 0.095), abs=0.005)
    assert found.z == pytest.approx((-0.018, 0.058), abs=0.005)
    low, high = found.rotation
    assert high - low == pytest.approx(57, abs=4)
    assert math.cos(math.radians((low + high) / 2)) > 0.99  # around 0
    assert found.x == WIDE.x and found.proportions == WIDE.proportions


def test_what_photos_fill_stays():
    found = fitted(WIDE, readings(WIDE, WIDE))
    assert found.rotation == WIDE.rotation
    assert found.elevation == pytest.approx((1, 39), abs=0.8)


def test_readings_far_beyond_the_range_widen_it_by_an_eighth_at_most():
    read = torch.zeros(100, 6)
    read[:, 1], read[:, 2] = 1, torch.linspace(-50, 50, 100)
    assert fitted(WIDE, read).elevation == pytest.approx((-5, 45))


def photos(folder: Path, n: int = 20) -> Path:
    folder.mkdir()
    for i in range(n):
        PIL.Image.new("RGB", (40, 30), (10 * i, 255 - 10 * i, 90)).save(folder / f"{i}.png")
    return folder


def test_a_set_says_how_its_objects_stand_and_presets_listen(tmp_path):
    source = photos(tmp_path / "photos")
    prepare.Prepare(source=source, out=tmp_path / "flat", size=16, views="flat").run()
    assert preset("giraffe-hd-photos-64", tmp_path / "flat").generator.pose == VIEWS["flat"]
    assert preset("giraffe-hd-photos-64") == PHOTOS_64
    assert preset("giraffe-hd-photos-64", tmp_path / "nowhere") == PHOTOS_64
    with pytest.raises(ValueError, match="expected one of all-sides, front, flat"):
        PHOTOS_64.for_dataset({"views": "upside-down"})
    with pytest.raises(ValueError, match="no prior"):
        PHOTOS_64.for_dataset({"pose": {"elevation": "high"}})


def test_a_word_does_not_replace_the_prior_that_a_preset_has_of_its_own():
    assert CATS_64.for_dataset({"views": "front"}) == CATS_64
    fitted = asdict(VIEWS["flat"])
    assert CATS_64.for_dataset({"views": "front", "pose": fitted}).generator.pose == VIEWS["flat"]
    assert CARS_64.for_dataset({"views": "front"}).generator.pose == VIEWS["front"]


@pytest.mark.parametrize(("answers", "views"), [(["2"], "front"), ([""], "all-sides"), (["no", "3"], "flat")])
def test_a_person_at_a_terminal_is_asked(tmp_path, monkeypatch, answers, views):
    given = iter(answers)
    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", lambda _: next(given))
    prepare.Prepare(source=photos(tmp_path / "photos"), out=tmp_path / "set", size=16).run()
    assert json.loads((tmp_path / "set" / "set.json").read_text())["views"] == views


def test_an_answer_that_never_comes_loses_nothing(tmp_path, monkeypatch):
    def ended(_: str) -> str:
        raise EOFError

    monkeypatch.setattr("sys.stdin.isatty", lambda: True)
    monkeypatch.setattr("builtins.input", ended)
    prepare.Prepare(source=photos(tmp_path / "photos"), out=tmp_path / "set", size=16).run()
    assert json.loads((tmp_path / "set" / "set.json").read_text())["views"] == "all-sides"


def test_a_run_fits_the_prior_of_its_set(tmp_path, capsys):
    data = tmp_path / "set"
    prepare.Prepare(source=photos(tmp_path / "photos"), out=data, size=16, views="front").run()
    small = replace(
        CARS_64,
        loop=LoopConfig(images=16, batch=4),
        data=DataConfig(size=16),
        generator=GeneratorConfig(
            resolution=16, rays=8, object_channels=(8, 6), background_channels=(8, 6, 4), field_dim=8, features=8
        ),
        discriminator=DiscriminatorConfig(channels=(8, 10)),
    ).for_dataset(json.loads((data / "set.json").read_text()))
    train(small, data, tmp_path / "run")
    looked: list[torch.Tensor] = []
    watch = nn.modules.module.register_module_forward_pre_hook(
        lambda module, given: looked.append(given[0]) if isinstance(module, Discriminator) else None
    )
    assert main(["fit-prior", str(tmp_path / "run"), "--data", str(data)]) == 0
    watch.remove()
    shown = torch.cat(looked)
    assert torch.equal(shown[: len(shown) // 2].flip(3), shown[len(shown) // 2 :])  # mirrored too, as in training
    said = json.loads(capsys.readouterr().out.splitlines()[-1])
    made = json.loads((data / "set.json").read_text())
    assert 1 < said["photos"] == len(PictureSet(data, DataConfig(size=16))) < 20
    assert made["views"] == "front"
    assert made["pose_before"] == json.loads(json.dumps(asdict(VIEWS["front"])))
    found = preset("giraffe-hd-photos-64", data).generator.pose
    assert said["ranges"]["elevation"] == [list(VIEWS["front"].elevation), list(found.elevation)]
    train(replace(small, loop=LoopConfig(images=24, batch=4)).for_dataset(made), data, tmp_path / "run")
    assert main(["fit-prior", str(tmp_path), "--data", str(data)]) == 2
    assert "no run of a fast GIRAFFE HD" in capsys.readouterr().err


def test_a_plain_folder_gets_boxes_where_objects_stand_out(tmp_path):
    source = tmp_path / "photos"
    source.mkdir()
    for i in range(6):
        picture = PIL.Image.effect_noise((120, 90), 8).convert("RGB")
        picture.paste((200, 20, 20 + i), (30 + i, 20, 80 + i, 70))
        picture.save(source / f"{i}.png")
    PIL.Image.new("RGB", (120, 90), "grey").save(source / "plain.png")
    prepare.Prepare(source=source, out=tmp_path / "set", size=60, views="flat", held_out=0).run()
    pictures = PictureSet(tmp_path / "set", DataConfig(size=60))
    boxes = {row["source"]: [float(row[k]) for k in ("x0", "y0", "x1", "y1")] for row in index(tmp_path / "set")}
    for i in range(6):
        assert boxes[f"{i}.png"] == pytest.approx([30 + i, 20, 80 + i, 70], abs=3)
    assert boxes["plain.png"] == pytest.approx([6, 4.5, 114, 85.5], abs=1)
    assert pictures.get([0]).box is not None
    prepare.Prepare(source=source, out=tmp_path / "bare", size=60, views="flat", find_boxes=False).run()
    assert all(not row["x0"] for row in index(tmp_path / "bare"))


def index(folder: Path) -> list[dict[str, str]]:
    with (folder / "index.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))
