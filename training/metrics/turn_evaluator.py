"""An evaluator of the turn between two photos of one object, trained on films of objects on a motor's shaft.

It measures the rotation knob of generators of such photos. It reads how far the surface moved along each row, so that
it needs no front: only differences between frames of one film are known.
`python -m training.metrics.turn_evaluator --data DIR --out FILE`
"""

import json
import logging
import math
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, NamedTuple

import torch
import tyro
from jaxtyping import Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample, smooth_l1_loss
from tqdm import tqdm

from training.batched import repeat
from training.checkpoint import write_whole
from training.config import DataConfig
from training.data.folder import PictureSet
from training.metrics.car_evaluator import SIDE, Block, down, rate, spoil
from training.metrics.regression import Fit, line_fit, wrap
from training.metrics.weights import sha256
from training.resize import resized
from training.types import Generator, Image, Mask

log = logging.getLogger(__name__)

MOST = 60.0
"""Degrees: the largest turn that is measured."""
TRAINED = 75.0
"""Degrees: the largest turn in training, so that measured ones are not at its end."""
DATA = DataConfig(size=SIDE, object_margin=1.5, flip=False)


class TurnEvaluator(nn.Module):
    """Two pictures of an object in, its turn about the vertical axis in degrees out.

    Features of both are correlated along rows, as in stereo, and convolutions read the turn. The result is odd:
    exchanging the pictures changes its sign alone.
    """

    def __init__(self, channels: int = 16, width: int = 32) -> None:
        super().__init__()
        self.stem = nn.Sequential(down(3, channels, 4), Block(channels), Block(channels))
        cells = SIDE // 2
        self.trunk = nn.Sequential(
            down(cells + channels, width), Block(width), down(width, 2 * width), Block(2 * width),
            down(2 * width, 2 * width), nn.Flatten(), nn.Linear(2 * width * (cells // 8) ** 2, 128), nn.ReLU(),
            nn.Linear(128, 1),
        )  # fmt: skip

    def forward(self, first: Image, second: Image) -> Float[Tensor, " n"]:
        """Return turns in degrees, from pictures of objects on grey (`on_grey`)."""
        n = len(first)
        features = self.stem(torch.cat([first, second]))
        a, b = features[:n], features[n:]
        rows = torch.einsum("nchx,nchy->nhxy", a, b) / math.sqrt(a.shape[1])  # (n, rows, columns of a, columns of b)
        one_way = torch.cat([rows.permute(0, 3, 1, 2), a], 1)
        other_way = torch.cat([rows.permute(0, 2, 1, 3), b], 1)
        out = self.trunk(torch.cat([one_way, other_way])).flatten()
        return MOST / 2 * (out[:n] - out[n:])


def on_grey(image: Image, mask: Mask) -> Float[Tensor, "n 3 side side"]:
    """Return pictures of `SIDE` with grey in place of the background, which must not tell the turn."""
    return resized(image * mask, SIDE)


class Pairs(NamedTuple):
    """Two frames of a film, a row a pair."""

    first: Float[Tensor, " n"]
    second: Float[Tensor, " n"]
    """Indices of pictures."""
    turn: Float[Tensor, " n"]
    """Degrees from the first to the second."""


class Films:
    """The frames of a set's films: pictures with a `sequence` and a known `yaw_deg`."""

    def __init__(self, pictures: PictureSet) -> None:
        """Sort the frames. Raises: ValueError for a set without films or masks."""
        yaw = pictures.factors.get("yaw_deg")
        if yaw is None or not pictures.has_masks or not any(pictures.sequences):
            raise ValueError(f"{pictures.path} has no films; expected columns sequence and yaw_deg, and masks")
        self.yaw = yaw
        self.frames: dict[str, list[int]] = {}
        for i, name in enumerate(pictures.sequences):
            if name and not math.isnan(float(yaw[i])):
                self.frames.setdefault(name, []).append(i)
        batches = list(pictures.batches(size=256))
        self.images = torch.cat([on_grey(b.image, b.mask) for b in batches if b.mask is not None])

    def pairs(self, n: int, most: float, rng: torch.Generator) -> Pairs:
        """Return pairs from random films, turned by up to `most` degrees; turns are spread evenly."""
        films, found = list(self.frames.values()), []
        while len(found) < n:
            film = films[int(torch.randint(len(films), (), generator=rng))]
            first = film[int(torch.randint(len(film), (), generator=rng))]
            turn = wrap(self.yaw[film] - self.yaw[first])
            aim = most * (2 * torch.rand((), generator=rng) - 1)
            place = int((turn - aim).abs().argmin())
            if abs(float(turn[place])) <= most:
                found.append((first, film[place], float(turn[place])))
        columns = torch.tensor(found).T
        return Pairs(*columns)

    def images_of(self, pairs: Pairs) -> tuple[Image, Image]:
        """Return the pictures of the pairs."""
        return self.images[pairs.first.long()], self.images[pairs.second.long()]


def _moved(image: Image, rng: torch.Generator) -> Image:
    """Return pictures moved by up to 3 % and scaled by up to 6 %, as crops around an object vary."""
    n = len(image)
    scale = 1 + 0.06 * (2 * torch.rand(n, generator=rng) - 1)
    moved = 0.06 * (2 * torch.rand(n, 2, generator=rng) - 1)
    theta = torch.stack([scale, 0 * scale, moved[:, 0], 0 * scale, scale, moved[:, 1]], 1).view(n, 2, 3)
    return grid_sample(image, affine_grid(theta, list(image.shape), align_corners=False), align_corners=False)


@torch.inference_mode()
def measured_turn(
    network: TurnEvaluator, generator: Generator, *, n: int = 600, seed: int = 0, most: float = MOST
) -> Fit:
    """Return the fit of turns that the evaluator reads to turns of the rotation knob, up to `most` degrees.

    Raises: ValueError if the generator has no rotation knob.
    """
    knob = next((each for each in generator.knobs if each.name == "rotation"), None)
    if knob is None:
        raise ValueError(f"{type(generator).__name__} has no rotation knob, so no turn to measure")
    rng = torch.Generator().manual_seed(seed)
    turns, read = most * (2 * torch.rand(n, generator=rng) - 1), []
    for start in range(0, n, 32):
        turn = turns[start : start + 32]
        low, high = knob.low, knob.high
        middle = low + (high - low) * torch.rand(len(turn), generator=rng)
        if high - low < 360:  # both ends stay within the knob's range
            middle = middle.clamp(low + most / 2, high - most / 2)
        codes = repeat(generator.sample(len(turn), rng), 2)
        ends = torch.stack([middle - turn / 2, middle + turn / 2], 1).flatten()
        layers = generator(generator.set(codes, "rotation", ends))
        shown = on_grey(layers.image, layers.mask).to(next(network.parameters()).device)
        read.append(network(shown[0::2], shown[1::2]).double().cpu())
    return line_fit(turns, torch.cat(read))


def errors(network: TurnEvaluator, films: Films, n: int = 2_000) -> dict[str, float]:
    """Return the evaluator's errors on pairs of frames up to `MOST` degrees apart."""
    pairs = films.pairs(n, MOST, torch.Generator().manual_seed(1))
    first, second = films.images_of(pairs)
    with torch.inference_mode():
        read = torch.cat([network(a, b) for a, b in zip(first.split(256), second.split(256), strict=True)])
    off, fit = (read - pairs.turn).abs(), line_fit(pairs.turn, read)
    return {
        "films": len(films.frames),
        "pairs": n,
        "median_error": off.median().item(),
        "within_15": (off < 15).float().mean().item(),
        "slope": fit.slope,
        "r2": fit.r2,
        "median_of_no_turn": pairs.turn.abs().median().item(),
    }


def load_turn_evaluator(path: Path, device: torch.device | str = "cpu") -> TurnEvaluator:
    """Return an evaluator in evaluation mode. Raises: ValueError if the file holds none."""
    if not path.is_file():
        raise ValueError(f"no file {path}; train one: python -m training.metrics.turn_evaluator --data DIR --out FILE")
    try:
        with safe_open(path, framework="pt") as file:
            state = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (not a dict)
        network = TurnEvaluator()
        network.load_state_dict({k: v.float() if v.is_floating_point() else v for k, v in state.items()})
    except Exception as error:  # safetensors raises its own kinds
        raise ValueError(f"{path} holds no turn evaluator: {error}") from error
    return network.eval().requires_grad_(False).to(device)


@dataclass(frozen=True, kw_only=True)
class Train:
    """Train an evaluator of turns on the films of a set, and write it with a card of its errors on held-out films."""

    data: Path
    """A prepared set with masks and the columns sequence and yaw_deg, splits train and validation or test."""
    out: Path
    """The evaluator's file."""
    pairs: int = 80_000
    """Pairs of frames to see."""
    batch: int = 32
    """Pairs a step."""
    learning_rate: float = 2e-3
    """AdamW's; it rises over the first tenth and falls to nothing as a cosine."""
    seed: int = 0
    """Random seed."""
    licence: str = ""
    """Licence and credit of the photos, for the card."""

    def run(self) -> dict[str, Any]:
        """Train, test, write; return the errors on held-out films."""
        start = time.monotonic()
        films = Films(PictureSet(self.data, DATA))
        held_out = Films(PictureSet(self.data, DATA, "validation"))
        torch.manual_seed(self.seed)
        network = TurnEvaluator().to(memory_format=torch.channels_last)
        self.fit(network, films)
        state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
        write_whole(self.out, save({k: v.contiguous() for k, v in state.items()}))
        found = {k: round(v, 4) for k, v in errors(load_turn_evaluator(self.out), held_out).items()}
        card = {
            "what": "reads the turn about the vertical axis between two photos of an object, up to 60 degrees",
            "held_out_films": found,
            "trained_on": json.loads((self.data / "set.json").read_text(encoding="utf-8"))["arguments"],
            "licence": self.licence,
            "settings": {k: v for k, v in asdict(self).items() if k not in ("data", "out", "licence")},
            "minutes": round((time.monotonic() - start) / 60, 1),
            "sha256": sha256(self.out),
        }
        write_whole(self.out.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
        return found

    def fit(self, network: TurnEvaluator, films: Films) -> None:
        """Train `network` in place; it is left in evaluation mode."""
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=0.02)
        steps = max(1, self.pairs // self.batch)
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps))
        network.train()
        with tqdm(total=steps * self.batch, unit="pairs", mininterval=5) as bar:
            for first, second, turn in self._batches(films, steps):
                loss = smooth_l1_loss(network(first, second) / MOST, turn / MOST, beta=0.1)
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(self.batch)
                if schedule.last_epoch % 100 == 1:
                    bar.set_postfix(loss=f"{loss.item():.4f}")
        network.eval()

    def _batches(self, films: Films, steps: int) -> Iterator[tuple[Image, Image, Tensor]]:
        rng = torch.Generator().manual_seed(self.seed)
        for _ in range(steps):
            pairs = films.pairs(self.batch, TRAINED, rng)
            both = torch.cat(films.images_of(pairs))
            flip = (torch.rand(self.batch, generator=rng) < 0.5).repeat(2)  # a mirrored object turns the other way
            both = _moved(torch.where(flip[:, None, None, None], both.flip(3), both), rng)
            first, second = (half.contiguous(memory_format=torch.channels_last) for half in spoil(both, rng).chunk(2))
            yield first, second, torch.where(flip[: self.batch], -pairs.turn, pairs.turn)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(message)s")
    print(json.dumps(tyro.cli(Train).run()))
