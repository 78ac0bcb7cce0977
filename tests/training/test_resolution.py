"""Pictures of other sides than the model's own: by more rays where it renders, resized where it does not."""

import numpy as np
import PIL.Image
import pytest
import torch
from torch.nn.functional import avg_pool2d

from giraffe_hd.fast.generator import Generator
from mixnmatch.photo_generator import PhotoGenerator
from tests.places import CHECKPOINTS
from training.checkpoint import load_generator
from training.nn import volume
from training.resize import resized
from training.runtime.result_cache import ResultCache


@pytest.fixture(scope="module")
def cars() -> Generator:
    return load_generator(CHECKPOINTS / "giraffe-hd-cars-64.safetensors")  # type: ignore[return-value]


@torch.inference_mode()
@pytest.mark.parametrize("times", [2, 4])
def test_more_rays_draw_the_same_picture_finer(cars, rng, times):
    codes, finer = cars.sample(2, rng), cars.at(64 * times)
    assert finer.resolution == 64 * times and finer.sharp
    own, large = cars(codes), finer(codes)
    assert large.image.shape == (2, 3, 64 * times, 64 * times) and large.alpha.shape[-1] == 64 * times
    assert (avg_pool2d(large.image, times) - own.image).abs().mean() < 0.02  # of a range of 2
    assert (avg_pool2d(large.mask, times) - own.mask).abs().mean() < 0.01
    edge, blurred = (gradient(mask) for mask in (large.mask, resized(own.mask, 64 * times)))
    assert edge > 0.8 * times * blurred


def gradient(mask: torch.Tensor) -> float:
    """Return the steepest change from pixel to pixel, on average over rows that cross the outline."""
    return float(mask.diff(dim=3).abs().amax(3).topk(20, dim=2).values.mean())


@torch.inference_mode()
def test_finer_pictures_share_weights_but_no_results(cars, rng):
    cars.result_cache = ResultCache()
    try:
        codes, finer = cars.sample(1, rng), cars.at(128)
        assert finer.result_cache is not cars.result_cache and cars.finer == 1
        assert {id(p) for p in finer.parameters()} == {id(p) for p in cars.parameters()}
        assert cars(codes).image.shape[-1] == 64 and finer(codes).image.shape[-1] == 128
        assert cars.at(64).resolution == 64 and finer.at(64).resolution == 64
    finally:
        cars.result_cache = None


@torch.inference_mode()
def test_other_sides_are_resized_and_say_so(cars, rng):
    codes, between, beyond = cars.sample(1, rng), cars.at(96), cars.at(600)
    assert between.resolution == 96 and between.sharp and beyond.resolution == 600 and not beyond.sharp
    assert between.at(64).resolution == 64
    layers, finer = between(codes), cars.at(128)(codes)
    assert layers.image.shape == (1, 3, 96, 96) and layers.mask.shape == (1, 1, 96, 96)
    torch.testing.assert_close(layers.image, resized(finer.image, 96))
    torch.testing.assert_close(layers.depth, finer.depth)
    assert between.knobs == cars.knobs
    point = torch.zeros(1, 1, 3)
    assert torch.equal(between.density(codes, point), cars.density(codes, point))  # type: ignore[operator]


@torch.inference_mode()
def test_readers_of_photos_read_their_own_side(rng):
    generator = load_generator(CHECKPOINTS / "mixnmatch-clothing-64.safetensors")
    assert isinstance(generator, PhotoGenerator)
    photo = torch.rand(1, 3, 64, 64, generator=rng) * 2 - 1
    large = generator.at(128)
    assert large(large.encode(photo)).image.shape == (1, 3, 128, 128)  # type: ignore[operator]


@pytest.mark.parametrize("side", [0, 15, 4096])
def test_sides_out_of_range_are_refused(cars, side):
    with pytest.raises(ValueError, match="16 to 2048"):
        cars.at(side)


@pytest.mark.parametrize("side", [32, 64, 150])
def test_resized_is_lanczos(side):
    numbers = np.random.default_rng(0).random((64, 64)).astype(np.float32)
    reference = PIL.Image.fromarray(numbers).resize((side, side), PIL.Image.Resampling.LANCZOS)
    expected = np.asarray(reference).clip(numbers.min(), numbers.max())
    np.testing.assert_allclose(resized(torch.from_numpy(numbers)[None, None], side)[0, 0], expected, atol=1e-5)


@torch.inference_mode()
def test_large_pictures_are_rendered_in_parts(cars, rng, monkeypatch):
    codes, finer = cars.sample(2, rng), cars.at(128)
    whole = finer(codes)
    monkeypatch.setattr(volume, "MOST_SAMPLES", 1000)
    parts = finer(codes)
    for name in ("image", "mask", "alpha", "depth"):
        torch.testing.assert_close(getattr(parts, name), getattr(whole, name), rtol=1e-4, atol=1e-5)
