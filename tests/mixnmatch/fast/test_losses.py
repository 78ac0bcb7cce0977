"""Losses of the fast MixNMatch, against values worked by hand."""

import math

import pytest
import torch

from mixnmatch.fast import losses
from mixnmatch.fast.discriminators import PatchDiscriminator
from training.nn import gan


def test_logistic_losses_by_hand():
    real, painted = torch.tensor([0.0, 2.0]), torch.tensor([0.0, -2.0])
    expected = math.log(2) + math.log1p(math.exp(-2))  # each mean is half of this, and there are two
    assert gan.discriminator_loss(real, painted).item() == pytest.approx(expected)
    assert gan.generator_loss(torch.tensor([0.0])).item() == pytest.approx(math.log(2))


def test_r1_of_a_linear_discriminator_is_its_squared_weight():
    weight = torch.tensor([3.0, 4.0])
    x = torch.randn(5, 2, requires_grad=True)
    assert gan.r1_penalty(x @ weight, x).item() == pytest.approx(25)


def test_r1_adds_its_inputs():
    x, y = torch.randn(3, 1, requires_grad=True), torch.randn(3, 1, requires_grad=True)
    assert gan.r1_penalty((2 * x + 3 * y).squeeze(1), x, y).item() == pytest.approx(4 + 9)


def test_cells_that_meet_the_box_are_left_out():
    # 8 pixels, cells of 2 pixels every 2: the box covers x from 2 to 4 and y from 4 to 6, so one cell alone
    boxes = torch.tensor([[0.25, 0.5, 0.5, 0.75]])
    weights = losses.cell_weights(boxes, side=8, cells=4, field=2, stride=2)
    expected = torch.ones(1, 4, 4)
    expected[0, 2, 1] = 0
    assert torch.equal(weights, expected)


def test_a_box_over_all_leaves_no_cell_and_no_loss():
    boxes = torch.tensor([[0.0, 0.0, 1.0, 1.0]])
    weights = losses.cell_weights(boxes, side=64, cells=24, field=18, stride=2)
    assert weights.sum() == 0
    assert losses.weighted_mean(torch.randn(1, 24, 24), weights) == 0


@pytest.mark.parametrize("field", [18, 10])
def test_patch_critic_cells_see_what_the_box_weights_say(field):
    critic, box = PatchDiscriminator(8, field), torch.tensor([[20.0, 28.0, 40.0, 44.0]]) / 64
    image = torch.randn(1, 3, 64, 64)
    other = image.clone()
    x0, y0, x1, y1 = (box[0] * 64).tolist()
    other[:, :, math.ceil(y0) : int(y1), math.ceil(x0) : int(x1)] = 1.0
    clear = critic.clear_of(box)[0].bool()
    changed = (critic(image)[0] != critic(other)[0])[0]
    assert changed.any()
    assert clear.any()
    assert not (changed & clear).any()
    assert (changed | clear).all()


def test_patch_critic_of_another_field_is_refused():
    with pytest.raises(ValueError, match="expected one of"):
        PatchDiscriminator(8, 34)


def test_shrunk_box():
    box = torch.tensor([[0.2, 0.4, 0.6, 0.8]])
    torch.testing.assert_close(losses.shrunk(box, 0.5), torch.tensor([[0.3, 0.5, 0.5, 0.7]]))


def test_area_hinge_by_hand():
    mask = torch.zeros(2, 1, 4, 4)
    mask[1] = 1  # shares 0 and 1; both ends are missed, by 0.1 and by 0.4
    assert losses.area(mask, (0.1, 0.6)).item() == pytest.approx((0.1 + 0.4) / 2)
    assert losses.area(torch.full((1, 1, 4, 4), 0.3), (0.1, 0.6)) == 0


def test_child_area_by_hand():
    parent = torch.ones(1, 1, 2, 2)
    assert losses.child_area(0.2 * parent, parent).item() == pytest.approx(0.3)
    assert losses.child_area(0.7 * parent, parent) == 0


def test_binary_is_zero_for_hard_masks_only():
    hard = torch.tensor([0.0, 1.0]).view(1, 1, 1, 2)
    assert losses.binary(hard) == 0
    assert losses.binary(torch.full((1, 1, 2, 2), 0.5)).item() == pytest.approx(1.0)  # 0.5 over 0.5


def test_containment_counts_the_mask_where_no_box_is():
    boxes = torch.tensor([[0.0, 0.0, 0.5, 1.0], [0.0, 0.0, 0.25, 1.0]])
    torch.testing.assert_close(losses.coverage(boxes, 4)[0], torch.tensor([1.0, 0.5, 0.0, 0.0]))
    assert losses.containment(torch.ones(1, 1, 4, 4), boxes).item() == pytest.approx(0.5)
    left = torch.zeros(1, 1, 4, 4)
    left[..., :2] = 1
    assert losses.containment(left, boxes) == 0


def test_share_gradient_scales_the_gradient_alone():
    x = torch.tensor([2.0], requires_grad=True)
    y = losses.scale_gradient(x, 0.25)
    (3 * y).backward()
    assert y.item() == 2
    assert x.grad is not None
    assert x.grad.item() == pytest.approx(0.75)


@pytest.mark.parametrize(("n", "kinds"), [(7, 3), (3, 10), (12, 4)])
def test_balanced_draws_each_kind_alike(n, kinds):
    counts = losses.balanced(n, kinds, torch.Generator().manual_seed(0)).bincount(minlength=kinds)
    assert counts.sum() == n
    assert counts.max() - counts.min() <= 1


def test_box_fit_by_hand():
    boxes = torch.tensor([[0.25, 0.5, 0.75, 1.0]])  # of 4 pixels: columns 1 and 2, rows 2 and 3
    exact = losses.inside(boxes, 4)
    assert exact.sum() == 4
    assert losses.box_projection(exact, boxes) == 0
    assert losses.box_projection(torch.zeros(1, 1, 4, 4), boxes).item() == pytest.approx(0.5 + 0.5)
    column = exact.clone()
    column[..., 2] = 0  # one column of four is missed, no row
    assert losses.box_projection(column, boxes).item() == pytest.approx(0.25)


def test_relief_knows_no_brightness_no_colour_and_no_background():
    torch.manual_seed(0)
    image, mask = torch.rand(1, 3, 8, 8), torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1
    relief = losses.relief(image, mask)
    other = image.clone()
    other[:, :, :2] = 0.9
    tinted = other + torch.tensor([0.3, -0.3, 0.0]).view(1, 3, 1, 1) + 0.2
    torch.testing.assert_close(losses.relief(tinted, mask), relief)
    assert not relief[..., :2].any()


def test_clay_is_zero_for_a_grey_picture_of_the_same_brightness():
    image, mask = torch.rand(1, 3, 4, 4), torch.ones(1, 1, 4, 4)
    grey = image.mean(1, keepdim=True).expand(-1, 3, -1, -1)
    assert losses.shading_consistency(grey, image, mask).item() == pytest.approx(0, abs=1e-6)
    assert losses.shading_consistency(grey + 0.25, image, mask).item() == pytest.approx(0.25, abs=1e-6)


def test_outline_by_hand():
    mask = torch.zeros(1, 1, 8, 8)
    mask[..., 2:6, 2:6] = 1  # a square of 4 pixels: outline 16, root of the area 4
    assert losses.perimeter(mask, 3.0).item() == pytest.approx(1.0)
    assert losses.perimeter(mask, 4.0) == 0
    mask[..., 3:5, 3:5] = 0  # a hole of 2 pixels: 8 more, and 12 pixels left
    assert losses.perimeter(mask, 0.0).item() == pytest.approx(24 / 12**0.5)


def test_rivals_follow_their_shares_and_are_two():
    pair = losses.two_candidates(torch.tensor([[0.7, 0.2, 0.1]]).repeat(20_000, 1), torch.Generator().manual_seed(0))
    assert (pair[:, 0] != pair[:, 1]).all()
    first = pair[:, 0].bincount(minlength=3) / len(pair)
    torch.testing.assert_close(first, torch.tensor([0.7, 0.2, 0.1]), atol=0.01, rtol=0)
    both = ((pair == 0).any(1) & (pair == 1).any(1)).float().mean()  # 0.7 * 0.2 / 0.3 + 0.2 * 0.7 / 0.8
    assert both.item() == pytest.approx(0.6417, abs=0.01)
