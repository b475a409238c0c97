"""Listening sockets, and uvicorn as a task: without its signal handlers, logs and event loop."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import anyio
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from worker.errors import ConfigurationError
from worker.web.connection_limit import Connections
from worker.web.connection_monitor import ConnectionMonitor
from worker.web.http_protocol import BoundedProtocol, Port, PortLimits

BACKLOG: Final = 1024
"""Connections that the kernel holds until they are accepted."""

KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s after which common proxies drop an idle connection, so they close first."""

_MAX_ACCEPTORS: Final = 8
"""Connections accepted in one round of the event loop: with one, clients wait behind a burst."""

_CONNECTIONS_PER_ACCEPTOR: Final = 8
"""A burst needs this many rounds to evict a connection, whose request is read meanwhile."""

_CANCELLED_S: Final = 1.0


def bind(host: str, port: int, *, name: Literal["HTTP", "OPS"]) -> socket.socket:
    """Return a listening socket; port 0 takes a free one (see `bound_port`).

    The settings are CHATWOOT_CACHE_<name>_HOST and _PORT; raises `ConfigurationError` where the
    address is not of this machine or the port is not available.
    """
    try:
        family, kind, protocol, _, address = _resolve(host, port)[0]
        sock = socket.socket(family, kind, protocol)
    except (OSError, UnicodeError) as error:
        raise _no_address(name, host) from error

    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Linux lets two sockets bind one port as long as none listens, so listen at once.
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError as error:
        sock.close()
        raise _not_bound(name, host, port, error) from error
    return sock


def addresses(host: str, port: int) -> set[tuple[str, int]]:
    """Return the addresses of a host name; none where it cannot be resolved."""
    try:
        found = _resolve(host, port)
    except (OSError, UnicodeError):
        return set()
    return {(str(address[0]), int(address[1])) for *_, address in found}


def _resolve(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))


def bound_port(sock: socket.socket) -> int:
    """Return the port a socket is bound to."""
    port: int = sock.getsockname()[1]
    return port


async def serve(
    app: ASGIApp,
    sock: socket.socket,
    monitor: ConnectionMonitor,
    *,
    stop: anyio.Event,
    grace_s: float,
    limits: PortLimits,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`, then accept no more and give requests `grace_s` to finish.

    Has started (`task_status`) once it accepts; always closes the socket.
    Requests that take longer are cancelled; all are when this task is cancelled.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_not_cancellation)
    acceptors = _acceptors(sock, limits.connections)
    port = Port(limits, Connections(limits.connections), monitor)
    server = _Server(_config(app, grace_s, port), started=task_status.started)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on, stop, server)
        try:
            await server.serve(sockets=acceptors)
        finally:
            server.abort()
            for acceptor in acceptors:
                acceptor.close()
        tasks.cancel_scope.cancel()


def _is_not_cancellation(record: logging.LogRecord) -> bool:
    """Drop the tracebacks that uvicorn logs for requests cancelled by a shutdown."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class _Server(uvicorn.Server):
    """uvicorn's server, without signal handlers, and with a callback once it has started."""

    def __init__(self, config: uvicorn.Config, *, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Do not handle signals: `app` does."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting."""
        await super().startup(sockets)
        for sock in (sockets or [])[:1]:
            sock.listen(BACKLOG)  # uvicorn has set it to the backlog of `_config`
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish requests, and wait for those that uvicorn has cancelled."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_CANCELLED_S)

    def abort(self) -> None:
        """Cancel all requests and close all connections; does nothing after a shutdown."""
        for server in getattr(self, "servers", []):
            server.close()
        for task in self.server_state.tasks:
            task.cancel()
        for connection in list(self.server_state.connections):
            connection.transport.abort()


async def _stop_on(stop: anyio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True


def _acceptors(sock: socket.socket, connections: int) -> list[socket.socket]:
    """Duplicate the socket: the event loop accepts one connection from each in a round."""
    count = min(_MAX_ACCEPTORS, max(1, connections // _CONNECTIONS_PER_ACCEPTOR))
    return [sock, *(sock.dup() for _ in range(count - 1))]


def _config(app: ASGIApp, grace_s: float, port: Port) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=partial(BoundedProtocol, port=port),  # type: ignore[arg-type]  # only called
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level="error",  # below it, a port scanner causes any number of lines
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=1,  # asyncio's own loop accepts as many from a socket at once
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,  # type: ignore[arg-type]  # goes to wait_for as it is
    )


def _no_address(name: str, host: str) -> ConfigurationError:
    return ConfigurationError(
        f"CHATWOOT_CACHE_{name}_HOST: {host!r} is no address of this machine; "
        "use an IP address, localhost, or 0.0.0.0 (:: with IPv6) for all of them"
    )


def _not_bound(name: str, host: str, port: int, error: OSError) -> ConfigurationError:
    setting = f"CHATWOOT_CACHE_{name}_PORT"
    if error.errno == errno.EADDRINUSE:
        return ConfigurationError(
            f"{setting}: port {port} on {host} is in use; "
            "stop the program that has it, or choose another port"
        )
    if error.errno == errno.EACCES:
        return ConfigurationError(
            f"{setting}: port {port} needs a privilege; choose one above 1023"
        )
    return _no_address(name, host)
