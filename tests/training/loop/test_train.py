"""The training loop: resumed, killed, out of disk, begun from others."""

import json
import shutil
import signal
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from tests.benchmarks.kills import Kills
from tests.training.loop.runs import BATCH, assert_same, step_at, toy_phase, weights
from training.checkpoint import CheckpointError, newest_state, save_state
from training.data.folder import PictureSet
from training.loop.run import NonFiniteError, Run
from training.loop.step import train_step
from training.loop.train import train
from training.pictures import PictureError


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
