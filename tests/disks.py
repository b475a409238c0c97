"""Small disks that tests can fill: a tmpfs each, which only root may mount."""

import contextlib
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

KIB: Final = 1024
MIB: Final = 1024 * KIB


@contextmanager
def small_disk(directory: Path, size_bytes: int) -> Iterator[Path]:
    """A disk of this size, mounted below `directory` until the end of the block."""
    directory /= f"disk-{size_bytes}"
    directory.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size_bytes}", "tmpfs", str(directory)]
    done = subprocess.run(mount, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        pytest.skip(f"a disk can be filled only where one can be mounted: {done.stderr.strip()}")
    try:
        yield directory
    finally:
        # Lazily: a worker that was told to end may still have files open.
        subprocess.run(["umount", "--lazy", directory], check=True)  # noqa: S607  (as mount)


def fill(directory: Path, *, but_bytes: int = 0) -> Path:
    """Fill the disk of a directory with a file, up to so many bytes; returns the file."""
    path = directory / "another program's file"
    with path.open("ab", buffering=0) as file, contextlib.suppress(OSError):
        while free_bytes(directory) > but_bytes:
            file.write(b"\xff" * min(64 * KIB, free_bytes(directory) - but_bytes))
    return path


def free_bytes(directory: Path) -> int:
    """The room that is left."""
    found = os.statvfs(directory)
    return found.f_bavail * found.f_frsize
