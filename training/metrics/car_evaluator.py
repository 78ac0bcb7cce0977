"""An evaluator network that reads pose, paint and model of rendered cars, trained on the renderer's labels.

A generator and its discriminator may agree on any cue for an angle, so knobs are measured by an independent network.
Its training pictures have exchanged backgrounds, so that it reads the car and not the horizon, and noise, blur and
colour shifts, so that it works on generated pictures.
`python -m training.metrics.car_evaluator --data DIR`
"""

import json
import logging
import math
import time
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
import tyro
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import cross_entropy, interpolate
from tqdm import tqdm

from training.checkpoint import write_whole
from training.config import DataConfig
from training.data.folder import PictureSet
from training.devices import autocast
from training.files import file_sha256
from training.nn.camera import half_width
from training.types import Image, Mask

log = logging.getLogger(__name__)

SHIPPED = Path(__file__).with_name("car_regressor.safetensors")
"""The bundled evaluator, for the prior of `training.data.cars`; the card beside it has its errors."""
SIDE = 64
RADIUS, FOV = 2.732, 20.0
"""The camera of the rendered cars: `training.data.cars.render`."""
SPANS = {"elevation": (10.0, 35.0), "scale": (0.25, 0.35), "y": (-0.10, 0.10), "z": (-0.06, 0.06)}
"""Prior of the rendered cars, degrees and world units, by which each target is scaled to [-1, 1]."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Readings:
    """The evaluator's predictions for each picture."""

    rotation: Float[Tensor, " n"]
    """Degrees in [0, 360): the object's rotation plus the camera's azimuth."""
    elevation: Float[Tensor, " n"]
    """Degrees above the horizon."""
    scale: Float[Tensor, " n"]
    """Half the car's length, world units."""
    x: Float[Tensor, " n"]
    """To the right, percent of half the picture's width."""
    y: Float[Tensor, " n"]
    """Up, percent of half the picture's width."""
    paint: Float[Tensor, "n 3"]
    """Colour of the body, RGB in [0, 1]."""
    mesh: Float[Tensor, "n meshes"]
    """Probability of each model."""


class Block(nn.Module):
    """Residual block of two convolutions (He et al. 2016)."""

    def __init__(self, dim: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim), nn.ReLU(),
            nn.Conv2d(dim, dim, 3, padding=1, bias=False), nn.BatchNorm2d(dim),
        )  # fmt: skip

    def forward(self, x: Float[Tensor, "n c h w"]) -> Float[Tensor, "n c h w"]:
        """Return features of the same shape."""
        return torch.relu(x + self.body(x))


def down(old: int, new: int, kernel: int = 3) -> nn.Sequential:
    """Return a convolution that halves the side."""
    return nn.Sequential(nn.Conv2d(old, new, kernel, 2, 1, bias=False), nn.BatchNorm2d(new), nn.ReLU())


class CarEvaluator(nn.Module):
    """Whole pictures of any size in, `Readings` out."""

    def __init__(self, meshes: tuple[str, ...], dims: tuple[int, ...] = (24, 48, 96, 128)) -> None:
        super().__init__()
        self.meshes = meshes
        trunk: list[nn.Module] = [down(3, dims[0], 4)]
        for old, new in pairwise(dims):
            trunk += [down(old, new), Block(new)]
        self.trunk = nn.Sequential(*trunk)
        cells = (SIDE // 2 ** len(dims)) ** 2
        self.head = nn.Sequential(
            nn.Flatten(),
            nn.Linear(dims[-1] * cells, 160),
            nn.BatchNorm1d(160),
            nn.ReLU(),
            nn.Linear(160, 9 + len(meshes)),
        )

        self.register_buffer("gain", torch.ones(4))
        self.register_buffer("shift", torch.zeros(4))

    gain: Tensor
    """Slope of the raw outputs for elevation, scale, y, z against the truth (below 1: regression to the mean) ..."""
    shift: Tensor
    """... and their value at 0; `read` inverts both, so that a correct knob has slope 1."""

    def forward(self, image: Image) -> Float[Tensor, "n outputs"]:
        """Return sin and cos of the rotation; elevation, scale, y, z in [-1, 1]; paint; logits of the models."""
        if image.shape[2:] != (SIDE, SIDE):
            image = interpolate(image, (SIDE, SIDE), mode="bilinear", antialias=True, align_corners=False)
        return self.head(self.trunk(image.contiguous(memory_format=torch.channels_last))).float()

    @torch.no_grad()
    def read(self, image: Image) -> Readings:
        """Return the readings of each picture, on the device of the pictures."""
        out = self(image.to(self.gain).float())
        out[:, 2:6] = (out[:, 2:6] - self.shift) / self.gain
        out = out.to(image.device)
        half = half_width(RADIUS, FOV) / 100
        return Readings(
            rotation=torch.atan2(out[:, 0], out[:, 1]).rad2deg() % 360,
            elevation=_out_of(out[:, 2], SPANS["elevation"]),
            scale=_out_of(out[:, 3], SPANS["scale"]),
            x=_out_of(out[:, 4], SPANS["y"]) / half,
            y=_out_of(out[:, 5], SPANS["z"]) / half,
            paint=out[:, 6:9].clamp(0, 1),
            mesh=out[:, 9:].softmax(1),
        )


def _into(value: Tensor, span: tuple[float, float]) -> Tensor:
    """Return a value scaled from `span` to [-1, 1]."""
    return (value - sum(span) / 2) / ((span[1] - span[0]) / 2)


def _out_of(value: Tensor, span: tuple[float, float]) -> Tensor:
    """Return a value scaled from [-1, 1] to `span`."""
    return value * ((span[1] - span[0]) / 2) + sum(span) / 2


def load_evaluator(path: Path = SHIPPED, device: torch.device | str = "cpu") -> CarEvaluator:
    """Return an evaluator in evaluation mode.

    Raises: ValueError if there is none at `path`.
    """
    if not path.is_file():
        raise ValueError(f"no car regressor at {path}; train one: python -m training.metrics.car_evaluator --data DIR")
    with safe_open(path, framework="pt") as file:
        state = {name: file.get_tensor(name).float() for name in file.keys()}  # noqa: SIM118 (not a dict)
        meshes = tuple(json.loads(file.metadata()["meshes"]))
    network = CarEvaluator(meshes)
    network.load_state_dict({k: v.long() if k.endswith("num_batches_tracked") else v for k, v in state.items()})
    return network.eval().requires_grad_(False).to(device)


def targets(pictures: PictureSet) -> dict[str, Tensor]:
    """Return the labels of a rendered set: `pose` (n, 6) as `CarEvaluator.forward` orders it, `paint`, `mesh`.

    Raises: ValueError if the set lacks the renderer's columns.
    """
    f = pictures.factors
    missing = {"rotation", "azimuth", "elevation", "scale", "ty", "tz", "hue", "saturation", "value"} - f.keys()
    if missing:
        raise ValueError(f"{pictures.path} is no set of rendered cars: its index lacks {', '.join(sorted(missing))}")
    seen = f["rotation"] + f["azimuth"]
    pose = [seen.sin(), seen.cos(), _into(f["elevation"].rad2deg(), SPANS["elevation"])]
    pose += [_into(f[name], SPANS[key]) for name, key in (("scale", "scale"), ("ty", "y"), ("tz", "z"))]
    paint = hsv_to_rgb(torch.stack([f["hue"], f["saturation"], f["value"]], -1))
    return {"pose": torch.stack(pose, -1).float(), "paint": paint.float(), "mesh": pictures.labels}


def hsv_to_rgb(hsv: Float[Tensor, "n 3"]) -> Float[Tensor, "n 3"]:
    """Return colours of hue, saturation and value in [0, 1] as RGB in [0, 1]."""
    hue, saturation, value = hsv.unbind(-1)
    k = (hue[:, None] * 6 + torch.tensor([5.0, 3.0, 1.0], dtype=hsv.dtype)) % 6
    return value[:, None] * (1 - saturation[:, None] * torch.minimum(k, 4 - k).clamp(0, 1))


def exchange_backgrounds(image: Image, mask: Mask, share: float, rng: torch.Generator) -> Image:
    """Return pictures, a `share` of them with another's background: its rows' means where its own object was."""
    clear = (1 - mask) ** 4  # the mask's soft edge contains some of the object
    line = (image * clear).sum(3, keepdim=True) / clear.sum(3, keepdim=True).clamp_min(1e-3)
    background = clear * image + (1 - clear) * line
    other = background[torch.randperm(len(image), generator=rng)].roll(int(torch.randint(64, (), generator=rng)), 3)
    chosen = (torch.rand(len(image), 1, 1, 1, generator=rng) < share).float()
    return image + chosen * (1 - mask) * (other - image)


def spoil(image: Image, rng: torch.Generator) -> Image:
    """Return pictures with colour shifts, blur and noise, as generated pictures may have."""
    n = len(image)

    def uniform(low: float, high: float, *shape: int) -> Tensor:
        return low + (high - low) * torch.rand(n, *(shape or (1, 1, 1)), generator=rng)

    def some(share: float) -> Tensor:
        return (torch.rand(n, 1, 1, 1, generator=rng) < share).float()

    image = image * uniform(0.75, 1.25) * uniform(0.9, 1.1, 3, 1, 1) + uniform(-0.15, 0.15)
    small = interpolate(image, scale_factor=0.5, mode="bilinear", antialias=True, align_corners=False)
    soft = interpolate(small, image.shape[2:], mode="bilinear", align_corners=False)
    image = torch.lerp(image, soft, some(0.4) * uniform(0, 1))
    noise = torch.randn(image.shape, generator=rng) * uniform(0, 0.12) * some(0.5)
    # ripples of a few pixels, as of a generator early in training
    ripple = interpolate(torch.randn(n, 3, 16, 16, generator=rng), image.shape[2:], mode="bicubic", align_corners=False)
    return (image + noise + ripple * uniform(0, 0.15) * some(0.4)).clamp(-1, 1)


def errors(network: CarEvaluator, pictures: PictureSet, rng: torch.Generator | None = None) -> dict[str, float]:
    """Return the evaluator's errors on a labelled set; with `rng`, on pictures degraded by `spoil`."""
    labels, f = targets(pictures), pictures.factors
    images = (batch.image for batch in pictures.batches(size=256))
    parts = [network.read(image if rng is None else spoil(image, rng)) for image in images]
    read = {k: torch.cat([getattr(part, k) for part in parts]).double() for k in Readings.__dataclass_fields__}
    off = ((read["rotation"] - (f["rotation"] + f["azimuth"]).rad2deg() + 180) % 360 - 180).abs()
    half = half_width(RADIUS, FOV) / 100
    result = {
        "n": len(pictures),
        "rotation_median_error": off.median().item(),
        "rotation_within_15": (off < 15).double().mean().item(),
        "rotation_flips": (off > 90).double().mean().item(),
    }
    truths = {"elevation": f["elevation"].rad2deg(), "scale": f["scale"], "x": f["ty"] / half, "y": f["tz"] / half}
    for name, truth in truths.items():
        difference, spread = read[name] - truth, truth.var(correction=0)
        covariance = ((read[name] - read[name].mean()) * (truth - truth.mean())).mean()
        result[f"{name}_median_error"] = difference.abs().median().item()
        result[f"{name}_slope"] = (covariance / spread).item()
        result[f"{name}_r2"] = (1 - difference.square().mean() / spread).item()
    result["paint_mean_error"] = (read["paint"] - labels["paint"]).abs().mean().item()
    result["mesh_accuracy"] = (read["mesh"].argmax(1) == labels["mesh"]).double().mean().item()
    return result


@torch.no_grad()
def calibrate(network: CarEvaluator, pictures: PictureSet, n: int = 4000) -> None:
    """Set `gain` and `shift` by regression of the outputs on the truth."""
    n = min(n, len(pictures))
    chosen = [i * len(pictures) // n for i in range(n)]
    truth = targets(pictures)["pose"][chosen, 2:]
    out = torch.cat([network(batch.image) for batch in pictures.batches(n, 256)])[:, 2:6]
    apart = truth - truth.mean(0)
    network.gain.copy_((apart * (out - out.mean(0))).sum(0) / apart.square().sum(0))
    network.shift.copy_(out.mean(0) - network.gain * truth.mean(0))


def rate(done: float) -> float:
    """Return the learning rate's factor: up over the first tenth, then half a cosine down to 0."""
    return min(1.0, 0.01 + 10 * done) * (1 + math.cos(math.pi * min(1.0, done))) / 2


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an evaluator of rendered cars and write it with a card of its errors on held-out renders."""

    data: Path
    """A rendered set with the splits train and test, as `python -m training prepare cars` writes it."""
    out: Path = SHIPPED
    start_from: Path | None = None
    """An evaluator to continue from."""
    images: int = 400_000
    """Pictures to see."""
    batch: int = 64
    lr: float = 3e-3
    seed: int = 0
    bf16: bool = True

    def run(self) -> None:
        """Train, test, write."""
        start = time.monotonic()
        train = PictureSet(self.data, DataConfig(size=SIDE, flip=False))
        test = PictureSet(self.data, DataConfig(size=SIDE, flip=False), "test")
        torch.manual_seed(self.seed)
        network = CarEvaluator(train.label_names)
        if self.start_from is not None:
            network.load_state_dict(load_evaluator(self.start_from).state_dict())
            network.gain.fill_(1)
            network.shift.fill_(0)
            network.requires_grad_(True).train()
        network.to(memory_format=torch.channels_last)
        self.fit(network, train)
        calibrate(network.eval(), train)
        self.write(network, test, round((time.monotonic() - start) / 60, 1))

    def write(self, network: CarEvaluator, test: PictureSet, minutes: float) -> None:
        """Write the evaluator and its card."""
        weights = {k: v.contiguous() for k, v in network.state_dict().items()}
        state = {k: v.half() if v.is_floating_point() else v for k, v in weights.items()}
        write_whole(self.out, save(state, {"meshes": json.dumps(network.meshes)}))
        network = load_evaluator(self.out)
        found = {k: round(v, 5) for k, v in errors(network, test).items()}
        log.info("on held-out renders: %s", found)
        spoiled = errors(network, test, torch.Generator().manual_seed(1))
        card: dict[str, Any] = {
            "what": "reads pose, paint and model of a rendered car; measures the knobs of generators of such cars",
            "held_out_renders": found,
            "held_out_renders_spoiled": {k: round(v, 5) for k, v in spoiled.items()},
            "units": "rotation and elevation in degrees, scale in world units, x and y in percent of half the width",
            "trained_on": json.loads((self.data / "set.json").read_text())["arguments"],
            "licence": "MIT; learned from renders of CC0 meshes",
            "command": "python -m training.metrics.car_evaluator --data DIR",
            "settings": {k: v for k, v in asdict(self).items() if k not in ("data", "out", "start_from")},
            "went_on_from": None if self.start_from is None else file_sha256(self.start_from),
            "minutes": minutes,
            "sha256": file_sha256(self.out),
        }
        write_whole(self.out.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())

    def fit(self, network: CarEvaluator, train: PictureSet) -> None:
        """Train `network` on a labelled set."""
        labels = targets(train)
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.lr, weight_decay=0.02)
        steps = self.images // self.batch
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps))
        rng = torch.Generator().manual_seed(self.seed)
        mirror = torch.tensor([-1.0, 1, 1, 1, -1, 1])  # a mirrored car turns and stands the other way
        with tqdm(total=steps * self.batch, unit="img", mininterval=5) as bar:
            for step in range(steps):
                picks = torch.randint(len(train), (self.batch,), generator=rng)
                batch = train.get(picks.tolist())
                assert batch.mask is not None
                flip = torch.rand(self.batch, generator=rng) < 0.5
                image, mask = (torch.where(flip[:, None, None, None], x.flip(3), x) for x in (batch.image, batch.mask))
                pose = torch.where(flip[:, None], labels["pose"][picks] * mirror, labels["pose"][picks])
                image = spoil(exchange_backgrounds(image, mask, 0.75, rng), rng)
                with autocast("cpu", bf16=self.bf16):
                    out = network(image)
                loss = 4 * (out[:, :6] - pose).square().mean()
                loss = loss + (out[:, 6:9] - labels["paint"][picks]).square().mean()
                loss = loss + 0.1 * cross_entropy(out[:, 9:], labels["mesh"][picks])
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(self.batch)
                if step % 100 == 0:
                    bar.set_postfix(loss=f"{loss.item():.3f}")


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    tyro.cli(Train).run()
