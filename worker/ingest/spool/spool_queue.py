"""The spool: stores webhooks on disk while Redis is unavailable.

Requests that arrive together share one commit, so its cost does not grow with their number.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Concatenate, ParamSpec, TypeVar

import anyio
import anyio.to_thread
import msgspec
import structlog

from worker.errors import SpoolError
from worker.ingest.spool.spool_file import SpoolFile, SpoolRow

P = ParamSpec("P")
T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Append:
    row: bytes
    done: anyio.Event = field(default_factory=anyio.Event)
    error: SpoolError | None = None


class SpoolQueue:
    """Makes a `SpoolFile` asynchronous; `run` commits what `add` is given."""

    def __init__(self, file: SpoolFile) -> None:
        self.file = file
        self._appends: list[_Append] = []
        self._has_appends = anyio.Event()
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def open(self) -> None:
        """Open the file; raises `ConfigurationError`."""
        previous = await self.call(SpoolFile.open)
        if previous is not None:
            log.warning("spool.target_changed", previous=previous)

    def close(self) -> None:
        """Close the file; its events stay for the next start."""
        self.file.close()

    async def run(self) -> None:
        """Commit events until cancelled."""
        while True:
            await self._has_appends.wait()
            self._has_appends = anyio.Event()
            batch, self._appends = self._appends, []
            await self._commit(batch)

    async def add(self, fields: Mapping[str, bytes]) -> None:
        """Store an event; returns once it is durable, or raises `SpoolError`.

        A caller that is cancelled before its commit begins leaves nothing in memory.
        """
        append = _Append(msgspec.msgpack.encode(dict(fields)))
        self._appends.append(append)
        self._has_appends.set()
        try:
            await append.done.wait()
        finally:
            if append in self._appends:
                self._appends.remove(append)
        if append.error is not None:
            raise append.error

    async def call(
        self, method: Callable[Concatenate[SpoolFile, P], T], *args: P.args, **kwargs: P.kwargs
    ) -> T:
        """Call a method of the file in a thread, one at a time."""
        bound = partial(method, self.file, *args, **kwargs)
        return await anyio.to_thread.run_sync(bound, limiter=self._one_at_a_time)

    async def probe(self) -> None:
        """Raise `SpoolError` unless another webhook can be stored now."""
        await self.call(SpoolFile.probe)

    async def _commit(self, batch: Sequence[_Append]) -> None:
        error = None
        try:
            await self.call(SpoolFile.append, [append.row for append in batch])
        except SpoolError as failure:
            error = failure
        if error is not None and error.reason == "spool_full" and len(batch) > 1:
            # Some of them may fit.
            for append in batch:
                await self._commit([append])
            return
        for append in batch:
            append.error = error
            append.done.set()


def decode(row: SpoolRow) -> dict[str, bytes]:
    """Return the event in a row."""
    return msgspec.msgpack.decode(row.fields, type=dict[str, bytes])
