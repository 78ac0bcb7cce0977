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
from jaxtyping import Bool, Float
from safetensors import safe_open
from safetensors.torch import save
from torch import Tensor, nn
from torch.nn.functional import affine_grid, grid_sample
from tqdm import tqdm

from training.batched import repeat
from training.checkpoint import write_whole
from training.config import DataConfig
from training.data.folder import PictureSet
from training.files import file_sha256
from training.metrics.car_evaluator import SIDE, Block, down, rate, spoil
from training.metrics.regression import Fit, line_fit, wrap
from training.types import Generator, Image, Mask

log = logging.getLogger(__name__)

MOST = 60.0
"""Degrees: the largest turn that is measured."""
TRAINED = 75.0
"""Degrees: the largest turn in training, so that measured ones are not at its end."""
VISIBLE = 5.0
"""Degrees: the largest expected error of a reading that counts. The turn of a smooth, even fruit cannot be seen, and
readings of a larger error are too small: on films held out the slope is .98 up to 5 degrees, .82 up to 10."""
ROOM = 1.1
"""Side of the crop around an object over the longer side of its mask."""
DATA = DataConfig(size=96, object_margin=1.5, flip=False)
"""How pictures are read, before they are cropped to `SIDE`."""


class Reading(NamedTuple):
    """What was read of each pair."""

    turn: Float[Tensor, " n"]
    """Degrees from the first picture to the second."""
    spread: Float[Tensor, " n"]
    """Expected absolute error of that in degrees."""


class TurnEvaluator(nn.Module):
    """Two pictures of an object in, its turn about the vertical axis out.

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
            nn.Linear(128, 2),
        )  # fmt: skip

    def forward(self, first: Image, second: Image) -> Reading:
        """Return turns, from pictures of objects on grey (`on_grey`)."""
        n = len(first)
        features = self.stem(torch.cat([first, second]))
        a, b = features[:n], features[n:]
        rows = torch.einsum("nchx,nchy->nhxy", a, b) / math.sqrt(a.shape[1])  # (n, rows, columns of a, columns of b)
        one_way = torch.cat([rows.permute(0, 3, 1, 2), a], 1)
        other_way = torch.cat([rows.permute(0, 2, 1, 3), b], 1)
        out = self.trunk(torch.cat([one_way, other_way]))
        turn, log_spread = out[:n, 0] - out[n:, 0], (out[:n, 1] + out[n:, 1]).clamp(-4, 1)
        return Reading(MOST / 2 * turn, MOST * log_spread.exp())


def on_grey(image: Image, mask: Mask) -> Float[Tensor, "n 3 side side"]:
    """Return crops of `SIDE` around the objects, with grey in place of the background, which must not tell the turn."""
    inside = mask[:, 0] > 0.5
    (x0, x1), (y0, y1) = _ends(inside.any(1)), _ends(inside.any(2))
    half = ROOM * torch.maximum(x1 - x0, y1 - y0) / 2
    zero = torch.zeros_like(half)
    theta = torch.stack([half, zero, (x0 + x1) / 2, zero, half, (y0 + y1) / 2], 1).view(-1, 2, 3)
    grid = affine_grid(theta, [len(image), 3, SIDE, SIDE], align_corners=False)
    return grid_sample(image * mask, grid, align_corners=False)


def _ends(there: Bool[Tensor, "n pixels"]) -> tuple[Float[Tensor, " n"], Float[Tensor, " n"]]:
    """Return the first and the last place that is True, from -1 to 1; all of it where none is."""
    size = there.shape[1]
    there = there | ~there.any(1, keepdim=True)
    first, last = there.float().argmax(1), size - there.flip(1).float().argmax(1)
    return 2 * first / size - 1, 2 * last / size - 1


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
        self.yaw = yaw.clone()
        self.frames: dict[str, list[int]] = {}
        for i, name in enumerate(pictures.sequences):
            if name and not math.isnan(float(yaw[i])):
                self.frames.setdefault(name, []).append(i)
        batches = list(pictures.batches(size=256))
        self.images = torch.cat([on_grey(b.image, b.mask) for b in batches if b.mask is not None])

    def pairs(self, n: int, most: float, rng: torch.Generator, film: str | None = None) -> Pairs:
        """Return pairs from random films, or of one, turned by up to `most` degrees; turns are spread evenly."""
        films, found = list(self.frames.values()) if film is None else [self.frames[film]], []
        while len(found) < n:
            frames = films[int(torch.randint(len(films), (), generator=rng))]
            first = frames[int(torch.randint(len(frames), (), generator=rng))]
            turn = wrap(self.yaw[frames] - self.yaw[first])
            aim = most * (2 * torch.rand((), generator=rng) - 1)
            place = int((turn - aim).abs().argmin())
            if abs(float(turn[place])) <= most:
                found.append((first, frames[place], float(turn[place])))
        return Pairs(*torch.tensor(found).T)

    def images_of(self, pairs: Pairs) -> tuple[Image, Image]:
        """Return the pictures of the pairs."""
        return self.images[pairs.first.long()], self.images[pairs.second.long()]

    def reverse(self, network: TurnEvaluator) -> list[str]:
        """Exchange the direction of films that clearly turn the other way, by what a network reads; return their names.

        A film's frames tell how far its motor turned and not which way.
        """
        found, rng = [], torch.Generator().manual_seed(2)
        for name, frames in self.frames.items():
            pairs = self.pairs(64, MOST, rng, name)
            fit = line_fit(pairs.turn, read(network, *self.images_of(pairs)).turn)
            if fit.slope < 0 and fit.r2 > 0.4:
                self.yaw[frames] *= -1
                found.append(name)
        return found


@torch.inference_mode()
def read(network: TurnEvaluator, first: Image, second: Image) -> Reading:
    """Return the readings of many pairs, on the CPU."""
    device = next(network.parameters()).device
    parts = [network(a.to(device), b.to(device)) for a, b in zip(first.split(64), second.split(64), strict=True)]
    return Reading(*(torch.cat(columns).double().cpu() for columns in zip(*parts, strict=True)))


def _moved(image: Image, rng: torch.Generator) -> Image:
    """Return pictures moved by up to 3 % and scaled by up to 6 %, as crops around an object vary."""
    n = len(image)
    scale = 1 + 0.06 * (2 * torch.rand(n, generator=rng) - 1)
    moved = 0.06 * (2 * torch.rand(n, 2, generator=rng) - 1)
    theta = torch.stack([scale, 0 * scale, moved[:, 0], 0 * scale, scale, moved[:, 1]], 1).view(n, 2, 3)
    return grid_sample(image, affine_grid(theta, list(image.shape), align_corners=False), align_corners=False)


@dataclass(frozen=True, kw_only=True, slots=True)
class TurnFit:
    """How turns that were read follow turns that are known."""

    seen: Fit | None
    """The fit over pairs whose turn can be seen (`VISIBLE`); None if there are fewer than ten."""
    all: Fit
    """The fit over all pairs."""
    share: float
    """Share of the pairs whose turn can be seen."""


def turn_fit(turn: Float[Tensor, " n"], reading: Reading) -> TurnFit:
    """Return the fit of readings to known turns."""
    seen = reading.spread < VISIBLE
    return TurnFit(
        seen=line_fit(turn[seen], reading.turn[seen]) if seen.sum() >= 10 else None,
        all=line_fit(turn, reading.turn),
        share=float(seen.double().mean()),
    )


@torch.inference_mode()
def measured_turn(
    network: TurnEvaluator, generator: Generator, *, n: int = 600, seed: int = 0, most: float = MOST
) -> TurnFit:
    """Return the fit of turns that the evaluator reads to turns of the rotation knob, up to `most` degrees.

    Raises: ValueError if the generator has no rotation knob.
    """
    knob = next((each for each in generator.knobs if each.name == "rotation"), None)
    if knob is None:
        raise ValueError(f"{type(generator).__name__} has no rotation knob, so no turn to measure")
    rng = torch.Generator().manual_seed(seed)
    turns, pictures = most * (2 * torch.rand(n, generator=rng) - 1), []
    for turn in turns.split(32):
        middle = knob.low + (knob.high - knob.low) * torch.rand(len(turn), generator=rng)
        if knob.high - knob.low < 360:  # both ends stay within the knob's range
            middle = middle.clamp(knob.low + most / 2, knob.high - most / 2)
        codes = repeat(generator.sample(len(turn), rng), 2)
        ends = torch.stack([middle - turn / 2, middle + turn / 2], 1).flatten()
        layers = generator(generator.set(codes, "rotation", ends))
        pictures.append(on_grey(layers.image, layers.mask).cpu())
    shown = torch.cat(pictures)
    return turn_fit(turns, read(network, shown[0::2], shown[1::2]))


def errors(network: TurnEvaluator, films: Films, n: int = 2_000) -> dict[str, Any]:
    """Return the evaluator's errors on pairs of frames up to `MOST` degrees apart: of all, and of those seen."""
    turned = films.reverse(network)
    pairs = films.pairs(n, MOST, torch.Generator().manual_seed(1))
    reading = read(network, *films.images_of(pairs))
    off, seen = (reading.turn - pairs.turn).abs(), reading.spread < VISIBLE
    fit = turn_fit(pairs.turn, reading)
    found = {"films": len(films.frames), "pairs": n, "reversed_films": turned, "seen": fit.share}
    for name, chosen, part in (("all", torch.ones_like(seen), fit.all), ("seen", seen, fit.seen)):
        if part is not None:
            found |= {f"median_error_{name}": float(off[chosen].median()), f"slope_{name}": part.slope}
            found |= {f"r2_{name}": part.r2}
    found["median_of_no_turn"] = float(pairs.turn.abs().median())
    return {k: round(v, 4) if isinstance(v, float) else v for k, v in found.items()}


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
    """A prepared set with masks and the columns sequence and yaw_deg, splits train and validation."""
    out: Path
    """The evaluator's file."""
    start_from: Path | None = None
    """An evaluator to continue from."""
    pairs: int = 80_000
    """Pairs of frames to see."""
    batch: int = 32
    """Pairs a step."""
    tested: int = 2_000
    """Pairs of held-out films to measure errors on."""
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
        network, turned = TurnEvaluator(), []
        if self.start_from is not None:
            network = load_turn_evaluator(self.start_from)
            turned = films.reverse(network)
        network.to(memory_format=torch.channels_last).requires_grad_(True)
        turned += self.fit(network, films)
        state = {k: v.half() if v.is_floating_point() else v for k, v in network.state_dict().items()}
        write_whole(self.out, save({k: v.contiguous() for k, v in state.items()}))
        found = errors(load_turn_evaluator(self.out), held_out, self.tested)
        card = {
            "what": "reads the turn about the vertical axis between two photos of an object, up to 60 degrees",
            "held_out_films": found,
            "reversed_films": turned,
            "trained_on": json.loads((self.data / "set.json").read_text(encoding="utf-8"))["arguments"],
            "licence": self.licence,
            "command": "python -m training.metrics.turn_evaluator --data DIR --out FILE",
            "settings": {k: v for k, v in asdict(self).items() if k not in ("data", "out", "start_from", "licence")},
            "went_on_from": None if self.start_from is None else file_sha256(self.start_from),
            "minutes": round((time.monotonic() - start) / 60, 1),
            "sha256": file_sha256(self.out),
        }
        write_whole(self.out.with_suffix(".json"), (json.dumps(card, indent=1) + "\n").encode())
        return found

    def fit(self, network: TurnEvaluator, films: Films) -> list[str]:
        """Train `network` in place; return the films whose direction was exchanged after half of it.

        The loss is the likelihood of the error under a Laplace distribution of the spread that is read (Kendall and
        Gal 2017, Eq. 8), plus the error itself, which keeps pairs whose turn is hardly seen in the training.
        """
        optimizer = torch.optim.AdamW(network.parameters(), lr=self.learning_rate, weight_decay=0.02)
        steps, turned = max(1, self.pairs // self.batch), []
        schedule = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: rate(step / steps))
        network.train()
        with tqdm(total=steps * self.batch, unit="pairs", mininterval=5) as bar:
            for step, (first, second, turn) in enumerate(self._batches(films, steps)):
                reading = network(first, second)
                error, spread = (reading.turn - turn).abs() / MOST, reading.spread / MOST
                loss = (error / spread + spread.log() + error).mean()
                optimizer.zero_grad(set_to_none=True)
                loss.backward()
                optimizer.step()
                schedule.step()
                bar.update(self.batch)
                if step % 100 == 0:
                    bar.set_postfix(loss=f"{loss.item():.4f}", error=f"{MOST * error.mean().item():.1f}")
                if step == steps // 2:
                    turned = films.reverse(network.eval())
                    network.train()
        network.eval()
        return turned

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
