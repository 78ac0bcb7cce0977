"""Checks of untrusted PyTorch files: only tensors and plain values, and no larger in memory than on disk."""

import argparse
import io
import zipfile
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from training.devices import out_of_memory

MOST_VALUES = 1_000_000
"""Values, containers included, that a file may hold."""
DEEPEST = 32
"""Containers within containers."""


def check_archive(file: Path | io.BytesIO, size: int, *, sums: bool = True) -> None:
    """Check that a `torch.save` archive of `size` bytes does not unpack to more; with `sums`, that its checksums hold.

    Checkpoints are stored uncompressed; PyTorch itself checks neither that nor the archive's checksums.

    Raises: ValueError with the reason.
    """
    with zipfile.ZipFile(file) as archive:
        entries = archive.infolist()
        if any(entry.compress_type != zipfile.ZIP_STORED for entry in entries):
            raise ValueError("it is compressed")
        if sum(entry.file_size for entry in entries) > size:
            raise ValueError("it would unpack to more than it is")
        if sums and archive.testzip() is not None:
            raise ValueError("its checksums do not hold")


def check_content(content: Any, size: int) -> None:
    """Check the content read from a file of `size` bytes: the number of values, and the size of the tensors.

    A tensor of stride 0 may repeat one stored number a billion times; its first copy would take that memory.

    Raises: ValueError with the reason.
    """
    left = 4 * size + 2**20  # parts may share their storage
    for n, (value, depth) in enumerate(_values(content)):
        if n >= MOST_VALUES or depth > DEEPEST:
            raise ValueError("it holds too many values, or too deeply nested ones")
        if isinstance(value, Tensor):
            if value.layout != torch.strided or value.device.type != "cpu" or value.is_quantized:
                raise ValueError(f"it holds a tensor of the kind {value.layout} on {value.device}")
            left -= value.numel() * value.element_size()
            if left < 0:
                raise ValueError("its tensors are larger than the file")


def _values(content: Any) -> Iterator[tuple[Any, int]]:
    """Yield `content` and all values in it, each with its depth; a value that is referenced twice comes twice."""
    waiting = [(content, 0)]
    while waiting:
        value, depth = waiting.pop()
        yield value, depth
        if isinstance(value, argparse.Namespace):
            value = vars(value)
        if isinstance(value, Mapping):
            waiting.extend((part, depth + 1) for item in value.items() for part in item)
        elif isinstance(value, list | tuple | set | frozenset):
            waiting.extend((part, depth + 1) for part in value)


PREFIXES = ("module.", "_orig_mod.", "model.", "net.")
"""Prefixes that wrappers of networks, such as DataParallel, put before each key."""


def tables(content: Any) -> list[tuple[str, Mapping[Any, Any]]]:
    """Return the dictionaries in a file's content as (name of the entry, dictionary): itself and nested ones, outer
    first.

    A prefix that all keys of one have, such as `module.`, is removed.
    """
    found: list[tuple[str, Mapping[Any, Any]]] = []
    waiting = [("", content, 0)]
    while waiting:
        name, value, depth = waiting.pop(0)
        if isinstance(value, Mapping):
            found.append((name, without_prefix(value)))
            if depth < 3:
                waiting.extend((str(key), part, depth + 1) for key, part in value.items())
    return found


def without_prefix(table: Mapping[Any, Any]) -> Mapping[Any, Any]:
    """Return `table` without the prefix that a wrapper put before all of its keys."""
    for prefix in PREFIXES:
        if table and all(isinstance(key, str) and key.startswith(prefix) for key in table):
            return without_prefix({key.removeprefix(prefix): value for key, value in table.items()})
    return table


def python_numbers(content: Any) -> Any:
    """Return nested values with NumPy's numbers and arrays as Python's."""
    if isinstance(content, np.generic | np.ndarray):
        return content.tolist()
    if isinstance(content, argparse.Namespace):
        return argparse.Namespace(**{str(k): python_numbers(v) for k, v in vars(content).items()})
    if isinstance(content, Mapping):
        return {python_numbers(key): python_numbers(value) for key, value in content.items()}
    if isinstance(content, list | tuple) and not isinstance(content, torch.Size):
        return [python_numbers(value) for value in content]
    return content


def read_state(content: bytes) -> Any:
    """Return the content of a resume state, on the CPU.

    Raises: ValueError, with the reason, for anything but an uncompressed archive of tensors and plain values.
    """
    try:
        check_archive(io.BytesIO(content), len(content), sums=False)  # a state's name holds its checksum
        state = torch.load(io.BytesIO(content), weights_only=True, map_location="cpu")
        check_content(state, len(content))
    except Exception as error:  # a damaged or hostile file may raise anything
        if out_of_memory(error):
            raise
        raise ValueError(str(error).strip().partition("\n")[0] or type(error).__name__) from error
    return state
