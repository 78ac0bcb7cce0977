"""Proof that a change of the code's structure changes nothing that it computes.

python -m tests.proof record     (before the change; writes .proof.json at the root, which git ignores)
python -m tests.proof check      (after it; ends with 1 and names what differs)

It holds: every preset's config and its first 20 logged losses on a tiny set, batch reduced and published networks
narrowed, pictures seen spread over the whole schedule; two pictures of every bundled checkpoint; what every bundled
resume state gives to the network it belongs to; the outputs of the conformance cases. Losses depend on machine and
PyTorch, so a record is compared on the machine that made it, with one thread.
"""

import argparse
import contextlib
import hashlib
import json
import logging
import re
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import fields, replace
from functools import cache, partial
from pathlib import Path
from typing import Any
from unittest import mock

import numpy as np
import PIL.Image
import torch
from pydantic import TypeAdapter
from torch import Tensor
from torchvision.models import mobilenet_v2

from giraffe_hd.giraffe2021.discriminator import DCDiscriminator
from giraffe_hd.paper.config import GeneratorConfig
from giraffe_hd.paper.discriminator import Discriminator
from giraffe_hd.paper.official import read as read_giraffe
from mixnmatch.paper.official import read as read_mixnmatch
from tests.conformance.cases import fill, load_case, write_compcar
from tests.places import ROOT
from training.checkpoint import load_generator, makes_pictures
from training.data.folder import PictureSet
from training.loop.run import Run
from training.registry import preset
from training.registry import presets as preset_names
from training.upgrade import upgraded
from training.warm_start import load_weights

RECORD = ROOT / ".proof.json"
STEPS = 20
PICTURES = 8


def write_set(folder: Path) -> Path:
    """Write a prepared set of eight pictures with boxes and masks: shaded blocks on gradients, each elsewhere."""
    for name in ("images", "masks"):
        (folder / name).mkdir(parents=True)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    ramp = np.linspace(0, 255, 160)
    for i in range(PICTURES):
        down, right = np.meshgrid(ramp, ramp, indexing="ij")
        pixels = np.stack([right, down, np.full_like(right, 30.0 * i)], 2)
        x, y = 20 + 6 * i, 60 - 4 * i
        pixels[y : y + 70, x : x + 90] = (200 - 20 * i, 25 * i, 90)
        PIL.Image.fromarray(pixels.astype(np.uint8)).save(folder / "images" / f"{i}.png")
        mask = np.zeros((160, 160), np.uint8)
        mask[y : y + 70, x : x + 90] = 255
        PIL.Image.fromarray(mask).save(folder / "masks" / f"{i}.png")
        lines.append(f"{i}.png,train,block,160,160,{x},{y},{x + 90},{y + 70}")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    (folder / "set.json").write_text("{}")
    return folder


@cache
def backbone() -> Path:
    """Return a MobileNetV2 of random weights: the published ones are not at hand everywhere, nor the same for ever."""
    torch.manual_seed(0)
    path = Path(tempfile.mkdtemp()) / "mobilenet.pt"
    torch.save(mobilenet_v2(weights=None).state_dict(), path)
    return path


def changed(config: Any, **values: Any) -> Any:
    """Return a frozen config with those of `values` that it has a field for; a dict changes a config inside it."""
    names = {field.name for field in fields(config)}
    new = {k: changed(getattr(config, k), **v) if isinstance(v, dict) else v for k, v in values.items() if k in names}
    return replace(config, **new)


SMALL: dict[str, dict[str, Any]] = {
    "giraffe_hd": {},
    "mixnmatch": {},
    "mixnmatch_continuous": {},
    "giraffe_hd_paper": {
        "generator": {
            "resolution": 16, "z_dim": 8, "z_dim_bg": 6, "feat_dim": 12, "n_mlp": 2,
            "volume": {"resolution": 8, "n_samples": 8},
        },
        "data": {"size": 16},
        "discriminator_multiplier": 1,
    },
    "giraffe": {
        "generator": {
            "resolution": 32, "z_dim": 8, "z_dim_bg": 6, "width": 16, "width_bg": 8, "feat_dim": 16, "min_feat": 8,
            "volume": {"resolution": 8, "n_samples": 8},
        },
        "data": {"size": 32},
    },
    "mixnmatch_paper": {
        "generator": {"width": 4, "encoder_width": 2, "extractor_width": 2, "z_dim": 5},
        "discriminator_width": 2, "pair_width": 1, "feature_discriminator_width": 2,
    },
}  # fmt: skip
"""Family -> what its presets are reduced to, beside a batch of 4; nothing for the fast ones, which run as they are.
Finders of objects are not among them: their tests hold their losses against the published programs."""


def small(name: str) -> Any:
    """Return the preset as it is run here."""
    config = preset(name)
    config = changed(config, projected={"backbone": backbone()}, **SMALL[config.family])
    return changed(config, loop={"batch": 4 if config.data.size < 128 else 2, "ema_half_life": 40})


def plain(config: Any) -> Any:
    """Return a config as JSON values."""
    return json.loads(TypeAdapter(type(config)).dump_json(config))


def losses(config: Any, folder: Path, data: Path) -> list[list[list[Any]]]:
    """Return name and value of every loss of the first steps, spread over the whole length of the schedule."""
    with narrow():
        run = Run(config, folder, torch.device("cpu"))
    pictures = PictureSet(data, config.data)
    found = []
    for i in range(STEPS):
        run.images = i * config.loop.images // STEPS // config.loop.batch * config.loop.batch
        logged = run.step(pictures)
        found.append([[name, float(value).hex()] for name, value in logged.items()])
    weights = hash_of({**run.recipe.networks.state_dict(), **run.average.state_dict(prefix="average.")})
    return [*found, [["weights", weights]]]


def hash_of(tensors: dict[str, Tensor]) -> str:
    """Return a checksum of the values of tensors in their order, whatever their names."""
    digest = hashlib.sha256()
    for tensor in tensors.values():
        digest.update(tensor.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes())
    return digest.hexdigest()


def tensors_of(layers: Any) -> dict[str, Tensor]:
    """Return a dataclass's tensors, without those it lacks."""
    return {f.name: value for f in fields(layers) if isinstance(value := getattr(layers, f.name), Tensor)}


@contextlib.contextmanager
def narrow() -> Iterator[None]:
    """Let the published GIRAFFEs be narrow inside the block: some of their widths are not part of a config."""
    with (
        mock.patch("giraffe_hd.paper.recipe.Discriminator", partial(Discriminator, widest=32)),
        mock.patch("giraffe_hd.giraffe2021.recipe.DCDiscriminator", partial(DCDiscriminator, n_feat=32)),
        mock.patch.object(GeneratorConfig, "channels", lambda self, resolution: 32),
    ):
        yield


def presets(folder: Path, chosen: str) -> dict[str, Any]:
    """Return configs and losses of all presets; those that are the same once reduced are run once."""
    data, found, seen = write_set(folder / "set"), {}, dict[str, str]()
    for name in (name for name in preset_names() if re.search(chosen, name)):
        if preset(name).family not in SMALL:
            continue
        config = small(name)
        key = json.dumps(plain(config))
        if key in seen:
            found[name] = {"config": plain(preset(name)), "losses_as": seen[key]}
            continue
        seen[key] = name
        found[name] = {"config": plain(preset(name)), "losses": losses(config, folder / name, data)}
    return found


def checkpoints() -> dict[str, Any]:
    """Return checksums of two pictures of every bundled generator, all layers, and of each set knob."""
    found = {}
    for path in filter(makes_pictures, sorted((ROOT / "checkpoints").glob("*.safetensors"))):
        generator = load_generator(path)
        codes = generator.sample(2, torch.Generator().manual_seed(5))
        with torch.no_grad():
            layers = generator(codes)
            found[path.name] = {"codes": hash_of(tensors_of(codes)), "layers": hash_of(tensors_of(layers))}
            if hasattr(generator, "encode"):
                read: Any = generator.encode(layers.image)  # type: ignore[operator]
                found[path.name]["read"] = hash_of(tensors_of(read))
                feature: Any = generator.shape_feature(layers.image)  # type: ignore[operator]
                found[path.name]["feature"] = hash_of(tensors_of(generator(read, feature=feature)))
        numbers = [knob for knob in generator.knobs if knob.kind != "picture"]
        found[path.name]["knobs"] = [hash_of(tensors_of(generator.set(codes, k.name, k.default))) for k in numbers]
    return found


def resume_states() -> dict[str, Any]:
    """Return checksums of what bundled resume states hold, tensor by tensor, whatever their names."""
    folders = sorted(path for path in (ROOT / "checkpoints" / "resume").iterdir() if path.is_dir())
    return {path.name: sorted(hash_of({name: t}) for name, t in load_weights(path).items()) for path in folders}


def conformance(folder: Path) -> dict[str, Any]:
    """Return checksums of what the published networks make of the conformance cases' inputs."""
    codes, _ = write_compcar(folder / "g.pt")
    giraffe: Any = read_giraffe(folder / "g.pt")
    case, arrays = load_case("mixnmatch_cub")
    for kind, manifest in case["checkpoint"].items():
        torch.save(fill(manifest), folder / f"{kind}.pth")
    mix: Any = read_mixnmatch(*(folder / f"{kind}.pth" for kind in ("G", "E", "EX")))
    with torch.no_grad():
        read = mix.encode(arrays["in_shape"])
        feature = mix.shape_feature(arrays["in_shape"])
        return {
            "giraffehd_compcar_128": hash_of(tensors_of(giraffe(codes, inject_index=2))),
            "mixnmatch_cub": {
                "codes": hash_of(tensors_of(read)),
                "layers": hash_of(tensors_of(mix(read))),
                "feature": hash_of(tensors_of(mix(read, feature=feature))),
            },
        }


def compute(parts: tuple[str, ...], chosen: str) -> dict[str, Any]:
    """Return the record, or those parts of it."""
    found: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as folder:
        work: dict[str, Callable[[], Any]] = {
            "presets": lambda: presets(Path(folder), chosen),
            "checkpoints": checkpoints,
            "resume states": resume_states,
            "conformance": lambda: conformance(Path(folder)),
        }
        for name in parts or tuple(work):
            start = time.monotonic()
            found[name] = json.loads(json.dumps(work[name]()))
            print(f"{name}: {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    return found


def todays(record: dict[str, Any]) -> dict[str, Any]:
    """Return a record with today's names: configs through the function that reads old ones, losses without names."""
    found = json.loads(json.dumps(record))
    for name, held in found.get("presets", {}).items():
        held["config"] = upgraded(held["config"], type(preset(name)))
        if "losses" in held:
            held["losses"] = [[value for _, value in step] for step in held["losses"]]
    return found


def differences(before: Any, now: Any, where: str = "") -> list[str]:
    """Return where two records differ."""
    if isinstance(before, dict) and isinstance(now, dict):
        names = sorted(before.keys() | now.keys())
        return [d for k in names for d in differences(before.get(k), now.get(k), f"{where}/{k}")]
    if isinstance(before, list) and isinstance(now, list) and len(before) == len(now):
        return [d for i, pair in enumerate(zip(before, now, strict=True)) for d in differences(*pair, f"{where}/{i}")]
    return [] if before == now else [f"{where}: {before} -> {now}"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("action", choices=("record", "check"))
    parser.add_argument("parts", nargs="*", help="presets, checkpoints, 'resume states', conformance; all if none")
    parser.add_argument("--presets", default="", help="regular expression: these presets alone")
    parser.add_argument("--record", type=Path, default=RECORD)
    args = parser.parse_args()
    logging.basicConfig(level=logging.WARNING)
    torch.set_num_threads(1)
    now = compute(tuple(args.parts), args.presets)
    if args.action == "record":
        before = json.loads(args.record.read_text()) if args.record.is_file() else {}
        whole = {name: {**before.get(name, {}), **found} for name, found in now.items()}
        args.record.write_text(json.dumps(before | whole, indent=0))
        print(f"recorded {', '.join(now)} in {args.record}")
        return 0
    recorded = json.loads(args.record.read_text())
    if args.presets and "presets" in now:
        recorded["presets"] = {name: recorded["presets"].get(name) for name in now["presets"]}
    off = differences(todays({name: recorded[name] for name in now}), todays(now))
    print("\n".join([*off[:40], f"{len(off)} differences"]))
    return 1 if off else 0


if __name__ == "__main__":
    sys.exit(main())
