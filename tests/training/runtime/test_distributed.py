"""Several processes train as one: gloo processes on the CPU, started as torchrun starts them."""

import os
import signal
import socket
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import pytest
import torch
import torch.distributed as dist
from pydantic import TypeAdapter
from torch.multiprocessing.spawn import spawn

from giraffe_hd.fast.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from giraffe_hd.fast.presets import CARS_64
from mixnmatch.fast import config as mixnmatch
from mixnmatch.fast.presets import CARS_64 as MIX_CARS_64
from training.checkpoint import load_generator, newest_state
from training.config import DataConfig, LoopConfig
from training.data.folder import PictureSet
from training.loop.run import Run
from training.loop.train import train
from training.nn.backbone import FrozenFeatures, MobileNetV2
from training.runtime import distributed
from training.runtime import sharded_random as draws
from training.runtime.distributed import share_of


@pytest.fixture(scope="module")
def squares(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of twelve coloured squares, each in its own place."""
    folder = tmp_path_factory.mktemp("set")
    (folder / "images").mkdir()
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    for i in range(12):
        pixels = np.full((32, 32, 3), 20 * i, np.uint8)
        left, top = 2 + i, 12 - i // 2
        pixels[top : top + 14, left : left + 12] = (200, 255 - 20 * i, 90)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,train,square,32,32,{left},{top},{left + 12},{top + 14}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "set.json").write_text("{}")
    return folder


def giraffe() -> TrainConfig:
    return replace(
        CARS_64,
        data=DataConfig(size=16, flip=True),
        loop=LoopConfig(images=960, batch=16, save_every=64, grid_every=10**6, log_every=1, bf16=False),
        generator=GeneratorConfig(
            resolution=16, rays=8, samples=3, z_dim=8, w_dim=8, field_dim=8, features=8, object_channels=(8, 8),
            mask_channels=4, background_channels=(8, 8, 8), background_shape_layers=1,
        ),
        discriminator=DiscriminatorConfig(channels=(8, 8)),
        condition_since=0, condition_full=16, r1_every=2, object_pose_share=(0.5, 0.5),
    )  # fmt: skip


def mix() -> mixnmatch.TrainConfig:
    small = mixnmatch.GeneratorConfig(
        resolution=32, n_backgrounds=3, n_shapes=2, n_textures=4, field_dim=16, samples=3, feature_dim=8,
        texture_dim=16, background_dim=16, style_dim=16, encoder_dim=16,
    )  # fmt: skip
    losses = replace(
        mixnmatch.LossConfig(), pair_ramp=(0, 1), r1_every=2, augment=0.5, free_share=(0.55, 0.55),
        reconstruction_since=0, binary_ramp=(0, 16),
    )  # fmt: skip
    return replace(
        MIX_CARS_64,
        data=DataConfig(size=32, flip=True),
        loop=LoopConfig(images=64, batch=16, bf16=False),
        generator=small,
        losses=losses,
        discriminator_channels=(16, 16, 16),
        patch_dim=8,
        feature_since=0,
    )


FAMILIES = {"giraffe": giraffe, "mix": mix}
STEPS = 3


def steps(config: Any, data: Path, out: Path) -> dict[str, torch.Tensor]:
    """Return networks, losses of the last step and the mean of a batch statistic after a few steps."""
    run = Run(config, out, torch.device("cpu"))
    for phase in run.phases:
        for group in phase.optimizer.param_groups:
            group["eps"] = 1e-3  # or Adam makes whole steps of gradients that are zero but for rounding
    pictures = PictureSet(data, config.data)
    for _ in range(STEPS):
        run.step(pictures)
    return run.recipe.networks.state_dict()


def gradients_of_one(rank: int) -> list[Any]:
    """Return the gradients that a process has in the end of a loss whose layers are not all used in each, and total."""
    used, unused, first_only = (torch.nn.Parameter(torch.ones(2)) for _ in range(3))
    matrix = torch.nn.Parameter(torch.ones(3, 2).t())  # columns first
    loss = (used * matrix[:, 0]).sum() * (rank + 1) + (first_only.sum() if rank == 0 else 0)
    optimizer = torch.optim.SGD([used, unused, first_only, matrix])
    total = distributed.backward_together(loss, loss.detach(), optimizer)
    return [total, *(p.grad for p in (used, unused, first_only, matrix))]


def statistics(rows: slice) -> dict[str, torch.Tensor]:
    """Return what the feature network knows of its channels after two batches, of which one process has some rows."""
    features, rng = FrozenFeatures(MobileNetV2(), side=32, bf16=False), torch.Generator().manual_seed(3)
    for _ in range(2):
        features.observe([torch.randn(4, c, 2, 2, generator=rng)[rows] for c in features.CHANNELS])
    return features.state_dict()


def stop_training() -> None:
    """Send this process SIGTERM once training, which then saves its state, would hear it."""
    while signal.getsignal(signal.SIGTERM) is signal.SIG_DFL:
        time.sleep(0.01)
    time.sleep(0.2)
    signal.raise_signal(signal.SIGTERM)


def one_of_two(rank: int, folder: Path, data: Path) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/meet", rank=rank, world_size=2)
    for large in (1, 10**9):  # each gradient a message of its own, and all in one
        distributed.LARGE = large
        torch.save(gradients_of_one(rank), folder / f"gradients-{large}-{rank}.pt")
    torch.save(statistics(slice(rank, None, 2)), folder / f"statistics-{rank}.pt")
    distributed.LARGE = 100
    for name, config in FAMILIES.items():
        torch.save(steps(config(), data, folder), folder / f"{name}-{rank}.pt")
    train(giraffe(), data, folder / "whole", device="cpu")
    endless = replace(giraffe(), loop=replace(giraffe().loop, images=10**7, save_every=10**7))
    if rank == 1:
        threading.Thread(target=stop_training).start()
    train(endless, data, folder / "stopped", device="cpu")
    dist.destroy_process_group()


def join_and_leave(rank: int, folder: Path, port: int) -> None:
    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
    os.environ |= {"MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
    with distributed.joined("cpu"):
        gradients_of_one(rank)
        inside = [name for name in thread_names() if "gloo" in name]
    left = [name for name in thread_names() if "gloo" in name]
    (folder / f"threads-{rank}").write_text(f"{bool(inside)} {left}")


def thread_names() -> list[str]:
    return [path.read_text().strip() for path in Path("/proc/self/task").glob("*/comm")]


@pytest.fixture(scope="module")
def two(squares: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What two processes, of half a batch each, have made of each recipe."""
    folder = tmp_path_factory.mktemp("two")
    spawn(one_of_two, (folder, squares), nprocs=2)
    return folder


@pytest.mark.parametrize("name", FAMILIES)
def test_two_processes_learn_what_one_learns_from_the_same_batch(name, two, squares, tmp_path):
    whole = steps(FAMILIES[name](), squares, tmp_path)
    start = Run(FAMILIES[name](), tmp_path, torch.device("cpu")).recipe.networks.state_dict()
    first, second = (torch.load(two / f"{name}-{rank}.pt", weights_only=True) for rank in (0, 1))
    for key, tensor in whole.items():
        assert torch.equal(first[key], second[key]), key
        torch.testing.assert_close(first[key], tensor, rtol=1e-3, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")
    moved = [key for key in whole if (whole[key] - start[key]).abs().max() > 1e-3]
    assert len(moved) > len(whole) / 2


def test_the_feature_network_knows_the_photos_of_all_processes(two):
    whole = statistics(slice(None))
    first, second = (torch.load(two / f"statistics-{rank}.pt", weights_only=True) for rank in (0, 1))
    for name, value in whole.items():
        assert torch.equal(first[name], second[name]), name
        torch.testing.assert_close(first[name], value)


@pytest.mark.parametrize("large", [1, 10**9])
def test_gradients_are_summed_and_those_of_no_process_stay_away(large, two):
    for rank in (0, 1):
        total, used, unused, first_only, matrix = torch.load(two / f"gradients-{large}-{rank}.pt", weights_only=True)
        assert total == 2 + 2 + 4  # of rank 0: used and first_only, of rank 1 twice the former
        assert used.tolist() == [3, 3]
        assert unused is None
        assert first_only.tolist() == [1, 1]
        assert matrix.tolist() == [[3, 0, 0], [3, 0, 0]]


def test_a_batch_in_parts_teaches_what_it_teaches_whole(squares, tmp_path):
    whole = steps(giraffe(), squares, tmp_path)
    parts = replace(giraffe(), loop=replace(giraffe().loop, accumulate=2))
    for key, tensor in steps(parts, squares, tmp_path).items():
        torch.testing.assert_close(tensor, whole[key], rtol=1e-3, atol=2e-5, msg=lambda text, key=key: f"{key}: {text}")


def test_a_signal_to_one_process_ends_all_after_the_same_step(two):
    found = newest_state(two / "stopped")
    assert found is not None
    assert found[0]["images"] == 16 * found[0]["index"] > 0


@pytest.mark.parametrize(
    ("rank", "together", "cores"),
    [("0", "2", [4, 5]), ("1", "2", [6, 7]), ("2", "3", [6]), ("0", "5", None), ("0", "0", None)],
)
def test_each_process_has_cores_of_its_own(monkeypatch, rank, together, cores):
    """Of this machine's four; more processes than cores, or no torchrun, leave all as it is."""
    asked: list[list[int]] = []
    monkeypatch.setenv("LOCAL_RANK", rank)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", together)
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: {7, 5, 6, 4}, raising=False)
    monkeypatch.setattr(os, "sched_setaffinity", lambda _, share: asked.append(list(share)), raising=False)
    with distributed._own_cores():
        assert asked == ([] if cores is None else [cores])
    assert asked == ([] if cores is None else [cores, [4, 5, 6, 7]])


def test_a_batch_that_does_not_divide_is_refused(monkeypatch):
    monkeypatch.setattr("training.runtime.distributed.size", lambda: 3)
    with pytest.raises(ValueError, match=r"loop.batch is 16.*3 processes; give a multiple of 3"):
        share_of(16)


def test_shares_are_interleaved_rows_of_one_drawing():
    whole = draws.randn(6, 2, rng=draws.sharded_generator(1))
    parts = [draws.randn(2, 2, rng=draws.sharded_generator(1, part, 3)) for part in range(3)]
    assert torch.equal(torch.stack(parts, 1).flatten(0, 1), whole)


def test_a_lost_process_is_started_again_and_nothing_changes(two, squares, tmp_path):
    """torchrun's restart goes on from the last state: the end is that of a run that lost nothing, bit for bit."""
    values = TypeAdapter(TrainConfig).dump_python(giraffe(), mode="json")
    flags = _flags({name: value for name, value in values.items() if name != "family"}, "--")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node=2", "--max-restarts=1"]
    command += ["--monitor-interval=0.2", "-m", "training", "train", "giraffe-hd-cars-64", "--data", str(squares)]
    command += ["--out", str(tmp_path / "run"), "--device", "cpu", *flags]
    env = os.environ | {"OMP_NUM_THREADS": "1"}
    with (tmp_path / "log").open("w") as log, subprocess.Popen(command, stderr=log, stdout=log, env=env) as agent:
        deadline = time.monotonic() + 120
        while not list((tmp_path / "run").glob("state-*.pt")):
            assert agent.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()
            time.sleep(0.02)
        children = Path(f"/proc/{agent.pid}/task/{agent.pid}/children").read_text().split()
        os.kill(int(children[-1]), signal.SIGKILL)
        assert agent.wait(120) == 0, (tmp_path / "log").read_text()
    assert "resuming at" in (tmp_path / "log").read_text()
    one, other = (
        load_generator(run / "generator.safetensors").state_dict() for run in (two / "whole", tmp_path / "run")
    )
    for name, tensor in one.items():
        assert torch.equal(tensor, other[name]), name


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="lists its threads as Linux does")
def test_no_thread_outlives_the_process_group(tmp_path):
    """One that is there when the interpreter ends aborted a process in six under load, after all its work."""
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    spawn(join_and_leave, (tmp_path, port), nprocs=2)
    assert [(tmp_path / f"threads-{rank}").read_text() for rank in (0, 1)] == ["True []"] * 2


def _flags(values: dict[str, Any], prefix: str) -> list[str]:
    """Return a config as options of the command line."""
    found: list[str] = []
    for name, value in values.items():
        option = prefix + name.replace("_", "-")
        if isinstance(value, dict):
            found += _flags(value, option + ".")
        elif isinstance(value, bool):
            found.append(option if value else option[: option.rfind(".") + 1 or 2] + "no-" + name.replace("_", "-"))
        elif isinstance(value, list):
            found += [option, *map(str, value)]
        else:
            found += [option, str(value)]
    return found
