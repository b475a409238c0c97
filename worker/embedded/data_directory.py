"""The data directory of the embedded server: its paths and locks."""

import fcntl
import os
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

    def prepare(self) -> None:
        """Create what is missing, for our user only; raises `ConfigurationError`."""
        if len(os.fsencode(self.socket)) > SOCKET_PATH_MAX:
            raise ConfigurationError(
                f"the directory {self.path} cannot be used: the path of the socket in it would be"
                f" longer than {SOCKET_PATH_MAX} bytes; set CACHE_REDIS_URI to a shorter path"
            )
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.owner_lock.touch(mode=0o600)
        except OSError as error:
            raise ConfigurationError(
                f"the directory {self.path} cannot be used: {error}"
            ) from error

    def is_running(self) -> bool:
        """Tell whether a server uses the directory; only for the owner, as it tries the lock."""
        with self.server_lock.open("ab") as lock:
            return not try_lock(lock)

    def last_log_line(self) -> str:
        """Return the last line that the server logged."""
        lines = self.log.read_text(errors="replace").splitlines()
        return next((line for line in reversed(lines) if line.strip()), "it logged nothing")


def try_lock(file: BinaryIO) -> bool:
    """Lock an open file until it is closed; false when another process holds the lock."""
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
