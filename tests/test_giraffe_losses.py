"""GIRAFFE HD's fast losses by hand."""

import math

import pytest
import torch

from giraffe_hd.losses import (
    binarisation,
    coverage,
    discriminator_loss,
    generator_loss,
    pose_error,
    r1_penalty,
)


def test_adversarial_losses_by_hand():
    zero = torch.zeros(3)
    assert generator_loss(zero).item() == pytest.approx(math.log(2))
    assert discriminator_loss(zero, zero).item() == pytest.approx(2 * math.log(2))
    assert discriminator_loss(torch.tensor([1.0]), torch.tensor([-2.0])).item() == pytest.approx(
        math.log(1 + math.exp(-1)) + math.log(1 + math.exp(-2))
    )


def test_r1_of_a_linear_critic_is_its_squared_slope():
    image = torch.rand(2, 3, 4, 4, requires_grad=True)
    slope = torch.randn(3, 4, 4)
    logit = (image * slope).sum((1, 2, 3))
    torch.testing.assert_close(r1_penalty(logit, image), slope.square().sum())


def test_pose_error_by_hand():
    true = torch.zeros(1, 6)
    read = torch.tensor([[1.0, 0, 0, 0, 0, 2.0]])
    assert pose_error(read, true, (2.0, 2.0, 1.0, 1.0, 1.0, 0.5)).item() == pytest.approx((2 * 1 + 0.5 * 4) / 6)


def test_coverage_is_per_picture():
    """One picture full, one empty: the mean over the batch is right, each picture is wrong."""
    hit = torch.ones(2, 1, 4, 4)
    alpha = torch.stack([torch.ones(1, 4, 4), torch.zeros(1, 4, 4)])
    assert coverage(alpha, hit, (0.4, 0.8)).item() == pytest.approx((0.2 + 0.4) / 2)
    assert coverage(torch.full((2, 1, 4, 4), 0.5), hit, (0.4, 0.8)).item() == 0


def test_binarisation_by_hand():
    assert binarisation(torch.tensor([[[[0.0, 1.0], [0.5, 0.2]]]])).item() == pytest.approx((0.5 + 0.2) / 4)
