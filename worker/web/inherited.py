"""Listening sockets that systemd holds open while the worker restarts.

Who connects meanwhile waits in the kernel's queue, and nobody is refused.
The protocol is sd_listen_fds(3): descriptors from 3 on, for the process that LISTEN_PID names.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

from worker.errors import Misconfigured

_FIRST: Final = 3
_NAMES: Final = ("http", "ops")
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


def take(environ: Mapping[str, str]) -> dict[str, socket.socket]:
    """Return the sockets we were started with, by their names: `http` and `ops`, none mostly.

    To be called at start, before any file is opened.
    Raises `Misconfigured` where one has another name, or does not listen on an address.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    names = environ.get("LISTEN_FDNAMES", "").split(":")[: int(environ.get("LISTEN_FDS", "0"))]
    return {name: _taken(name, _FIRST + number) for number, name in enumerate(names)}


def _taken(name: str, descriptor: int) -> socket.socket:
    if name not in _NAMES:
        raise Misconfigured(
            f"systemd hands over a socket named {name!r}, which is none of ours: "
            "set FileDescriptorName=http (or ops) in its .socket unit"
        )
    sock = socket.socket(fileno=descriptor)
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family not in _FAMILIES or not is_listening:
        sock.detach()
        raise Misconfigured(
            f"the socket {name!r} that systemd hands over does not listen on an IP address: "
            "give its .socket unit ListenStream=127.0.0.1:9850, or the like"
        )
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
