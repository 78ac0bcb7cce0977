"""Run folders: one command at a time, what others put into them, closed terminals, devices and memory that lack."""

import json
import os
import pty
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from giraffe_hd.fast.reader import PoseReader, ReaderConfig
from tests.benchmarks.kills import TINY, squares
from training import __main__ as command
from training.checkpoint import load_generator, newest_state, save_generator
from training.devices import pick_device
from training.files import append_line, check_folder, locked
from training.loop.train import _stop_signals, train
from training.nn import projected_discriminator
from training.nn.backbone import MobileNetV2
from training.nn.projected_discriminator import ProjectedConfig

SHORT = replace(TINY, loop=replace(TINY.loop, images=8))
ENDLESS = replace(TINY, loop=replace(TINY.loop, images=10_000_000, save_every=10_000_000, log_every=1))


@pytest.fixture(scope="module")
def pictures(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return squares(tmp_path_factory.mktemp("set") / "squares")


@pytest.fixture(scope="module")
def run(pictures: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run that has ended; tests work on copies."""
    out = tmp_path_factory.mktemp("runs") / "run"
    train(SHORT, pictures, out, device="cpu")
    return out


def logged(out: Path, lines: int) -> int:
    """Wait until a run has logged so many lines; return the pictures that it has seen."""
    for _ in range(900):
        if (out / "log.jsonl").is_file() and len(said := (out / "log.jsonl").read_text().splitlines()) >= lines:
            return json.loads(said[-1])["images"]
        time.sleep(0.1)
    pytest.fail("training did not begin")


def test_a_closed_terminal_ends_the_run_saved_and_nobody_else_trains_there(pictures, tmp_path):
    """The kernel sends SIGHUP to whom a terminal belongs; nobody reads what is written to standard error."""
    code = (  # the signal is ignored in what `nohup` starts, such as these tests
        "import fcntl, os, signal, sys, termios; signal.signal(signal.SIGHUP, signal.SIG_DFL)\n"
        "os.setsid(); fcntl.ioctl(0, termios.TIOCSCTTY, 0)\n"
        "from pathlib import Path; from tests.training.loop.test_run_folder import ENDLESS, train\n"
        "train(ENDLESS, Path(sys.argv[1]), Path(sys.argv[2]), device='cpu')"
    )
    ours, theirs = pty.openpty()
    reads, writes = os.pipe()
    os.close(reads)  # as `2>&1 | head` does
    out = tmp_path / "run"
    process = subprocess.Popen(
        [sys.executable, "-c", code, str(pictures), str(out)], stdin=theirs, stdout=theirs, stderr=writes
    )
    os.close(theirs)
    os.close(writes)
    try:
        logged(out, 2)
        with pytest.raises(ValueError, match=rf"in use by another `train` \(process {process.pid} on .*another --out"):
            train(SHORT, pictures, out, device="cpu")
        seen = logged(out, 4)
        os.close(ours)
        process.wait(60)
    finally:
        process.kill()
    found = newest_state(out)
    assert found is not None
    assert found[0]["images"] >= seen >= 16
    load_generator(out / "generator.safetensors")
    assert not (out / "train.lock").exists()


def test_a_killed_process_leaves_no_lock(tmp_path):
    code = (
        "import sys, time; from pathlib import Path; from training.files import locked\n"
        "with locked(Path(sys.argv[1]), 'x.lock', 'test'): print('mine', flush=True); time.sleep(60)"
    )
    process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE)
    assert process.stdout is not None
    process.stdout.readline()
    with (
        pytest.raises(ValueError, match=rf"another test \(process {process.pid} on"),
        locked(tmp_path, "x.lock", "test"),
    ):
        pytest.fail("two have the lock")
    process.kill()
    process.communicate()
    for _ in range(2):
        with locked(tmp_path, "x.lock", "test"), pytest.raises(ValueError, match="in use by another test"):
            locked(tmp_path, "x.lock", "test").__enter__()
    assert not list(tmp_path.iterdir())


def test_under_nohup_a_hangup_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with _stop_signals() as stopped:
            signal.raise_signal(signal.SIGHUP)
        assert stopped == []
        signal.signal(signal.SIGHUP, signal.SIG_DFL)
        with _stop_signals() as stopped:
            signal.raise_signal(signal.SIGHUP)
        assert stopped == [signal.SIGHUP]
    finally:
        signal.signal(signal.SIGHUP, before)


def test_a_generator_without_a_state_is_not_trained_over(run, pictures, tmp_path):
    out = tmp_path / "run"
    out.mkdir()
    shutil.copy(run / "generator.safetensors", out)
    before = (out / "generator.safetensors").read_bytes()
    with pytest.raises(ValueError, match=r"holds generator\.safetensors but no resume state.* --start-from .*run/gen"):
        train(SHORT, pictures, out, device="cpu")
    assert [path.name for path in out.iterdir()] == ["generator.safetensors"]
    assert (out / "generator.safetensors").read_bytes() == before


def test_a_start_that_fails_leaves_the_folder_free(run, pictures, tmp_path):
    out, other = tmp_path / "run", squares(tmp_path / "others")
    lines = (other / "index.csv").read_text().splitlines()
    (other / "index.csv").write_text("\n".join(lines[:-1]) + "\n")
    with pytest.raises(ValueError, match="no checkpoint at"):
        train(SHORT, pictures, out, device="cpu", start_from=tmp_path / "nowhere")
    assert not out.exists()
    stranger = tmp_path / "stranger.safetensors"
    save_generator(stranger, PoseReader(ReaderConfig(resolution=16, channels=(8, 10))))
    with pytest.raises(ValueError, match="has no weights of the shapes of this preset's networks, a giraffe_hd; give"):
        train(SHORT, pictures, out, device="cpu", start_from=stranger)
    assert not out.exists()
    train(SHORT, other, out, device="cpu", start_from=run)
    with pytest.raises(ValueError, match=r"learns from .*others, not from"):
        train(SHORT, pictures, out, device="cpu")


def test_a_run_goes_on_when_its_pretrained_network_comes_and_says_what_it_lacks_when_that_goes(
    pictures, tmp_path, monkeypatch, caplog
):
    config = replace(SHORT, projected=ProjectedConfig(weight=1.0, side=32))
    longer = replace(config, loop=replace(config.loop, images=16))

    def offline(path: Path | None = None) -> MobileNetV2:
        raise ValueError("torchvision's MobileNetV2 weights cannot be downloaded")

    monkeypatch.setattr(projected_discriminator, "load_backbone", offline)
    train(config, pictures, tmp_path / "run", device="cpu")
    monkeypatch.setattr(projected_discriminator, "load_backbone", lambda path: MobileNetV2())
    train(longer, pictures, tmp_path / "run", device="cpu")
    assert "had no projected discriminator so far; one begins now" in caplog.text
    found = newest_state(tmp_path / "run")
    assert found is not None and found[0]["images"] == 16 and "projected" in found[0]["optimizers"]
    monkeypatch.setattr(projected_discriminator, "load_backbone", offline)
    with pytest.raises(ValueError, match=r"has a projected discriminator, and this start has none; give --projected"):
        train(longer, pictures, tmp_path / "run", device="cpu")


DAMAGED = ("{}", "[]", "3", "{", '{"path": 1, "index_sha256": []}')


@pytest.mark.parametrize("text", DAMAGED)
def test_a_run_that_does_not_say_its_set_is_refused_in_one_sentence(run, pictures, tmp_path, text):
    out = Path(shutil.copytree(run, tmp_path / "run"))
    (out / "data.json").write_text(text)
    with pytest.raises(ValueError, match=r"data\.json does not say which set the run learns from \(.*\); remove it"):
        train(SHORT, pictures, out, device="cpu")
    (out / "config.json").write_text(text)  # only compared with
    (out / "data.json").unlink()
    train(SHORT, pictures, out, device="cpu")
    assert json.loads((out / "config.json").read_text())["loop"]["images"] == 8


def test_links_and_pipes_of_a_folder_given_away_are_not_followed(run, pictures, tmp_path, caplog):
    out, mine = Path(shutil.copytree(run, tmp_path / "run")), tmp_path / "mine"
    mine.mkdir()
    (mine / "notes").write_text("mine")
    (out / "log.jsonl").symlink_to(mine / "notes")
    for name in ("config.json", "generator.safetensors", "train.lock"):
        (out / name).unlink(missing_ok=True)
    for name in ("config.json", "generator.safetensors"):
        (out / name).symlink_to(mine / "notes")
    shutil.rmtree(out / "grids")
    (out / "grids").symlink_to(mine)
    loop = replace(TINY.loop, images=16, grid_every=4, log_every=1)
    train(replace(TINY, loop=loop), pictures, out, device="cpu")
    assert [path.name for path in mine.iterdir()] == ["notes"]
    assert (mine / "notes").read_text() == "mine"
    assert "it is a link, which is not followed" in caplog.text
    load_generator(out / "generator.safetensors")
    (out / "data.json").unlink()
    os.mkfifo(out / "data.json")
    (out / "config.json").unlink()
    os.mkfifo(out / "config.json")
    train(SHORT, pictures, out, device="cpu")  # does not wait for a writer
    (out / "train.lock").symlink_to(mine / "notes")
    with pytest.raises(ValueError, match=r"train\.lock cannot be locked"):
        train(SHORT, pictures, out, device="cpu")


def test_a_line_that_a_kill_cut_off_does_not_spoil_the_next(tmp_path):
    append_line(tmp_path / "log", '{"a": 1}')
    with (tmp_path / "log").open("a") as file:
        file.write('{"b"')
    append_line(tmp_path / "log", '{"c": 3}')
    assert (tmp_path / "log").read_text().splitlines() == ['{"a": 1}', '{"b"', '{"c": 3}']


def test_where_nothing_can_be_written_is_said_before_the_work(pictures, tmp_path):
    (tmp_path / "file").write_text("")
    (tmp_path / "link").symlink_to(tmp_path / "nowhere" / "run")
    for out in (tmp_path / "file", tmp_path / "file" / "run", Path("/proc/run")):
        with pytest.raises(ValueError, match=r"--out .* cannot be written to \(.*\); give a folder that can"):
            train(SHORT, pictures, out, device="cpu")
    with pytest.raises(ValueError, match=r"--out .*link, a link to .*nowhere/run, cannot be written to"):
        check_folder(tmp_path / "link")
    with pytest.raises(ValueError, match="set"):
        train(SHORT, tmp_path / "no set", tmp_path / "new", device="cpu")
    assert not (tmp_path / "new").exists()
    (tmp_path / "disk").mkdir()
    (tmp_path / "to disk").symlink_to(tmp_path / "disk")
    train(SHORT, pictures, tmp_path / "to disk", device="cpu")
    assert (tmp_path / "disk" / "generator.safetensors").is_file()


@pytest.mark.parametrize("name", ["cuda:99", "gpu", "meta", "cuda:x", "tpu"])
def test_a_device_that_is_not_there_is_one_sentence(name):
    with pytest.raises(ValueError, match=rf"--device {name} cannot be used here \(.*\); give --device cpu") as error:
        pick_device(name)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("kind", [MemoryError, lambda: torch.OutOfMemoryError("CUDA out of memory.")])
def test_too_little_memory_is_one_sentence(monkeypatch, capsys, kind):
    def full(arguments: list[str]) -> None:
        raise kind()

    monkeypatch.setattr(command, "train", full)
    assert command.main(["train"]) == 2
    assert capsys.readouterr().err.startswith("error: out of memory; train with a smaller --loop.batch")
    monkeypatch.setattr(command, "train", lambda _: torch.zeros(2**46, dtype=torch.uint8))
    assert command.main(["train"]) == 2
    monkeypatch.setattr(command, "train", lambda _: torch.zeros(2) @ torch.zeros(3))  # a fault of ours stays one
    with pytest.raises(RuntimeError, match="size"):
        command.main(["train"])
