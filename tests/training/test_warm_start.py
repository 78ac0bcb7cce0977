"""Beginning from what another run has learnt: what fits is taken, and from the right end."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from giraffe_hd.fast.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from giraffe_hd.fast.presets import CARS_64
from giraffe_hd.fast.recipe import Recipe
from training.checkpoint import save_generator
from training.config import DataConfig
from training.warm_start import copy_matching, load_weights

SMALL = replace(
    CARS_64,
    data=DataConfig(size=16),
    generator=GeneratorConfig(
        resolution=16, rays=8, object_channels=(8, 6), background_channels=(8, 6, 4), field_dim=8, features=8
    ),
    discriminator=DiscriminatorConfig(channels=(8, 10)),
)
LARGE = replace(
    SMALL,
    data=DataConfig(size=32),
    generator=replace(SMALL.generator, resolution=32, object_channels=(8, 6, 4), background_channels=(8, 6, 4, 3)),
    discriminator=DiscriminatorConfig(channels=(6, 8, 10)),
)


def recipe(config: TrainConfig, seed: int) -> Recipe:
    torch.manual_seed(seed)
    return Recipe(config, torch.device("cpu"))


def test_painters_grow_at_the_last_layer_and_critics_at_the_first():
    small, large = recipe(SMALL, 0), recipe(LARGE, 1)
    taken, numbers = copy_matching(large.networks, small.networks.state_dict())
    ours, theirs = large.networks.state_dict(), small.networks.state_dict()
    for mine, source in (
        ("generator.field.layers.1.weight", "generator.field.layers.1.weight"),
        ("generator.object.blocks.0.1.conv.weight", "generator.object.blocks.0.1.conv.weight"),
        ("generator.background.convs.2.conv.weight", "generator.background.convs.2.conv.weight"),
        ("discriminator.levels.1.1.weight", "discriminator.levels.0.1.weight"),
        ("discriminator.flat.weight", "discriminator.flat.weight"),
    ):
        assert torch.equal(ours[mine], theirs[source]), mine
    fresh = recipe(LARGE, 1).networks.state_dict()
    for name in ("generator.object.blocks.1.0.conv.weight", "discriminator.levels.0.0.weight"):
        assert torch.equal(ours[name], fresh[name]), name
    assert 0 < taken < numbers


def test_the_object_is_in_the_same_place_after_growing():
    """Masks are made by layers that do not grow: at twice the side they show the same object."""
    small, large = recipe(SMALL, 0), recipe(LARGE, 1)
    copy_matching(large.networks, small.networks.state_dict())
    codes = small.generator.sample(2, torch.Generator().manual_seed(0))
    with torch.no_grad():
        before, after = small.generator(codes), large.generator(codes)
    torch.testing.assert_close(after.alpha, before.alpha)


def test_a_generator_file_and_an_equal_network_are_taken_whole(tmp_path: Path):
    save_generator(tmp_path / "g.safetensors", recipe(SMALL, 0).generator)
    theirs = load_weights(tmp_path / "g.safetensors")
    mine = nn.ModuleDict({"generator": recipe(SMALL, 1).generator})
    taken, numbers = copy_matching(mine, theirs)
    assert taken == numbers
    assert all(torch.equal(tensor, theirs[name]) for name, tensor in mine.state_dict().items())


def test_a_folder_without_a_run_is_refused(tmp_path: Path):
    with pytest.raises(ValueError, match="holds no resume state"):
        load_weights(tmp_path)
