"""Ops with Triton kernels; each op's file has the plain PyTorch definition and the dispatch.

Kernels are Triton's, compiled at first use: no nvcc, but a C compiler for the few lines that launch them.
"""

import importlib.util
import logging
import os
from functools import cache

import torch

log = logging.getLogger(__name__)

os.environ.setdefault("TRITON_DEFAULT_FP_FUSION", "1")  # fused multiply-adds, which Triton 3.10 will want to be told


def interpreting() -> bool:
    """Return whether Triton runs kernels as plain Python, on CPU tensors too (TRITON_INTERPRET=1): for tests."""
    return os.environ.get("TRITON_INTERPRET", "0").lower() in ("1", "true", "on")


def triton_works(device_type: str, device_index: int | None = None) -> bool:
    """Return whether kernels run on this device; if they do not on a GPU, the reason and remedy are logged once."""
    return _triton_works(device_type, device_index)


# what torch.compiler.assume_constant_result does once it has imported the whole compiler, which takes over a second
triton_works._dynamo_marked_constant = True  # type: ignore[attr-defined]


@cache
def _triton_works(device_type: str, device_index: int | None) -> bool:
    if interpreting():
        return importlib.util.find_spec("triton") is not None
    if device_type != "cuda":
        return False
    device = torch.device(device_type if device_index is None else f"{device_type}:{device_index}")
    if torch.version.cuda is None or torch.cuda.get_device_capability(device) < (8, 0):
        log.warning("%s: plain PyTorch, because kernels want an NVIDIA GPU of 2020 or later", device)
        return False
    if importlib.util.find_spec("triton") is None:
        log.warning("%s: plain PyTorch, because Triton is missing; `pip install triton` makes it faster", device)
        return False
    try:
        from training.nn.ops.probe_triton import probe

        probe(device)
    except Exception as error:  # any error of this small kernel rules out all kernels; the reference always works
        reason = str(error).strip().splitlines() or [type(error).__name__]
        log.warning(
            "%s: plain PyTorch, because Triton cannot build kernels here (%s); a C compiler, gcc or clang, and the "
            "headers of Python make it faster", device, reason[0]
        )  # fmt: skip
        return False
    return True
