"""The evaluator of rendered cars: as good as its card says, and taught by its command."""

import json
from pathlib import Path

import pytest
import torch

from training.config import DataConfig
from training.data.folder import PictureSet
from training.data.prepare import PrepareCars
from training.files import file_sha256
from training.metrics.car_evaluator import (
    SHIPPED,
    Train,
    errors,
    exchange_backgrounds,
    hsv_to_rgb,
    load_evaluator,
    spoil,
    targets,
)


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Fresh renders of another seed than the evaluator learned from."""
    folder = tmp_path_factory.mktemp("cars") / "set"
    PrepareCars(out=folder, count=32, test=64, seed=77, workers=1).run()
    return folder


def test_the_shipped_evaluator_reads_fresh_renders(cars: Path) -> None:
    test = PictureSet(cars, DataConfig(size=64, flip=False), "test")
    found = errors(load_evaluator(), test)
    assert found["rotation_median_error"] <= 4
    assert found["rotation_flips"] <= 1 / 64
    assert found["elevation_median_error"] <= 1.5  # of 64; its card says 0.4 of 3000
    assert found["x_slope"] == pytest.approx(1, abs=0.1)
    assert found["mesh_accuracy"] > 0.8
    spoilt = errors(load_evaluator(), test, torch.Generator().manual_seed(0))
    assert spoilt["rotation_median_error"] <= 5


def test_its_card_holds_the_promise() -> None:
    card = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert SHIPPED.stat().st_size < 5_000_000
    assert card["sha256"] == file_sha256(SHIPPED)
    held_out = card["held_out_renders"]
    assert held_out["n"] >= 3000
    assert held_out["rotation_median_error"] <= 4
    assert held_out["rotation_flips"] <= 0.01
    assert held_out["elevation_median_error"] <= 2


def test_pictures_of_another_size_are_read_alike(cars: Path) -> None:
    image = PictureSet(cars, DataConfig(size=64, flip=False), "test").get(range(16)).image
    large = torch.nn.functional.interpolate(image, scale_factor=2, mode="bicubic", align_corners=False)
    evaluator = load_evaluator()
    turn = (evaluator.read(large).rotation - evaluator.read(image).rotation + 180) % 360 - 180
    assert turn.abs().median() < 2


def test_the_command_teaches_and_writes_an_evaluator_with_its_card(cars: Path, tmp_path: Path) -> None:
    Train(data=cars, out=tmp_path / "evaluator.safetensors", images=320, batch=16).run()
    evaluator = load_evaluator(tmp_path / "evaluator.safetensors")
    assert evaluator.read(torch.zeros(2, 3, 64, 64)).mesh.sum(1).tolist() == pytest.approx([1, 1])
    card = json.loads((tmp_path / "evaluator.json").read_text())
    assert card["held_out_renders"]["n"] == 64
    assert card["settings"]["images"] == 320


def test_sets_without_the_renderers_columns_are_refused(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    import PIL.Image

    PIL.Image.new("RGB", (8, 8)).save(tmp_path / "images" / "a.png")
    (tmp_path / "index.csv").write_text("file,split,label,width,height,x0,y0,x1,y1\na.png,train,a,8,8,,,,\n")
    with pytest.raises(ValueError, match="no set of rendered cars: its index lacks azimuth"):
        targets(PictureSet(tmp_path, DataConfig(size=8)))
    with pytest.raises(ValueError, match="no car regressor at"):
        load_evaluator(tmp_path / "none.safetensors")


def test_targets_are_the_renderers_factors(cars: Path) -> None:
    pictures = PictureSet(cars, DataConfig(size=64, flip=False), "test")
    pose = targets(pictures)["pose"]
    assert pose.abs().max() <= 1 + 1e-6
    torch.testing.assert_close(
        torch.atan2(pose[:, 0], pose[:, 1]) % (2 * torch.pi), pictures.factors["rotation"].float(), atol=1e-5, rtol=0
    )


def test_colours_by_hand() -> None:
    hsv = torch.tensor([[0.0, 1, 1], [1 / 3, 1, 0.5], [2 / 3, 0.5, 1], [0.4, 0, 0.7]])
    expected = torch.tensor([[1.0, 0, 0], [0, 0.5, 0], [0.5, 0.5, 1], [0.7, 0.7, 0.7]])
    torch.testing.assert_close(hsv_to_rgb(hsv), expected)


def test_exchanged_backgrounds_leave_the_object_and_lose_the_other(rng: torch.Generator) -> None:
    image = torch.full((2, 3, 64, 64), -1.0)
    image[1] = 0.5
    mask = torch.zeros(2, 1, 64, 64)
    mask[:, :, 20:40, 20:40] = 1
    shown = torch.where(mask > 0, torch.ones_like(image), image)
    found = exchange_backgrounds(shown, mask, 1.0, rng)
    assert (found[:, :, 25:35, 25:35] == 1).all()
    outside = found[:, :, :10]
    assert {round(v, 3) for v in outside.unique().tolist()} <= {-1.0, 0.5}
    assert found[:, :, 50].unique().numel() <= 2
    assert not (found[:, :, :, 50] == 1).any()  # the other's object is not carried along
    spoilt = spoil(shown, rng)
    assert spoilt.shape == shown.shape
    assert spoilt.abs().max() <= 1
