"""Listening sockets that systemd holds open while the worker restarts.

Who connects meanwhile waits in the kernel's queue, and nobody is refused.
The protocol is sd_listen_fds(3): descriptors from 3 on, for the process that LISTEN_PID names.
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
    """Return the sockets we were started with, by their names: `http` and `ops`, none mostly.

    They are ours from then on, so this is called once.
    Raises `ConfigurationError` where one has another name, shares it, or listens on no IP address.
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
    taken: dict[str, socket.socket] = {}
    for descriptor, name in enumerate(names, _FIRST):
        if name in taken:
            raise ConfigurationError(
                f"systemd hands over two sockets named {name!r}, and the worker takes one: leave"
                " one ListenStream= in its .socket unit (an empty one in a drop-in clears those"
                " before it)"
            )
        taken[name] = _taken(name, descriptor)
    return taken


def _taken(name: str, descriptor: int) -> socket.socket:
    if name not in _NAMES:
        raise ConfigurationError(
            f"systemd hands over a socket named {name!r}, which is none of ours: "
            "set FileDescriptorName=http (or ops) in its .socket unit"
        )
    try:
        sock = socket.socket(fileno=descriptor)
    except OSError as error:
        raise _not_listening(name) from error
    is_listening = sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
    if sock.family not in _FAMILIES or not is_listening:
        sock.detach()
        raise _not_listening(name)
    sock.set_inheritable(False)
    sock.setblocking(False)
    return sock


def _not_listening(name: str) -> ConfigurationError:
    return ConfigurationError(
        f"the socket {name!r} that systemd hands over does not listen on an IP address: "
        "give its .socket unit ListenStream=127.0.0.1:9850, or the like"
    )
