"""Choice of the device, and detection of out-of-memory errors."""

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


def out_of_memory(error: BaseException) -> bool:
    """Return whether `error` means that memory, the machine's or a GPU's, is exhausted."""
    if isinstance(error, (MemoryError, torch.OutOfMemoryError)):
        return True
    return isinstance(error, RuntimeError) and any(
        text in str(error) for text in ("can't allocate memory", "not enough memory", "out of memory")
    )
