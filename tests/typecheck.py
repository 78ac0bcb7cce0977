"""How annotations are checked under pytest (see pyproject): beartype, an int where a float is wanted being right."""

from collections.abc import Callable
from typing import Any

from beartype import BeartypeConf, beartype

_beartyped = beartype(conf=BeartypeConf(is_pep484_tower=True))
_inner: dict[Any, Callable[..., Any]] = {}
"""Checks of functions within functions, by all that they are made from."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which stands for one of ours and has its signature alone, with its annotations checked.

    A function within another comes here in every call of that one: beartype, which takes milliseconds to write a
    check, then writes it once.
    """
    if "<locals>" not in function.__qualname__:
        return _beartyped(function)
    key = (
        *(function.__module__, function.__qualname__, function.__code__, len(function.__defaults__ or ())),
        *(frozenset(function.__kwdefaults__ or ()), tuple(function.__annotations__.items())),
    )
    try:
        found = _inner.get(key)
    except TypeError:  # an annotation that cannot be hashed
        return _beartyped(function)
    if found is None:
        found = _inner[key] = _beartyped(function)
    return found
