"""The evaluator of turns between photos: odd, taught by films, and a measure of a generator's rotation knob."""

import json
import math
from pathlib import Path

import numpy as np
import PIL.Image
import pytest
import torch

from tests.places import CHECKPOINTS
from tests.training.data.photos import index
from training.checkpoint import load_generator
from training.data.folder import PictureSet
from training.data.prepare import Prepare
from training.files import file_sha256
from training.metrics.car_evaluator import load_evaluator
from training.metrics.turn_evaluator import (
    DATA,
    MOST,
    Films,
    Reading,
    Train,
    TurnEvaluator,
    load_turn_evaluator,
    measured_turn,
    on_grey,
)

SHIPPED = CHECKPOINTS / "readers" / "fruit-turns.safetensors"


def ball(yaw: float, seed: int) -> np.ndarray:
    """A striped ball turned by `yaw` degrees, 64 x 64, on white; a spot in front moves to the left as it turns."""
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[-1.3:1.3:64j, -1.3:1.3:64j]
    inside = x**2 + y**2 < 1
    depth = np.sqrt((1 - x**2 - y**2).clip(0))
    longitude = np.arctan2(x, depth) + math.radians(yaw)
    waves, shifts = rng.integers(1, 6, (3, 4)), rng.uniform(0, 2 * math.pi, (3, 4))
    paint = [
        sum(np.cos(k * longitude + s + 2 * y) for k, s in zip(*both, strict=True))
        for both in zip(waves, shifts, strict=True)
    ]
    colours = 128 + 30 * np.stack(paint, -1)
    return np.where(inside[..., None], colours, 255).clip(0, 255).astype(np.uint8)


@pytest.fixture(scope="module")
def films(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A prepared set of twelve films of balls, 24 frames each, two of them held out."""
    source = tmp_path_factory.mktemp("balls") / "photos"
    (source / "images").mkdir(parents=True)
    (source / "masks").mkdir()
    lines = ["file,split,label,sequence,yaw_deg"]
    for film in range(12):
        for frame in range(24):
            name, picture = f"{film}_{frame:02d}.png", ball(15 * frame, film)
            PIL.Image.fromarray(picture).save(source / "images" / name)
            PIL.Image.fromarray(((picture != 255).any(-1) * 255).astype(np.uint8)).save(source / "masks" / name)
            split = "validation" if film > 9 else "train"
            known = "" if frame == 23 else str(15 * frame)  # one frame of unknown yaw
            lines.append(f"{name},{split},ball,film-{film},{known}")
    (source / "index.csv").write_text("\n".join(lines) + "\n")
    out = source.parent / "set"
    Prepare(source=source, out=out, size=64, views="all-sides", mask_share=(0, 1)).run()
    assert len(index(out)) == 288
    return out


def test_pairs_are_frames_of_one_film_at_their_turn(films: Path) -> None:
    pictures = PictureSet(films, DATA)
    found = Films(pictures)
    pairs = found.pairs(200, MOST, torch.Generator().manual_seed(0))
    names, yaw = pictures.sequences, pictures.factors["yaw_deg"]
    for first, second, turn in zip(*(column.tolist() for column in pairs), strict=True):
        first, second = int(first), int(second)
        assert names[first] == names[second]
        assert turn == pytest.approx((yaw[second] - yaw[first] + 180) % 360 - 180)
        assert abs(turn) <= MOST
    assert pairs.turn.std() > 25


def test_sets_without_films_are_refused(films: Path) -> None:
    pictures = PictureSet(films, DATA, "validation")
    pictures.sequences = ("",) * len(pictures)
    with pytest.raises(ValueError, match="no films"):
        Films(pictures)


def test_exchanging_the_pictures_changes_the_sign() -> None:
    torch.manual_seed(0)
    network = TurnEvaluator().eval()
    a, b = torch.rand(2, 5, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        one, other = network(a, b), network(b, a)
        torch.testing.assert_close(one.turn, -other.turn, atol=1e-4, rtol=0)
        torch.testing.assert_close(one.spread, other.spread)
        assert network(a, a).turn.abs().max() < 1e-4


def test_the_background_does_not_matter() -> None:
    image, other = torch.rand(2, 2, 3, 128, 128)
    mask = torch.zeros(2, 1, 128, 128)
    mask[:, :, 32:96, 32:96] = 1
    swapped = image * mask + other * (1 - mask)
    assert torch.equal(on_grey(image, mask), on_grey(swapped, mask))


def test_place_and_size_do_not_matter() -> None:
    small = torch.zeros(1, 3, 64, 64)
    small[:, 0, 20:40, 8:28] = torch.linspace(-1, 1, 20)
    mask = (small != 0).any(1, keepdim=True).float()
    large, large_mask = (torch.nn.functional.interpolate(x, scale_factor=2, mode="nearest") for x in (small, mask))
    moved = [x.roll((30, -7), (2, 3)) for x in (large, large_mask)]
    assert (on_grey(*moved) - on_grey(small, mask)).abs().mean() < 0.01


def test_films_that_turn_the_other_way_are_found(films: Path) -> None:
    found = Films(PictureSet(films, DATA, "validation"))
    true = found.yaw.clone()

    class Knows(TurnEvaluator):
        """Reads true turns, by the picture's own digest."""

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> Reading:
            place = [[int((found.images - x).abs().sum((1, 2, 3)).argmin()) for x in half] for half in (first, second)]
            turn = (true[place[1]] - true[place[0]] + 180) % 360 - 180
            return Reading(turn, torch.ones_like(turn))

    name = next(iter(found.frames))
    found.yaw[found.frames[name]] *= -1
    assert found.reverse(Knows()) == [name]
    known = [i for frames in found.frames.values() for i in frames]
    assert torch.equal(found.yaw[known], true[known])


def test_it_learns_turns_from_films(films: Path, tmp_path: Path) -> None:
    out = tmp_path / "balls.safetensors"
    found = Train(data=films, out=out, pairs=960, batch=16, tested=200).run()
    assert found["films"] == 2
    assert found["median_error_all"] < 0.5 * found["median_of_no_turn"]
    card = json.loads(out.with_suffix(".json").read_text())
    assert card["held_out_films"] == found
    load_turn_evaluator(out)


def test_the_bundled_one_is_what_its_card_says() -> None:
    load_turn_evaluator(SHIPPED)
    card = json.loads(SHIPPED.with_suffix(".json").read_text())
    assert card["sha256"] == file_sha256(SHIPPED)
    assert "CC BY-SA 4.0" in card["licence"]
    held_out = card["held_out_films"]
    assert held_out["films"] >= 15 and held_out["pairs"] >= 2000
    assert held_out["median_error_seen"] < 4 and held_out["seen"] > 0.4


def test_a_file_that_holds_none_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="no file"):
        load_turn_evaluator(tmp_path / "none.safetensors")
    with pytest.raises(ValueError, match="holds no turn evaluator"):
        load_turn_evaluator(CHECKPOINTS / "giraffe-hd-cars-64.safetensors")


def test_it_measures_a_generator() -> None:
    class Reads(TurnEvaluator):
        """Reads the turn of cars by the bundled evaluator of rendered cars."""

        def __init__(self) -> None:
            super().__init__()
            self.network = load_evaluator()

        def forward(self, first: torch.Tensor, second: torch.Tensor) -> Reading:
            turn = self.network.read(second).rotation - self.network.read(first).rotation
            return Reading((turn + 180) % 360 - 180, torch.ones_like(turn))

    generator = load_generator(CHECKPOINTS / "giraffe-hd-cars-64.safetensors")
    fit = measured_turn(Reads(), generator, n=64)
    assert fit.share == 1 and fit.seen is not None
    assert 0.6 < abs(fit.seen.slope) < 1.2  # it never saw crops
