"""The training loop on a tiny generator: exact resumption, damaged states, losses that are not finite, stopping."""

import json
import math
import shutil
import signal
import threading
import warnings
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from giraffe_hd.fast.config import TrainConfig
from tests.benchmarks.kills import TINY, Kills, squares
from training.checkpoint import CheckpointError, load_generator, newest_state, read_card, save_state
from training.config import LoopConfig
from training.data.folder import PictureSet
from training.loop.run import NonFiniteError, Run
from training.loop.step import batch_indices, train_step
from training.loop.train import train
from training.metrics.features import load_features
from training.metrics.fid import distances, drawn, real_statistics, statistics
from training.nn.gan import decayed, learning_rate, r1_gamma
from training.pictures import PictureError
from training.types import Batch, Phase, Step


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("set") / "squares")


@pytest.fixture
def config() -> TrainConfig:
    loop = replace(TINY.loop, images=32, save_every=12)
    return replace(TINY, loop=loop, condition_since=0, condition_full=16)


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_generator(folder / "generator.safetensors").state_dict()


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def state_at(images: int) -> dict[str, Any]:
    return {"index": images, "images": images, "networks": {}, "average": {}, "optimizers": {}}


def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(config, pictures, tmp_path):
    train(config, pictures, tmp_path / "whole", device="cpu")
    part = replace(config, loop=replace(config.loop, images=12))
    train(part, pictures, tmp_path / "parts", device="cpu")
    train(config, pictures, tmp_path / "parts", device="cpu")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "parts"))
    logged = [json.loads(line)["images"] for line in (tmp_path / "whole" / "log.jsonl").read_text().splitlines()]
    assert logged == [16, 32]


def test_a_damaged_newest_state_is_passed_over_and_nothing_is_lost(config, pictures, tmp_path):
    train(config, pictures, tmp_path / "whole", device="cpu")
    train(replace(config, loop=replace(config.loop, images=24)), pictures, tmp_path / "hurt", device="cpu")
    newest = sorted((tmp_path / "hurt").glob("state-*.pt"))[-1]
    newest.write_bytes(newest.read_bytes()[:1000])  # as a full disk or a power cut would leave it
    train(config, pictures, tmp_path / "hurt", device="cpu")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "hurt"))


def test_only_the_newest_states_are_kept_and_all_damaged_is_an_error(tmp_path):
    for images in range(5):
        save_state(tmp_path, images, state_at(images), keep=3)
    assert len(list(tmp_path.iterdir())) == 3
    found = newest_state(tmp_path)
    assert found is not None
    assert found[0]["images"] == 4
    for path in tmp_path.iterdir():
        path.write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"no resume state .* is whole"):
        newest_state(tmp_path)
    assert newest_state(tmp_path / "none") is None


def test_the_state_just_written_is_kept_whatever_lies_beside_it(tmp_path):
    save_state(tmp_path, 450, {"x": 450})
    written = save_state(tmp_path, 90, {"x": 90}, keep=1)
    assert list(tmp_path.iterdir()) == [written]


def test_what_a_kill_cut_off_is_removed_with_the_next_state(tmp_path):
    left = tmp_path / ".state-0000000008-0123456789abcdef.pt.4711.part"
    left.write_bytes(b"half a state")
    path = save_state(tmp_path, 16, {"x": torch.zeros(2)})
    assert list(tmp_path.iterdir()) == [path]


def test_a_state_that_cannot_be_written_leaves_the_old_ones(tmp_path, monkeypatch):
    save_state(tmp_path, 1, {"x": 1})

    def full(*_: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(OSError, match="No space"):
        save_state(tmp_path, 2, {"x": 2})
    assert [path.name[:16] for path in tmp_path.iterdir()] == ["state-0000000001"]


def test_stop_signal_ends_the_step_and_saves(config, pictures, tmp_path):
    endless = replace(config, loop=replace(config.loop, images=10_000_000, save_every=10_000_000))
    timer = threading.Timer(2.0, signal.raise_signal, [signal.SIGINT])
    timer.start()
    train(endless, pictures, tmp_path, device="cpu")
    timer.join()
    found = newest_state(tmp_path)
    assert found is not None
    assert found[0]["images"] > 0
    assert found[0]["images"] == found[0]["index"] * 4


def toy_phase(loss) -> tuple[nn.Linear, Phase]:
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return network, Phase(name="toy", network=network, optimizer=optimizer, losses=lambda b, s: {"loss": loss(network)})


def step_at(index: int = 0, images: int = 0) -> Step:
    return Step(index=index, images=images, rng=torch.Generator())


BATCH = Batch(image=torch.zeros(1, 3, 2, 2))


def test_a_loss_that_is_not_finite_changes_nothing():
    network, phase = toy_phase(lambda net: net.weight.sum() * float("nan"))
    before = network.weight.clone()
    logged = train_step([phase], BATCH, step_at())
    assert torch.equal(network.weight, before)
    assert "toy/skipped" in logged


def test_the_third_time_ends_training_and_leaves_the_saved_state(config, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("giraffe_hd.fast.recipe.generator_loss", lambda fake: fake.mean() * float("inf"))
    with pytest.raises(NonFiniteError, match="three times"):
        train(config, pictures, tmp_path, device="cpu")
    found = newest_state(tmp_path)
    assert found is not None
    assert found[0]["images"] == 0


def test_one_such_loss_rolls_the_run_back_and_halves_the_learning_rate(config, pictures, tmp_path, monkeypatch, caplog):
    """At the fifth step, 20 pictures: back to the state of 12; half of the rate from there, kept over a resumption."""
    from giraffe_hd.fast import recipe

    right, calls = recipe.generator_loss, []

    def once_wrong(fake: torch.Tensor) -> torch.Tensor:
        calls.append(1)
        return right(fake) * (float("nan") if len(calls) == 5 else 1)

    monkeypatch.setattr(recipe, "generator_loss", once_wrong)
    train(replace(config, loop=replace(config.loop, images=24)), pictures, tmp_path, device="cpu")
    assert "back to 12" in caplog.text
    assert len(calls) == 5 + 3  # five steps, then from 12 to 24 pictures
    run = Run(config, tmp_path, torch.device("cpu"))
    assert run.resume()
    assert run.lr_factor == 0.5
    monkeypatch.setattr(recipe, "generator_loss", right)
    train(config, pictures, tmp_path, device="cpu")
    assert all(bool(torch.isfinite(tensor).all()) for tensor in weights(tmp_path).values())


def test_half_of_the_rate_is_half_of_the_step():
    network, phase = toy_phase(lambda net: net.weight.sum())
    start = network.weight.item()
    train_step([phase], BATCH, step_at(), lr_factor=0.5)
    assert network.weight.item() == pytest.approx(start - 0.05)
    train_step([phase], BATCH, step_at())
    assert network.weight.item() == pytest.approx(start - 0.15)  # the next one is whole again


def test_killed_commands_run_again_and_end_as_if_undisturbed(tmp_path):
    found = Kills(kills=6, longest=2.0, seed=1, commands=("train", "publish"), out=tmp_path).run()
    assert found["kills"] == 6
    assert (found["lost"], found["wrong"]) == (0, 0)


def test_a_full_disk_stops_the_writing_only(config, pictures, tmp_path, monkeypatch, caplog):
    """The second state finds no room: training goes on, and the third, at the end, is what it would have been."""
    from training.loop import run

    train(config, pictures, tmp_path / "whole", device="cpu")
    right, calls = run.save_state, []

    def full_once(*args: Any, **options: Any) -> Path:
        calls.append(1)
        if len(calls) == 2:
            raise OSError(28, "No space left on device")
        return right(*args, **options)

    monkeypatch.setattr(run, "save_state", full_once)
    train(config, pictures, tmp_path / "full", device="cpu")
    assert "No space left" in caplog.text
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "full"))


def test_a_full_disk_stops_the_log_only(config, pictures, tmp_path, monkeypatch, caplog):
    """Lines of the log and of TensorBoard find no room at first: the run ends as it would have, and later ones do."""
    from torch.utils.tensorboard import SummaryWriter

    config = replace(config, loop=replace(config.loop, log_every=1))
    train(config, pictures, tmp_path / "whole", device="cpu")
    right, calls = SummaryWriter.add_scalar, []

    def full_at_first(self: Any, *args: Any) -> None:
        calls.append(self)
        if len(calls) <= 2:
            raise OSError(28, "No space left on device")
        right(self, *args)

    monkeypatch.setattr(SummaryWriter, "add_scalar", full_at_first)
    train(config, pictures, tmp_path / "full", device="cpu")
    assert "could not write the log at 4 pictures" in caplog.text
    assert len(set(calls)) == 3  # a writer that failed is not used again
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "full"))
    (tmp_path / "no room").mkdir()
    (tmp_path / "no room" / "log.jsonl").symlink_to("/dev/full")
    train(config, pictures, tmp_path / "no room", device="cpu")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "no room"))


def test_a_run_of_other_networks_is_refused_and_left_as_it_is(config, pictures, tmp_path):
    train(replace(config, loop=replace(config.loop, images=8)), pictures, tmp_path, device="cpu")
    before = (tmp_path / "config.json").read_bytes()
    other = replace(config, generator=replace(config.generator, field_dim=24))
    with pytest.raises(ValueError, match=r"other networks than asked for .* another folder"):
        train(other, pictures, tmp_path, device="cpu")
    assert (tmp_path / "config.json").read_bytes() == before
    train(replace(config, augment_target=0.6), pictures, tmp_path, device="cpu")  # that can be had at any time
    train(replace(config, loop=replace(config.loop, images=36)), pictures, tmp_path, device="cpu")


def test_a_run_gone_on_with_learns_at_the_rate_asked_for(config, pictures, tmp_path):
    train(replace(config, loop=replace(config.loop, images=8)), pictures, tmp_path, device="cpu")
    run = Run(replace(config, learning_rate=0.25), tmp_path, torch.device("cpu"))
    assert run.resume()
    for optimizer in run.optimizers().values():
        assert optimizer.param_groups[0]["lr"] == 0.25
        assert optimizer.state  # moments are those of the run


def test_a_run_begins_from_several_and_the_later_ones_win(config, pictures, tmp_path, caplog):
    short = replace(config, loop=replace(config.loop, images=8))
    train(short, pictures, tmp_path / "first", device="cpu")
    train(replace(short, loop=replace(short.loop, seed=7)), pictures, tmp_path / "second", device="cpu")
    sources = [tmp_path / "first", tmp_path / "second" / "generator.safetensors"]  # a file has no critic
    train(replace(short, learning_rate=0.0), pictures, tmp_path / "run", device="cpu", start_from=sources)
    assert_same(weights(tmp_path / "run"), weights(tmp_path / "second"))
    states = [newest_state(tmp_path / name) for name in ("first", "run")]
    critics = [{k: v for k, v in s[0]["networks"].items() if k.startswith("discriminator")} for s in states if s]
    assert critics[0]
    assert_same(critics[0], critics[1])
    caplog.clear()
    train(short, pictures, tmp_path / "run", device="cpu", start_from=tmp_path / "first")
    assert "--start-from is ignored" in caplog.text


def test_a_run_is_not_gone_on_with_on_other_pictures(config, pictures, tmp_path, caplog):
    short = replace(config, loop=replace(config.loop, images=8))
    longer = replace(config, loop=replace(config.loop, images=16))
    train(short, pictures, tmp_path / "run", device="cpu")
    before = {path.name: path.read_bytes() for path in (tmp_path / "run").glob("state-*.pt")}
    moved, other = tmp_path / "moved", tmp_path / "other"
    shutil.copytree(pictures, moved)
    shutil.copytree(pictures, other)
    index = (other / "index.csv").read_text().splitlines()
    (other / "index.csv").write_text("\n".join(index[:-1]) + "\n")
    with pytest.raises(ValueError, match=r"learns from .*squares, not from .*other; give another --out"):
        train(longer, other, tmp_path / "run", device="cpu")
    assert {path.name: path.read_bytes() for path in (tmp_path / "run").glob("state-*.pt")} == before
    train(longer, moved, tmp_path / "run", device="cpu")  # the same pictures at another place
    shutil.copy(other / "index.csv", moved / "index.csv")
    train(longer, moved, tmp_path / "run", device="cpu")
    assert "has changed since the run began" in caplog.text


def test_a_run_that_only_another_machine_has_is_not_begun_anew(config, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.run.any_of", lambda mine: True)  # as the others of a torchrun would say
    with pytest.raises(ValueError, match="another machine has one there"):
        train(config, pictures, tmp_path, device="cpu")
    assert not list(tmp_path.glob("state-*.pt"))


def test_a_finished_run_says_what_is_wanted(config, pictures, tmp_path, caplog):
    for _ in range(2):
        train(replace(config, loop=replace(config.loop, images=8)), pictures, tmp_path, device="cpu")
    assert "has seen its 8 pictures; give a larger --loop.images" in caplog.text


def test_a_photo_that_rots_ends_the_run_in_one_sentence_and_loses_nothing(config, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("training.loop.train.PictureSet", partial(PictureSet, memory=0))  # read in every step
    train(config, pictures, tmp_path / "whole", device="cpu")
    data = tmp_path / "set"
    shutil.copytree(pictures, data)
    photo = data / "images" / "7.png"
    whole = photo.read_bytes()
    photo.write_bytes(whole[:40])
    with pytest.raises(PictureError, match=r"7\.png cannot be read .* prepare the set again"):
        train(config, data, tmp_path / "run", device="cpu")
    photo.write_bytes(whole)
    train(config, data, tmp_path / "run", device="cpu")
    assert_same(weights(tmp_path / "whole"), weights(tmp_path / "run"))


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
