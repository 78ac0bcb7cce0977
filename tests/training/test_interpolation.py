"""Ways between codes."""

import math

import pytest
import torch

from training.interpolation import are_shares, interpolate, slerp


def test_codes_are_interpolated_along_an_arc():
    a, b = torch.tensor([[3.0, 0.0]]), torch.tensor([[0.0, 5.0]])
    torch.testing.assert_close(slerp(a, b, 0.5), torch.tensor([[2.0, 2.0]]) * 2**0.5)
    for t, end in ((0.0, a), (1.0, b)):
        torch.testing.assert_close(slerp(a, b, t), end)
    torch.testing.assert_close(slerp(a, a, 0.3), a)
    torch.testing.assert_close(slerp(a, -a, 0.25), a / 2)  # no arc leads to the opposite


def test_shares_go_straight_and_the_rest_along_arcs():
    assert are_shares(torch.tensor([[0.25, 0.75], [1.0, 0.0]]))
    assert not are_shares(torch.tensor([[0.6, 0.8]]))
    start = {"b": torch.tensor([[1.0, 0.0]]), "z": torch.tensor([[1.0, 0.0]]) * 2}
    end = {"b": torch.tensor([[0.0, 1.0]]), "z": torch.tensor([[0.0, 1.0]]) * 2}
    middle = interpolate(start, end, 0.5)
    assert middle["b"].tolist() == [[0.5, 0.5]]
    torch.testing.assert_close(middle["z"], torch.tensor([[1.0, 1.0]]) * 2**0.5)
    with pytest.raises(ValueError, match="nan is no place between two codes"):
        interpolate(start, end, math.nan)
