"""An application on a real socket, and a client that sends plain bytes."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from typing import Any

import anyio
from anyio.abc import SocketStream
from starlette.types import ASGIApp

from worker.ops.metrics import Metrics
from worker.web.connection_monitor import ConnectionMonitor
from worker.web.http_protocol import PortLimits
from worker.web.server import bind, bound_port, serve


@dataclass(frozen=True)
class Served:
    """A running server: its port, an event that stops it, and one set when it has stopped."""

    port: int
    stop: anyio.Event
    stopped: anyio.Event

    async def connect(self) -> SocketStream:
        """Open a connection."""
        return await anyio.connect_tcp("127.0.0.1", self.port)

    async def ask(self, request: bytes) -> bytes:
        """Send a request; returns everything until the server closes."""
        async with await self.connect() as connection:
            await connection.send(request)
            return await read_all(connection)


@asynccontextmanager
async def served(
    app: ASGIApp, *, grace_s: float = 1.0, monitor: ConnectionMonitor | None = None, **limits: Any
) -> AsyncIterator[Served]:
    """Serve on a free port until the end of the block; `limits` are fields of `PortLimits`."""
    sock = bind("127.0.0.1", 0, name="HTTP")
    server = Served(bound_port(sock), anyio.Event(), anyio.Event())
    monitor = monitor or ConnectionMonitor(Metrics("1", max_instances=1), "http")
    serving = partial(
        serve, app, sock, monitor, stop=server.stop, grace_s=grace_s, limits=PortLimits(**limits)
    )

    async def until_stopped(*, task_status: anyio.abc.TaskStatus[None]) -> None:
        await serving(task_status=task_status)
        server.stopped.set()

    async with anyio.create_task_group() as tasks:
        await tasks.start(until_stopped)
        yield server
        server.stop.set()


async def read_all(connection: SocketStream) -> bytes:
    """Read until the other side closes; fails after 5 s."""
    received = bytearray()
    with anyio.fail_after(5):
        try:
            async for chunk in connection:
                received += chunk
        except anyio.BrokenResourceError:  # closed with bytes of ours unread
            pass
    return bytes(received)
