"""Listening sockets that systemd keeps open while the worker restarts.

Clients that connect meanwhile wait in the kernel's queue and are not refused.
The protocol is sd_listen_fds(3): descriptors from 3 on, for the process named by LISTEN_PID.
"""

import os
import socket
from collections.abc import Mapping
from typing import Final

from worker.errors import ConfigurationError

_FIRST: Final = 3
_NAMES: Final = ("http", "ops")
_FAMILIES: Final = (socket.AF_INET, socket.AF_INET6)


def take(environ: Mapping[str, str]) -> dict[str, socket.socket]:
    """Return the inherited sockets by name (`http`, `ops`); call it once, the caller owns them.

    Raises `ConfigurationError` for an unknown or repeated name, and for a socket that does not
    listen on an IP address.
    """
    if environ.get("LISTEN_PID") != str(os.getpid()):
        return {}
    stated, count = environ.get("LISTEN_FDNAMES", ""), environ.get("LISTEN_FDS", "")
    names = stated.split(":") if stated else []
    if count != str(len(names)):
        raise ConfigurationError(
            f"LISTEN_FDS={count!r} and LISTEN_FDNAMES={stated!r} do not agree: whoever starts the"
            " worker states one name for each socket, as systemd does, or unsets LISTEN_PID"
        )
    sockets: dict[str, socket.socket] = {}
    for descriptor, name in enumerate(names, _FIRST):
        if name in sockets:
            raise ConfigurationError(
                f"systemd passes two sockets named {name!r}, and the worker takes one: leave"
                " one ListenStream= in its .socket unit (an empty one in a drop-in clears those"
                " before it)"
            )
        if name not in _NAMES:
            raise ConfigurationError(
                f"systemd passes a socket with the unknown name {name!r}: "
                "set FileDescriptorName=http (or ops) in its .socket unit"
            )
        sockets[name] = _take_one(name, descriptor)
    return sockets


def _take_one(name: str, descriptor: int) -> socket.socket:
    not_listening = ConfigurationError(
        f"the socket {name!r} that systemd passes does not listen on an IP address: "
        "give its .socket unit ListenStream=127.0.0.1:9850, or the like"
    )
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise not_listening from error
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family not in _FAMILIES or not is_listening:
        sock.detach()
        raise not_listening
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock
