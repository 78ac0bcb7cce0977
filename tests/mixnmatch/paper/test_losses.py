"""Losses of the published MixNMatch, by hand."""

import math

import pytest
import torch
from torch import Tensor, nn

from mixnmatch.codes import Codes
from mixnmatch.paper import discriminators as critics_module
from mixnmatch.paper.discriminators import BackgroundDiscriminator, PairCritics
from mixnmatch.paper.encoders import CODES
from mixnmatch.paper.losses import (
    as_fake,
    as_real,
    background_cells,
    background_discriminator_loss,
    code_losses,
    gradient_penalty,
)
from mixnmatch.paper.presets import CUB
from tests.mixnmatch.paper.tiny import TINY, pairs, seeded

# Losses, by hand


def test_real_and_fake_are_cross_entropies():
    assert as_real(torch.zeros(2)).item() == pytest.approx(math.log(2))
    assert as_real(torch.tensor([math.log(3)])).item() == pytest.approx(-math.log(0.75))
    assert as_fake(torch.tensor([math.log(3)])).item() == pytest.approx(-math.log(0.25))
    logits = torch.tensor([0.3, -1.2, 2.0])
    assert as_real(logits).item() == pytest.approx(nn.BCELoss()(logits.sigmoid(), torch.ones(3)).item())
    assert as_fake(logits).item() == pytest.approx(nn.BCELoss()(logits.sigmoid(), torch.zeros(3)).item())
    assert as_real(torch.tensor([-200.0])).item() == 200  # no infinities, no clamp


def test_background_cells_are_those_whose_patch_misses_the_box():
    box = torch.tensor([[50, 0, 60, 126], [50, 90, 60, 126], [126 / 2, 0, 126 / 2, 126], [0, 0, 126, 126]]) / 126
    cells = background_cells(box)
    assert cells.shape == (4, 1, 24, 24)
    # columns k with 4k + 34 >= 50 and 4k <= 60 meet the box: 4 to 15
    column = torch.tensor([1.0] * 4 + [0.0] * 12 + [1.0] * 8)
    assert torch.equal(cells[0, 0], column.expand(24, 24))
    # rows k with 4k + 34 >= 90: 14 to 23
    row = torch.tensor([1.0] * 14 + [0.0] * 10)
    assert torch.equal(cells[1, 0], 1 - (1 - row[:, None]) * (1 - column))
    assert torch.equal(cells[2], torch.ones(1, 24, 24))  # no area, no object
    assert torch.equal(cells[3], torch.zeros(1, 24, 24))


def test_background_cells_where_boxes_are_unknown_are_the_border():
    cells = background_cells(torch.tensor([CUB.box_where_unknown]))[0, 0]
    assert torch.equal(cells[1:-1, 1:-1], torch.zeros(22, 22))
    assert cells.sum() == 24**2 - 22**2


def test_background_critic_counts_real_background_patches_only():
    cells = torch.zeros(2, 1, 24, 24)
    cells[0, 0, 0, :2] = 1
    real = torch.full((2, 1, 24, 24), 7.0)  # what it says of object patches must not matter
    real[0, 0, 0, 0], real[0, 0, 0, 1] = 0.0, math.log(3)
    fake, background = torch.zeros(2, 1, 24, 24), torch.zeros(2, 1, 24, 24)
    of_real, of_background = background_discriminator_loss(real, fake, background, cells)
    assert of_real.item() == pytest.approx((math.log(2) - math.log(0.75)) / 2 + math.log(2))
    assert of_background.item() == pytest.approx(math.log(2))
    background = torch.where(cells > 0, math.log(3), -math.log(3))  # right with 3 : 1 everywhere
    assert background_discriminator_loss(real, fake, background, cells)[1].item() == pytest.approx(-math.log(0.75))
    of_real, _ = background_discriminator_loss(real, fake, background, torch.zeros_like(cells))
    assert of_real.item() == pytest.approx(math.log(2))  # no background patch: only the fake term


def test_code_losses_by_hand():
    codes = Codes(
        z=torch.tensor([[1.0, -1.0]]),
        b=torch.tensor([[1.0, 0.0]]),
        p=torch.tensor([[0.0, 1.0]]),
        c=torch.tensor([[0.25, 0.75]]),
    )
    read = {
        "z": torch.tensor([[0.0, 1.0]]),
        "b": torch.tensor([[0.0, 0.0]]),
        "p": torch.tensor([[0.0, math.log(3)]]),
        "c": torch.tensor([[0.0, math.log(3)]]),
    }
    losses = code_losses(read, codes)
    assert losses["z"].item() == pytest.approx(1.5)
    assert losses["b"].item() == pytest.approx(math.log(2))
    assert losses["p"].item() == pytest.approx(-math.log(0.75))
    assert losses["c"].item() == pytest.approx(-0.25 * math.log(0.25) - 0.75 * math.log(0.75))


class Linear(nn.Module):
    """A pair critic of known gradients: `slope` in one pixel and in one entry of the code."""

    def __init__(self, in_image: float, in_code: float) -> None:
        super().__init__()
        self.in_image, self.in_code = in_image, in_code

    def forward(self, image: Tensor, code: Tensor, rng: torch.Generator) -> Tensor:
        return self.in_image * image[:, 0, 0, 0] + self.in_code * code[:, 0]


def test_gradient_penalty_of_linear_critics_by_hand():
    critics = PairCritics(TINY, 1)
    for k, slopes in zip(CODES, [(1.0, 1.0), (3.0, 1.0), (1.0, 0.5), (0.0, 2.0)], strict=True):
        critics[k] = Linear(*slopes)
    penalty = gradient_penalty(critics, pairs(seed=1), pairs(seed=2), seeded())
    assert penalty.item() == pytest.approx(4 + 0.25 + (1 + 1), rel=1e-6)


def test_gradient_penalty_is_that_of_each_critic_and_input_apart(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr(critics_module.PairCritic, "NOISE", (0.0, 0.0, 0.0))
    torch.manual_seed(0)
    critics = PairCritics(TINY, 2)
    for parameter in critics.parameters():
        parameter.data.mul_(3)  # gradients away from 0
    real, fake = pairs(seed=1), pairs(seed=2)
    calls = []
    grad = torch.autograd.grad
    monkeypatch.setattr(torch.autograd, "grad", lambda *args, **kwargs: (calls.append(1), grad(*args, **kwargs))[1])
    ours = gradient_penalty(critics, real, fake, seeded(7))
    assert len(calls) == 1

    rng = seeded(7)
    t = torch.rand(3, 1, 1, 1, generator=rng)
    image = (t * real[0] + (1 - t) * fake[0]).requires_grad_()
    mixed = {}
    for k in CODES:
        t = torch.rand(3, 1, generator=rng)
        mixed[k] = (t * real[1][k] + (1 - t) * fake[1][k]).requires_grad_()
    terms = []
    for k in CODES:
        for leaf in (image, mixed[k]):
            [gradient] = grad(critics[k](image, mixed[k], rng).sum(), leaf, create_graph=True)
            terms.append((gradient.flatten(1).norm(dim=1) - 1).square().mean())
    plain = torch.stack(terms).sum()
    assert plain.item() > 0.1
    torch.testing.assert_close(ours, plain)
    parameters = list(critics.parameters())
    ours_grads = grad(ours, parameters, allow_unused=True)
    for a, b in zip(ours_grads, grad(plain, parameters, allow_unused=True), strict=True):
        assert (a is None) == (b is None)
        if a is not None and b is not None:
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-6)


def test_pair_critics_add_noise_to_codes_from_the_given_source():
    torch.manual_seed(0)
    critics = PairCritics(TINY, 1).eval()
    image, codes = pairs()
    first, again, other = (critics(image, codes, seeded(s)) for s in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_patch_sees_its_own_pixels_only():
    torch.manual_seed(0)
    critic = BackgroundDiscriminator(2).double()
    scene = torch.zeros(1, 3, 126, 126, dtype=torch.float64, requires_grad=True)
    real, _ = critic(scene)
    assert real.shape == (1, 1, 24, 24)
    [gradient] = torch.autograd.grad(real[0, 0, 5, 7], scene)
    rows, columns = (gradient.abs().sum((0, 1)) > 0).nonzero().unbind(1)
    assert (rows.min().item(), rows.max().item()) == (20, 53)
    assert (columns.min().item(), columns.max().item()) == (28, 61)
