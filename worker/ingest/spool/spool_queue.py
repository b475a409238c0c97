"""The spool: where webhooks wait on the disk while Redis cannot take them.

All requests of one moment share one commit, so its price does not grow with their number.
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
from worker.ingest.spool.spool_database import SpoolFigures
from worker.ingest.spool.spool_file import Spooled, SpoolFile

_BATCH_BYTES: Final = 4 * 1024 * 1024

T = TypeVar("T")

log = structlog.get_logger()


@dataclass(slots=True, eq=False)
class _Waiting:
    row: bytes
    settled: anyio.Event = field(default_factory=anyio.Event)
    error: SpoolError | None = None


class SpoolQueue:
    """Keeps what `add` is given, while `run` is running; `oldest` gives it back.

    An event waits until `mark_drained` says that the stream has it; `clean` deletes those.
    """

    def __init__(self, file: SpoolFile) -> None:
        self._file = file
        self._waiting: list[_Waiting] = []
        self._wanted = anyio.Event()
        # One thread at a time has the file.
        self._turn = anyio.CapacityLimiter(1)

    async def open(self) -> None:
        """Open the file; raises `ConfigurationError`."""
        former = await self._do(self._file.open)
        if former is not None:
            log.warning("spool.target_changed", former=former)

    def close(self) -> None:
        """Let go of the file; what it holds stays."""
        self._file.close()

    async def run(self) -> None:
        """Commit what waits, again and again."""
        while True:
            await self._wanted.wait()
            self._wanted = anyio.Event()
            batch, self._waiting = self._waiting, []
            await self._commit(batch)

    async def add(self, fields: Mapping[str, bytes]) -> None:
        """Keep an event; returns once it is on the disk, raises `SpoolError` when it is not.

        Who gives up earlier leaves nothing behind in memory.
        """
        waiting = _Waiting(msgspec.msgpack.encode(dict(fields)))
        self._waiting.append(waiting)
        self._wanted.set()
        try:
            await waiting.settled.wait()
        finally:
            if waiting in self._waiting:
                self._waiting.remove(waiting)
        if waiting.error is not None:
            raise waiting.error

    @property
    def identity(self) -> str:
        """What tells this spool from every other; a file that is made anew is another."""
        return self._file.spool

    async def oldest(self, count: int) -> list[Spooled]:
        """Return the first events that wait, at most `count`."""
        return await self._do(self._file.oldest, count, _BATCH_BYTES)

    async def mark_drained(self, position: SpoolPosition) -> None:
        """Learn up to which event the stream has them; nothing is written."""
        await self._do(self._file.mark_drained, position)

    async def clean(self) -> None:
        """Delete the events that the stream has; raises `SpoolError` where the disk is too full."""
        await self._do(self._file.clean)

    async def postpone(self, one: Spooled) -> None:
        """Put an event behind all others."""
        await self._do(self._file.postpone, one)

    async def figures(self) -> SpoolFigures:
        """Say how much waits."""
        return await self._do(self._file.figures)

    async def probe(self) -> None:
        """Raise `SpoolError` unless another webhook could be kept now."""
        await self._do(self._file.probe)

    def draining(self) -> AbstractContextManager[bool]:
        """Say whether this worker may drain now: of those that share the directory, one does."""
        return self._file.draining()

    async def _commit(self, batch: Sequence[_Waiting]) -> None:
        error = await self._append([waiting.row for waiting in batch])
        if error is not None and error.reason == "spool_full" and len(batch) > 1:
            # What is too much together may fit in part.
            for waiting in batch:
                await self._commit([waiting])
            return
        for waiting in batch:
            waiting.error = error
            waiting.settled.set()

    async def _append(self, rows: Sequence[bytes]) -> SpoolError | None:
        try:
            await self._do(self._file.append, rows)
        except SpoolError as error:
            return error
        return None

    async def _do(self, work: Callable[..., T], *arguments: object) -> T:
        return await anyio.to_thread.run_sync(work, *arguments, limiter=self._turn)


def decode(spooled: Spooled) -> dict[str, bytes]:
    """Give back the fields that were kept."""
    return msgspec.msgpack.decode(spooled.fields, type=dict[str, bytes])
