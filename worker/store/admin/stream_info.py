"""How stream, group and dead letters stand, for whoever looks at them from outside."""

from collections import Counter
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Any, Final

from worker.core.cache_keys import dead_key
from worker.core.stream_entry import Entry
from worker.errors import GroupMissing
from worker.store.admin.server_probe import probe_errors
from worker.store.client import Client
from worker.store.stream.stream_errors import stream_errors

NEWEST: Final = 1000
"""Entries that are looked at where not all are; the newest tell most."""

_PAGE: Final = 100


@dataclass(frozen=True, slots=True)
class GroupInfo:
    """A group of the stream; None where the server does not know (before 7.0, or after XDEL)."""

    name: str
    position: str
    pending: int
    lag: int | None
    entries_read: int | None
    oldest_pending: str | None


@dataclass(frozen=True, slots=True)
class ConsumerInfo:
    """A consumer of our group; `idle_s` is since it last asked for anything."""

    name: str
    pending: int
    idle_s: float
    oldest_pending: str | None


@dataclass(frozen=True, slots=True)
class StreamInfo:
    """The stream at one moment; ids are None where it is empty, `added` before Redis 7.0."""

    length: int
    first: str | None
    last: str
    added: int | None
    groups: tuple[GroupInfo, ...]

    def group(self, name: str) -> GroupInfo | None:
        """Return the group of that name."""
        return next((group for group in self.groups if group.name == name), None)


@dataclass(frozen=True, slots=True)
class DeadLetterInfo:
    """How many dead letters there are, and why, of the newest that were looked at."""

    total: int
    looked_at: int
    by_reason: Mapping[str, int]


class StreamInspector:
    """Counts what stands on one stream; changes nothing."""

    def __init__(self, client: Client, key: str, group: str) -> None:
        self._client = client
        self._key = key
        self._group = group

    @asynccontextmanager
    async def _asking(self) -> AsyncIterator[None]:
        """Turn Redis' errors into ours; `ConfigurationError` where the key holds no stream."""
        async with probe_errors(self._client), stream_errors(self._client, self._key):
            yield

    async def stream(self) -> StreamInfo | None:
        """Return how the stream stands; None where there is none."""
        try:
            async with self._asking():
                info = await self._client.xinfo_stream(self._key)
                rows = await self._client.xinfo_groups(self._key)
        except GroupMissing:
            return None
        first = info["first-entry"]
        return StreamInfo(
            length=info["length"],
            first=first[0].decode() if first else None,
            last=info["last-generated-id"].decode(),
            added=info.get("entries-added"),
            groups=tuple([await self._group_of(row) for row in rows]),
        )

    async def consumers(self) -> list[ConsumerInfo]:
        """Return the consumers of our group."""
        async with self._asking():
            rows = await self._client.xinfo_consumers(self._key, self._group)
        return [await self._consumer_of(row) for row in rows]

    async def pending_gone(self, at_most: int = _PAGE) -> int:
        """Return how many of our group's oldest pending entries the stream does not hold."""
        async with self._asking():
            rows = await self._client.xpending_range(self._key, self._group, "-", "+", at_most)
            async with self._client.pipeline(transaction=False) as pipeline:
                for row in rows:
                    pipeline.xrange(self._key, row["message_id"], row["message_id"])
                found = await pipeline.execute()
        return sum(1 for held in found if not held)

    async def letters(self, at_most: int = NEWEST) -> DeadLetterInfo:
        """Count the dead letters, and the reasons of the newest."""
        dead = dead_key(self._key)
        async with self._asking():
            total = await self._client.xlen(dead)
        found = await self._newest(dead, at_most)
        reasons = Counter(entry.fields.get(b"_reason", b"?").decode() for entry in found)
        return DeadLetterInfo(total, len(found), dict(reasons.most_common()))

    async def newest(self, at_most: int = NEWEST) -> list[Entry]:
        """Return the newest entries of the stream, the newest first."""
        return await self._newest(self._key, at_most)

    async def count_after(self, entry_id: str, at_most: int = 2000) -> int:
        """Count the entries behind an id, for servers that count none themselves."""
        async with self._asking():
            return len(await self._client.xrange(self._key, f"({entry_id}", "+", count=at_most))

    async def _newest(self, key: str, at_most: int) -> list[Entry]:
        found: list[Entry] = []
        before = "+"
        while len(found) < at_most:
            async with self._asking():
                rows = await self._client.xrevrange(key, before, "-", count=_PAGE)
            found += [Entry(entry_id, fields) for entry_id, fields in rows]
            if len(rows) < _PAGE:
                break
            before = f"({rows[-1][0].decode()}"
        return found[:at_most]

    async def _group_of(self, row: Mapping[str, Any]) -> GroupInfo:
        name = row["name"].decode(errors="replace")
        oldest = await self._oldest_pending(row["name"]) if row["pending"] else None
        return GroupInfo(
            name=name,
            position=row["last-delivered-id"].decode(),
            pending=row["pending"],
            lag=row.get("lag"),
            entries_read=row.get("entries-read"),
            oldest_pending=oldest,
        )

    async def _consumer_of(self, row: Mapping[str, Any]) -> ConsumerInfo:
        oldest = await self._oldest_pending(self._group, row["name"]) if row["pending"] else None
        return ConsumerInfo(
            row["name"].decode(errors="replace"), row["pending"], row["idle"] / 1000, oldest
        )

    async def _oldest_pending(
        self, group: str | bytes, consumer: bytes | None = None
    ) -> str | None:
        async with self._asking():
            rows = await self._client.xpending_range(
                self._key, group, "-", "+", 1, consumername=consumer
            )
        return rows[0]["message_id"].decode() if rows else None
