"""Annotations are checked under pytest, those of functions within functions as well, whose checks are written once."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from jaxtyping import Float, TypeCheckError, jaxtyped
from torch import Tensor

from tests.typecheck import INNER, checked


def summing(dim: int, kind: Any = float) -> Callable[..., Tensor]:
    @jaxtyped(typechecker=checked)
    def summed(x: Float[Tensor, "n 3"], by: kind = 2, *, told: list[str] | None = None) -> Float[Tensor, " n"]:
        return x.sum(dim) * (by if isinstance(by, float) else 1)

    return summed


def test_functions_within_functions_are_checked_each_time():
    """The second call of a function that makes one has the first one's check, of the second one's own result."""
    three = torch.ones(2, 3)
    for _ in range(2):
        torch.testing.assert_close(summing(1)(three, 2, told=["an int is a float"]), torch.full((2,), 3.0))
        for wrong in ({"x": three.T}, {"x": three, "by": "2"}, {"x": three, "told": [1]}, {"x": three.int()}):
            with pytest.raises(TypeCheckError, match="parameters of"):
                summing(1)(**wrong)
        with pytest.raises(TypeCheckError, match="return value of"):
            summing(0)(three)
        with pytest.raises(TypeCheckError):
            summing(1, str)(three, 2.0)  # other annotations, another check


def test_a_check_is_written_once():
    summing(1)
    known = len(INNER)
    summing(0)
    assert len(INNER) == known
    summing(1, int | str)
    assert len(INNER) == known + 2  # of the parameters, and of what comes back
