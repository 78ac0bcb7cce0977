"""From prepared pictures to a scored generator by the README's commands: trained, killed, gone on with, drawn from."""

import json
import signal
import subprocess
import sys
import time
import warnings
from pathlib import Path

import pytest
import torch
import tyro
from torch import nn

from tests.places import CLOTHING
from training.__main__ import main
from training.checkpoint import CheckpointError, load_generator, newest_state, read_card
from training.publish import Publish

PRESETS = ("giraffe-hd-cars-64", "mixnmatch-cars-64", "mixnmatch-clothing-64")
IMAGES = 64
"""Pictures that a run sees: most of them after the kill, which comes with the first state."""


def run(*arguments: object) -> None:
    """Run a command in this process: torch takes longer to load than most of them take."""
    assert main([str(argument) for argument in arguments]) == 0


@pytest.fixture(scope="module")
def cars(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("data") / "cars"
    run("prepare", "cars", "--out", out, "--size", 64, "--count", 16, "--test", 16, "--workers", 1)
    return out


@pytest.fixture(scope="module")
def clothing(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The clothing photos that the project ships."""
    out = tmp_path_factory.mktemp("data") / "clothing"
    run("prepare", "photos", "--source", CLOTHING, "--out", out, "--size", 64)
    return out


@pytest.fixture(scope="module")
def features(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny feature network, as TorchScript."""
    torch.manual_seed(0)
    network = nn.Sequential(nn.AvgPool2d(16), nn.Flatten(), nn.Linear(48, 8))
    path = tmp_path_factory.mktemp("features") / "toy.pt"
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # torch deprecates TorchScript, which published networks are in
        torch.jit.save(torch.jit.trace(network, torch.rand(2, 3, 64, 64)), str(path))
    return path


@pytest.mark.parametrize("preset", PRESETS)
def test_train_kill_go_on_draw_and_score(preset, cars, clothing, features, tmp_path, capsys):
    data = clothing if "clothing" in preset else cars
    options = ("--loop.images", IMAGES, "--loop.batch", 4, "--loop.save-every", 16, "--loop.log-every", 5)
    words = ("train", preset, "--data", data, "--out", tmp_path / "run", *options)
    training = [sys.executable, "-m", "training", *map(str, words)]
    first = subprocess.Popen(training, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(6000):
        if list((tmp_path / "run").glob("state-*.pt")) or first.poll() is not None:
            break
        time.sleep(0.02)
    first.send_signal(signal.SIGKILL)  # most likely inside a step
    first.wait()
    states = sorted((tmp_path / "run").glob("state-*.pt"))
    assert states, "no state was written before the kill"
    second = subprocess.run(training, capture_output=True, text=True, timeout=300)
    assert second.returncode == 0, second.stderr
    assert "resuming at" in second.stderr
    generator = load_generator(tmp_path / "run" / "generator.safetensors")
    pictures = generator(generator.sample(4, torch.Generator().manual_seed(0))).image
    assert pictures.shape == (4, 3, 64, 64)
    assert pictures.isfinite().all()
    assert pictures.std(0).mean() > 1e-3  # four different pictures
    capsys.readouterr()
    model = tmp_path / "run" / "generator.safetensors"
    run("fid", model, "--data", data, "--n-samples", 16, "--features", features)
    score = json.loads(capsys.readouterr().out)
    assert score["FD-toy"] > 0
    published(tmp_path, data, score)


def published(folder: Path, data: Path, score: dict[str, float]) -> None:
    """The run as a bundled model: two bytes a number, a card with the report's figures, a state to go on from."""
    out, report = folder / "model.safetensors", folder / "report.json"
    of = read_card(folder / "run" / "generator.safetensors")["sha256"]
    report.write_text(json.dumps({"figures": score, "seed": 0, "sha256": of}))
    words = ("--run-dir", folder / "run", "--out", out, "--title", "Toy", "--data", data, "--command", "train it")
    run("publish", *words, "--report", report, "--state", folder / "resume")
    card = read_card(out)
    assert card["figures"] == score
    theirs = load_generator(folder / "run" / "generator.safetensors").state_dict()
    halved = sum(t.numel() * (2 if t.is_floating_point() else t.element_size()) for t in theirs.values())
    assert halved < card["bytes"] == out.stat().st_size < halved + 200 * len(theirs)  # 200 bytes of names a tensor
    for name, tensor in load_generator(out).state_dict().items():
        assert torch.allclose(tensor, theirs[name], rtol=2**-7, atol=0), name
    state, damaged = newest_state(folder / "resume") or ({}, [])
    assert state["images"] == IMAGES and not damaged
    written = out.with_suffix(".json")
    written.write_text(json.dumps(card | {"start": {"rotation": 30}}))
    run("publish", *words)
    assert read_card(out)["start"] == {"rotation": 30}  # chosen by a person; the rest is of the run
    assert read_card(out)["figures"] == {}
    before = {path.name: path.read_bytes() for path in (out, written)}
    for state in (folder / "run").glob("state-*"):
        state.unlink()
    with pytest.raises(CheckpointError, match="no resume state"):
        tyro.cli(Publish, args=[str(word) for word in (*words, "--state", folder / "other")]).run()
    report.write_text(json.dumps({"figures": score, "seed": 0, "sha256": "another"}))
    with pytest.raises(ValueError, match="of other weights than"):
        tyro.cli(Publish, args=[str(word) for word in (*words, "--report", report)]).run()
    for text in ("[]", '{"figures": 3}', '{"fig'):
        report.write_text(text)
        with pytest.raises(ValueError, match=r"report\.json is no report \(.*\); give"):
            tyro.cli(Publish, args=[str(word) for word in (*words, "--report", report)]).run()
    with pytest.raises(CheckpointError, match=r"the card of model\.safetensors would have 2\.0 MB"):
        tyro.cli(Publish, args=[str(word) for word in (*words, "--notes", "x" * 2_000_000)]).run()
    with pytest.raises(ValueError, match="a run's own folder"):
        tyro.cli(Publish, args=[str(word) for word in (*words, "--state", folder / "run")]).run()
    with pytest.MonkeyPatch.context() as patch, pytest.raises(CheckpointError, match="under 20 MB"):
        patch.setattr("training.publish.MOST_BYTES", 1000)
        tyro.cli(Publish, args=[str(word) for word in words]).run()
    assert {path.name: path.read_bytes() for path in (out, written)} == before  # the earlier model stands
    written.write_text("x" * 2_000_000)  # no card: what is inside the file tells the initial knobs
    made = json.loads((data / "set.json").read_text())
    (folder / "set").mkdir()
    (folder / "set" / "set.json").write_text(json.dumps(made | {"left_out": ["a.jpg: it is empty"] * 100_000}))
    run("publish", *words[:-3], folder / "set", *words[-2:])
    assert read_card(out)["start"] == {"rotation": 30}
    assert "left_out" not in read_card(out)["data"]
