"""The consumer of a worker that only serves reads: joins no group and waits to be stopped."""

import contextlib
import time
from typing import Final

import anyio

from worker.errors import RedisUnavailable
from worker.store.cache.document_reader import DocumentReader


class NullConsumer:
    """Takes the place of `Consumer`."""

    outage: Final = None

    def __init__(self, server: DocumentReader) -> None:
        self._server = server
        self._stopped = anyio.Event()
        self.started = anyio.Event()

    @property
    def progressed_at(self) -> float:
        """Now, by the monotonic clock: it cannot stall."""
        return time.monotonic()

    def stop(self) -> None:
        """End `run`."""
        self._stopped.set()

    async def run(self) -> None:
        """Wait until stopped; raises `PermissionDenied` when the server refuses the user."""
        with contextlib.suppress(RedisUnavailable):
            await self._server.ping()
        self.started.set()
        await self._stopped.wait()
