"""Choice of the device and of its arithmetic, and detection of out-of-memory errors."""

import platform
from pathlib import Path

import torch


def pick_device(name: str | None = None) -> torch.device:
    """Return the device called `name`; by default the GPU where there is one, else the CPU.

    Raises: ValueError for a device that this machine does not have.
    """
    if name is None:
        return torch.device("cuda" if torch.cuda.is_available() else "cpu")
    try:
        device = torch.device(name)
        if device.type == "cuda":  # without initialising CUDA: under torchrun each process uses its own GPU
            there = torch.cuda.device_count()
            if (device.index or 0) >= there:
                raise RuntimeError(f"PyTorch finds {there or 'no'} CUDA device{'s' * (there != 1)} on this machine")
        else:
            torch.zeros(1, device=device).cpu()
    except (RuntimeError, AssertionError, NotImplementedError, ImportError) as error:
        reason = str(error).strip().partition("\n")[0]
        raise ValueError(f"--device {name} cannot be used here ({reason}); give --device cpu") from error
    return device


def has_bfloat16(device: torch.device | str) -> bool:
    """Return whether the device computes in bfloat16; a CPU with AVX2 alone emulates it, ten times slower than float32.

    CPUs with AVX512 but no bfloat16 instructions, where PyTorch's kernels are about as fast in both, count too.
    """
    if torch.device(device).type != "cpu":
        return True
    return torch.backends.cpu.get_cpu_capability() in ("AVX512", "SVE256")


def autocast(device: torch.device | str, *, bf16: bool = True) -> torch.autocast:
    """Return the context of bfloat16 arithmetic where `bf16` asks for it and the device has it, else of float32."""
    device = torch.device(device)
    return torch.autocast(device.type, torch.bfloat16, enabled=bf16 and has_bfloat16(device))


def has_vnni() -> bool:
    """Return whether this CPU sums products of signed and unsigned bytes exactly: an x86 one by its VNNI instructions.

    Without them such sums saturate at 16 bits. False where Linux does not tell.
    """
    if platform.machine().lower() not in ("x86_64", "amd64"):
        return True
    try:
        return "vnni" in Path("/proc/cpuinfo").read_text(encoding="utf-8")
    except OSError:
        return False


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that memory, the machine's or a GPU's, is exhausted."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("can't allocate memory", "not enough memory", "out of memory")
    )
