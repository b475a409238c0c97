"""The whole stream, read by each process for itself: no group, and nothing acknowledged."""

import time
from collections.abc import Sequence
from contextlib import AbstractAsyncContextManager
from typing import Any

from worker.core.group_stats import START, GroupStats, LossState
from worker.core.stream_entry import BuryResult, DeadEntry, Entry, PendingEntry
from worker.errors import RedisUnavailable
from worker.store.client import Client
from worker.store.stream.batch_size import AdaptiveBatchSize
from worker.store.stream.server_identity import identify
from worker.store.stream.stream_errors import stream_errors
from worker.store.stream.trimmer import Trimmed


class GrouplessStream:
    """One stream from `since_s` seconds ago on, in order, for one process.

    In the consumer's eyes a stream of which all is always new and nothing ever pending.
    An entry that cannot be used is counted and left where it is: other processes meet it too.
    """

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
        self._block_s = block_s
        self._portion = AdaptiveBatchSize(batch_size)
        self._position = b"%d-0" % max(0, round((time.time() - since_s) * 1000))
        self._goal: bytes | None = None
        self.is_caught_up = False

    async def create_group(self) -> None:
        """See what the stream holds at the start; there is no group to be created."""
        async with self._told():
            newest = await self._writer.xrevrange(self._key, count=1)
        if self._goal is None:
            self._goal = newest[0][0] if newest else b"0-0"
            self._settled(self._position)

    async def read(self) -> list[Entry]:
        """Return the next entries; none when none came in time."""
        try:
            async with self._told():
                reply = await self._reader.xread(
                    {self._key: self._position},
                    count=self._portion.count,
                    block=max(1, round(self._block_s * 1000)),
                )
        except RedisUnavailable:
            self._portion.shrink()
            raise
        rows: Any = next(iter(reply.values())) if reply else []
        entries = [Entry(entry_id, fields or {}) for entry_id, fields in rows]
        self._portion.learn(entries)
        if entries:
            self._position = entries[-1].id
        else:
            self.is_caught_up = True
        return entries

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Take note that entries are settled; the server is told nothing."""
        for entry_id in ids:
            self._settled(entry_id)
        return 0

    async def bury(self, letters: Sequence[DeadEntry]) -> BuryResult:
        """Take note that entries cannot be used; they are logged and counted, and left."""
        for letter in letters:
            self._settled(letter.entry.id)
        return BuryResult(0, 0)

    async def delete(self, ids: Sequence[bytes]) -> None:
        """Delete entries from the stream."""
        async with self._told():
            await self._writer.xdel(self._key, *ids)

    def _settled(self, entry_id: bytes) -> None:
        if self._goal is not None and _order(entry_id) >= _order(self._goal):
            self.is_caught_up = True

    async def keep_name(self) -> None:
        """There is no name to keep."""

    async def consumer_idle_ms(self) -> int | None:
        """There is no name that a rival could have."""
        return None

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[PendingEntry]:  # noqa: ARG002  (as a group's)
        """Nothing is ever handed out, so nothing is pending."""
        return []

    async def claim(self, pending: Sequence[PendingEntry], *, idle_s: float = 0.0) -> list[Entry]:  # noqa: ARG002  (as a group's)
        """There is nothing to claim."""
        return []

    async def keep(self, ids: Sequence[bytes]) -> None:
        """Nobody else would take them."""

    async def give_back(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:
        """No attempt was counted."""

    @property
    def sweeping(self) -> "NullGroup":
        """There is nothing to take over."""
        return NullGroup(self._writer, self._key)

    async def unblock(self) -> bool:
        """A read that waits is let wait: it is short."""
        return False

    def _told(self) -> AbstractAsyncContextManager[None]:
        return stream_errors(self._writer, self._key)


class NullGroup:
    """What upkeep finds where no group was joined: a stream to look at, and nothing to do."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key

    async def check(self) -> None:
        """Nothing is lost to who has no group."""

    async def keep(self) -> tuple[GroupStats, LossState | None]:
        """Tell the stream's length; of a group there is nothing to tell."""
        async with stream_errors(self._client, self._key):
            length = await self._client.xlen(self._key)
            found = await self._client.xrevrange(self._key, count=1)
        newest = found[0][0] if found else None
        return GroupStats(length, None, newest, None, START, None, None, 0, None), None

    def count(self, lost: int) -> None:
        """There is nothing to lose."""

    async def hold(self, ttl_s: float) -> bool:  # noqa: ARG002  (as a group's)
        """What one worker does for its group, this one does not."""
        return False

    async def release(self) -> None:
        """Nothing is held."""

    async def trim(self) -> Trimmed:
        """Trim nothing: what this process has read, others may not have."""
        return Trimmed(0, 0, None)

    async def retire(self, idle_s: float) -> int:  # noqa: ARG002  (as a group's)
        """Nobody is in no group."""
        return 0

    async def drop_old(self) -> int:
        """No dead letter is ours."""
        return 0

    async def server(self) -> tuple[str, str]:
        """Return the server's name and version."""
        async with stream_errors(self._client, self._key):
            return await identify(self._client)


def _order(entry_id: bytes) -> tuple[int, int]:
    milliseconds, _, sequence = entry_id.partition(b"-")
    return int(milliseconds), int(sequence)
