"""How annotations are checked under pytest (see pyproject): beartype, an int where a float is wanted being right."""

from collections.abc import Callable
from typing import Any, get_args, get_origin

from beartype import BeartypeConf, beartype
from jaxtyping import AbstractArray

written = beartype(conf=BeartypeConf(is_pep484_tower=True))
INNER: dict[Any, Callable[..., Any]] = {}
"""Checks of functions within functions, by all that they are made from."""


def checked(function: Callable[..., Any]) -> Callable[..., Any]:
    """Return `function`, which stands for one of ours and has its signature alone, with its annotations checked.

    A function within another comes here in every call of that one; as beartype takes milliseconds to write a check,
    the one it wrote for the same annotations serves again.
    """
    if "<locals>" not in function.__qualname__:
        return written(function)
    hints = tuple((name, meaning(hint)) for name, hint in function.__annotations__.items())
    own = (function.__module__, function.__qualname__, function.__code__)
    key = (*own, len(function.__defaults__ or ()), frozenset(function.__kwdefaults__ or ()), hints)
    if key not in INNER:
        INNER[key] = written(function)
    return INNER[key]


def meaning(hint: Any) -> Any:
    """Return what is equal for equal annotations, and can be hashed: jaxtyping makes a new class each time."""
    if isinstance(hint, type) and issubclass(hint, AbstractArray):
        return hint.dtype, hint.array_type, hint.dim_str
    if isinstance(hint, list):  # arguments of a Callable
        return tuple(map(meaning, hint))
    inside = get_args(hint)
    return (get_origin(hint), *map(meaning, inside)) if inside else hint
