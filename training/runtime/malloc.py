"""Memory of the C library: what freed tensors leave behind is used for the next ones."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD = -1, -3
"""Names of glibc's settings in `malloc.h`."""


def keep_memory() -> bool:
    """Let this process keep the memory of freed tensors; return whether its C library can (glibc on Linux).

    As it comes, glibc asks the system for each large tensor anew and gives it back after: every page of it is then
    filled with zeros first, which takes a CPU about as long as the layer that writes it. Numbers stay the same.
    """
    try:
        setting = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return False
    return bool(setting(MMAP_THRESHOLD, 2**30) and setting(TRIM_THRESHOLD, 2**31 - 1))
