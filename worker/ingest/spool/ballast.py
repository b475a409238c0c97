"""The ballast of a spool: a file that occupies room on the disk, which can be freed when needed."""

import contextlib
import os
import shutil
from pathlib import Path
from typing import Final

NAME: Final = "ballast"

MAX_BYTES: Final = 256 * 1024
"""Deleting all rows writes 16 KiB, moving a row of 64 KiB behind the others about 200 KiB."""

_SHARE: Final = 16
"""A small spool has a smaller ballast: this part of its limit."""

_MARGIN_BYTES: Final = 128 * 1024
"""What stays free beside a ballast that is written: it must not take a webhook's room."""


class Ballast:
    """The ballast of one directory; workers that share the directory share it."""

    def __init__(self, directory: Path, spool_max_bytes: int) -> None:
        self._path = directory / NAME
        self._bytes: Final = min(MAX_BYTES, spool_max_bytes // _SHARE)

    def keep(self) -> None:
        """Write the file if it is missing and there is room for it; never raises."""
        with contextlib.suppress(OSError):
            if not self._is_whole() and self._has_room():
                self._write()

    def release(self) -> bool:
        """Delete the file, so that its room is free; False where there was none."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True

    def _is_whole(self) -> bool:
        return self._path.exists() and self._path.stat().st_size >= self._bytes

    def _has_room(self) -> bool:
        return free_bytes(self._path.parent) >= self._bytes + _MARGIN_BYTES

    def _write(self) -> None:
        """Write random bytes: zeros would take up no room where the file system compresses."""
        file = os.open(self._path, os.O_WRONLY | os.O_CREAT, 0o600)
        try:
            os.write(file, os.urandom(self._bytes))
            os.fsync(file)
        finally:
            os.close(file)


def free_bytes(directory: Path) -> int:
    """Return the room that the disk of a directory has left for users other than root."""
    return shutil.disk_usage(directory).free
