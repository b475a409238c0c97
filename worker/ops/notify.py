"""Notifies the process manager: PM2 through its IPC channel, systemd through its socket.

Node's child-process channel takes lines of JSON (PM2's `wait_ready`), systemd's sd_notify(3) takes
`NAME=value` datagrams. A failure to notify is ignored.
"""

import contextlib
import os
import socket
import stat
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self


@dataclass(frozen=True, slots=True)
class Notifier:
    """Reports the state of the worker; does nothing without a process manager.

    `channel` is the open descriptor of PM2; `address` the socket of systemd, a path or `@name` in
    the abstract namespace; `alive_every_s` the interval of `alive`, None without a watchdog.
    """

    channel: int | None = None
    address: str | None = None
    alive_every_s: float | None = None

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read NODE_CHANNEL_FD, NOTIFY_SOCKET and WATCHDOG_USEC; unusable values are ignored.

        Call it before any file is opened: a descriptor that the environment names and that was
        closed would otherwise be confused with a new one.
        """
        return cls(
            channel=_pm2_channel(environ),
            address=environ.get("NOTIFY_SOCKET") or None,
            alive_every_s=_watchdog_interval_s(environ),
        )

    def ready(self) -> None:
        """Report that the worker has started."""
        if self.channel is not None:
            with contextlib.suppress(OSError):
                os.write(self.channel, b'"ready"\n')
        self._notify("READY=1")

    def stopping(self) -> None:
        """Report that the worker is shutting down."""
        self._notify("STOPPING=1")

    def alive(self) -> None:
        """Reset systemd's watchdog."""
        self._notify("WATCHDOG=1")

    def _notify(self, state: str) -> None:
        if self.address is None:
            return
        path = f"\0{self.address[1:]}" if self.address.startswith("@") else self.address
        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(state.encode(), path)


def _pm2_channel(environ: Mapping[str, str]) -> int | None:
    """Return PM2's descriptor if it is open and takes JSON; child processes do not inherit it."""
    if environ.get("NODE_CHANNEL_SERIALIZATION_MODE", "json") != "json":
        return None
    with contextlib.suppress(ValueError, OSError, OverflowError):
        descriptor = int(environ.get("NODE_CHANNEL_FD", ""))
        mode = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(mode) or stat.S_ISFIFO(mode):
            os.set_inheritable(descriptor, False)
            return descriptor
    return None


def _watchdog_interval_s(environ: Mapping[str, str]) -> float | None:
    """Return half of systemd's limit, as sd_watchdog_enabled(3) advises."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None
    with contextlib.suppress(ValueError):
        limit_us = int(environ.get("WATCHDOG_USEC", ""))
        return limit_us / 2_000_000 if limit_us > 0 else None
    return None
