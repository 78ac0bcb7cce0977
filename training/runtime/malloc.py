"""Memory of the C library: what freed tensors leave behind is used for the next ones."""

import ctypes

TRIM_THRESHOLD, MMAP_THRESHOLD, ARENA_MAX = -1, -3, -8
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


def spare_memory(*, arenas: int, large: int) -> bool:
    """Let this process give memory back as soon as it is free; return whether its C library can (glibc on Linux).

    As it comes, glibc keeps a heap for each of many threads, and after the first large block that is freed keeps such
    blocks: a server would stay as large as it was at its busiest moment.

    Args:
        arenas: heaps at most.
        large: bytes from which on a block is given back at once; eight times that much may lie free at a heap's end.
    """
    try:
        setting = ctypes.CDLL(None).mallopt
    except (AttributeError, OSError, TypeError):  # another C library; Windows
        return False
    return bool(setting(ARENA_MAX, arenas) and setting(MMAP_THRESHOLD, large) and setting(TRIM_THRESHOLD, 8 * large))


def trim() -> None:
    """Give memory that is free back to the system, where the C library can (glibc)."""
    try:
        ctypes.CDLL(None).malloc_trim(0)
    except (AttributeError, OSError, TypeError):
        return
