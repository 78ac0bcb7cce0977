"""Settings of glibc's malloc: reuse of the memory of freed tensors, or its early release."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
"""Names of glibc's settings in `malloc.h`."""


def keep_memory() -> bool:
    """Let this process keep the memory of freed tensors; return whether the C library supports it (glibc on Linux).

    By default glibc maps each large tensor and unmaps it afterwards, and the kernel zeroes every new page, which takes
    about as long as the layer that writes it. Results are unchanged.
    """
    try:
        setting = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return False
    return bool(setting(MMAP_THRESHOLD, 2**30) and setting(TRIM_THRESHOLD, 2**31 - 1))


def spare_memory(*, arenas: int, large: int) -> bool:
    """Let this process release memory as soon as it is free; return whether the C library supports it (glibc on Linux).

    By default glibc has a heap for each of many threads and, after the first large block is freed, keeps such blocks,
    so that a server stays as large as its peak.

    Args:
        arenas: largest number of heaps.
        large: bytes from which a block is released at once; up to eight times that may stay free at a heap's end.
    """
    try:
        setting = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return False
    return bool(setting(ARENA_MAX, arenas) and setting(MMAP_THRESHOLD, large) and setting(TRIM_THRESHOLD, 8 * large))


def trim() -> None:
    """Release free memory to the system, where the C library supports it (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
