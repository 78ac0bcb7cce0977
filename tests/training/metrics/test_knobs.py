"""The knob report on generators whose knobs are known exactly: right ones, leaking, shuffled, flipped."""

import math
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import pytest
import torch
from jaxtyping import Float
from torch import Tensor, nn

from training.metrics.knobs import KnobReport, _following, measure_knobs
from training.metrics.masks import Readings, changed_share, iou, look_histogram, read_masks
from training.metrics.regression import circle_fit, explained_spread, line_fit, turns, wrap
from training.types import Generator, Image, Knob, Mask

SIDE = 48


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    x: Float[Tensor, " n"]
    y: Float[Tensor, " n"]
    scale: Float[Tensor, " n"]
    rotation: Float[Tensor, " n"]
    look: Float[Tensor, " n"]
    background: Float[Tensor, "n 3"]
    kind: Float[Tensor, " n"]
    """In [0, 1): tells objects apart, without showing."""


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    image: Image
    background: Image
    mask: Mask


class Toy(Generator):
    """A round spot whose colour says how it is turned: red and green are its cosine and sine, blue its look."""

    family = "toy"
    resolution = SIDE  # type: ignore[assignment]
    knobs = (  # type: ignore[assignment]
        Knob(name="rotation", label="Rotation", kind="angle", unit="°", high=360, step=1),
        Knob(name="scale", label="Size", kind="range", unit="×", low=0.8, high=1.2),
        Knob(name="x", label="Left – right", kind="range", unit="%", low=-20, high=20),
        Knob(name="y", label="Down – up", kind="range", unit="%", low=-10, high=10),
        Knob(name="look", label="Look", kind="seed", high=9999, step=1),
        Knob(name="background", label="Background", kind="seed", high=9999, step=1),
    )

    def __init__(self, fault: str = "none") -> None:
        super().__init__()
        self.fault = fault
        self.anchor = nn.Parameter(torch.zeros(1))

    def sample(self, n: int, rng: torch.Generator) -> Codes:
        u = torch.rand(9, n, generator=rng)
        return Codes(
            x=40 * u[0] - 20, y=20 * u[1] - 10, scale=0.8 + 0.4 * u[2], rotation=360 * u[3], look=u[4],
            background=u[5:8].T * 2 - 1, kind=u[8],
        )  # fmt: skip

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        n = len(codes.x)
        if name in ("look", "background"):
            u = torch.rand(3, generator=torch.Generator().manual_seed(int(value)))
            return replace(codes, **({"look": u[:1].expand(n)} if name == "look" else {name: (u * 2 - 1).expand(n, 3)}))
        value = torch.as_tensor(value, dtype=torch.float32).expand(n)
        if self.fault == "shuffled":
            value = value[torch.randperm(n, generator=torch.Generator().manual_seed(n))]
        return replace(codes, **{name: value})

    def forward(self, codes: Codes) -> Layers:
        x, rotation, background, look = codes.x / 100, codes.rotation, codes.background, codes.look
        if self.fault == "leak":  # the size moves the spot by a fifth of what x does over its range
            x = x + 0.2 * 0.4 * (codes.scale - 1) / 0.4
        if self.fault == "flip":  # three in ten objects are turned around
            rotation = rotation + 180 * (codes.kind < 0.3)
        if self.fault == "head-on":  # views from behind look like views from the front
            rotation = torch.where((rotation > 90) & (rotation < 270), 180 - rotation, rotation)
        if self.fault == "backwards":
            rotation = 70 - rotation
        if self.fault == "bleeds":  # two levels of the look are seen in the background, of it in the object
            background = background + 2 * 2 / 255 * (look[:, None] > 0.5)
            look = look + 6 / 255 * (codes.background[:, 0] > 0)
        line = (torch.arange(SIDE) + 0.5) * 2 / SIDE - 1
        across, up = line.view(1, 1, -1) - x.view(-1, 1, 1), -line.view(1, -1, 1) - codes.y.view(-1, 1, 1) / 100
        r2 = (across**2 + up**2) / (0.15 * codes.scale.view(-1, 1, 1)) ** 2
        mask = (4 * torch.exp(-r2 / 2)).clamp(max=1)[:, None]
        mask = torch.where(mask > 0.98, 1.0, mask * (mask > 0.02))  # what counts as wholly one layer is nothing else
        angle = rotation.deg2rad()
        colour = torch.stack([0.8 * angle.cos(), 0.8 * angle.sin(), 1.6 * look - 0.8], 1)
        behind = background[:, :, None, None].expand(-1, -1, SIDE, SIDE) * 0.9
        return Layers(image=mask * colour[:, :, None, None] + (1 - mask) * behind, background=behind, mask=mask)


def read(image: Image, mask: Mask) -> Readings:
    """Read the spot's colour where the mask is whole, the rest from the mask."""
    inside = (mask > 0.999).float()
    colour = (image * inside).sum((2, 3)) / inside.sum((2, 3))
    return read_masks(image, mask) | {"rotation": torch.atan2(colour[:, 1], colour[:, 0]).rad2deg().double() % 360}


@cache
def report(fault: str) -> KnobReport:
    return measure_knobs(Toy(fault).eval(), reader=read, reader_name="toy", n=240, seed=0)


def fit(fault: str, knob: str) -> Any:
    return next(f.fit for f in report(fault).following if f.knob == knob)


def stay(fault: str, knob: str) -> Any:
    return next(s for s in report(fault).staying if s.knob == knob)


@pytest.mark.parametrize("knob", ["rotation", "scale", "x", "y"])
def test_exact_knobs_have_slope_one(knob: str) -> None:
    found = fit("none", knob)
    assert found.slope == pytest.approx(1, abs=2e-3)
    assert found.r2 > 0.999
    assert found.error < 0.1


def test_exact_knobs_do_not_leak() -> None:
    found = report("none")
    assert set(found.readings) == {"rotation", "scale", "x", "y"}
    for knob, row in found.leak.items():
        for name, value in zip(found.readings, row, strict=True):
            assert value == pytest.approx(float(knob == name), abs=2e-3), (knob, name)


def test_a_leak_of_a_fifth_reads_twenty_percent() -> None:
    found = report("leak")
    assert found.leak["scale"][found.readings.index("x")] == pytest.approx(0.2, abs=2e-3)
    assert found.leak["scale"][found.readings.index("y")] < 2e-3
    assert found.leak["x"][found.readings.index("scale")] < 2e-3


@pytest.mark.parametrize("knob", ["rotation", "scale", "x", "y"])
def test_shuffled_knobs_have_slope_zero(knob: str) -> None:
    found = fit("shuffled", knob)
    assert abs(found.slope) < 0.2  # 240 pictures: three standard errors
    assert found.r2 < 0.04


def test_a_knob_of_less_than_a_full_turn_is_read_across_the_seam() -> None:
    class Frontal(Toy):
        knobs = tuple(  # type: ignore[assignment]
            replace(k, low=-40.0, high=40.0, default=0.0) if k.name == "rotation" else k
            for k in Toy.knobs  # type: ignore[attr-defined]
        )

    found = measure_knobs(Frontal("none").eval(), reader=read, reader_name="toy", n=64, seed=0).following
    fitted = next(f.fit for f in found if f.knob == "rotation")  # the reading jumps from 0 to 360
    assert fitted.slope == pytest.approx(1, abs=2e-3)
    assert fitted.r2 > 0.999


def test_flips_are_found_as_flips() -> None:
    found = fit("flip", "rotation")
    assert found.flips == pytest.approx(0.3, abs=0.08)
    assert found.error_unflipped == pytest.approx(0, abs=0.1)
    assert found.within_15 == pytest.approx(1 - found.flips)
    assert fit("none", "rotation").flips == 0


def test_a_knob_that_turns_backwards_from_elsewhere_is_read_as_such() -> None:
    found = fit("backwards", "rotation")
    assert found.slope == pytest.approx(-1, abs=1e-3)
    assert found.offset == pytest.approx(70, abs=0.1)
    assert found.error < 0.1
    assert report("backwards").turns is not None
    assert report("backwards").turns.closed == 1  # type: ignore[union-attr]


def test_where_the_camera_goes_round_too_the_rotation_is_the_rest_of_what_is_seen() -> None:
    class Panned(Toy):
        def set(self, codes: Codes, name: str, value: Any) -> Codes:
            return super().set(codes, "kind" if name == "azimuth" else name, value)

        def forward(self, codes: Codes) -> Layers:
            return super().forward(replace(codes, rotation=codes.rotation + codes.kind))

    toy = Panned().eval()
    pose = (toy.knob("rotation"), Knob(name="azimuth", label="Camera", kind="range", low=-60, high=60))
    rotation = _following(toy, pose, read, 48, torch.Generator().manual_seed(0))[0][0]
    assert rotation.fit.error < 1


def test_full_turns_close_only_if_every_step_is_right() -> None:
    whole, half = report("none").turns, report("head-on").turns
    assert whole is not None
    assert half is not None
    assert (whole.steps_right, whole.closed, whole.once_round) == (1, 1, 1)
    assert (half.closed, half.once_round) == (0, 0)
    assert 0.3 < half.steps_right < 0.7


def test_what_must_stay_is_seen_to_stay() -> None:
    look, background = stay("none", "look"), stay("none", "background")
    assert (look.background_1, look.mask_iou, look.foreground_1) == (0, 1, None)
    assert (background.foreground_1, background.mask_change, background.background_1) == (0, 0, None)
    assert look.look_change > 0.05
    assert background.effect > look.effect > 0
    assert stay("none", "x").mask_iou < 0.9


def test_a_bleed_of_two_levels_is_seen_at_one_level_and_not_at_four() -> None:
    look = stay("bleeds", "look")
    assert look.background_1 == pytest.approx(0.5, abs=0.2)  # of the pictures, those whose look crossed one half
    assert look.background_4 == 0
    background = stay("bleeds", "background")
    assert background.foreground_4 == pytest.approx(0.5, abs=0.2)


def test_masks_are_measured() -> None:
    masks = report("none").masks
    # of 4 exp(-r^2 / 2 s^2) cut at 1: a disc of radius s sqrt(2 ln 4) and a slope of 2 pi s^2, in a picture of 2 x 2
    area = 2 * math.pi * 0.15**2 * (math.log(4) + 1 - 0.02) / 4
    assert masks.mean == pytest.approx(area * (1 + 0.4**2 / 12), rel=0.05)  # 240 random sizes
    assert masks.smallest == pytest.approx(area * 0.64, rel=0.03)
    assert masks.largest == pytest.approx(area * 1.44, rel=0.03)


def test_an_object_that_keeps_its_colours_has_no_drift() -> None:
    class Steady(Toy):
        def forward(self, codes: Codes) -> Layers:
            return super().forward(replace(codes, rotation=torch.zeros_like(codes.rotation)))

    steady = measure_knobs(Steady().eval(), n=48).identity_drift
    assert steady == pytest.approx(0, abs=1e-4)
    drift = report("none").identity_drift  # the spot's colour is its rotation: it changes more than objects differ
    assert drift is not None
    assert drift > 1


def test_without_a_reader_of_angles_rotation_is_left_out() -> None:
    found = measure_knobs(Toy().eval(), n=48)
    assert {f.knob for f in found.following} == {"scale", "x", "y"}
    assert found.turns is None


def test_the_mask_reader_reads_centroid_and_area() -> None:
    mask = torch.zeros(1, 1, 10, 20)
    mask[0, 0, 0:2, 15:20] = 1  # at the right, at the top
    found = read_masks(torch.zeros(1, 3, 10, 20), mask)
    assert found["x"].item() == pytest.approx(75)
    assert found["y"].item() == pytest.approx(40)
    assert found["scale"].item() == pytest.approx((10 / 200) ** 0.5)


def test_a_leak_is_not_mistaken_for_a_readers_noise() -> None:
    rng = torch.Generator().manual_seed(0)
    value = torch.linspace(0, 1, 9)
    noise = torch.randn(400, 9, generator=rng)
    assert explained_spread(value, noise, turn=False) < 0.12  # of 1: naively it would read 0.33
    assert explained_spread(value, noise + 3 * value, turn=False) == pytest.approx(
        3 * value.std(correction=0).item(), rel=0.1
    )


def test_fits_by_hand() -> None:
    knob = torch.tensor([0.0, 1, 2, 3])
    line = line_fit(knob, 2 * knob + 1)
    assert (line.slope, line.r2) == pytest.approx((2, 1))
    with pytest.raises(ValueError, match="more than one value"):
        line_fit(torch.ones(4), knob)
    assert wrap(torch.tensor([190.0, -190, 360, 180])).tolist() == [-170, 170, 0, -180]
    turned = circle_fit(torch.arange(0.0, 360, 10), (torch.arange(0.0, 360, 10) + 180) % 360)
    assert abs(turned.offset) == pytest.approx(180)
    assert turned.flips == 0  # one offset for all is no flip
    assert turns(torch.arange(24.0)[None] * -15, 1).closed == 0


def test_changes_overlaps_and_histograms_by_hand() -> None:
    before, after = torch.zeros(1, 3, 2, 2), torch.zeros(1, 3, 2, 2)
    after[0, 1, 0, 0] = 3 * 2 / 255
    where = torch.tensor([[[[True, True], [False, True]]]])
    assert changed_share(before, after, where, 1) == pytest.approx(1 / 3)
    assert changed_share(before, after, where, 4) == 0
    assert changed_share(before, after, torch.zeros_like(where), 1) is None
    a, b = torch.tensor([[[[1.0, 1], [0, 0]]]]), torch.tensor([[[[1.0, 0], [1, 0]]]])
    assert iou(a, b).item() == pytest.approx(1 / 3)
    assert iou(torch.zeros_like(a), torch.zeros_like(a)).item() == 1
    white = look_histogram(torch.ones(1, 3, 2, 2), a)
    assert white[0, -1].item() == pytest.approx(1)
    assert white.sum().item() == pytest.approx(1)
