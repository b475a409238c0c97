"""What the process manager is told: PM2 by its channel, systemd by its socket, others nothing.

Formats: Node's child-process channel takes a line of JSON (PM2's `wait_ready`), systemd's
sd_notify(3) takes `NAME=value` datagrams. No failure in here reaches the worker.
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
    """Tells whoever started us how we are; without addresses every method does nothing."""

    channel: int | None = None
    """PM2's: an open descriptor."""
    address: str | None = None
    """systemd's: a path, or `@name` for the abstract namespace."""
    alive_every_s: float | None = None
    """How often `alive` must be called; None when nobody watches."""

    @classmethod
    def from_environment(cls, environ: Mapping[str, str]) -> Self:
        """Read NODE_CHANNEL_FD, NOTIFY_SOCKET and WATCHDOG_USEC; what cannot be used is ignored.

        To be called at start, before any file is opened: a descriptor named by the environment
        but closed long ago must not be taken for one of ours.
        """
        return cls(
            channel=_channel(environ),
            address=environ.get("NOTIFY_SOCKET") or None,
            alive_every_s=_watchdog_s(environ),
        )

    def ready(self) -> None:
        """We serve: PM2 and systemd may count us as started."""
        if self.channel is not None:
            with contextlib.suppress(OSError):
                os.write(self.channel, b'"ready"\n')

        self._notify("READY=1")

    def stopping(self) -> None:
        """We drain and end."""
        self._notify("STOPPING=1")

    def alive(self) -> None:
        """We make progress: keeps systemd's watchdog from ending us."""
        self._notify("WATCHDOG=1")

    def _notify(self, state: str) -> None:
        if self.address is None:
            return

        with (
            contextlib.suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sender,
        ):
            sender.setblocking(False)
            sender.sendto(state.encode(), _named(self.address))


def _channel(environ: Mapping[str, str]) -> int | None:
    """PM2's descriptor if it is open and speaks JSON; kept from the processes we start."""
    if environ.get("NODE_CHANNEL_SERIALIZATION_MODE", "json") != "json":
        return None

    with contextlib.suppress(ValueError, OSError, OverflowError):
        descriptor = int(environ.get("NODE_CHANNEL_FD", ""))
        kind = os.fstat(descriptor).st_mode
        if stat.S_ISSOCK(kind) or stat.S_ISFIFO(kind):
            os.set_inheritable(descriptor, False)
            return descriptor

    return None


def _watchdog_s(environ: Mapping[str, str]) -> float | None:
    """Half of systemd's limit, as sd_watchdog_enabled(3) advises."""
    if environ.get("WATCHDOG_PID", str(os.getpid())) != str(os.getpid()):
        return None

    with contextlib.suppress(ValueError):
        limit_us = int(environ.get("WATCHDOG_USEC", ""))
        return limit_us / 2_000_000 if limit_us > 0 else None

    return None


def _named(address: str) -> str:
    return f"\0{address[1:]}" if address.startswith("@") else address
