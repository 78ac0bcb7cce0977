"""Whether a place stays as the camera is raised: on a painted ground that is seen truly, and on one that is not."""

import math
from dataclasses import dataclass, replace
from types import SimpleNamespace
from typing import Any, ClassVar

import pytest
import torch
from torch import Tensor

from training.metrics.ground import HOLDS, holds_around, measure_ground
from training.nn.camera import look_at, pixel_plane
from training.types import Generator, Knob

POSE = SimpleNamespace(fov=20.0, scale=(0.25, 0.35), proportions=(1.0, 0.5, 0.5))


@dataclass(frozen=True)
class Codes:
    azimuth: Tensor
    elevation: Tensor
    radius: Tensor
    colour: Tensor


class Painted(Generator):
    """A level ground of slow waves of colour; with `fades`, its colours also turn grey as the camera rises."""

    family: ClassVar[str] = "painted"

    def __init__(self, fades: float = 0.0, *, place: bool = True) -> None:
        super().__init__()
        self.config = SimpleNamespace(pose=POSE)
        self.fades, self.place = fades, place

    @property
    def resolution(self) -> int:
        return 64

    @property
    def knobs(self) -> tuple[Knob, ...]:
        elevation = Knob(name="elevation", label="E", kind="angle", low=10, high=35, default=22.5)
        return (elevation, Knob(name="background", label="B", kind="seed", high=9999, step=1))[: 1 + self.place]

    def sample(self, n: int, rng: torch.Generator) -> Codes:
        return Codes(torch.zeros(n), torch.full((n,), 0.4), torch.full((n,), 2.732), torch.zeros(n, 3))

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        n = len(codes.azimuth)
        if name == "elevation":
            return replace(codes, elevation=torch.full((n,), math.radians(value)))
        return replace(codes, colour=torch.rand(n, 3, generator=torch.Generator().manual_seed(value)) * 2 - 1)

    def forward(self, codes: Codes) -> SimpleNamespace:
        x, y = pixel_plane(64)
        focal = 1 / math.tan(math.radians(POSE.fov) / 2)
        rays = torch.stack([x / focal, y / focal, -torch.ones_like(x)], -1).reshape(1, -1, 3)
        camera = look_at(codes.azimuth, codes.elevation)
        ways = rays @ camera.transpose(1, 2)
        start = camera[:, None, :, 2] * codes.radius[:, None, None]
        far = (-0.075 - start[..., 2]) / ways[..., 2].clamp(max=-1e-3)
        ground = start + far[..., None] * ways
        waves = 0.3 * codes.colour[:, :1].abs() * torch.sin(6 * ground[..., 0]) * torch.cos(5 * ground[..., 1])
        share = (self.fades * (codes.elevation - math.radians(10)).clamp(min=0)).clamp(max=1)[:, None, None]
        colours = (1 - share) * (0.7 * codes.colour[:, None] + waves[..., None])
        return SimpleNamespace(background=colours.transpose(1, 2).reshape(-1, 3, 64, 64))


def test_a_ground_that_is_seen_truly_stays():
    found = measure_ground(Painted(), n=8)
    assert found is not None
    assert found.changed < 0.15 and found.textured < 0.5
    assert found.holds == (pytest.approx(3.75), pytest.approx(41.25))


def test_a_ground_that_fades_holds_only_near_the_middle():
    found = measure_ground(Painted(fades=4.0), n=8)
    assert found is not None
    assert found.changed > HOLDS
    assert 10 < found.holds[0] < 22.5 < found.holds[1] < 35
    at = dict(zip(found.elevations, found.colour, strict=True))
    assert at[41.25] > at[31.25] > at[23.75]


def test_where_a_change_passes_the_limit_is_worked_by_hand():
    changes = {10.0: 0.9, 20.0: 0.1, 30.0: 0.2, 40.0: 0.5, 50.0: 0.0}
    low, high = holds_around(25.0, changes)
    assert low == pytest.approx(20 - 10 * (HOLDS - 0.1) / 0.8)
    assert high == pytest.approx(30 + 10 * (HOLDS - 0.2) / 0.3)
    assert holds_around(25.0, {20.0: 0.1, 30.0: 0.2}) == (20.0, 30.0)


def test_a_generator_without_a_place_is_passed_over():
    assert measure_ground(Painted(place=False)) is None
