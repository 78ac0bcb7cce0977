"""The training loop on a tiny generator: exact resumption, damaged states, losses that are not finite, stopping."""

import json
import signal
import threading
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch
from torch import nn

from giraffe_hd.configs import CARS_64, DiscriminatorConfig, GeneratorConfig, TrainConfig
from training.checkpoint import CheckpointError, load_generator, newest_state, save_state
from training.data.folder import DataConfig
from training.loop import LoopConfig, NonFiniteError, Run, batch_indices, train, train_step
from training.types import Batch, Phase, Step


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of twelve coloured squares."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "images").mkdir()
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    for i in range(12):
        pixels = np.full((16, 16, 3), 30 * (i % 4), np.uint8)
        pixels[4:12, 4:12] = (200, 20 * i, 90)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,train,square,16,16,4,4,12,12")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "set.json").write_text("{}")
    return folder


@pytest.fixture
def config() -> TrainConfig:
    return replace(
        CARS_64,
        data=DataConfig(size=16),
        loop=LoopConfig(images=32, batch=4, save_every=12, grid_every=1000, log_every=4, bf16=False),
        generator=GeneratorConfig(
            resolution=16, rays=8, samples=3, z_dim=8, w_dim=8, field_dim=8, features=8, object_channels=(8, 8),
            mask_channels=4, background_channels=(8, 8, 8), background_shape_layers=1,
        ),
        discriminator=DiscriminatorConfig(channels=(8, 8)),
        condition_since=0,
        condition_full=16,
        r1_every=2,
    )  # fmt: skip


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_generator(folder / "generator.safetensors").state_dict()


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


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
        save_state(tmp_path, images, {"x": torch.tensor(images)}, keep=3)
    assert len(list(tmp_path.iterdir())) == 3
    found = newest_state(tmp_path)
    assert found is not None
    assert found[0]["x"] == 4
    for path in tmp_path.iterdir():
        path.write_bytes(b"?")
    with pytest.raises(CheckpointError, match=r"no resume state .* is whole"):
        newest_state(tmp_path)
    assert newest_state(tmp_path / "none") is None


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


def test_three_such_steps_end_training(config, pictures, tmp_path, monkeypatch):
    monkeypatch.setattr("giraffe_hd.recipe.generator_loss", lambda fake: fake.mean() * float("inf"))
    with pytest.raises(NonFiniteError, match="three steps"):
        train(config, pictures, tmp_path, device="cpu")


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
