"""Tuning of memory allocation for a loop that allocates and frees the same megabytes."""

import contextlib
import ctypes
import gc
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""

_RETAINED_BYTES: Final = 32 * 1024 * 1024
_GC_THRESHOLDS: Final = (20_000, 20, 20)


def tune_allocator() -> None:
    """Retain freed memory for the next batch, and run the garbage collector rarely.

    By default, glibc returns half a megabyte to the kernel after each batch and takes it again page
    by page, and the garbage collector scans all objects a thousand times a minute, although a batch
    leaves no cycles. Together they took a sixth of the worker's time.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _RETAINED_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _RETAINED_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
