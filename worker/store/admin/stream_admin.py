"""The entries of one stream, outside any group: walked, taken away, and put on another."""

from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from typing import Final

from redis.exceptions import ResponseError

from worker.core.stream_entry import Entry
from worker.errors import ConfigurationError
from worker.store.client import Client, translate_errors
from worker.store.stream.batch_size import AdaptiveBatchSize

_STEP: Final = 200
_MOST: Final = 10_000


class StreamAdmin:
    """One stream, or its dead letters, as anybody sees it."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key

    @asynccontextmanager
    async def _told(self) -> AsyncIterator[None]:
        """Turn Redis' errors into ours, and say so where the key holds something else."""
        async with translate_errors(self._client):
            try:
                yield
            except ResponseError as error:
                if "WRONGTYPE" not in str(error):
                    raise
                raise ConfigurationError(
                    f"{self._key} holds something else than a stream: "
                    "see to CHATWOOT_CACHE_STREAM_KEY"
                ) from error

    async def length(self) -> int:
        """Return how many entries there are."""
        async with self._told():
            return int(await self._client.xlen(self._key))

    async def get(self, entry_id: str) -> Entry | None:
        """Return one entry."""
        async with self._told():
            rows = await self._client.xrange(self._key, entry_id, entry_id)
        return next((Entry(found, fields) for found, fields in rows), None)

    async def walk(self, last: bytes | None = None) -> AsyncIterator[list[Entry]]:
        """Yield the entries up to an id, oldest first, in steps; None is the newest now."""
        if last is None:
            async with self._told():
                newest = await self._client.xrevrange(self._key, count=1)
            if not newest:
                return
            last = newest[0][0]
        after, portion = b"-", AdaptiveBatchSize(_STEP)
        while True:
            async with self._told():
                rows = await self._client.xrange(self._key, after, last, count=portion.count)
            if not rows:
                return
            entries = [Entry(entry_id, fields) for entry_id, fields in rows]
            portion.observe(entries)
            yield entries
            after = b"(" + rows[-1][0]

    async def add_all(self, entries: Sequence[Mapping[bytes, bytes]]) -> None:
        """Put entries at the end, in order; raises unless the server has them all."""
        async with self._told(), self._client.pipeline(transaction=False) as pipeline:
            for fields in entries:
                pipeline.xadd(self._key, dict(fields))
            await pipeline.execute()

    async def delete(self, ids: Sequence[bytes]) -> int:
        """Take entries away; returns how many there were."""
        if not ids:
            return 0
        async with self._told():
            return int(await self._client.xdel(self._key, *ids))

    async def delivered(self, group: str) -> bytes | None:
        """Return the last id that a group was handed; None where there is no such group."""
        async with self._told():
            try:
                rows = await self._client.xinfo_groups(self._key)
            except ResponseError as error:
                if "no such key" in str(error):
                    return None
                raise
        last = next((r["last-delivered-id"] for r in rows if r["name"] == group.encode()), None)
        return None if last is None else bytes(last)

    async def pending(self, group: str, first: bytes, last: bytes) -> set[bytes]:
        """Return the entries between two ids that workers have in hand, at most ten thousand."""
        async with self._told():
            try:
                rows = await self._client.xpending_range(self._key, group, first, last, _MOST)
            except ResponseError as error:
                if "NOGROUP" in str(error):
                    return set()
                raise
        return {row["message_id"] for row in rows}
