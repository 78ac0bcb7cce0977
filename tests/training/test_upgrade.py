"""Names of earlier versions go on working for a release."""

import dataclasses
import json
import re

import pytest
import torch
from pydantic import TypeAdapter

from tests.places import CHECKPOINTS
from training.__main__ import main
from training.checkpoint import load_model
from training.data.prepare import COMMAND
from training.registry import FAMILIES, RENAMED, preset, presets
from training.upgrade import NETWORKS, renamed_fields, upgraded, upgraded_names, upgraded_options

FIRST = [next(iter(family.presets)) for family in FAMILIES.values() if family.presets]
"""A preset of each family that has some."""


def has_field(config: type, dotted: str) -> bool:
    first, _, rest = dotted.partition(".")
    names = {field.name: field for field in dataclasses.fields(config)}
    return first in names and (not rest or has_field(names[first].type, rest))  # type: ignore[arg-type]


@pytest.mark.parametrize("name", FIRST)
def test_new_names_exist_and_old_ones_are_gone(name):
    config = type(preset(name))
    for old, new in renamed_fields(config).items():
        assert has_field(config, new), new
        assert not has_field(config, old), old


def test_an_old_config_is_read_under_todays_names(caplog):
    new = preset("mixnmatch-cars-64")
    plain = TypeAdapter(type(new)).dump_python(new, mode="json")
    old = json.loads(json.dumps(plain))
    old["losses"]["told_pose"] = old["losses"].pop("pose_distillation")
    old["critic_channels"] = old.pop("discriminator_channels")
    old["generator"]["extent"] = [1.0, 1.0, 1.0]  # gone, at the only value still built
    with caplog.at_level("INFO"):
        assert upgraded(old, type(new)) == plain
    assert "losses.told_pose is now losses.pose_distillation" in caplog.text
    assert upgraded("no object", type(new)) == "no object"


def test_both_names_at_once_are_not_merged():
    said = {"lr": 0.1, "learning_rate": 0.2}
    assert upgraded(said, type(preset("giraffe-hd-cars-64"))) == said


def test_an_old_option_works_and_a_warning_names_the_new_one(caplog):
    config = type(preset("mixnmatch-cars-64"))
    line = ["--losses.told-pose", "3", "--losses.box_fit=2", "--out", "x"]
    assert upgraded_options(line, config) == [
        "--losses.pose-distillation",
        "3",
        "--losses.box-projection=2",
        "--out",
        "x",
    ]
    assert "--losses.told-pose is now called --losses.pose-distillation" in caplog.text


def test_a_union_of_commands_has_no_old_options():
    assert upgraded_options(["cars", "--out", "x"], COMMAND) == ["cars", "--out", "x"]


def test_commands_on_the_cards_name_options_that_exist():
    for path in sorted(CHECKPOINTS.glob("*.json")):
        for name, options in re.findall(
            r"training train (\S+) ((?:(?!python|;).)*)", json.loads(path.read_text()).get("command", "")
        ):
            config = type(preset(name))
            names = [w.partition("=")[0] for w in upgraded_options(options.split(), config) if w.startswith("--")]
            fields = {n.removeprefix("--").replace("-", "_") for n in names} - {"data", "out", "start_from", "device"}
            fields = {re.sub(r"(^|\.)no_(?=[^.]+$)", r"\1", field) for field in fields}  # a switch that is off
            assert [field for field in fields if not has_field(config, field)] == [], path.name


def test_old_names_of_networks_in_a_resume_state():
    tensor = torch.ones(1)
    old = {"image_critic.read.weight": tensor, "generator.x": tensor, "pair_critics.z": tensor}
    new = upgraded_names(old)
    assert list(new) == ["image_discriminator.read.weight", "generator.x", "pair_critics.z"]
    assert list(upgraded_names({"image_critic": 1, "image_critic_r1": 2})) == [
        "image_discriminator", "image_discriminator_r1"
    ]  # fmt: skip
    assert not NETWORKS.keys() & set(NETWORKS.values())


def test_presets_keep_their_names():
    held = {json.loads(path.read_text())["family"] for path in CHECKPOINTS.glob("*.json")}
    assert held <= FAMILIES.keys()
    assert {path.stem for path in CHECKPOINTS.glob("*.json")} <= presets().keys()


@pytest.mark.parametrize("path", sorted(CHECKPOINTS.glob("*.safetensors")), ids=lambda path: path.stem)
def test_bundled_models_load_as_they_are(path):
    assert load_model(path).resolution in (64, 128, 320)


@pytest.mark.parametrize("name", FIRST)
def test_the_family_is_no_option(name, capsys):
    with pytest.raises(SystemExit):
        main(["train", name, "--help"])
    assert "--loop.images" in (text := capsys.readouterr().out)
    assert "--family" not in text


def test_presets_of_earlier_versions_are_found_with_a_warning(caplog):
    for old, new in RENAMED.items():
        assert preset(old) == preset(new)
        assert f"{old} is now called {new}" in caplog.text
