"""The data directory of the embedded server: its paths, its locks, who may use it."""

import contextlib
import fcntl
import hashlib
import os
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO, Final, Self

from worker.errors import ConfigurationError

# A unix socket's path has 104 bytes on macOS and 108 on Linux, the closing zero byte included.
SOCKET_PATH_MAX: Final = 100


@dataclass(frozen=True, slots=True)
class DataDirectory:
    """A data directory, by its absolute path.

    Both locks are released by the kernel when their holder dies.
    """

    path: Path

    @classmethod
    def of(cls, directory: Path | str) -> Self:
        """The same home for every way to name the directory; creates nothing."""
        return cls(Path(directory).resolve())

    @property
    def owner_lock(self) -> Path:
        """Held by the `run` that will stop the server."""
        return self.path / "owner.lock"

    @property
    def server_lock(self) -> Path:
        """Held by the server process, which inherits it."""
        return self.path / "server.lock"

    @property
    def log(self) -> Path:
        """What the server that runs now, or ran last, had to say."""
        return self.path / "server.log"

    @property
    def socket(self) -> Path:
        """The socket, in the data directory unless its path would be too long for one.

        The short directory does not depend on TMPDIR, which differs between shell and service.
        """
        path = self.path / "server.sock"
        if len(os.fsencode(path)) <= SOCKET_PATH_MAX:
            return path

        digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:24]
        return Path(f"/tmp/chatwoot-cache-{digest}/server.sock")  # noqa: S108  (checked: private)

    def prepare(self) -> None:
        """Create what is missing, for our user alone; raises `ConfigurationError`."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.socket.parent.mkdir(mode=0o700, exist_ok=True)
            self.owner_lock.touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the directory {self.path} cannot be used: {error}"
            ) from error

        self.check_private()

    def check_private(self) -> None:
        """Raise `ConfigurationError` when a short socket directory is not ours, or open to others.

        /tmp is everybody's: who could put a socket there could pose as our server.
        """
        folder = self.socket.parent
        if folder == self.path or not os.path.lexists(folder):
            return

        found = folder.lstat()
        private = stat.S_ISDIR(found.st_mode) and not stat.S_IMODE(found.st_mode) & 0o077
        if not private or found.st_uid not in self._owners():
            raise ConfigurationError(f"{folder} is not a private directory of ours: remove it")

    def is_running(self) -> bool:
        """Whether a server process has the directory.

        For the owner only: to ask is to hold the lock for a moment.
        """
        with opened(self.server_lock) as lock:
            return not locked(lock)

    def rotate_log(self) -> None:
        """Keep one old log, so that what a crashed server said outlives the next start."""
        if self.log.exists():
            self.log.replace(self.path / "server.log.old")

    def last_log_line(self) -> str:
        """The last line the server has logged."""
        lines = self.log.read_text(errors="replace").splitlines()

        return next((line for line in reversed(lines) if line.strip()), "it logged nothing")

    def cleanup(self) -> None:
        """Remove a short socket directory; the server removes its socket itself."""
        if self.socket.parent != self.path:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()

    def _owners(self) -> set[int]:
        """Us, and whoever the data belongs to: root may look on."""
        return {os.geteuid()} | ({self.path.stat().st_uid} if self.path.exists() else set())


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """A lock file; leaving the block gives the lock back."""
    with path.open("ab") as lock:
        yield lock


def locked(lock: BinaryIO) -> bool:
    """Take the lock if nobody has it."""
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False

    return True
