"""The loop of a worker that consumes nothing: it joins no group, and waits to be stopped."""

import contextlib
import time
from typing import Protocol

import anyio

from worker.errors import RedisUnavailable


class Server(Protocol):
    """The server that is read from."""

    async def ping(self) -> None:
        """Raise unless the server answers."""


class NullConsumer:
    """Stands in the consumer's place."""

    def __init__(self, server: Server) -> None:
        self._server = server
        self._stopped = anyio.Event()
        self.started = anyio.Event()

    @property
    def outage(self) -> RedisUnavailable | None:
        """What is not tried does not fail; readiness asks the server itself."""
        return None

    @property
    def progressed_at(self) -> float:
        """There is nothing to do, and it is done."""
        return time.monotonic()

    def stop(self) -> None:
        """End."""
        self._stopped.set()

    async def run(self) -> None:
        """Wait until stopped; raises `PermissionRefused` when the server does not let us in."""
        with contextlib.suppress(RedisUnavailable):
            await self._server.ping()
        self.started.set()
        await self._stopped.wait()
