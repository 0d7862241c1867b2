"""A process that computes on the CPU: its memory settings, and the processor's name."""

import ctypes
import platform
from contextlib import suppress
from pathlib import Path

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


def cpu_model() -> str:
    """The processor's name, for the conditions of a report."""
    with suppress(OSError):
        for line in Path("/proc/cpuinfo").read_text().splitlines():
            if line.startswith("model name"):
                return line.split(":", 1)[1].strip()
    return platform.processor() or platform.machine()
