"""The object's field: more octaves than the one that its weights come from."""

import pytest
import torch

from training.nn.fields import ObjectField, with_octaves


def field(octaves: int) -> ObjectField:
    torch.manual_seed(octaves)
    return ObjectField(12, 2, octaves, 6, mirror=True, density=6.0).requires_grad_(False)


@pytest.mark.parametrize("octaves", [1, 4])
def test_a_field_of_more_octaves_is_the_same_at_first(octaves: int):
    few, more = field(octaves), field(octaves + 2)
    more.load_state_dict(with_octaves(few.state_dict(), "", octaves + 2))
    p, w = torch.rand(3, 50, 3) * 2 - 1, torch.randn(3, 6)
    for here, there in zip(few(p, w), more(p, w), strict=True):
        torch.testing.assert_close(here, there)
    more.get_parameter("layers.0.weight").add_(0.1)  # and the new ones are not dead
    assert not torch.allclose(few(p, w)[0], more(p, w)[0], atol=1e-2)


def test_other_weights_stay_as_they_are():
    state = field(4).state_dict()
    assert with_octaves(state, "", 4) == state and with_octaves(state, "", 2) == state
    assert with_octaves(state, "generator.field.", 6) == state
