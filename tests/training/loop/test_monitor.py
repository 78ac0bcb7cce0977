"""Figures during training, learning rates, phases, the average."""

import json
import math
import warnings
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from torch import nn

from giraffe_hd.fast.config import TrainConfig
from tests.training.loop.runs import BATCH, assert_same, step_at, toy_phase, weights
from training.checkpoint import load_generator, read_card
from training.config import LoopConfig
from training.data.folder import PictureSet
from training.loop.run import Run
from training.loop.step import batch_indices, train_step
from training.loop.train import train
from training.metrics.features import load_features
from training.metrics.fid import distances, drawn, real_statistics, statistics
from training.nn.gan import decayed, learning_rate, r1_gamma
from training.types import Phase, Step


def test_figures_are_logged_and_the_best_generator_is_kept(config, pictures, tmp_path, monkeypatch):
    found = iter([{"rotation_error": error} for error in (math.nan, 9.0, 5.0, 7.0)])
    monkeypatch.setattr("training.metrics.report.quick_figures", lambda *args, **options: next(found))
    loop = replace(config.loop, images=32, figures_every=8, best_by="rotation_error")
    (tmp_path / "best.json").write_text('{"figures": {"rotation_error": 0.1}}')  # a report's, of more pictures
    train(replace(config, loop=loop), pictures, tmp_path, device="cpu")
    card = read_card(tmp_path / "best.safetensors", beside=False)
    assert (card["images_seen"], card["figures"]) == (24, {"rotation_error": 5.0})
    lines = [json.loads(line) for line in (tmp_path / "log.jsonl").read_text().splitlines()]
    assert [line["figures/rotation_error"] for line in lines if "figures/rotation_error" in line][1:] == [9, 5, 7]


def test_a_figure_that_is_none_keeps_no_best_and_training_goes_on(config, pictures, tmp_path, monkeypatch, caplog):
    monkeypatch.setattr("training.metrics.report.quick_figures", lambda *args, **options: {"scale_error": 9.0})
    loop = replace(config.loop, images=8, figures_every=8, best_by="rotation_error")
    train(replace(config, loop=loop), pictures, tmp_path, device="cpu")
    assert "loop.best_by is 'rotation_error', this generator's figures are scale_error" in caplog.text
    assert not (tmp_path / "best.safetensors").exists()


def test_figures_of_a_real_generator_are_taken(config, pictures, tmp_path):
    train(replace(config, loop=replace(config.loop, images=8, figures_every=8, figures_n=32)), pictures, tmp_path)
    assert "figures/scale_slope" in (tmp_path / "log.jsonl").read_text()


class Means(torch.nn.Module):
    """A network of three features: the mean colours, up to 255."""

    def forward(self, image: torch.Tensor) -> torch.Tensor:
        return image.float().mean((2, 3))


def test_the_distance_to_real_pictures_is_a_figure_and_chooses_the_best(config, pictures, tmp_path):
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch.jit is deprecated, but networks to compare with are of it
        torch.jit.save(torch.jit.script(Means()), tmp_path / "means.pt")
    loop = replace(config.loop, images=16, figures_every=8, figures_n=32, figures_distance=6, best_by="fd")
    config = replace(config, loop=replace(loop, figures_features=tmp_path / "means.pt"))
    train(config, pictures, tmp_path / "run", device="cpu")
    lines = [json.loads(line) for line in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    found = [line["figures/fd"] for line in lines if "figures/fd" in line]
    assert len(found) == 2
    assert read_card(tmp_path / "run" / "best.safetensors")["figures"]["fd"] == pytest.approx(min(found), rel=1e-4)
    features = load_features(features=tmp_path / "means.pt")
    real = real_statistics(PictureSet(pictures, replace(config.data, flip=False)), 6, features)
    last = load_generator(tmp_path / "run" / "generator.safetensors")
    ours = statistics(drawn(last, 6), 6, features)
    assert found[-1] == pytest.approx(distances(real, ours, features, frechet=True, kernel=False)["FD-means"], rel=1e-3)
    loop = replace(config.loop, figures_distance=10**6)
    with pytest.raises(ValueError, match=r"figures_distance is 1000000, and \d+ pictures are there"):
        train(replace(config, loop=loop), pictures, tmp_path / "too many", device="cpu")


@pytest.mark.parametrize("given", [{"best_by": "rotation_error"}, {"figures_distance": 50}])
def test_figures_asked_for_but_never_taken_say_what_to_give(given):
    with pytest.raises(ValueError, match="figures-every"):
        LoopConfig(**given)


def test_the_chance_of_augmentation_is_kept_over_a_resumption(config, pictures, tmp_path):
    """With a target of 0.01 the chance moves at once; a run in two parts ends as a whole one, bit for bit."""
    config = replace(config, augment_target=0.01)
    train(config, pictures, tmp_path / "whole", device="cpu")
    train(replace(config, loop=replace(config.loop, images=12)), pictures, tmp_path / "parts", device="cpu")
    train(config, pictures, tmp_path / "parts", device="cpu")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    lines = [json.loads(line) for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert {"augment/chance", "augment/r_t"} <= lines[-1].keys()


@pytest.mark.parametrize(("size", "batch", "gamma"), [(256, 16, 0.8192), (64, 16, 0.0512), (1024, 4, 52.4288)])
def test_usual_rates_by_hand(size, batch, gamma):
    assert r1_gamma(size, batch) == pytest.approx(gamma)
    assert learning_rate(size) == (0.002 if size == 1024 else 0.0025)
    assert LoopConfig(batch=batch).half_life == pytest.approx(batch * 312.5)
    assert LoopConfig(batch=batch, ema_half_life=7).half_life == 7


def test_rates_fall_to_a_tenth_from_where_they_began_also_after_a_resumption():
    def optimizer() -> torch.optim.Optimizer:
        one, two = (nn.Parameter(torch.zeros(1)) for _ in range(2))
        return torch.optim.Adam([{"params": [one]}, {"params": [two], "lr": 0.1}], lr=1.0)

    def at(images: int) -> Step:
        return Step(index=0, images=images, rng=torch.Generator())

    def phase() -> Phase:
        rate = decayed(100, 200)
        return Phase(name="x", network=nn.Identity(), optimizer=optimizer(), losses=lambda *_: {}, rate=rate)

    def rates(phase: Phase) -> list[float]:
        return [group["lr"] for group in phase.optimizer.param_groups]

    first = phase()
    first.set_rates(at(50))
    assert rates(first) == [1.0, 0.1]
    first.set_rates(at(150))
    assert rates(first) == pytest.approx([0.55, 0.055])
    resumed = phase()
    resumed.optimizer.load_state_dict(first.optimizer.state_dict())
    resumed.set_rates(at(300))
    assert rates(resumed) == pytest.approx([0.1, 0.01])
    resumed.set_rates(at(300), 0.5)
    assert rates(resumed) == pytest.approx([0.05, 0.005])


def test_lazy_phase_is_multiplied_and_runs_when_due():
    network, phase = toy_phase(lambda net: net.weight.sum())
    phase.every = 4
    start = network.weight.item()
    for index in range(4):
        train_step([phase], BATCH, step_at(index))
    assert network.weight.item() == pytest.approx(start - 0.1 * 4)


def test_a_phase_is_active_between_since_and_until():
    _, phase = toy_phase(lambda net: net.weight.sum())
    phase.since, phase.until = 10, 20
    assert [phase.due(step_at(0, images)) for images in (9, 10, 19, 20)] == [False, True, True, False]


def test_only_the_phase_network_learns():
    other = nn.Linear(1, 1).requires_grad_(False)
    network, phase = toy_phase(lambda net: other(net(torch.ones(1, 1))).sum())
    before = other.weight.clone()
    train_step([phase], BATCH, step_at())
    assert torch.equal(other.weight, before)
    assert other.weight.grad is None
    assert not network.weight.requires_grad


def test_every_picture_comes_once_an_epoch_whatever_the_batches():
    picks = [i for start in range(0, 30, 6) for i in batch_indices(10, 6, start, seed=3)]
    for epoch in range(3):
        assert sorted(picks[epoch * 10 : epoch * 10 + 10]) == list(range(10))
    assert picks[:10] != picks[10:20]


def test_average_is_half_way_after_its_half_life(config, pictures, tmp_path):
    """With half-life of one batch, the average moves half the way to the new weights at each step."""
    from training.data.folder import PictureSet

    config = replace(config, loop=replace(config.loop, ema_half_life=4, ema_warm_up=1e9))
    run = Run(config, tmp_path, torch.device("cpu"))
    before = {k: v.clone() for k, v in run.average.state_dict().items()}
    run.step(PictureSet(pictures, config.data))
    now, average = run.recipe.generator.state_dict(), run.average.state_dict()
    name = "head.weight"
    torch.testing.assert_close(average[name], (before[name] + now[name]) / 2)
    assert not torch.equal(now[name], before[name])


def test_a_card_names_files_without_their_folders(config: TrainConfig, tmp_path: Path) -> None:
    loop = replace(config.loop, figures_every=8, figures_features=tmp_path / "network.pt")
    projected = replace(config.projected, backbone=tmp_path / "backbone.pt")
    card = Run(replace(config, loop=loop, projected=projected), tmp_path / "run", torch.device("cpu")).card()
    assert card["config"]["loop"]["figures_features"] == "network.pt"
    assert card["config"]["projected"]["backbone"] == "backbone.pt"
    assert str(tmp_path) not in json.dumps(card)
