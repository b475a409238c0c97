"""Reads, adds and deletes entries of one stream without being a member of a group."""

from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager
from typing import Final

from worker.core.cache_keys import dead_key
from worker.core.stream_entry import Entry
from worker.errors import GroupMissing
from worker.store.client import Client
from worker.store.stream.batch_size import AdaptiveBatchSize
from worker.store.stream.stream_errors import stream_errors

_BATCH: Final = 200
_MAX_PENDING: Final = 10_000


class StreamAdmin:
    """One stream, or its dead letters. Errors are translated by `stream_errors`."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key

    def _errors(self) -> AbstractAsyncContextManager[None]:
        return stream_errors(self._client, self._key.removesuffix(dead_key("")))

    async def length(self) -> int:
        """Return the number of entries."""
        async with self._errors():
            return int(await self._client.xlen(self._key))

    async def get(self, entry_id: str) -> Entry | None:
        """Return one entry."""
        async with self._errors():
            rows = await self._client.xrange(self._key, entry_id, entry_id)
        return next((Entry(found_id, fields) for found_id, fields in rows), None)

    async def walk(self, last: bytes | None = None) -> AsyncIterator[list[Entry]]:
        """Yield entries up to an id in batches, oldest first; None is the newest one now."""
        if last is None:
            async with self._errors():
                newest = await self._client.xrevrange(self._key, count=1)
            if not newest:
                return
            last = newest[0][0]
        first, batch_size = b"-", AdaptiveBatchSize(_BATCH)
        while True:
            async with self._errors():
                rows = await self._client.xrange(self._key, first, last, count=batch_size.count)
            if not rows:
                return
            entries = [Entry(entry_id, fields) for entry_id, fields in rows]
            batch_size.observe(entries)
            yield entries
            first = b"(" + rows[-1][0]

    async def add_all(self, entries: Sequence[Mapping[bytes, bytes]]) -> None:
        """Add entries in order; raises unless the server has all of them."""
        async with self._errors(), self._client.pipeline(transaction=False) as pipeline:
            for fields in entries:
                pipeline.xadd(self._key, dict(fields))
            await pipeline.execute()

    async def delete(self, ids: Sequence[bytes]) -> int:
        """Delete entries; returns how many existed."""
        if not ids:
            return 0
        async with self._errors():
            return int(await self._client.xdel(self._key, *ids))

    async def delete_where(
        self, matches: Callable[[Entry], bool], advance: Callable[[int], None] = lambda _: None
    ) -> list[bytes]:
        """Delete the entries that match, and return their ids."""
        deleted: list[bytes] = []
        async for batch in self.walk():
            ids = [entry.id for entry in batch if matches(entry)]
            await self.delete(ids)
            deleted += ids
            advance(len(batch))
        return deleted

    async def last_delivered(self, group: str) -> bytes | None:
        """Return the last id delivered to a group; None if there is no such group."""
        try:
            async with self._errors():
                rows = await self._client.xinfo_groups(self._key)
        except GroupMissing:
            return None
        ids = (row["last-delivered-id"] for row in rows if row["name"] == group.encode())
        return next(ids, None)

    async def pending(self, group: str, first: bytes, last: bytes) -> set[bytes]:
        """Return the pending entries of a group between two ids, at most ten thousand."""
        try:
            async with self._errors():
                rows = await self._client.xpending_range(
                    self._key, group, first, last, _MAX_PENDING
                )
        except GroupMissing:
            return set()
        return {row["message_id"] for row in rows}
