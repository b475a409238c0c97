"""The spool: stores webhooks on disk while Redis is unavailable.

Requests that arrive together share one commit, so its cost does not grow with their number.
"""

from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, field
from typing import Final, TypeVar

import anyio
import anyio.to_thread
import msgspec
import structlog

from worker.core.stream_entry import SpoolPosition
from worker.errors import SpoolError
from worker.ingest.spool.spool_database import SpoolStats
from worker.ingest.spool.spool_file import SpoolFile, SpoolRow

_BATCH_BYTES: Final = 4 * 1024 * 1024

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Append:
    row: bytes
    done: anyio.Event = field(default_factory=anyio.Event)
    error: SpoolError | None = None


class SpoolQueue:
    """Runs a `SpoolFile` in a thread, one call at a time; `run` commits what `add` is given.

    An event waits until `mark_drained` says that the stream has it; `delete_drained` deletes it.
    """

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._appends: list[_Append] = []
        self._has_appends = anyio.Event()
        self._one_at_a_time = anyio.CapacityLimiter(1)

    async def open(self) -> None:
        """Open the file; raises `ConfigurationError`."""
        previous = await self._call(self._file.open)
        if previous is not None:
            log.warning("spool.target_changed", previous=previous)

    def close(self) -> None:
        """Close the file; its events stay for the next start."""
        self._file.close()

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

    @property
    def identity(self) -> str:
        """The unique id of the spool; a file that was created anew has another."""
        return self._file.identity

    async def oldest(self, count: int) -> list[SpoolRow]:
        """Return the first events that wait, up to `count`."""
        return await self._call(self._file.oldest, count, _BATCH_BYTES)

    async def mark_drained(self, position: SpoolPosition) -> None:
        """Stop returning the events up to this position, which the stream has."""
        await self._call(self._file.mark_drained, position)

    async def delete_drained(self) -> None:
        """Delete the events that the stream has; raises `SpoolError` on a full disk."""
        await self._call(self._file.delete_drained)

    async def move_to_end(self, row: SpoolRow) -> None:
        """Move an event behind all others."""
        await self._call(self._file.move_to_end, row)

    async def stats(self) -> SpoolStats:
        """Return how much waits and how much is in use."""
        return await self._call(self._file.stats)

    async def probe(self) -> None:
        """Raise `SpoolError` unless another webhook can be stored now."""
        await self._call(self._file.probe)

    def drain_lock(self) -> AbstractContextManager[bool]:
        """Yield whether this worker may drain now: of those that share the directory, one may."""
        return self._file.drain_lock()

    async def _commit(self, batch: Sequence[_Append]) -> None:
        error = None
        try:
            await self._call(self._file.append, [append.row for append in batch])
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

    async def _call(self, method: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(method, *arguments, limiter=self._one_at_a_time)


def decode(row: SpoolRow) -> dict[str, bytes]:
    """Return the event in a row."""
    return msgspec.msgpack.decode(row.fields, type=dict[str, bytes])
