"""The data directory of the embedded server: its paths, locks and permissions."""

import contextlib
import fcntl
import hashlib
import os
import stat
from pathlib import Path
from typing import BinaryIO, Final

from worker.errors import ConfigurationError

SOCKET_PATH_MAX: Final = 100
"""Bytes; the limit is 104 on macOS and 108 on Linux, with the terminating zero byte."""


class DataDirectory:
    """A data directory; creates nothing before `prepare`.

    `owner_lock` is held by the `run` that will stop the server, `server_lock` by the server, which
    inherits it. The kernel releases both when their holder dies.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path).resolve()
        self.owner_lock = self.path / "owner.lock"
        self.server_lock = self.path / "server.lock"
        self.log = self.path / "server.log"
        self.socket = self.path / "server.sock"
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MAX:
            # Not in TMPDIR, which differs between a shell and a service.
            digest = hashlib.sha256(os.fsencode(self.path)).hexdigest()[:24]
            self.socket = Path(f"/tmp/chatwoot-cache-{digest}/server.sock")  # noqa: S108  (checked: private)

    def prepare(self) -> None:
        """Create what is missing, for our user only; raises `ConfigurationError`."""
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
        """Raise `ConfigurationError` when others could put a socket of their own into /tmp."""
        folder = self.socket.parent
        if folder == self.path or not os.path.lexists(folder):
            return
        status = folder.lstat()
        is_private = stat.S_ISDIR(status.st_mode) and not stat.S_IMODE(status.st_mode) & 0o077
        # The owner of the data is trusted too, so that root can use the server.
        owners = {os.geteuid()} | ({self.path.stat().st_uid} if self.path.exists() else set())
        if not is_private or status.st_uid not in owners:
            raise ConfigurationError(f"{folder} is not a private directory of ours: remove it")

    def is_running(self) -> bool:
        """Tell whether a server uses the directory; only for the owner, as it tries the lock."""
        with self.server_lock.open("ab") as lock:
            return not try_lock(lock)

    def last_log_line(self) -> str:
        """Return the last line that the server logged."""
        lines = self.log.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "it logged nothing")

    def cleanup(self) -> None:
        """Remove a socket directory in /tmp; the server itself removes its socket."""
        if self.socket.parent != self.path:
            with contextlib.suppress(OSError):
                self.socket.parent.rmdir()


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed; false when another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
