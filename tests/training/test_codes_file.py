"""Recipes as commands read them: the page's picture, bit for bit; damaged ones and those of other models are named."""

import json
from pathlib import Path

import pytest
import torch

from demo import recipes
from demo.models import Models, load_model
from giraffe_hd.fast.config import GeneratorConfig
from giraffe_hd.fast.generator import Generator
from training.checkpoint import load_generator, save_generator
from training.codes_file import model_name, read_codes, write_codes

SMALL = GeneratorConfig(
    resolution=16, rays=16, object_channels=(6, 6), background_channels=(6, 6, 4), field_dim=16, features=6,
    w_dim=12, z_dim=8, mask_channels=4, samples=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The generator file of a run."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("runs") / "cars" / "generator.safetensors"
    path.parent.mkdir()
    save_generator(path, Generator(SMALL))
    return path


def written(folder: Path, **values: object) -> Path:
    (folder / "car.json").write_text(json.dumps({"version": 1, "seed": 3} | values))
    return folder / "car.json"


@pytest.mark.parametrize(
    "values",
    [
        {},
        {"knobs": {"rotation": 40}},
        {"knobs": {"look": {"start": 3, "end": 8, "at": 0.5}, "shape": 5, "radius": 3.0}},
        {"knobs": {"look": 2}, "slots": {"look": {"seed": 9}, "background": {"seed": 1}}},
    ],
    ids=["nothing", "one knob", "between two seeds", "seeds in slots"],
)
def test_a_command_draws_what_the_page_draws(run, tmp_path, values):
    path = written(tmp_path, checkpoint="cars-generator", **values)
    model = load_model(run, "cpu")
    theirs = recipes.codes_of(model, recipes.parse(path.read_bytes()))
    generator = load_generator(run)
    assert torch.equal(generator(read_codes(path, generator, run)).image, model.generator(theirs).image)


def test_the_page_and_commands_know_a_model_by_its_file_whatever_its_name(run, tmp_path, caplog):
    generator = load_generator(run)
    codes = generator.sample(1, torch.Generator().manual_seed(0))
    write_codes(tmp_path / "car.json", generator, run, codes, generator(codes).image)
    recipe = json.loads((tmp_path / "car.json").read_text())
    assert recipe["checkpoint"] == model_name(run) == "cars-generator"
    read_codes(tmp_path / "car.json", generator, run)
    (tmp_path / "car.json").write_text(json.dumps(recipe | {"checkpoint": "generator"}))  # of an earlier version
    read_codes(tmp_path / "car.json", generator, run)
    assert not caplog.text
    known = Models([load_model(run, "cpu")])
    try:
        assert known.of("generator", recipe["sha256"]).name == known.of("cars-generator").name == "cars-generator"
        with pytest.raises(ValueError, match="no checkpoint 'generator' here; this page has cars-generator"):
            known.of("generator", "0" * 64)
    finally:
        known.close()
    for change, said in (({"sha256": "0" * 64}, "another version of"), ({"checkpoint": "cats", "sha256": ""}, "cats")):
        (tmp_path / "car.json").write_text(json.dumps(recipe | change))
        read_codes(tmp_path / "car.json", generator, run)
        assert said in caplog.text


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": 2}, "no recipe of this version"),
        ({"knobs": {"wheels": 3}}, "'wheels'"),
        ({"slots": {"wheels": {}}}, "'wheels'"),
        ({"slots": {"look": {"codes": {"look": {"z_a_fg": "AAAA", "styles": "!"}}}}}, "cannot be read"),
        ({"slots": {"look": {"codes": {"look": {"z_a_fg": "AAAAAA=="}}}}}, "do not fit"),
        ({"slots": {"look": {"codes": {"look": {"z_a_fg": "AACAfw=="}}}}}, "not finite"),
        ({"slots": 3}, "holds no codes"),
        ({"slots": {"look": {"seed": 1.5}}}, "expected a whole number"),
        ({"slots": {"look": {"seed": "3"}}}, "expected a whole number"),
        ({"seed": None}, "the seed 'None'; expected a whole number"),
        ({"seed": [1]}, "expected a whole number"),
        ({"seed": 1e400}, "expected a whole number"),
        ({"checkpoint": 5}, "checkpoint or sha256 is no text"),
        ({"sha256": None}, "checkpoint or sha256 is no text"),
        ({"knobs": {"rotation": "left"}}, "rotation 'left'; expected a finite number"),
        ({"knobs": {"rotation": None}}, "expected a finite number"),
        ({"knobs": {"rotation": 1e400}}, "expected a finite number"),
        ({"knobs": {"look": {"start": 1}}}, "no way of start, end and at"),
        ({"knobs": {"look": {"start": 1, "end": 2, "at": 7}}}, "look at 7; expected a number from 0 to 1"),
        ({"knobs": {"rotation": {"start": 1, "end": 2, "at": 0.5}}}, "takes a number, not a way"),
    ],
)
def test_damaged_files_of_codes_are_refused(run, tmp_path, change, message):
    with pytest.raises(ValueError, match=message):
        read_codes(written(tmp_path, **change), load_generator(run), run)
