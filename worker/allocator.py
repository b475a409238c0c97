"""How the process keeps its memory: its loop fills and empties the same megabytes for ever."""

import contextlib
import ctypes
import gc
from typing import Final

_M_TRIM_THRESHOLD: Final = -1
_M_MMAP_THRESHOLD: Final = -3
"""Parameters of mallopt(3)."""

_KEPT_BYTES: Final = 32 * 1024 * 1024

_GC_THRESHOLDS: Final = (20_000, 20, 20)


def tune_allocator() -> None:
    """Keep what a batch took for the next one, and look for garbage seldom.

    glibc would give a batch's half megabyte back to the kernel, and take it anew, page by page,
    for each batch; the garbage collector would look through all that lives a thousand times a
    minute, and a batch leaves no cycles. Together a sixth of the worker's time.
    """
    with contextlib.suppress(OSError, AttributeError):
        libc = ctypes.CDLL(None)
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
    gc.collect()
    gc.freeze()
    gc.set_threshold(*_GC_THRESHOLDS)
