"""Weights and steps of small runs."""

from pathlib import Path

import torch
from torch import nn

from training.checkpoint import load_generator
from training.types import Batch, Phase, Step


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_generator(folder / "generator.safetensors").state_dict()


def assert_same(one: dict[str, torch.Tensor], two: dict[str, torch.Tensor]) -> None:
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        assert torch.equal(tensor, two[name]), name


def toy_phase(loss) -> tuple[nn.Linear, Phase]:
    network = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(network.parameters(), lr=0.1)
    return network, Phase(name="toy", network=network, optimizer=optimizer, losses=lambda b, s: {"loss": loss(network)})


def step_at(index: int = 0, images: int = 0) -> Step:
    return Step(index=index, images=images, rng=torch.Generator())


BATCH = Batch(image=torch.zeros(1, 3, 2, 2))
