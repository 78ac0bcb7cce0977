"""The swap report on mixers whose faults are known, and its measures by hand."""

import math
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, ClassVar, NamedTuple

import numpy as np
import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from tests.places import CHECKPOINTS
from training.checkpoint import load_generator
from training.config import DataConfig
from training.data.cars.factors import Factors
from training.data.cars.render import render
from training.data.folder import PictureSet
from training.data.prepare import PrepareCars
from training.metrics.car_evaluator import load_evaluator
from training.metrics.clusters import clustering_accuracy, normalised_information, perplexity
from training.metrics.lpips import Lpips, diversity
from training.metrics.masks import read_masks
from training.metrics.mutual_background import deeplab, mutual_background
from training.metrics.report import quick_figures
from training.metrics.silhouette import grain_histogram, orientation, outline_change
from training.metrics.swaps import SwapReport, Table, measure_swaps
from training.metrics.weights import WeightsMissingError
from training.pictures import to_pil
from training.types import Generator, Image, Knob, Mask

BUNDLED = CHECKPOINTS
SIDE = 32
BACKGROUNDS = torch.tensor([[-0.8, -0.8, 0.8], [-0.8, 0.4, -0.8], [-0.9, -0.9, -0.9], [0.0, 0.0, 0.0]])
TEXTURES = torch.tensor([[0.9, 0.9, 0.9], [0.9, -0.9, -0.9], [0.9, 0.9, -0.9], [0.9, 0.2, 0.9], [0.9, 0.5, 0.0]])
ASPECTS = torch.tensor([1.0, 1.6, 2.5])


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    z: Float[Tensor, "n 2"]
    b: Float[Tensor, "n 4"]
    p: Float[Tensor, "n 3"]
    c: Float[Tensor, "n 5"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    image: Image
    background: Image
    mask: Mask


def one_hot(index: Tensor, n: int) -> Tensor:
    return nn.functional.one_hot(index, n).float()


class Toy(Generator):
    """An oblong: three shapes, five colours, any place, four backgrounds. It reads its own pictures exactly."""

    family = "toy"
    resolution = SIDE  # type: ignore[assignment]
    fields: ClassVar = {"background": "b", "pose": "z", "shape": "p", "texture": "c"}
    knobs = tuple(Knob(name=name, label=name.title(), kind="picture") for name in fields) + tuple(  # type: ignore[assignment]
        Knob(name=f"{name}_seed", label=f"Another {name}", kind="seed", high=999, step=1) for name in fields
    )

    def __init__(self, fault: str = "none") -> None:
        super().__init__()
        self.fault = fault
        self.anchor = nn.Parameter(torch.zeros(1))

    def sample(self, n: int, rng: torch.Generator, tied: bool = False) -> Codes:
        c = torch.randint(5, (n,), generator=rng)
        p = c % 3 if tied else torch.randint(3, (n,), generator=rng)
        b = torch.randint(4, (n,), generator=rng)
        z = torch.rand(n, 2, generator=rng) * 0.8 - 0.4
        return Codes(z=z, b=one_hot(b, 4), p=one_hot(p, 3), c=one_hot(c, 5))

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        field = self.fields[name.removesuffix("_seed")]
        if name.endswith("_seed"):
            given = self.sample(1, torch.Generator().manual_seed(int(value)))
            return replace(codes, **{field: getattr(given, field).expand_as(getattr(codes, field))})
        given = self.encode(value)
        if self.fault == "texture takes the place along" and name == "texture":
            return replace(codes, c=given.c, z=given.z)
        return replace(codes, **{field: getattr(given, field)})

    def forward(self, codes: Codes) -> Layers:
        behind = (codes.b @ BACKGROUNDS)[:, :, None, None].expand(-1, -1, SIDE, SIDE)
        line = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
        across, up = line.view(1, 1, -1) - codes.z[:, :1, None], -line.view(1, -1, 1) - codes.z[:, 1:, None]
        aspect = (codes.p @ ASPECTS).view(-1, 1, 1).sqrt()
        r = torch.maximum(across.abs() / aspect, up.abs() * aspect)
        mask = ((0.22 - r) * SIDE / 2 + 0.5).clamp(0, 1)[:, None]
        colour = (codes.c @ TEXTURES)[:, :, None, None]
        if self.fault == "mask of another":
            mask = mask.roll(1, 0)
        return Layers(image=mask * colour + (1 - mask) * behind, background=behind, mask=mask)

    def encode(self, image: Image) -> Codes:
        b = torch.cdist(image[:, :, 0, 0], BACKGROUNDS).argmin(1)
        behind = BACKGROUNDS[b][:, :, None, None]
        # the texture's colour fills the most pixels that are not background
        likeness = [(image - colour[:, None, None]).abs().amax(1) < 0.15 for colour in TEXTURES]
        different = (TEXTURES[None] - BACKGROUNDS[b][:, None]).abs().amax(2) > 0.3
        c = (torch.stack([like.sum((1, 2)) for like in likeness], 1) * different).argmax(1)
        colour = TEXTURES[c][:, :, None, None]
        mask = ((image - behind) * (colour - behind)).sum(1, keepdim=True) / (colour - behind).square().sum(
            1, keepdim=True
        )
        mask = mask.clamp(0, 1)
        place = read_masks(image, mask)
        width, height = (mask.sum(2) > 0.5).sum((1, 2)), (mask.sum(3) > 0.5).sum((1, 2))
        p = (width / height.clamp_min(1))[:, None].sub(ASPECTS).abs().argmin(1)
        z = torch.stack([place["x"], place["y"]], 1).float() / 100
        return Codes(z=z, b=one_hot(b, 4), p=one_hot(p, 3), c=one_hot(c, 5))


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> PictureSet:
    """Pictures of the toy's own world, their masks, and their shape as the label."""
    folder = tmp_path_factory.mktemp("photos")
    (folder / "images").mkdir()
    (folder / "masks").mkdir()
    toy = Toy()
    codes = toy.sample(96, torch.Generator().manual_seed(7))
    layers = toy(codes)
    lines = ["file,split,label,width,height,x0,y0,x1,y1"]
    masks = to_pil(layers.mask.expand(-1, 3, -1, -1) * 2 - 1)
    for i, (picture, mask) in enumerate(zip(to_pil(layers.image), masks, strict=True)):
        picture.save(folder / "images" / f"{i:03}.png")
        mask.convert("L").save(folder / "masks" / f"{i:03}.png")
        lines.append(f"{i:03}.png,train,shape {int(codes.p[i].argmax())},{SIDE},{SIDE},,,,")
    (folder / "index.csv").write_text("\n".join(lines) + "\n")
    return PictureSet(folder, DataConfig(size=SIDE, flip=False))


@cache
def report(fault: str, photos: PictureSet) -> SwapReport:
    return measure_swaps(Toy(fault).eval(), photos, n=96)


def test_a_perfect_mixer_has_ones_on_the_diagonal_and_zeros_beside_it(photos: PictureSet) -> None:
    found = report("none", photos).swaps
    assert found.rows == ("background", "pose", "shape", "texture")
    for i, row in enumerate(found.entries):
        for j, entry in enumerate(row):
            assert entry == pytest.approx(float(i == j), abs=0.12), (found.rows[i], found.columns[j])
    assert found.diagonal > 0.95
    assert found.leakage < 0.04


def test_a_texture_that_takes_the_place_along_is_found_out(photos: PictureSet) -> None:
    found = report("texture takes the place along", photos).swaps
    table = dict(zip(found.rows, found.entries, strict=True))
    place = found.columns.index("place")
    assert table["texture"][place] == pytest.approx(1, abs=0.02)
    assert table["shape"][place] < 0.1
    assert found.over_leak == pytest.approx(1, abs=0.05)  # it leaks as much as should follow
    assert report("none", photos).swaps.over_leak > 8


def test_the_diagonal_over_the_largest_leak_by_hand() -> None:
    names = ("pose", "texture")
    table = Table(rows=names, columns=names, entries=((0.9, -0.1), (0.25, 0.6)))
    assert table.over_leak == pytest.approx(0.75 / 0.25)
    assert replace(table, entries=((1.0, 0.0), (0.0, 1.0))).over_leak == pytest.approx(100)  # no leak: still finite


def test_encoded_mixes_tell_which_code_went_over(photos: PictureSet) -> None:
    found = report("none", photos).recoded
    assert found.columns == ("z", "b", "p", "c")
    wanted = {"background": "b", "pose": "z", "shape": "p", "texture": "c"}
    for factor, row in zip(found.rows, found.entries, strict=True):
        for code, entry in zip(found.columns, row, strict=True):
            assert entry == pytest.approx(float(wanted[factor] == code), abs=0.05)


def test_masks_reconstructions_and_codes_are_held_against_the_given_ones(photos: PictureSet) -> None:
    found = report("none", photos)
    assert found.mask_iou["code"] > 0.95
    assert found.reconstruction["code"] < 2
    assert report("mask of another", photos).mask_iou["code"] < 0.4
    used = found.codes_used
    assert set(used) == {"b", "p", "c"}
    assert used["p"]["accuracy"] == 1
    assert used["p"]["nmi"] == pytest.approx(1)
    assert used["b"]["accuracy"] < 0.6
    assert 3.5 < used["b"]["perplexity"] <= 4


class RendererCodes(NamedTuple):
    """Which columns of the index each factor of a rendered car is."""

    pose: tuple[str, ...] = ("rotation", "elevation", "azimuth", "scale", "tx", "ty", "tz")
    shape: tuple[str, ...] = ("mesh",)
    texture: tuple[str, ...] = ("hue", "saturation", "value")


@dataclass(frozen=True, kw_only=True, slots=True)
class CarCodes:
    factors: Float[Tensor, "n columns"]


class Renderer(Generator):
    """A perfect mixer of rendered cars: it knows the factors of every photo and renders the mix."""

    family = "toy"
    resolution = 64  # type: ignore[assignment]
    knobs = Toy.knobs[:4]  # type: ignore[assignment]

    def __init__(self, pictures: PictureSet) -> None:
        super().__init__()
        self.anchor = nn.Parameter(torch.zeros(1))
        self.columns = list(pictures.factors)
        self.known = torch.stack(list(pictures.factors.values()), 1)
        self.images = pictures.pictures().flatten(1)

    def sample(self, n: int, rng: torch.Generator) -> CarCodes:
        return CarCodes(factors=self.known[torch.randint(len(self.known), (n,), generator=rng)])

    def encode(self, image: Image) -> CarCodes:
        return CarCodes(factors=self.known[torch.cdist(image.flatten(1), self.images).argmin(1)].float())

    def set(self, codes: CarCodes, name: str, value: Any) -> CarCodes:
        given = self.encode(value).factors
        groups = RendererCodes()._asdict()
        groups["background"] = tuple(set(self.columns) - {c for group in groups.values() for c in group})
        columns = [self.columns.index(c) for c in groups[name]]
        return CarCodes(factors=codes.factors.index_copy(1, torch.tensor(columns), given[:, columns]))

    def forward(self, codes: CarCodes) -> Layers:
        values = dict(zip(self.columns, codes.factors.double().numpy().T, strict=True))
        rendered = render(
            Factors(**{f.name: values[f.name].astype(KINDS.get(f.name, float)) for f in fields(Factors)}), 64
        )
        return Layers(image=rendered.image, background=rendered.image, mask=rendered.mask)


KINDS: dict[str, type] = {"mesh": np.int64, "texture": np.int64}


def test_a_perfect_mixer_of_rendered_cars_takes_every_true_factor(tmp_path: Path) -> None:
    PrepareCars(out=tmp_path / "cars", count=44, test=0, seed=5, workers=1).run()
    index = tmp_path / "cars" / "index.csv"
    kept = [line for line in index.read_text().splitlines(keepends=True) if ",car_hatchback," not in line]
    index.write_text("".join(kept))  # the evaluator's first model is none of this set's
    cars = PictureSet(tmp_path / "cars", DataConfig(size=64, flip=False))
    found = measure_swaps(Renderer(cars).eval(), cars, evaluator=load_evaluator(), n=40)
    assert found.truths is not None
    assert found.rotation is not None
    for i, row in enumerate(found.truths.entries):
        for j, entry in enumerate(row):
            # nothing is perfect here but the mixer: the evaluator errs, and 40 cars are few
            assert entry > 0.6 if i == j else abs(entry) < 0.4, (found.truths.rows[i], found.truths.columns[j], entry)
    assert found.truths.diagonal > 0.75
    assert abs(found.truths.leakage) < 0.1
    assert found.rotation.error < 6
    assert found.rotation.flips == 0
    assert found.mask_iou["code"] > 0.95
    assert found.swaps.columns == ("background", "rotation", "model", "paint")
    assert found.swaps.diagonal > 0.85
    assert found.swaps.leakage < 0.15


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_mixes_are_measured_on_a_gpu_as_on_the_cpu(tmp_path: Path) -> None:
    PrepareCars(out=tmp_path / "cars", count=32, test=0, seed=5, workers=1).run()
    cars = PictureSet(tmp_path / "cars", DataConfig(size=64, flip=False))
    found = [
        quick_figures(load_generator(BUNDLED / "mixnmatch-cars-64.safetensors", device), cars, n=32)
        for device in ("cpu", "cuda")
    ]
    assert found[1]["swap_diagonal"] == pytest.approx(found[0]["swap_diagonal"], abs=0.05)


def test_only_readers_of_photos_are_measured(photos: PictureSet) -> None:
    class Mute(Toy):
        knobs = ()  # type: ignore[assignment]

    with pytest.raises(ValueError, match="reads no codes from photos"):
        measure_swaps(Mute(), photos)


def test_perplexity_accuracy_and_information_by_hand() -> None:
    assert perplexity(torch.eye(4)) == pytest.approx(4)
    assert perplexity(torch.tensor([[1.0, 0], [1, 0]])) == pytest.approx(1)
    codes, labels = torch.tensor([2, 2, 0, 0, 1, 1]), torch.tensor([0, 0, 1, 1, 2, 2])
    assert clustering_accuracy(codes, labels) == 1
    assert normalised_information(codes, labels) == pytest.approx(1)
    assert clustering_accuracy(torch.zeros(6, dtype=torch.long), labels) == pytest.approx(1 / 3)
    assert normalised_information(torch.zeros(6, dtype=torch.long), labels) == pytest.approx(0)
    # two codes, four labels: H(code) = ln 2 = I, H(label) = ln 4
    halves, quarters = torch.tensor([0, 0, 1, 1]), torch.arange(4)
    assert normalised_information(halves, quarters) == pytest.approx(math.log(2) / (1.5 * math.log(2)))


def oblong(angle: float, length: float = 0.6, width: float = 0.2, x: float = 0.0, y: float = 0.0) -> Mask:
    line = (torch.arange(96) + 0.5) * 2 / 96 - 1
    across, up = line.view(1, -1) - x, -line.view(-1, 1) - y
    turn = math.radians(angle)
    along, aside = across * math.cos(turn) + up * math.sin(turn), up * math.cos(turn) - across * math.sin(turn)
    return ((along.abs() < length) & (aside.abs() < width)).float()[None, None]


@pytest.mark.parametrize("angle", [0, 30, -60, 80])
def test_orientation_is_that_of_the_long_axis(angle: float) -> None:
    assert orientation(oblong(angle)).item() == pytest.approx(angle, abs=1)


def test_an_outline_is_the_same_wherever_it_is_and_however_it_is_turned() -> None:
    start = oblong(0)
    assert outline_change(start, oblong(35, x=0.2, y=-0.1)).item() < 0.08
    assert outline_change(start, oblong(70, 0.36, 0.12)).item() < 0.08  # smaller, same proportions
    assert outline_change(start, oblong(0, 0.4, 0.3)).item() > 0.2


def test_grain_tells_a_pattern_from_a_plain_colour() -> None:
    mask = torch.ones(1, 1, 8, 8)
    plain, checked = torch.zeros(1, 3, 8, 8), (torch.arange(64).view(8, 8) % 2).float().expand(1, 3, 8, 8)
    assert grain_histogram(plain, mask)[0, 0] == 1
    assert grain_histogram(checked, mask)[0, 0] < 0.2
    assert grain_histogram(checked, mask).sum().item() == pytest.approx(1)


def test_mutual_background_counts_what_the_object_changes_behind_it() -> None:
    class Still(Toy):
        knobs = tuple(Knob(name=n, label=n, kind="seed", high=99, step=1) for n in ("pose_seed", "texture_seed"))  # type: ignore[assignment]

    class Leaking(Still):
        def forward(self, codes: Codes) -> Layers:
            layers = super().forward(codes)
            tint = 2 * 2 / 255 * codes.c[:, :1, None, None]
            return replace(layers, image=layers.image + (1 - layers.mask) * tint)

    still = mutual_background(Still(), lambda image, mask: mask > 0, n=64)
    leaking = mutual_background(Leaking(), lambda image, mask: mask > 0, n=64)
    assert still == 0
    assert leaking is not None
    assert leaking > 0.1


@pytest.fixture
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A torch cache without weights on a machine without internet."""

    def unreachable(*args: object, **kwargs: object) -> None:
        raise OSError("no route to host")

    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    monkeypatch.setattr(torch.hub, "load_state_dict_from_url", unreachable)
    monkeypatch.setattr("torchvision.models._api.load_state_dict_from_url", unreachable)
    return tmp_path


def test_without_weights_lpips_and_deeplab_say_what_to_do(empty_cache: Path) -> None:
    with pytest.raises(WeightsMissingError, match="--lpips-weights FILE"):
        Lpips()
    with pytest.raises(WeightsMissingError, match="generator's own masks"):
        deeplab("car")
    with pytest.raises(ValueError, match="knows no 'house'"):
        deeplab("house")


def test_lpips_is_the_packages_own_with_the_same_trunk(empty_cache: Path) -> None:
    import warnings

    import lpips

    torch.manual_seed(0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # its call of torchvision
        theirs = lpips.LPIPS(net="alex", pnet_rand=True, verbose=False).eval()
    trunk = {f"features.{k.split('.', 1)[1]}": v for k, v in theirs.net.state_dict().items()}  # type: ignore[union-attr, operator]
    torch.save(trunk, empty_cache / "trunk.pth")  # the names of torchvision's file
    ours = Lpips(empty_cache / "trunk.pth")
    a, b = torch.rand(2, 3, 3, 64, 64) * 2 - 1
    with torch.no_grad():
        expected = theirs(a, b).flatten()
    torch.testing.assert_close(ours(a, b), expected)
    assert ours(a, a).abs().max() == 0
    assert ours.name == "LPIPS-trunk"  # not the published trunk: it may not be called LPIPS
    (empty_cache / "odd.pth").write_bytes(b"odd")
    with pytest.raises(ValueError, match="does not hold torchvision's AlexNet"):
        Lpips(empty_cache / "odd.pth")


def test_diversity_is_that_of_one_code_at_a_time() -> None:
    class Plain(Toy):
        def forward(self, codes: Codes) -> Layers:
            return super().forward(replace(codes, c=one_hot(torch.zeros(len(codes.c), dtype=torch.long), 5)))

    found = diversity(Plain(), lambda a, b: (a - b).abs().mean((1, 2, 3)), n=48)
    assert found["texture_seed"] == 0
    assert 0 < found["pose_seed"] < found["all"]
