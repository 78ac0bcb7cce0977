"""A further model in a few lines: what a package has to bring besides its one entry in `training.registry.FAMILIES`."""

from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from training import types
from training.config import DataConfig, LoopConfig
from training.registry import Family
from training.types import Batch, Image, Knob, Mask, Phase, Step, knob_seeds

FAMILY = Family(
    model="tests.third_model:Generator",
    config="tests.third_model:GeneratorConfig",
    recipe="tests.third_model:Recipe",
    presets={"third": "tests.third_model:PRESET"},
)


@dataclass(frozen=True, kw_only=True, slots=True)
class GeneratorConfig:
    size: int = 16


@dataclass(frozen=True, kw_only=True, slots=True)
class TrainConfig:
    family: str = field(default="third", init=False)
    loop: LoopConfig = field(default_factory=lambda: LoopConfig(images=16, batch=4))
    data: DataConfig = field(default_factory=lambda: DataConfig(size=16))
    generator: GeneratorConfig = field(default_factory=GeneratorConfig)


@dataclass(frozen=True, kw_only=True, slots=True)
class Codes:
    z: Float[Tensor, "n z"]


@dataclass(frozen=True, kw_only=True, slots=True)
class Layers:
    image: Image
    mask: Mask


class Generator(types.Generator):
    family: ClassVar[str] = "third"

    def __init__(self, config: GeneratorConfig) -> None:
        super().__init__()
        self.config, self.paint = config, nn.Linear(4, 3 * config.size**2)

    @property
    def knobs(self) -> tuple[Knob, ...]:
        return (Knob(name="look", label="Look", kind="seed", high=99, step=1),)

    @property
    def resolution(self) -> int:
        return self.config.size

    def sample(self, n: int, rng: torch.Generator) -> Codes:
        return Codes(z=torch.randn(n, 4, generator=rng).to(self.device))

    def set(self, codes: Codes, name: str, value: Any) -> Codes:
        drawn = [
            self.sample(1, torch.Generator().manual_seed(seed)).z for seed in knob_seeds(name, value, len(codes.z))
        ]
        return replace(codes, z=torch.cat(drawn).expand_as(codes.z))

    def forward(self, codes: Codes) -> Layers:
        image = torch.tanh(self.paint(codes.z)).unflatten(1, (3, self.config.size, self.config.size))
        return Layers(image=image, mask=(image[:, :1] > 0).float())


class Recipe:
    def __init__(self, config: TrainConfig, device: torch.device) -> None:
        self.generator = Generator(config.generator).to(device)
        self.networks = nn.ModuleDict({"generator": self.generator})
        self.average: types.Generator = self.generator

    def phases(self) -> list[Phase]:
        adam = torch.optim.Adam(self.generator.parameters(), lr=0.01)
        return [Phase(name="G", network=self.generator, optimizer=adam, losses=self.losses)]

    def begin(self, batch: Batch, step: Step) -> None:
        """Nothing is shared."""

    def losses(self, batch: Batch, step: Step) -> dict[str, Tensor]:
        drawn = self.generator(self.generator.sample(len(batch.image), step.rng)).image
        return {"mean": (drawn.mean(0) - batch.image.mean(0)).square().mean()}

    def grids(self, generator: types.Generator, batch: Batch) -> dict[str, Image]:
        return {"photos": batch.image[:8]}


PRESET = TrainConfig()
