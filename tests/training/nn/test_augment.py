"""Augmentation for small sets: none at chance 0, gradients, colours by hand, a chance that follows the critic."""

import pytest
import torch

from training.nn.augment import AdaptiveChance, augment, augment_alike


def test_augment_with_no_chance_is_the_picture_itself():
    image = torch.rand(2, 3, 8, 8) * 2 - 1
    rng = torch.Generator().manual_seed(0)
    assert torch.equal(augment(image, 0.0, rng), image)
    assert not torch.equal(augment(image, 1.0, rng), image)


def test_augment_shifts_repeat_edges_and_pass_gradients():
    image = torch.full((4, 3, 8, 8), 0.5, requires_grad=True)
    augment(image, 0.7, torch.Generator().manual_seed(1)).sum().backward()
    assert image.grad is not None
    assert torch.isfinite(image.grad).all()
    assert image.grad.abs().sum() > 0


def test_colours_alone_leave_every_pixel_in_its_place():
    """A flat picture stays flat: brightness shifts it, saturation and contrast leave grey alone."""
    grey = torch.full((64, 3, 4, 4), 0.2)
    seen = augment(grey, 1.0, torch.Generator().manual_seed(0), ("colour",))
    assert (seen - seen[:, :, :1, :1]).abs().max() < 1e-6
    moved = seen[:, 0, 0, 0] - 0.2
    assert moved.abs().max() <= 0.25
    assert moved.std().item() == pytest.approx(0.5 / 12**0.5, rel=0.25)  # uniform within a quarter


def test_a_shift_repeats_the_edge_and_moves_the_rest():
    column = torch.linspace(-1, 1, 16).expand(8, 3, 16, 16)
    seen = augment(column, 1.0, torch.Generator().manual_seed(3), ("shift",))
    for picture in seen:
        row = picture[0, 0]
        assert (row.diff() >= 0).all()
        assert set(row.tolist()) <= set(column[0, 0, 0].tolist())


def test_the_chance_rises_while_the_critic_is_sure_and_falls_when_not():
    chance = AdaptiveChance(0.6, reach=1_000)
    logged = {}
    for _ in range(20):
        logged = chance.update(torch.ones(10))  # real, says the critic of every picture
    assert chance.sure.item() == pytest.approx(1, abs=0.01)
    assert chance.chance.item() == pytest.approx((20 - 4) * 10 / 1_000, abs=0.011)  # four batches until r_t passed 0.6
    assert logged["augment/chance"] == chance.chance
    for _ in range(200):
        chance.update(torch.tensor([1.0, -1.0]))  # half of them: r_t = 0
    assert chance.chance == 0
    for _ in range(2_000):
        chance.update(torch.ones(10))
    assert chance.chance.item() == pytest.approx(0.8)


@pytest.mark.parametrize("target", [0.0, 1.0, -0.5])
def test_an_impossible_target_is_refused(target):
    with pytest.raises(ValueError, match=r"such as 0\.6"):
        AdaptiveChance(target)


def test_photos_and_their_reconstructions_are_augmented_alike():
    photos = torch.rand(6, 3, 16, 16) * 2 - 1
    first, second = augment_alike((photos, photos.clone()), 1.0, torch.Generator().manual_seed(0))
    assert torch.equal(first, second) and not torch.equal(first, photos)
