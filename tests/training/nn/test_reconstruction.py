"""Losses of reconstruction by hand."""

import math

import pytest
import torch

from training.nn.reconstruction import divergence, mask_loss, multiscale_l1, roughness


def test_multiscale_l1_by_hand():
    checks = torch.tensor([[1.0, -1.0], [-1.0, 1.0]]).repeat(2, 2).expand(1, 3, 4, 4)
    flat = torch.zeros(1, 3, 4, 4)
    off = multiscale_l1(torch.cat([flat, checks, flat + 0.5]), flat.expand(3, -1, -1, -1))
    torch.testing.assert_close(off, torch.tensor([0.0, 1.0, 1.5]))  # checks are gone once halved


def test_mask_loss_by_hand():
    mask, given = torch.full((1, 1, 2, 2), 0.5), torch.tensor([1.0, 1, 0, 0]).view(1, 1, 2, 2)
    # cross entropy log 2; Dice: (2 x 1 + 1) / (2 + 2 + 1)
    assert float(mask_loss(mask, given)) == pytest.approx(0.693147 + 1 - 3 / 5, rel=1e-4)


def test_divergence_by_hand():
    mean, log_variance = torch.tensor([[0.0, 0.0], [2.0, 0.0]]), torch.tensor([[0.0, 0.0], [0.0, math.log(4)]])
    assert float(divergence(mean, log_variance)) == pytest.approx((2.0 + 0.5 * (4 - 1 - math.log(4))) / 2)


def test_roughness_by_hand():
    image = torch.tensor([[0.0, 1.0, 9.0], [0.0, 3.0, 9.0]]).expand(1, 3, 2, 3)
    mask = torch.tensor([[1.0, 1.0, 0.0], [1.0, 1.0, 0.0]]).expand(1, 1, 2, 3)
    # down: |0 - 0|, |3 - 1| over two pairs; across: |1 - 0|, |3 - 0| over two
    assert float(roughness(image, mask)) == pytest.approx((1.0 + 2.0) / 2)
    assert float(roughness(image, 0 * mask)) == 0
