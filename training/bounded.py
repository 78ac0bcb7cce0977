"""Limits for networks built from an untrusted config: none may be much larger than the weights in its file."""

import math
import threading
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.modules import module as registering
from torch.overrides import TorchFunctionMode
from torch.utils.hooks import RemovableHandle

SPARE_NUMBERS = 2**24
"""Tensor elements that a network may allocate besides its weights, such as grids of pixels."""
SPARE_PARTS = 256
"""Modules and parameters that a network may have besides 8 for each tensor of its file."""


TOO_MUCH = "its config asks for far more layers or numbers than the file has"


def check_numbers(config: Any, shapes: Mapping[str, Sequence[int]]) -> None:
    """Raise ValueError if an integer in a config, given as JSON, exceeds the number of weights in `shapes`.

    No valid count or size does, and a list of that length would take gigabytes before any layer is built.
    """
    most = 2**16 + sum(math.prod(shape) for shape in shapes.values())
    waiting = [config]
    while waiting:
        value = waiting.pop()
        if isinstance(value, dict | list):
            waiting.extend(value.values() if isinstance(value, dict) else value)
        elif isinstance(value, int) and abs(value) > most:
            raise ValueError(TOO_MUCH)


class Bounded(TorchFunctionMode):
    """Raise ValueError, before memory is allocated, for far more tensor elements or modules than `shapes` has.

    Inside the block, in this thread, tensor elements and modules are counted: ten million modules without weights take
    gigabytes too. The meta device would suffice for the elements alone, but its imports take seconds and 150 MB.
    """

    def __init__(self, shapes: Mapping[str, Sequence[int]]) -> None:
        super().__init__()
        self.numbers = self.most = SPARE_NUMBERS + 4 * sum(math.prod(shape) for shape in shapes.values())
        self.parts = SPARE_PARTS + 8 * len(shapes)
        self._thread = threading.get_ident()
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "Bounded":
        register: Callable[..., RemovableHandle]
        for register in (
            registering.register_module_module_registration_hook,
            registering.register_module_parameter_registration_hook,
            registering.register_module_buffer_registration_hook,
        ):
            self._hooks.append(register(self._count))
        return super().__enter__()

    def __exit__(self, *error: Any) -> None:
        super().__exit__(*error)
        for hook in self._hooks:
            hook.remove()

    def __torch_function__(
        self, func: Callable[..., Any], types: Any, args: Sequence[Any] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Call `func` if its result is within the limit."""
        kwargs = kwargs or {}
        made = _made(getattr(func, "__name__", ""), args, kwargs)
        if made is not None:
            self.numbers -= made
        if self.numbers < 0 or (made is None and _read(args) > self.most):
            self._refuse()
        return func(*args, **kwargs)

    def _count(self, module: nn.Module, name: str, part: Any) -> None:
        if threading.get_ident() == self._thread:
            self.parts -= 1
            if self.parts < 0:
                self._refuse()

    def _refuse(self) -> None:
        raise ValueError(TOO_MUCH)


def _made(name: str, args: Sequence[Any], kwargs: Mapping[str, Any]) -> int | None:
    """Return the number of elements that a tensor factory creates; None for any other function."""
    if name in ("empty", "zeros", "ones", "rand", "randn", "eye", "randperm"):
        return _product(kwargs.get("size", args))
    if name in ("new_empty", "new_zeros", "new_ones", "new_full"):
        return _product(kwargs.get("size", args[1:2] if name == "new_full" else args[1:]))
    if name == "full":
        return _product(kwargs.get("size", args[:1]))
    if name in ("randint", "normal") and (size := kwargs.get("size", args[-1] if args else 0)):
        return _product(size) if isinstance(size, Sequence) else None
    if name in ("linspace", "logspace"):
        return int(kwargs.get("steps", args[2] if len(args) > 2 else 0))
    if name == "arange":
        numbers = [x for x in (*args, *(kwargs[k] for k in ("start", "end") if k in kwargs)) if not _is_list(x)]
        step = kwargs.get("step", numbers[2] if len(numbers) > 2 else 1)
        start, end = (0, numbers[0]) if len(numbers) == 1 else numbers[:2]
        return max(0, math.ceil((end - start) / step))
    if name in ("repeat", "tile") and args and isinstance(args[0], Tensor):
        return args[0].numel() * _product(args[1:])
    return None


def _is_list(x: Any) -> bool:
    return isinstance(x, list | tuple)


def _product(sizes: Any) -> int:
    """Return the product of integers, nested lists included."""
    if _is_list(sizes):
        return math.prod(_product(size) for size in sizes)
    return max(0, int(sizes)) if isinstance(sizes, int) else 1


def _read(args: Sequence[Any]) -> int:
    """Return the number of elements that a function may create from its tensor arguments."""
    tensors = [part for arg in args for part in (arg if _is_list(arg) else (arg,)) if isinstance(part, Tensor)]
    if len(tensors) < 2:
        return sum(tensor.numel() for tensor in tensors)
    try:
        together = math.prod(torch.broadcast_shapes(*(tensor.shape for tensor in tensors)))
    except RuntimeError:
        together = 0
    return max(together, sum(tensor.numel() for tensor in tensors))
