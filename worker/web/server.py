"""Sockets, and uvicorn as a task among ours: no signals, no log format, no loop of its own."""

import asyncio
import errno
import logging
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any, Final, Literal

import anyio
import structlog
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp

from worker.errors import ConfigurationError
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics
from worker.web.connection_limit import Connections
from worker.web.http_protocol import BoundedProtocol, Limits, Port, Reason

BACKLOG: Final = 1024
"""Connections the kernel holds for us while the loop is busy."""

KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s after which common proxies drop an idle connection, so they close first."""

_MAX_ACCEPTORS: Final = 8
"""Connections accepted in one round of the event loop: with one, clients wait behind a burst."""

_CONNECTIONS_PER_ACCEPTOR: Final = 8
"""So a burst takes this many rounds to close a connection, whose request is read meanwhile."""

_CANCELLED_S: Final = 1.0
_LOG_EVERY_S: Final = 60.0

_HINTS: Final[dict[Reason, str]] = {
    "full": "every connection was in use, and the one that waited longest for a request was"
    " closed; the limit on open files (ulimit -n) bounds how many there are",
    "large_head": "the head of a request was larger than 64 KB or had more than 256 headers",
    "slow_body": "the body of a request did not come in time",
    "large_trailers": "the trailers of a request were larger than 64 KB, or there were too many",
    "too_far_ahead": "a client sent too many requests without waiting for answers",
}
"""What to log; a head that does not come is not logged, since every port scanner causes it."""

PortName = Literal["http", "ops"]

log = structlog.get_logger(__name__)


def bind(host: str, port: int, *, name: Literal["HTTP", "OPS"]) -> socket.socket:
    """Give a listening socket; port 0 takes a free one (`bound_port` tells which).

    `name` says whose setting it is: CHATWOOT_CACHE_<name>_HOST and _PORT.
    Raises ConfigurationError when there is no such address, or the port cannot be had.
    """
    try:
        family, kind, protocol, _, address = _found(host, port)[0]
    except (OSError, UnicodeError) as error:
        raise _no_address(name, host) from error

    try:
        return _listen(socket.socket(family, kind, protocol), address)
    except OSError as error:
        raise _not_bound(name, host, port, error) from error


def addresses(host: str, port: int) -> set[tuple[str, int]]:
    """Return the addresses that a host's name stands for, none where nobody knows it."""
    try:
        found = _found(host, port)
    except (OSError, UnicodeError):
        return set()
    return {(str(address[0]), int(address[1])) for *_, address in found}


def _found(host: str, port: int) -> list[tuple[int, int, int, str, Any]]:
    return list(socket.getaddrinfo(host, port, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE))


def bound_port(sock: socket.socket) -> int:
    """Tell the port a socket is bound to."""
    port: int = sock.getsockname()[1]
    return port


class Report:
    """Counts the connections of one port, and logs sparingly why the server closed some."""

    def __init__(self, metrics: Metrics, port: PortName) -> None:
        self._open = metrics.http_connections.labels(port)
        self._closed = metrics.http_connections_closed
        self._port = port
        self._throttle = LogThrottle(_LOG_EVERY_S)

    def count(self, connections: int) -> None:
        """Show how many are open."""
        self._open.set(connections)

    def closed(self, reason: Reason) -> None:
        """Count one that the server closed."""
        self._closed.labels(self._port, reason).inc()
        hint = _HINTS.get(reason)
        more = self._throttle.ready(reason) if hint else None
        if more is not None:
            log.warning(
                "connection.closed", port=self._port, reason=reason, hint=hint, suppressed=more
            )


async def serve(
    app: ASGIApp,
    sock: socket.socket,
    *,
    stop: anyio.Event,
    grace_s: float,
    limits: Limits = Limits(),  # noqa: B008  (frozen)
    report: Report | None = None,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`, then accept nothing more and finish what is in hand within `grace_s`.

    Starts (`task_status`) once it accepts; closes the socket in every case.
    `report` is told of the connections that `limits` close.
    What is not finished in time is cancelled; when this task is cancelled, that is at once.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    acceptors = _acceptors(sock, limits.connections)
    server = _Server(_config(app, grace_s, _port(limits, report)), started=task_status.started)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on, stop, server)
        try:
            await server.serve(sockets=acceptors)
        finally:
            server.drop()
            for acceptor in acceptors:
                acceptor.close()
        tasks.cancel_scope.cancel()


def _is_news(record: logging.LogRecord) -> bool:
    """Leave out the traceback that uvicorn logs for each request which our end cancelled."""
    return not (record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError))


class _Server(uvicorn.Server):
    """uvicorn's server, leaving signals to us and saying when it has started."""

    def __init__(self, config: uvicorn.Config, *, started: Callable[[], None]) -> None:
        super().__init__(config)
        self._on_started = started

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Leave the signals alone: the process has one place that handles them."""
        yield

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start accepting."""
        await super().startup(sockets)
        for sock in (sockets or [])[:1]:
            sock.listen(BACKLOG)  # uvicorn has set it to what `_config` says
        self._on_started()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        """Finish what is in hand; uvicorn cancels the rest without waiting for its end."""
        await super().shutdown(sockets)
        if self.server_state.tasks:
            await asyncio.wait(self.server_state.tasks, timeout=_CANCELLED_S)

    def drop(self) -> None:
        """Let go of everything at once; does nothing after a shutdown."""
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
    """Duplicate a listening socket: an event loop accepts one connection of each in a round."""
    wanted = min(_MAX_ACCEPTORS, max(1, connections // _CONNECTIONS_PER_ACCEPTOR))
    return [sock, *(sock.dup() for _ in range(wanted - 1))]


def _port(limits: Limits, report: Report | None) -> Port:
    return Port(
        limits,
        Connections(limits.connections),
        on_closed=report.closed if report else _ignore,
        on_count=report.count if report else _ignore,
    )


def _ignore(_: object) -> None:
    """Take what nobody wants to know."""


def _config(app: ASGIApp, grace_s: float, port: Port) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=partial(BoundedProtocol, port=port),  # type: ignore[arg-type]  # only called
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level="error",  # below it any port scanner writes as many lines as it likes
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=1,  # asyncio's own loop accepts as many of a socket at once
        timeout_keep_alive=KEEP_ALIVE_S,
        timeout_graceful_shutdown=grace_s,  # type: ignore[arg-type]  # goes to wait_for as it is
    )


def _listen(sock: socket.socket, address: tuple[object, ...]) -> socket.socket:
    try:
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        sock.bind(address)
        # Linux lets two sockets bind one port as long as none listens: only this settles it.
        sock.listen(BACKLOG)
        sock.setblocking(False)
    except OSError:
        sock.close()
        raise
    return sock


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
