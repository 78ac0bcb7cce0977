"""A toy whose photos become knobs: its reader looks at three colours, and its look comes step by step."""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor

from tests.toys import DIM, Blocks, BlocksCodes, BlocksLayers
from training.invertible import Inverted, OnProgress, Progress
from training.types import Image

FIELDS = {"shape": ("z_s_fg",), "look": ("z_a_fg",), "background": ("z_s_bg", "z_a_bg")}


@dataclass(frozen=True, kw_only=True, slots=True)
class StyledCodes(BlocksCodes):
    """Those of `Blocks`, and what the look differs by from its seed."""

    styles: Float[Tensor, "n 3"] | None = None


class Mirrors(Blocks):
    """`Blocks` that invert photos: redness is the rotation, the middle the look, blueness how clear the front is."""

    family: ClassVar[str] = "toy_mirrors"
    steps = 20
    pause = 0.0
    """Seconds that a step takes."""
    running = 0
    done = 0
    """Inversions under way, and steps of all of them."""
    can_invert = True
    parts = tuple(FIELDS)

    def sample(self, n: int, rng: torch.Generator) -> Any:
        codes = super().sample(n, rng)
        return StyledCodes(**{name: getattr(codes, name) for name in codes.__dataclass_fields__})

    def forward(self, codes: Any) -> BlocksLayers:
        if codes.styles is None:
            return super().forward(codes)
        look = codes.z_a_fg.clone()
        look[:, :3] += codes.styles
        return super().forward(replace(codes, z_a_fg=look))

    def set(self, codes: Any, name: str, value: Any) -> Any:
        drawn = super().set(codes, name, value)
        return replace(drawn, styles=None) if name == "look" else drawn

    def part_codes(self, codes: Any, part: str) -> dict[str, Tensor]:
        fields = {name: getattr(codes, name) for name in FIELDS[part]}
        return fields | ({"styles": codes.styles} if part == "look" and codes.styles is not None else {})

    def with_part(self, codes: Any, part: str, fields: dict[str, Tensor]) -> Any:
        wanted = dict.fromkeys(FIELDS[part], DIM) | ({"styles": 3} if part == "look" else {})
        for name, row in fields.items():
            if row.shape != (1, wanted.get(name, -1)):
                raise ValueError(f"codes of {part} do not fit this generator: got {name[:40]} {tuple(row.shape)}")
        if missing := set(FIELDS[part]) - set(fields):
            raise ValueError(f"codes of {part} lack {', '.join(missing)}")
        return replace(codes, **({"styles": None} | fields if part == "look" else fields))

    def knob_values(self, codes: Any) -> dict[str, Tensor]:
        return {
            "rotation": codes.rotation.rad2deg() % 360,
            "elevation": codes.elevation.rad2deg(),
            "scale": codes.scale[:, 0],
            "translation_y": codes.translation[:, 1],
            "translation_z": codes.translation[:, 2],
        }

    def invert(
        self, photo: Image, *, progress: OnProgress | None = None, apart: bool = False, turned: bool = False
    ) -> Inverted:
        red, _, blue = ((photo.mean((0, 2, 3)) + 1) / 2).tolist()
        codes = self.sample(1, torch.Generator().manual_seed(0))
        codes = replace(codes, rotation=torch.full((1,), math.pi * (red + turned)), styles=torch.zeros(1, 3))
        middle = ((photo[:, :, 24:40, 24:40].mean((2, 3)) + 1) / 2).clamp(0.02, 0.98)
        look = torch.logit(middle) / 2 - codes.z_a_fg[:, :3]
        told = progress or (lambda step: True)
        if told(Progress("pose", 0.0, codes, math.nan, blue)) is False:
            return Inverted(codes, math.nan, False)
        self.running += 1
        try:
            for step in range(1, self.steps + 1):
                time.sleep(self.pause)
                self.done += 1
                codes = replace(codes, styles=look * step / self.steps)
                if told(Progress("look", step / self.steps, codes, 1 - step / self.steps)) is False:
                    return Inverted(codes, 0.0, False)
            return Inverted(codes, 0.0)
        finally:
            self.running -= 1
