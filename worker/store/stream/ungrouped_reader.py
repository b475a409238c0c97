"""The whole stream, read by each process for itself: without a group or acknowledgements."""

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any, Final

from worker.core.group_stats import id_parts
from worker.core.stream_entry import BuryResult, DeadEntry, Entry, PendingEntry
from worker.errors import RedisUnavailable
from worker.store.client import Client
from worker.store.stream.batch_size import AdaptiveBatchSize
from worker.store.stream.stream_errors import stream_errors


class UngroupedStreamReader:
    """One stream from `since_s` seconds ago on, in order, for one process.

    To the consumer all entries are new and none is ever pending. An entry that cannot be used is
    counted and left on the stream, where other processes read it too.
    """

    reclaim_lease: Final = None

    def __init__(
        self,
        reader: Client,
        writer: Client,
        key: str,
        *,
        batch_size: int,
        block_s: float,
        since_s: float,
    ) -> None:
        self._reader = reader
        self._writer = writer
        self._key = key
        self._block_ms = max(1, round(block_s * 1000))
        self._batch_size = AdaptiveBatchSize(batch_size)
        self._position = b"%d-0" % max(0, round((time.time() - since_s) * 1000))
        self._newest_at_start: bytes | None = None
        self.is_caught_up = False

    async def create_group(self) -> None:
        """Remember the newest entry at the start; there is no group to create."""
        async with self._errors():
            newest = await self._writer.xrevrange(self._key, count=1)
        if self._newest_at_start is None:
            self._newest_at_start = newest[0][0] if newest else b"0-0"
            self._settled(self._position)

    async def read(self) -> list[Entry]:
        """Return the next entries; none when none came in time."""
        try:
            async with self._errors():
                reply = await self._reader.xread(
                    {self._key: self._position}, count=self._batch_size.count, block=self._block_ms
                )
        except RedisUnavailable:
            self._batch_size.shrink()
            raise
        rows: Any = next(iter(reply.values())) if reply else []
        entries = [Entry(entry_id, fields or {}) for entry_id, fields in rows]
        self._batch_size.observe(entries)
        if entries:
            self._position = entries[-1].id
        else:
            self.is_caught_up = True
        return entries

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Note that entries are settled; nothing is sent to the server."""
        for entry_id in ids:
            self._settled(entry_id)
        return 0

    async def bury(self, dead_entries: Sequence[DeadEntry]) -> BuryResult:
        """Note that entries are settled; they stay on the stream."""
        await self.ack([dead_entry.entry.id for dead_entry in dead_entries])
        return BuryResult(0, 0)

    async def delete(self, ids: Sequence[bytes]) -> None:
        """Delete entries from the stream."""
        async with self._errors():
            await self._writer.xdel(self._key, *ids)

    async def length(self) -> int:
        """Return how many entries the stream holds."""
        async with self._errors():
            return int(await self._writer.xlen(self._key))

    async def heartbeat(self) -> None:
        """Do nothing: there is no consumer name."""

    async def consumer_idle_ms(self) -> None:
        """Return None: no other worker can use the name."""

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[PendingEntry]:  # noqa: ARG002  (as a group's)
        """Return nothing: no entry is pending."""
        return []

    async def claim(self, pending: Sequence[PendingEntry], *, idle_s: float = 0.0) -> list[Entry]:  # noqa: ARG002  (as a group's)
        """Return nothing: no entry is pending."""
        return []

    async def reset_idle(self, ids: Sequence[bytes]) -> None:
        """Do nothing: no other worker takes entries over."""

    async def release(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:
        """Do nothing: no attempt was counted."""

    async def unblock(self) -> bool:
        """Do nothing: reads wait only briefly."""
        return False

    def _settled(self, entry_id: bytes) -> None:
        newest = self._newest_at_start
        if newest is not None and id_parts(entry_id) >= id_parts(newest):
            self.is_caught_up = True

    def _errors(self) -> AbstractAsyncContextManager[None]:
        return stream_errors(self._writer, self._key)
