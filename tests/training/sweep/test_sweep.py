"""Sweeps: the grid of values, the table, and Ray Tune on this machine with one of its two workers killed."""

import contextlib
import csv
import fnmatch
import importlib.util
import json
import os
import re
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.places import ROOT
from training.checkpoint import load_generator, newest_state
from training.loop.train import train
from training.registry import preset
from training.sweep.command import Sweep, _start
from training.sweep.grid import trials
from training.sweep.results import metric_curve, results, write_results

TOY = (
    "data.size=16", "loop.images=960", "loop.save_every=320", "loop.grid_every=1000000", "loop.log_every=10",
    "loop.bf16=false", "generator.resolution=16", "generator.rays=8", "generator.samples=3", "generator.z_dim=8",
    "generator.w_dim=8", "generator.field_dim=8", "generator.features=8", "generator.object_channels=[8,8]",
    "generator.mask_channels=4", "generator.background_channels=[8,8,8]", "generator.background_shape_layers=1",
    "discriminator.channels=[8,8]",
)  # fmt: skip


@pytest.fixture
def squares(tmp_path: Path) -> Path:
    """A prepared set of eight coloured squares."""
    folder = tmp_path / "set"
    (folder / "images").mkdir(parents=True)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    for i in range(8):
        pixels = np.full((16, 16, 3), 30 * i, np.uint8)
        pixels[4:12, 4:12] = (200, 20 * i, 90)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,train,square,16,16,4,4,12,12")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "set.json").write_text("{}")
    return folder


def test_every_combination_is_a_trial_and_single_values_hold_for_all():
    found = dict(trials("giraffe-hd-cars-64", ["lr=1e-3,2e-3", "loop.batch=8,16", "loop.images=5000"]))
    assert list(found) == [f"lr={lr}_loop.batch={n}" for lr in ("1e-3", "2e-3") for n in (8, 16)]
    base = preset("giraffe-hd-cars-64")
    last = replace(base, learning_rate=2e-3, loop=replace(base.loop, batch=16, images=5000))
    assert found["lr=2e-3_loop.batch=16"] == last


def test_commas_in_brackets_belong_to_one_value():
    configs = [config for _, config in trials("giraffe-hd-cars-64", ["coverage=[0.3,0.8],[0.4,0.9]"])]
    assert [config.coverage for config in configs] == [(0.3, 0.8), (0.4, 0.9)]


@pytest.mark.parametrize(
    ("vary", "message"),
    [
        ("lr", "--vary lr is not of the form"),
        ("loop.bathc=8", r"no field loop.bathc; fields beside it: .*batch"),
        ("loop=8", "no field loop;"),
        ("lr=fast", r"lr=fast does not fit .*: learning_rate: "),
        ("loop.batch=0", r"loop.batch is 0; it must be at least 1"),
    ],
)
def test_values_that_do_not_fit_are_refused(vary, message):
    with pytest.raises(ValueError, match=message):
        trials("giraffe-hd-cars-64", [vary])


def test_a_field_is_varied_once():
    with pytest.raises(ValueError, match=r"--vary names lr twice; give all its values at once"):
        trials("giraffe-hd-cars-64", ["lr=1e-3", "loop.batch=8", "lr=2e-3"])


def sweep(out: Path, data: Path, *vary: str, metric: str = "G/pose") -> Sweep:
    return Sweep(preset="giraffe-hd-cars-64", data=data, out=out, vary=vary, metric=metric)


def test_without_ray_it_says_what_to_install(tmp_path, squares, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(ValueError, match=r"a sweep needs Ray .*pip install '.\[sweep\]'"):
        sweep(tmp_path / "out", squares, "lr=1e-3,2e-3").run()


class SlowRay:
    """Stands for Ray on a machine too busy to start it in the time that Ray waits."""

    def __init__(self, *errors: str) -> None:
        self.errors, self.starts, self.ends = list(errors), 0, 0

    def init(self, address: str, **options: object) -> None:
        self.starts += 1
        if self.errors:
            raise Exception(self.errors.pop(0))

    def shutdown(self) -> None:
        self.ends += 1


def test_ray_is_started_again_where_it_took_too_long():
    late = "The current node timed out during startup.\nThis could happen ..."
    ray = SlowRay(late, late)
    _start(ray, "local")
    assert (ray.starts, ray.ends) == (3, 2)
    with pytest.raises(ValueError, match=r"^Ray does not start at local: The current node timed out during startup.$"):
        _start(SlowRay(late, late, late), "local")
    ray = SlowRay("no cluster at that address")
    with pytest.raises(ValueError, match="no cluster at that address"):
        _start(ray, "10.0.0.1:6379")
    assert ray.starts == 1


def test_the_folder_of_another_sweep_is_refused(tmp_path, squares, monkeypatch):
    monkeypatch.setattr("training.sweep.command._tune", lambda *_: None)
    sweep(tmp_path / "out", squares, "lr=1e-3,2e-3").run()
    with pytest.raises(ValueError, match=r"holds a sweep with another vary .* or another --out"):
        sweep(tmp_path / "out", squares, "lr=1e-3,3e-3").run()


def test_the_table_is_sorted_by_the_metric_and_reads_logs_that_a_kill_cut(tmp_path):
    asked = {"preset": "giraffe-hd-cars-64", "vary": ["lr=1,2,3", "loop.images=40"], "metric": "D/pose", "mode": "min"}
    (tmp_path / "sweep.json").write_text(json.dumps(asked))
    for lr, values in ((1, [0.9, 0.5]), (2, [0.3, 0.4])):
        folder = tmp_path / "trials" / f"lr={lr}"
        folder.mkdir(parents=True)
        lines = [json.dumps({"images": 20 * (i + 1), "D/pose": value}) for i, value in enumerate(values)]
        (folder / "log.jsonl").write_text("\n".join([*lines, '{"images": 60, "D/po']))
    rows = results(tmp_path)
    assert [(row["trial"], row["images"], row["of"], row["last"], row["best"]) for row in rows[:2]] == [
        ("lr=2", 40, 40, 0.4, 0.3),
        ("lr=1", 40, 40, 0.5, 0.5),
    ]
    assert rows[2]["trial"] == "lr=3"  # never begun
    assert rows[2]["images"] == 0
    assert "loop.images" not in rows[0]  # the same for all
    assert write_results(tmp_path).splitlines()[2].split() == ["2", "40", "40", "0.4", "0.3"]
    assert (tmp_path / "results.png").read_bytes().startswith(b"\x89PNG")


def sweep_with_a_kill(out: Path, data: Path, vary: list[str], trial: Path) -> bool:
    """Run a sweep and kill a trial's worker once it trains; return whether that was before the trial's end."""
    command = [sys.executable, "-m", "training", "sweep", "giraffe-hd-cars-64", "--data", str(data)]
    command += ["--out", str(out), "--metric", "G/pose", "--no-early-stop"]
    command += [word for text in vary for word in ("--vary", text)]
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYTHONPATH": str(ROOT)}
    told = out.with_suffix(".log")
    with told.open("w") as log, subprocess.Popen(command, stdout=log, stderr=log, env=env) as driver:
        deadline = time.monotonic() + 240
        while not (trial / "log.jsonl").is_file() or not (trial / "log.jsonl").read_text():
            assert driver.poll() is None, told.read_text()
            assert time.monotonic() < deadline, told.read_text()
            time.sleep(0.02)
        worker = int((trial / "trial.lock").read_text())
        with contextlib.suppress(ProcessLookupError):
            os.kill(worker, signal.SIGKILL)
        assert driver.wait(240) == 0, told.read_text()
    stopped = (trial / "trial.log").read_text().count("stopped at")  # the process it left behind ended by itself
    assert stopped <= 1
    assert not stopped or int((trial / "trial.lock").read_text()) != worker
    return stopped == 1


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_killed_worker_s_trial_goes_on_and_ends_as_if_nothing_had_been(tmp_path, squares):
    """On a busy machine the trial may be over before this process sees it begin: then a longer one is killed."""
    for images in (960, 3840, 15_360):
        vary = [*(text for text in TOY if not text.startswith("loop.images")), f"loop.images={images}", "lr=1e-3,2e-3"]
        out = tmp_path / str(images)
        trial = out / "trials" / "lr=2e-3"
        if sweep_with_a_kill(out, squares, vary, trial):
            break
    else:
        pytest.fail("the process that a killed worker left behind went on to its end each time")
    with (out / "results.csv").open() as file:
        assert [(row["images"], row["of"]) for row in csv.DictReader(file)] == [(str(images), str(images))] * 2
    config = dict(trials("giraffe-hd-cars-64", vary))["lr=2e-3"]
    alone = load_generator(train(config, squares, tmp_path / "alone", device="cpu")).state_dict()
    for name, tensor in load_generator(trial / "generator.safetensors").state_dict().items():
        assert torch.equal(tensor, alone[name]), name
    train(
        replace(config, loop=replace(config.loop, images=images + 16)), squares, trial, device="cpu"
    )  # an ordinary run
    found = newest_state(trial)
    assert found is not None
    assert found[0]["images"] == images + 16


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_a_sweep_cut_off_is_gone_on_with_and_its_best_trial_is_never_stopped(tmp_path, squares):
    vary = [*TOY, "pose_weight=0.001,1,1000"]  # G/pose is the weighted error: in this order, whatever is learnt
    command = [sys.executable, "-m", "training", "sweep", "giraffe-hd-cars-64", "--data", str(squares)]
    command += ["--out", str(tmp_path / "out"), "--metric", "G/pose", "--grace", "0.25"]
    command += ["--cpus-per-trial", str(os.cpu_count())]  # one after the other
    command += [word for text in vary for word in ("--vary", text)]
    root = ROOT
    env = os.environ | {"OMP_NUM_THREADS": "1", "RAY_worker_niceness": "0", "PYTHONPATH": str(root)}
    first = tmp_path / "out" / "trials" / "pose_weight=0.001"
    with (tmp_path / "log").open("w") as log:
        with subprocess.Popen(command, stdout=log, stderr=log, env=env) as driver:
            deadline = time.monotonic() + 240
            while not list(first.glob("state-0000000[3-9]*")):
                assert driver.poll() is None, (tmp_path / "log").read_text()
                assert time.monotonic() < deadline, (tmp_path / "log").read_text()
                time.sleep(0.02)
            driver.kill()
        again = subprocess.run(command, stdout=log, stderr=log, env=env, timeout=480, check=False)
        assert again.returncode == 0, (tmp_path / "log").read_text()
    assert "resuming the sweep" in (tmp_path / "log").read_text()
    with (tmp_path / "out" / "results.csv").open() as file:
        seen = {row["pose_weight"]: int(row["images"]) for row in csv.DictReader(file)}
    assert seen["0.001"] == 960  # the best is never stopped; when the others are depends on who comes first
    assert all(240 <= images <= 960 for images in seen.values())


@pytest.mark.parametrize("grace", [0.0, 1.5])
def test_a_grace_that_is_no_share_is_refused(tmp_path, squares, grace):
    with pytest.raises(ValueError, match="--grace"):
        replace(sweep(tmp_path / "out", squares, "lr=1e-3,3e-3"), grace=grace).run()


def test_a_figure_may_be_called_without_its_prefix(tmp_path):
    lines = [{"images": 8, "G/pose": 1.0}, {"images": 8, "figures/fd": 3.0}, {"images": 16, "figures/fd": 2.0}]
    (tmp_path / "log.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert metric_curve(tmp_path, "fd") == metric_curve(tmp_path, "figures/fd") == [(8, 3.0), (16, 2.0)]
    assert metric_curve(tmp_path, "G/pose") == [(8, 1.0)]


@pytest.mark.skipif(importlib.util.find_spec("ray") is None, reason="Ray is not installed")
def test_ray_s_cluster_launcher_accepts_the_example_for_ec2():
    check = "import sys, yaml; from ray.autoscaler._private.util import prepare_config, validate_config\n"
    check += "validate_config(prepare_config(yaml.safe_load(open(sys.argv[1]))))"
    path = ROOT / "training" / "cluster-ec2.yaml"
    subprocess.run([sys.executable, "-c", check, str(path)], check=True, capture_output=True)


def test_the_example_for_ec2_leaves_no_file_of_the_project_behind():
    root = ROOT
    told = re.search(r"^rsync_exclude: \[(.*)\]$", (root / "training" / "cluster-ec2.yaml").read_text(), re.MULTILINE)
    assert told is not None
    patterns = told[1].split(", ")
    parts = {part for package in ("mixnmatch", "giraffe_hd", "training", "demo") for part in names_in(root / package)}
    assert not [part for part in parts for pattern in patterns if fnmatch.fnmatch(part, pattern.strip("/"))]


def names_in(package: Path) -> set[str]:
    """Return the names of all folders and files of a package: a pattern without a slash leaves out any of them."""
    return {part for path in package.rglob("*") for part in path.relative_to(package.parent).parts}
