"""A replayed generator paints what it would paint anew; without a GPU it is just called."""

from dataclasses import replace

import pytest
import torch

from giraffe_hd.fast import config as giraffe
from giraffe_hd.fast import generator as fast
from giraffe_hd.paper import generator as paper
from giraffe_hd.paper.config import VolumeConfig
from giraffe_hd.paper.presets import COMPCAR_256
from mixnmatch.fast import config as mixing
from mixnmatch.fast import generator as mixnmatch
from training.batched import fields_of
from training.runtime.cuda_graphs import CudaGraphed
from training.types import Generator

SMALL = {"z_dim": 8, "z_dim_bg": 8, "feat_dim": 16, "n_mlp": 2, "resolution": 16, "volume": VolumeConfig(resolution=8)}
FAMILIES = {
    "fast": lambda: fast.Generator(giraffe.GeneratorConfig()),
    "paper": lambda: paper.Generator(replace(COMPCAR_256.generator, **SMALL)),
    "mixnmatch": lambda: mixnmatch.Generator(mixing.GeneratorConfig(resolution=32)),
}


def make(family: str, device: torch.device) -> Generator:
    torch.manual_seed(0)
    return FAMILIES[family]().eval().to(device)


def codes(generator: Generator, seed: int, n: int = 1):
    return generator.sample(n, torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("family", FAMILIES)
def test_replays_are_the_pictures_themselves(family, device):
    plain, again = make(family, device), make(family, device)
    setattr(again, "forward", CudaGraphed(again.forward))  # noqa: B010 (a method's place)
    with torch.inference_mode():
        pictures = [again(codes(again, seed, n)) for seed, n in ((0, 1), (1, 1), (2, 3), (3, 1))]
        for picture, (seed, n) in zip(pictures, ((0, 1), (1, 1), (2, 3), (3, 1)), strict=True):
            expected = plain(codes(plain, seed, n))
            for name, layer in fields_of(expected).items():
                torch.testing.assert_close(
                    getattr(picture, name), layer, rtol=0, atol=1e-5 if device.type != "cpu" else 0
                )


def test_a_feature_is_replayed_too(device):
    plain, again = make("mixnmatch", device), make("mixnmatch", device)
    setattr(again, "forward", CudaGraphed(again.forward))  # noqa: B010
    with torch.inference_mode():
        for seed in range(3):
            c = codes(plain, seed)
            feature = torch.rand(1, plain.config.feature_dim, 16, 16, device=device)
            expected = plain(c, feature=feature).image
            torch.testing.assert_close(again(c, feature=feature).image, expected, rtol=0, atol=1e-5)


def test_gradients_are_not_replayed(device):
    generator = make("mixnmatch", device)
    forward = CudaGraphed(generator.forward)
    image = forward(codes(generator, 0)).image
    assert image.requires_grad
    assert not forward._kept


def test_a_replay_needs_room():
    with pytest.raises(ValueError, match="1 or more"):
        CudaGraphed(lambda codes: codes, most=0)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="this machine has no CUDA device")
def test_recordings_are_made_once_a_shape_and_the_oldest_goes():
    generator = make("fast", torch.device("cuda"))
    forward = CudaGraphed(generator.forward, most=2)
    with torch.inference_mode():
        for n in (1, 1, 2, 1, 3):
            forward(codes(generator, n, n))
    assert len(forward._kept) == 2
