"""Activations computed twice: the same gradients, R1's second derivatives included, and less that is kept."""

from functools import partial

import pytest
import torch
from torch import Tensor, nn

from giraffe_hd.paper.config import GeneratorConfig, TrainConfig, VolumeConfig
from giraffe_hd.paper.discriminator import Discriminator, ResidualBlock
from giraffe_hd.paper.presets import COMPCAR_256, FFHQ_512, FFHQ_1024
from giraffe_hd.paper.recipe import Recipe
from giraffe_hd.paper.renderer import StyledConv
from training.config import DataConfig, LoopConfig
from training.nn.gan import learning
from training.runtime.sharded_random import sharded_generator
from training.types import Batch, Step


@pytest.fixture(autouse=True)
def narrow(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give the layers a sixteenth of their channels: what is computed twice is the same."""
    monkeypatch.setattr("giraffe_hd.paper.recipe.Discriminator", partial(Discriminator, widest=32))
    monkeypatch.setattr(GeneratorConfig, "channels", lambda self, resolution: 16)


def made(recompute: bool) -> Recipe:
    torch.manual_seed(0)
    recipe = Recipe(
        TrainConfig(
            generator=GeneratorConfig(
                resolution=32, volume=VolumeConfig(resolution=8, n_samples=4), z_dim=8, z_dim_bg=6, feat_dim=12,
                n_mlp=2, prior=COMPCAR_256.generator.prior, fg_gen_mask=True,
            ),
            data=DataConfig(size=32),
            loop=LoopConfig(batch=4, bf16=False),
            recompute=recompute,
        ),
        torch.device("cpu"),
    )  # fmt: skip
    for name, parameter in recipe.generator.named_parameters():
        if name.endswith("noise.weight"):
            nn.init.constant_(parameter, 0.3)  # or the noise would not matter
    recipe.networks.requires_grad_(False)
    return recipe


BATCH = Batch(image=torch.rand(4, 3, 32, 32, generator=torch.Generator().manual_seed(0)) * 2 - 1)


def gradients(recompute: bool, phase: int) -> dict[str, Tensor]:
    recipe = made(recompute)
    chosen = recipe.phases()[phase]
    with learning(chosen.parameters()):
        terms = chosen.losses(BATCH, Step(index=0, images=0, rng=sharded_generator(7)))
        torch.stack(list(terms.values())).sum().backward()
    return {name: p.grad for name, p in chosen.network.named_parameters() if p.grad is not None}


@pytest.mark.parametrize("phase", [0, 1, 2], ids=["D", "R1", "G"])
def test_gradients_are_the_same(phase):
    kept, again = gradients(False, phase), gradients(True, phase)
    assert kept.keys() == again.keys()
    for name, gradient in kept.items():
        near = 1e-5 * float(gradient.abs().max())  # R1's are small
        torch.testing.assert_close(
            again[name], gradient, rtol=1.3e-6, atol=near, msg=lambda s, name=name: f"{name}: {s}"
        )


def bytes_kept(recompute: bool) -> int:
    """Return the bytes that wait for the backward pass of the generator's losses."""
    recipe = made(recompute)
    kept: dict[int, Tensor] = {}

    def keep(tensor: Tensor) -> Tensor:
        kept[tensor.untyped_storage().data_ptr()] = tensor
        return tensor

    def keep_inputs(module: nn.Module, inputs: tuple[Tensor | None, ...]) -> None:
        for tensor in inputs:
            if isinstance(tensor, Tensor):
                keep(tensor)

    for module in recipe.networks.modules():
        if isinstance(module, StyledConv | ResidualBlock):
            module.register_forward_pre_hook(keep_inputs)
    with learning(recipe.generator.parameters()), torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        terms = recipe.generator_losses(BATCH, Step(index=0, images=0, rng=sharded_generator(7)))
    weights = {p.untyped_storage().data_ptr() for p in recipe.networks.parameters()}
    assert terms
    return sum(tensor.untyped_storage().nbytes() for place, tensor in kept.items() if place not in weights)


def test_less_is_kept():
    assert bytes_kept(True) < 0.5 * bytes_kept(False)


def test_the_large_published_presets_do_so():
    assert FFHQ_512.recompute
    assert FFHQ_1024.recompute
    assert not COMPCAR_256.recompute
