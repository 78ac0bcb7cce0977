"""The pose reader: alone with each picture, exact to its discriminator, and relative to any prior."""

import math
from dataclasses import replace

import pytest
import torch

from giraffe_hd.fast.config import PoseConfig
from giraffe_hd.fast.reader import PoseReader, ReaderConfig, calibrate, reader_from_discriminator, relative_to
from giraffe_hd.fast.train_reader import knob_figures
from training.nn.discriminator import Discriminator
from training.nn.layers import MinibatchStddev

POSE = PoseConfig(azimuth=(0.0, 0.0), y=(-0.1, 0.06))


@pytest.fixture(scope="module")
def reader() -> PoseReader:
    torch.manual_seed(1)
    return PoseReader(ReaderConfig(resolution=16, channels=(8, 10), pose=POSE)).eval().requires_grad_(False)


def test_a_reader_reads_each_picture_alone(reader):
    image = torch.rand(4, 3, 16, 16) * 2 - 1
    torch.testing.assert_close(reader(image), torch.cat([reader(x) for x in image.split(1)]))


def test_a_reader_is_its_discriminator_at_the_typical_deviation():
    torch.manual_seed(2)
    discriminator = Discriminator((8, 10), 6).eval()
    image = torch.rand(4, 3, 16, 16) * 2 - 1
    with torch.no_grad():
        discriminator.get_parameter("mix.bias").add_(torch.rand(10))
        deviation = MinibatchStddev()(discriminator.maps(image)[-1])[:, -1].mean()
        wanted = discriminator(image)[1]
    state = discriminator.state_dict()
    exact = reader_from_discriminator(state, POSE, float(deviation))
    plain = reader_from_discriminator(state, POSE)
    near = (exact(image) - wanted).abs().mean()
    assert near < 0.7 * (plain(image) - wanted).abs().mean()  # zero padding alone makes a difference
    with pytest.raises(ValueError, match="reads no poses"):
        reader_from_discriminator({"flat.weight": torch.zeros(1)}, POSE)


def test_a_reader_reads_the_same_poses_relative_to_another_prior(reader):
    wider = replace(POSE, elevation=(-5.0, 40.0), scale=(0.2, 0.5), y=(-0.3, 0.1), z=(-0.1, 0.2))
    image = torch.rand(4, 3, 16, 16, generator=torch.Generator().manual_seed(5)) * 2 - 1
    assert not torch.allclose(reader(image)[:, 2:], relative_to(reader, wider)(image)[:, 2:])
    torch.testing.assert_close(relative_to(reader, wider).read(image), reader.read(image))
    flat = replace(POSE, elevation=(3.0, 3.0))
    torch.testing.assert_close(relative_to(reader, flat).read(image).elevation, torch.full((4,), math.radians(3.0)))


@pytest.mark.parametrize("rotation", [(-40.0, 40.0), (0.0, 360.0)])
def test_calibrated_readings_are_right_on_average_at_each_pose(reader, rotation):
    ours = relative_to(reader, replace(POSE, rotation=rotation))
    rng = torch.Generator().manual_seed(6)
    image = torch.rand(64, 3, 16, 16, generator=rng) * 2 - 1
    read = ours(image)
    target = (read + 0.5 * read.std(0) * torch.randn(64, 6, generator=rng)) * 0.8 + 0.3
    target[:, 4] = 0.5  # a knob that stands still tells nothing
    target[:, 5] = torch.randn(64, generator=rng) * 10  # nothing is read of this one
    calibrate(ours, read, target)
    now = ours(image)
    fits = knob_figures(now, target)
    assert fits["elevation_slope"] == fits["scale_slope"] == 1.0
    assert 0.6 < fits["elevation_r2"] < 0.95  # calibration explains no more than before
    torch.testing.assert_close(now[:, 2:4].mean(0), target[:, 2:4].mean(0))
    torch.testing.assert_close(now[:, [1, 4, 5]], read[:, [1, 4, 5]])
    round_about = rotation == (0.0, 360.0)
    assert torch.allclose(now[:, 0], read[:, 0]) == round_about


def test_figures_of_a_reader_are_slope_and_squared_correlation():
    wanted = torch.tensor([-0.5, -0.2, 0.1, 0.6])
    rotation, spread = wanted * 0.9, torch.tensor([1.0, -1.0, -1.0, 1.0])  # `spread` is no part of the line
    numbers = torch.stack([wanted.sin(), wanted.cos(), wanted, wanted, wanted, torch.zeros(4)], 1)
    read = torch.stack([rotation.sin(), rotation.cos(), wanted / 2 + 3, -wanted, spread, spread], 1)
    found = knob_figures(read, numbers)
    assert (found["rotation_slope"], found["rotation_r2"]) == (0.9, 1.0)
    assert (found["elevation_slope"], found["elevation_r2"]) == (0.5, 1.0)
    assert (found["scale_slope"], found["scale_r2"]) == (-1.0, 1.0)
    assert found["x_r2"] == 0.015  # covariance .05, variances .165 and 1
    assert "y_slope" not in found


def test_a_rotation_that_goes_round_is_measured_by_sine_and_cosine():
    angle = torch.arange(8) * math.pi / 4
    wanted = torch.stack([angle.sin(), angle.cos(), *torch.zeros(4, 8)], 1)
    found = knob_figures(0.7 * wanted, wanted)
    assert found == {"rotation_slope": 0.7, "rotation_r2": 1.0}
