"""State of the stream, its groups and its dead letters, for commands; changes nothing."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from worker.core.cache_keys import dead_key
from worker.core.group_stats import GroupStats, id_parts
from worker.core.stream_entry import Entry, entry_time_s
from worker.errors import GroupMissing
from worker.store.admin.server_probe import probe_errors
from worker.store.client import Client
from worker.store.stream.consumer_group import ConsumerGroup
from worker.store.stream.stream_errors import stream_errors

NEWEST: Final = 1000
"""How many of the newest entries are examined where not all are."""

_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A consumer of our group; `idle_s` is since its last command, other times are Unix times."""

    name: str
    pending: int
    idle_s: float
    oldest_pending_s: float | None


@dataclass(frozen=True, slots=True)
class OtherGroup:
    """A group besides ours; `unfinished_since_s` is when its oldest unfinished entry was added."""

    name: str
    unfinished_since_s: float | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The stream and our group; None where it is missing, `added` before Redis 7.0.

    `last_id` is the last id that was ever given, `last_entry_s` the Unix time of the newest entry.
    """

    length: int
    last_id: str
    last_entry_s: float | None
    added: int | None
    group: GroupStats | None


@dataclass(frozen=True, slots=True)
class DeadLetterInfo:
    """The number of dead letters, and the reasons of the `looked_at` newest."""

    total: int
    looked_at: int
    by_reason: Mapping[str, int]


class StreamInspector:
    """Reads one stream and one of its groups."""

    def __init__(self, client: Client, key: str, group: str) -> None:
        self._client = client
        self._key = key
        self._group = group
        self._group_reader = ConsumerGroup(client, key, group, consumer="")

    @asynccontextmanager
    async def _errors(self) -> AsyncIterator[None]:
        """Translate errors; raises `ConfigurationError` where the key holds no stream."""
        async with probe_errors(self._client), stream_errors(self._client, self._key):
            yield

    async def stream(self) -> StreamInfo | None:
        """Return the state of the stream and of our group; None without a stream."""
        try:
            async with self._errors():
                info = await self._client.xinfo_stream(self._key)
        except GroupMissing:
            return None
        last_id, newest = info["last-generated-id"].decode(), info["last-entry"]
        return StreamInfo(
            length=info["length"],
            last_id=last_id,
            last_entry_s=entry_time_s(newest[0]) if newest else None,
            added=info.get("entries-added"),
            group=await self._stats(),
        )

    async def _stats(self) -> GroupStats | None:
        try:
            async with self._errors():
                return await self._group_reader.stats()
        except GroupMissing:
            return None

    async def other_groups(self) -> list[OtherGroup]:
        """Return the stream's groups besides ours."""
        try:
            async with self._errors():
                info = await self._client.xinfo_stream(self._key)
                rows = await self._client.xinfo_groups(self._key)
        except GroupMissing:
            return []
        return [
            OtherGroup(
                row["name"].decode(errors="replace"), await self._unfinished_since_s(row, info)
            )
            for row in rows
            if row["name"] != self._group.encode()
        ]

    async def _unfinished_since_s(
        self, row: Mapping[str, Any], info: Mapping[str, Any]
    ) -> float | None:
        if row["pending"]:
            return await self._oldest_pending_s(row["name"])
        position, first = row["last-delivered-id"], info["first-entry"]
        if position == info["last-generated-id"] or not first:
            return None
        return entry_time_s(max(first[0], position, key=id_parts))

    async def consumers(self) -> list[ConsumerInfo]:
        """Return the consumers of our group."""
        async with self._errors():
            rows = await self._client.xinfo_consumers(self._key, self._group)
        return [
            ConsumerInfo(
                row["name"].decode(errors="replace"),
                row["pending"],
                row["idle"] / 1000,
                await self._oldest_pending_s(self._group, row["name"]) if row["pending"] else None,
            )
            for row in rows
        ]

    async def pending_gone(self, at_most: int = _PAGE) -> int:
        """Return how many of our group's oldest pending entries are gone from the stream."""
        async with self._errors():
            rows = await self._client.xpending_range(self._key, self._group, "-", "+", at_most)
            async with self._client.pipeline(transaction=False) as pipeline:
                for row in rows:
                    pipeline.xrange(self._key, row["message_id"], row["message_id"])
                found = await pipeline.execute()
        return sum(1 for entries in found if not entries)

    async def dead_letters(self, at_most: int = NEWEST) -> DeadLetterInfo:
        """Count the dead letters, and the reasons of the newest."""
        dead = dead_key(self._key)
        async with self._errors():
            total = await self._client.xlen(dead)
        newest = await self._newest(dead, at_most)
        reasons = Counter(entry.fields.get(b"_reason", b"?").decode() for entry in newest)
        return DeadLetterInfo(total, len(newest), dict(reasons.most_common()))

    async def newest(self, at_most: int = NEWEST) -> list[Entry]:
        """Return the newest entries of the stream, the newest first."""
        return await self._newest(self._key, at_most)

    async def count_after(self, entry_id: str, at_most: int = 2000) -> int:
        """Count the entries behind an id, for servers that do not count them."""
        async with self._errors():
            return len(await self._client.xrange(self._key, f"({entry_id}", "+", count=at_most))

    async def _newest(self, key: str, at_most: int) -> list[Entry]:
        found: list[Entry] = []
        before = "+"
        while len(found) < at_most:
            async with self._errors():
                rows = await self._client.xrevrange(key, before, "-", count=_PAGE)
            found += [Entry(entry_id, fields) for entry_id, fields in rows]
            if len(rows) < _PAGE:
                break
            before = f"({rows[-1][0].decode()}"
        return found[:at_most]

    async def _oldest_pending_s(
        self, group: str | bytes, consumer: bytes | None = None
    ) -> float | None:
        async with self._errors():
            rows = await self._client.xpending_range(
                self._key, group, "-", "+", 1, consumername=consumer
            )
        return entry_time_s(rows[0]["message_id"]) if rows else None
