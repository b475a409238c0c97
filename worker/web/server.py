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
import uvicorn
from anyio.abc import TaskStatus
from starlette.types import ASGIApp
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from worker.errors import ConfigurationError

BACKLOG: Final = 1024
"""Connections the kernel holds for us while the loop is busy."""

KEEP_ALIVE_S: Final = 75
"""Longer than the 60 s after which common proxies drop an idle connection, so they close first."""

HEADERS_S: Final = 10.0
"""How long a client may take for the head of a request; uvicorn itself would wait for ever."""

_CANCELLED_S: Final = 1.0


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


async def serve(
    app: ASGIApp,
    sock: socket.socket,
    *,
    stop: anyio.Event,
    grace_s: float,
    headers_s: float = HEADERS_S,
    task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED,
) -> None:
    """Serve until `stop`, then accept nothing more and finish what is in hand within `grace_s`.

    Starts (`task_status`) once it accepts; closes the socket in every case.
    What is not finished in time is cancelled; when this task is cancelled, that is at once.
    """
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    server = _Server(_config(app, grace_s, headers_s), started=task_status.started)
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(_stop_on, stop, server)
        try:
            await server.serve(sockets=[sock])
        finally:
            server.drop()
            sock.close()
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


class _Protocol(HttpToolsProtocol):
    """uvicorn's protocol, closing a connection on which the head of a request does not come."""

    def __init__(self, *args: Any, headers_s: float, **named: Any) -> None:
        super().__init__(*args, **named)
        self._headers_s = headers_s
        self._patience: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # theirs
        """Wait for the first request."""
        super().connection_made(transport)
        self._wait()

    def on_message_begin(self) -> None:
        """Wait for the rest of a request's head."""
        super().on_message_begin()
        self._wait()

    def on_headers_complete(self) -> None:
        """Stop waiting: from here on the application has a deadline of its own."""
        self._stop_waiting()
        super().on_headers_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._stop_waiting()
        super().connection_lost(exc)

    def _wait(self) -> None:
        self._stop_waiting()
        self._patience = self.loop.call_later(self._headers_s, self._lose_patience)

    def _stop_waiting(self) -> None:
        if self._patience is not None:
            self._patience.cancel()

    def _lose_patience(self) -> None:
        # The head that does not come may be pipelined behind a request still in hand.
        if self.cycle is None or self.cycle.response_complete:  # type: ignore[redundant-expr]  # None before the first
            self.transport.close()
        else:
            self._wait()


async def _stop_on(stop: anyio.Event, server: uvicorn.Server) -> None:
    await stop.wait()
    server.should_exit = True


def _config(app: ASGIApp, grace_s: float, headers_s: float) -> uvicorn.Config:
    return uvicorn.Config(
        app,
        loop="none",
        http=partial(_Protocol, headers_s=headers_s),  # type: ignore[arg-type]  # only called
        ws="none",
        interface="asgi3",
        lifespan="off",
        log_config=None,
        log_level="error",  # below it any port scanner writes as many lines as it likes
        access_log=False,
        proxy_headers=False,
        server_header=False,
        backlog=BACKLOG,
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
