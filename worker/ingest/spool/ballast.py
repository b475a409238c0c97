"""The ballast of a spool: a file that reserves disk space, deleted when a full disk needs it."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

NAME: Final = "ballast"

MAX_BYTES: Final = 256 * 1024
"""Deleting all rows writes 16 KiB, moving a row of 64 KiB to the end about 200 KiB."""

_SHARE: Final = 16
"""The ballast takes at most this fraction (1/16) of the spool's limit."""

_MARGIN_BYTES: Final = 128 * 1024
"""What must stay free when the ballast is written, so that a webhook still fits."""


class Ballast:
    """The ballast of one directory; workers that share the directory share it."""

    def __init__(self, directory: Path, spool_max_bytes: int) -> None:
        self._path = directory / NAME
        self._bytes: Final = min(MAX_BYTES, spool_max_bytes // _SHARE)

    def keep(self) -> None:
        """Write the file if it is missing and the disk has room for it; never raises."""
        with contextlib.suppress(OSError):
            is_whole = self._path.exists() and self._path.stat().st_size >= self._bytes
            if not is_whole and free_bytes(self._path.parent) >= self._bytes + _MARGIN_BYTES:
                self._write()

    def release(self) -> bool:
        """Delete the file; returns whether there was one."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _write(self) -> None:
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            # Random bytes: a file system that compresses would store zeros in no space.
            os.write(file, os.urandom(self._bytes))
            os.fsync(file)
        finally:
            os.close(file)


def free_bytes(directory: Path) -> int:
    """Return the free disk space for users other than root."""
    return shutil.disk_usage(directory).free
