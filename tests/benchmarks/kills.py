"""Kill commands at random moments, run them again, and see that nothing is lost: one JSON line.

python tests/benchmarks/kills.py --kills 200

Training, preparing, publishing, evaluating and a sweep's trial run in processes of their own, which are killed
(SIGKILL) at random moments, those of writing included. The same command runs again each time. What a command that came
to its end has written must equal what it writes undisturbed, every file that is there after a kill must be whole, and
nothing else may lie beside it at the end.
"""

import json
import multiprocessing
import random
import shutil
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import PIL.Image
import torch
import tyro
from pydantic import TypeAdapter

from giraffe_hd.fast.config import DiscriminatorConfig, GeneratorConfig, TrainConfig
from giraffe_hd.fast.presets import CARS_64
from training.checkpoint import load_generator, newest_state, read_card
from training.config import DataConfig, LoopConfig
from training.data.prepare import Prepare
from training.loop.train import train
from training.metrics.report import Evaluate
from training.publish import Publish
from training.sweep.trial import Watch

TINY = replace(
    CARS_64,
    data=DataConfig(size=16),
    loop=LoopConfig(images=240, batch=4, save_every=8, grid_every=100_000, log_every=4, bf16=False),
    generator=GeneratorConfig(
        resolution=16, rays=8, samples=3, z_dim=8, w_dim=8, field_dim=8, features=8, object_channels=(8, 8),
        mask_channels=4, background_channels=(8, 8, 8), background_shape_layers=1,
    ),
    discriminator=DiscriminatorConfig(channels=(8, 8)),
    r1_every=2,
)  # fmt: skip

KILLED = -9
"""How a process ends that SIGKILL ends."""
RUN = replace(TINY, loop=replace(TINY.loop, images=40))
"""Training from its start to its end; longer runs are only killed more often."""
COMMANDS = ("train", "prepare", "publish", "evaluate", "sweep")


def squares(folder: Path) -> Path:
    """Write a prepared set of twelve coloured squares; return its folder."""
    (folder / "images").mkdir(parents=True)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    for i in range(12):
        pixels = np.full((16, 16, 3), 30 * (i % 4), np.uint8)
        pixels[4:12, 4:12] = (200, 20 * i, 90)
        PIL.Image.fromarray(pixels).save(folder / "images" / f"{i}.png")
        lines.append(f"{i}.png,train,square,16,16,4,4,12,12")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "set.json").write_text("{}")
    return folder


def work(command: str, folder: Path, out: Path) -> None:
    """Run a command in a process of its own: it reads `folder` and writes `out` alone."""
    torch.set_num_threads(1)
    data, run = folder / "set", folder / "trained"
    if command == "train":
        train(RUN, data, out / "run", device="cpu")
    elif command == "sweep":
        config = TypeAdapter(TrainConfig).dump_json(RUN).decode()
        watch = Watch(str(out / "run"), "giraffe-hd-cars-64", config, str(data), "cpu", "D/pose")
        try:
            while not watch.next()["done"]:
                pass
        finally:
            watch.stop()
    elif command == "prepare":
        Prepare(source=data / "images", out=out / "set", size=16, views="flat").run()
    elif command == "publish":
        Publish(
            run_dir=run, out=out / "car.safetensors", title="Car", data=data, command="train", state=out / "resume"
        ).run()
    else:
        torch.manual_seed(0)
        Evaluate(checkpoint=run / "generator.safetensors", out=out / "report", n=32, n_distance=0, device="cpu").run()


def written(out: Path) -> dict[str, Any]:
    """Return what a command wrote, as far as it is the same each time."""
    return {str(path.relative_to(out)): _known(path) for path in sorted(out.rglob("*")) if path.is_file()} | {
        str(path.relative_to(out)): "folder" for path in sorted(out.rglob("*")) if path.is_dir()
    }


def _known(path: Path) -> Any:
    if path.suffix == ".safetensors":
        return {name: tensor.tolist() for name, tensor in load_generator(path).state_dict().items()}
    if path.name in ("car.json", "report.json"):
        said = json.loads(path.read_text())
        return {name: value for name, value in said.items() if name not in ("seconds", "trained", "bytes")}
    if path.suffix in (".png", ".jpg"):
        return path.read_bytes() if path.parent.name == "images" else "picture"
    if path.suffix == ".csv":
        return path.read_bytes()
    return "file"  # logs and notes of when and where


def plain(found: dict[str, Any]) -> dict[str, Any]:
    """Return what was written without TensorBoard's files, one for each process, and states, named by checksum."""
    return {k: v for k, v in found.items() if not Path(k).name.startswith(("events.out.", "state-"))}


def half_files(out: Path, *, start: bool) -> Iterator[str]:
    """Go through what a kill has left that a reader would take for whole and is not, or that was there and is not."""
    for path in out.rglob("*"):
        try:
            if path.suffix == ".safetensors" and not path.name.startswith("."):
                load_generator(path)
                if start and path.name == "car.safetensors" and read_card(path).get("start") != {"rotation": 30}:
                    yield f"{path.name}: start is lost"
            elif path.suffix == ".png":
                PIL.Image.open(path).load()
            elif path.suffix == ".json":
                json.loads(path.read_text())
            elif path.name == "index.csv" and not path.parent.name.startswith("."):
                names = [line.partition(",")[0] for line in path.read_text().splitlines()[1:]]
                if not all((path.parent / "images" / name).is_file() for name in names):
                    yield f"{path}: pictures are missing"
        except (ValueError, OSError) as error:
            yield f"{path}: {error}"
    for folder in {path.parent for path in out.rglob("state-*.pt")}:
        if (found := newest_state(folder)) and found[1]:
            yield f"{folder}: {found[1]}"


@dataclass(frozen=True, kw_only=True)
class Kills:
    """Kill and run again."""

    kills: int = 200
    """Processes to kill, of all commands together."""
    longest: float = 3.0
    """Seconds a process may live before it is killed, at most."""
    seed: int = 0
    commands: tuple[str, ...] = COMMANDS
    """Which to kill, in turn."""
    out: Path | None = None
    """Where to work; a temporary folder if not given."""

    def run(self) -> dict[str, Any]:
        """Return how many processes of each command were killed and came to their end, and what went wrong."""
        start = time.monotonic()
        with tempfile.TemporaryDirectory(dir=self.out) as name:
            return self.count(Path(name)) | {"seconds": round(time.monotonic() - start, 1)}

    def count(self, folder: Path) -> dict[str, Any]:
        """Return the counts, working in `folder`."""
        rng = random.Random(self.seed)
        squares(folder / "set")
        live = _lives()
        if set(self.commands) & {"publish", "evaluate"}:
            train(replace(TINY, loop=replace(TINY.loop, images=8)), folder / "set", folder / "trained", device="cpu")
        whole: dict[str, dict[str, Any]] = {}
        found: dict[str, Any] = {
            "kills": 0,
            "runs": 0,
            "lost": 0,
            "wrong": 0,
            "killed": dict.fromkeys(self.commands, 0),
        }
        longest = dict.fromkeys(self.commands, self.longest)
        for command in self.commands:
            begun = time.monotonic()
            if live(command, folder, folder / "whole" / command, None) != 0:
                raise RuntimeError(f"{command} fails undisturbed")
            longest[command] = min(self.longest, time.monotonic() - begun)
            whole[command] = plain(written(folder / "whole" / command))
        while found["kills"] < self.kills:
            command = self.commands[found["runs"] % len(self.commands)]
            out, ended = folder / "out" / command, False
            if command == "publish":  # over an earlier model, whose start is a person's
                shutil.copytree(folder / "whole" / command, out)
                card = json.loads((out / "car.json").read_text()) | {"start": {"rotation": 30}}
                (out / "car.json").write_text(json.dumps(card))
            for _ in range(12):
                code = live(command, folder, out, rng.uniform(0.0, longest[command]))
                if (ended := code != KILLED) or found["kills"] >= self.kills:
                    found["lost"] += code not in (0, KILLED)
                    break
                found["kills"] += 1
                found["killed"][command] += 1
                problems = list(half_files(out, start=command == "publish"))
                found["lost"] += bool(problems)
                for problem in problems:
                    print(f"{command}: {problem}", file=sys.stderr)
            if not ended and live(command, folder, out, None) != 0:
                found["lost"] += 1
                print(f"{command} does not go on", file=sys.stderr)
            found["wrong"] += self._differs(command, plain(written(out)), whole[command])
            found["runs"] += 1
            shutil.rmtree(out)
        return found

    def _differs(self, command: str, ours: dict[str, Any], whole: dict[str, Any]) -> bool:
        if command == "publish":
            ours["car.json"].pop("start", None)
        if names := sorted(name for name in ours.keys() | whole.keys() if ours.get(name) != whole.get(name)):
            print(f"{command}: {names} are not as undisturbed", file=sys.stderr)
        return bool(names)


def _lives() -> Callable[[str, Path, Path, float | None], int | None]:
    """Return what runs a command for so many seconds, then kills it, and returns how it ended."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([__name__, "training.loop.train", "torch.utils.tensorboard"])

    def live(command: str, folder: Path, out: Path, seconds: float | None) -> int | None:
        out.mkdir(parents=True, exist_ok=True)
        process = context.Process(target=work, args=(command, folder, out))
        process.start()
        process.join(seconds)
        if process.exitcode is None:
            process.kill()
            process.join()
        return process.exitcode

    return live


if __name__ == "__main__":
    print(json.dumps(tyro.cli(Kills).run()))
