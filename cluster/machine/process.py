"""Memory settings for a process that computes on the CPU."""

import ctypes
import platform

M_TRIM_THRESHOLD, M_MMAP_THRESHOLD = -1, -3
LARGEST_MMAP_THRESHOLD = 32 * 2**20  # glibc refuses a larger threshold
KEPT_BYTES = 2**30


def keep_freed_memory() -> bool:
    """Lets glibc keep up to 1 GB of freed memory; returns False on another C library.

    By default glibc returns freed blocks of some 100 KB, the size of one activation, to the kernel,
    and the next allocation causes page faults. At batch 256, width 64 these took over a third of
    the time of a stack of blocks (docs/experiments.md).
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    libc = ctypes.CDLL(None)
    return bool(
        libc.mallopt(M_MMAP_THRESHOLD, LARGEST_MMAP_THRESHOLD)
        and libc.mallopt(M_TRIM_THRESHOLD, KEPT_BYTES)
    )
