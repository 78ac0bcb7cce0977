"""The pose reader: alone with each picture, exact to its discriminator, and relative to any prior."""

import math
from dataclasses import replace

import pytest
import torch

from giraffe_hd.fast.config import PoseConfig
from giraffe_hd.fast.reader import PoseReader, ReaderConfig, reader_from_discriminator, relative_to
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
