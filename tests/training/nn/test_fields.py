"""The object's field: more octaves or planes than the one that its weights come from; planes of features."""

import pytest
import torch

from training.nn.fields import ObjectField, with_inputs
from training.nn.styled import on_planes


def field(octaves: int) -> ObjectField:
    torch.manual_seed(octaves)
    return ObjectField(12, 2, octaves, 6, mirror=True, density=6.0).requires_grad_(False)


@pytest.mark.parametrize("octaves", [1, 4])
def test_a_field_of_more_octaves_is_the_same_at_first(octaves: int):
    few, more = field(octaves), field(octaves + 2)
    more.load_state_dict(with_inputs(few.state_dict(), "", octaves + 2))
    p, w = torch.rand(3, 50, 3) * 2 - 1, torch.randn(3, 6)
    for here, there in zip(few(p, w), more(p, w), strict=True):
        torch.testing.assert_close(here, there)
    more.get_parameter("layers.0.weight").add_(0.1)  # and the new ones are not dead
    assert not torch.allclose(few(p, w)[0], more(p, w)[0], atol=1e-2)


def test_other_weights_stay_as_they_are():
    state = field(4).state_dict()
    assert with_inputs(state, "", 4) == state and with_inputs(state, "", 2) == state
    assert with_inputs(state, "generator.field.", 6) == state


def planes() -> ObjectField:
    torch.manual_seed(0)
    found = ObjectField(12, 2, 3, 6, mirror=False, density=6.0, planes=(8, 8), plane_features=4)
    return found.requires_grad_(False)


@pytest.mark.parametrize("octaves", [3, 5])
def test_a_field_that_gets_planes_is_the_same_at_first(octaves: int):
    torch.manual_seed(0)
    without = ObjectField(12, 2, 3, 6, mirror=True, density=6.0).requires_grad_(False)
    got = ObjectField(12, 2, octaves, 6, mirror=True, density=6.0, planes=(8, 8), plane_features=4)
    state = with_inputs(without.state_dict(), "", octaves, 12)
    missing, unexpected = got.requires_grad_(False).load_state_dict(state, strict=False)
    assert not unexpected and all(name.startswith("planes.") for name in missing)
    p, w = torch.rand(3, 50, 3) * 2 - 1, torch.randn(3, 6)
    for here, there in zip(without(p, w), got(p, w), strict=True):
        torch.testing.assert_close(here, there)
    got.get_parameter("layers.0.weight")[-12:].add_(0.1)  # the planes are read
    assert not torch.allclose(without(p, w)[0], got(p, w)[0], atol=1e-2)


def test_octaves_are_added_before_the_planes_features():
    few = planes()
    more = ObjectField(12, 2, 5, 6, mirror=False, density=6.0, planes=(8, 8), plane_features=4).requires_grad_(False)
    more.load_state_dict(with_inputs(few.state_dict(), "", 5, 12))
    p, w = torch.rand(3, 50, 3) * 2 - 1, torch.randn(3, 6)
    for here, there in zip(few(p, w), more(p, w), strict=True):
        torch.testing.assert_close(here, there)


def test_each_layer_of_planes_can_have_its_own_style():
    field = planes()
    p, w = torch.rand(2, 30, 3) * 2 - 1, torch.randn(2, 6)
    same = w[:, None].expand(-1, field.n_styles, -1)
    torch.testing.assert_close(field(p, same)[1], field(p, w)[1])
    for layer in range(field.n_styles):
        if layer == len(field.layers):
            continue  # the density's own does not reach the features
        other = same.clone()
        other[:, layer] += 1
        assert not torch.allclose(field(p, other)[1], field(p, w)[1], atol=1e-3), layer


def test_planes_are_read_where_points_project():
    """Worked by hand: the middle of cell (row, column) of each plane, and halfway between two."""
    maps = torch.arange(3 * 4 * 4.0).view(1, 3, 4, 4)  # one feature a plane: planes (y, z), (x, z), (x, y)
    middle = (torch.arange(4) + 0.5) / 2 - 1
    x, y, z = middle[1], middle[2], middle[3]
    halfway = (middle[0] + middle[1]) / 2
    p = torch.stack([torch.stack([x, y, z]), torch.stack([x, halfway, z]), torch.tensor([-1.0, -1.0, -1.0])])
    found = on_planes(maps, p[None])[0]
    cells = [[3 * 4 + 2, 3 * 4 + 1, 2 * 4 + 1], [3 * 4 + 0.5, 3 * 4 + 1, 0.5 * 4 + 1], [0, 0, 0]]
    expected = torch.tensor(cells) + torch.tensor([0.0, 16.0, 32.0])
    torch.testing.assert_close(found, expected)


def test_a_mirrored_field_of_planes_is_symmetric_and_uses_whole_planes():
    torch.manual_seed(0)
    field = ObjectField(12, 2, 3, 6, mirror=True, density=6.0, planes=(8, 8), plane_features=4).requires_grad_(False)
    p, w = torch.rand(2, 30, 3) * 2 - 1, torch.randn(2, 6)
    torch.testing.assert_close(field(p * torch.tensor([1.0, -1.0, 1.0]), w), field(p, w))
    weights = field.weights(w)
    assert weights.planes is not None
    lower = torch.cat([torch.zeros_like(weights.planes[..., :4]), weights.planes[..., 4:]], -1)  # half of each row
    middle = torch.tensor([[[0.3, 0.2, 0.1]]]).expand(2, 1, 3)  # y = .2 is at column 2 * .2 - 1 < 0 of the first plane
    changed = field.at(middle, weights._replace(planes=lower))[1]
    assert not torch.allclose(changed, field.at(middle, weights)[1], atol=1e-3)


def test_the_kernel_refuses_planes():
    with pytest.raises(ValueError, match="without planes"):
        planes().as_op(torch.randn(1, 6))
