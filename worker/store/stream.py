"""The stream: every X* command, for reading as a member of a group and for adding."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

import msgspec
from redis.exceptions import ResponseError

from worker.core.entry import Buried, Entry, Figures, Letter, Pending, time_s
from worker.errors import GroupMissing, Misconfigured, Unavailable
from worker.store.connect import Client, register, translated
from worker.store.portion import Portion, split

_GREATEST_ID: Final = f"{2**64 - 1}-{2**64 - 2}"

_MAX_LETTER_FIELDS: Final = 1000
"""More would overflow the stack of the server's Lua."""

_IMPOSSIBLE_ID: Final = "0-0"


@dataclass(frozen=True, slots=True)
class StreamSettings:
    """Which stream, as whom, and how much at a time; times in seconds."""

    key: str
    group: str
    consumer: str
    batch_size: int = 200
    block_s: float = 2.0
    dead_max_entries: int = 10_000
    dead_retention_s: float = 2_592_000


class Stream:
    """One stream, read as one consumer of one group.

    `reader` is used for nothing but blocking reads, so that no other command waits behind them.
    """

    def __init__(self, reader: Client, writer: Client, settings: StreamSettings) -> None:
        self._reader = reader
        self._writer = writer
        self._of = settings
        self._dead_key = f"{settings.key}:dead"
        self._bury = register(writer, "bury")
        self._portion = Portion(settings.batch_size)
        # One pass from the reply to entries: the library's own makes three.
        reader.set_response_callback("XREADGROUP", _entries)

    async def create_group(self) -> bool:
        """Create stream and group from the stream's beginning; False when the group exists."""
        async with _told(self._writer, self._of.key):
            try:
                await self._writer.xgroup_create(self._of.key, self._of.group, "0", mkstream=True)
            except ResponseError as error:
                if "BUSYGROUP" in str(error):
                    return False
                raise
        return True

    async def keep_name(self) -> None:
        """Be seen as a living consumer: servers before 7.2 notice no read that brings nothing.

        Reads our pending entries behind the greatest id there can be, so none and without effect.
        """
        async with _told(self._writer, self._of.key):
            await self._writer.xreadgroup(
                self._of.group, self._of.consumer, {self._of.key: _GREATEST_ID}, count=1
            )

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our consumer name has not been used, None when it never was."""
        async with _told(self._writer, self._of.key):
            consumers = await self._writer.xinfo_consumers(self._of.key, self._of.group)
        name = self._of.consumer.encode()
        return next((int(c["idle"]) for c in consumers if c["name"] == name), None)

    async def read(self) -> list[Entry]:
        """Return the next entries, as many as a batch holds; none when none came in time."""
        async with self._shrinking(), _told(self._reader, self._of.key):
            entries: list[Entry] = await self._reader.xreadgroup(
                self._of.group,
                self._of.consumer,
                {self._of.key: ">"},
                count=self._portion.count,
                block=max(1, round(self._of.block_s * 1000)),
            )
        self._portion.learn(entries)
        return entries

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[Pending]:
        """Return a batch of what is pending under our name, in order, behind the id `after`.

        With `idle_s`: under anybody's name, and not handed out for that many seconds.
        """
        async with _told(self._writer, self._of.key):
            rows = await self._writer.xpending_range(
                self._of.key,
                self._of.group,
                min=b"(" + after,
                max="+",
                count=self._portion.count,
                consumername=self._of.consumer if idle_s is None else None,
                idle=None if idle_s is None else round(idle_s * 1000),
            )
        return [Pending(row["message_id"], row["times_delivered"]) for row in rows]

    async def claim(self, pending: Sequence[Pending], *, idle_s: float = 0.0) -> list[Entry]:
        """Take pending entries in hand once more, which is one more attempt for each.

        One that somebody took within `idle_s` seconds is left out.
        One that was trimmed from the stream meanwhile comes without fields.
        """
        async with self._shrinking(), _told(self._writer, self._of.key):
            reply = await self._writer.xclaim(
                self._of.key,
                self._of.group,
                self._of.consumer,
                round(idle_s * 1000),
                [p.id for p in pending],
            )
            fields_of = dict(reply)
            missing = [p.id for p in pending if not fields_of.get(p.id)]
            fields_of |= {entry_id: {} for entry_id in await self._trimmed(missing)}
        entries = [
            Entry(p.id, fields_of[p.id], p.attempts + 1) for p in pending if p.id in fields_of
        ]
        self._portion.learn(entries)
        return entries

    async def _trimmed(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return those of the entries that the stream does not hold any more."""
        if not ids:
            return []
        async with self._writer.pipeline(transaction=False) as pipeline:
            for entry_id in ids:
                pipeline.xrange(self._of.key, entry_id, entry_id)
            found = await pipeline.execute()
        return [entry_id for entry_id, held in zip(ids, found, strict=True) if not held]

    async def keep(self, ids: Sequence[bytes]) -> None:
        """Keep entries in hand from being taken by others: they count as handed out just now."""
        if not ids:
            return
        async with _told(self._writer, self._of.key):
            await self._writer.xclaim(
                self._of.key, self._of.group, self._of.consumer, 0, list(ids), idle=0, justid=True
            )

    async def give_back(self, entries: Sequence[Entry]) -> None:
        """Let this attempt on entries not count: they were handed out, and not tried."""
        async with (
            _told(self._writer, self._of.key),
            self._writer.pipeline(transaction=False) as pipeline,
        ):
            for entry in entries:
                # By hand: the library leaves RETRYCOUNT 0 out.
                pipeline.execute_command(
                    *("XCLAIM", self._of.key, self._of.group, self._of.consumer, 0, entry.id),
                    *("RETRYCOUNT", entry.attempts - 1, "JUSTID"),
                    parse_justid=True,
                )
            await pipeline.execute()

    @asynccontextmanager
    async def _shrinking(self) -> AsyncIterator[None]:
        """Ask for less where a reply does not come."""
        try:
            yield
        except Unavailable:
            self._portion.shrink()
            raise

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge entries; returns how many were pending."""
        if not ids:
            return 0
        async with _told(self._writer, self._of.key):
            return int(await self._writer.xack(self._of.key, self._of.group, *ids))

    async def bury(self, letters: Sequence[Letter]) -> Buried:
        """Move entries to the dead letters and acknowledge them, each in one step."""
        acked = dropped = 0
        for some in split(letters):
            buried = await self._bury_some(some)
            acked, dropped = acked + buried.acked, dropped + buried.dropped
        return Buried(acked, dropped)

    async def drop_old_letters(self) -> int:
        """Drop dead letters beyond their retention; returns how many."""
        return (await self._bury_some([])).dropped

    async def _bury_some(self, letters: Sequence[Letter]) -> Buried:
        arguments: list[bytes | str | int] = [
            self._of.group,
            self._of.dead_max_entries,
            round(self._of.dead_retention_s),
        ]
        for letter in letters:
            fields = self._letter_fields(letter)
            arguments += (letter.entry.id, 2 * len(fields), *_flat(fields))
        async with _told(self._writer, self._of.key):
            acked, dropped = await self._bury([self._of.key, self._dead_key], arguments)
        return Buried(acked, dropped)

    def _letter_fields(self, letter: Letter) -> dict[bytes, bytes]:
        entry = letter.entry
        return {
            **_bounded(entry.fields),
            b"_id": entry.fields.get(b"_id", entry.id),
            b"_stream": self._of.key.encode(),
            b"_reason": letter.error.reason.encode(),
            b"_error": str(letter.error).encode(),
            b"_attempts": str(entry.attempts).encode(),
            b"_consumer": self._of.consumer.encode(),
            b"_at": datetime.now(UTC).isoformat(timespec="milliseconds").encode(),
        }

    async def figures(self) -> Figures:
        """Ask the server how stream and group stand."""
        async with _told(self._writer, self._of.key):
            length = await self._writer.xlen(self._of.key)
            groups = await self._writer.xinfo_groups(self._of.key)
            group = next((g for g in groups if g["name"] == self._of.group.encode()), None)
            if group is None:
                raise GroupMissing(f"consumer group {self._of.group!r} is gone")
            summary = await self._writer.xpending(self._of.key, self._of.group)
        oldest = summary["min"]
        return Figures(
            length=length,
            pending=summary["pending"],
            lag=group.get("lag"),
            oldest_pending_s=time_s(oldest) if oldest else None,
        )

    async def server(self) -> tuple[str, str]:
        """Return the server's name and version; Valkey calls itself Redis 7.2.4 beside its own."""
        async with _told(self._writer, self._of.key):
            info = await self._writer.info("server")
        name = str(info.get("server_name", "redis"))
        return name, str(info.get(f"{name}_version", info["redis_version"]))


class Producer:
    """Adds entries to a stream."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key

    async def add(self, fields: Mapping[str, bytes]) -> str:
        """Add one entry; returns its id once the server has it."""
        async with _told(self._client, self._key):
            entry_id: bytes = await self._client.xadd(self._key, dict(fields))
        return entry_id.decode()

    async def add_all(self, entries: Iterable[Mapping[str, bytes]]) -> list[str]:
        """Add many entries in order, in one round trip; returns their ids."""
        async with (
            _told(self._client, self._key),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for fields in entries:
                pipeline.xadd(self._key, dict(fields))
            return [entry_id.decode() for entry_id in await pipeline.execute()]

    async def ping(self) -> None:
        """Raise unless the server would take an entry now; one that is full answers PING.

        Tried with the one id that no stream takes, which is looked at last.
        """
        async with _told(self._client, self._key):
            try:
                await self._client.xadd(self._key, {"payload": b""}, id=_IMPOSSIBLE_ID)
            except ResponseError as error:
                if _IMPOSSIBLE_ID not in str(error):
                    raise


@asynccontextmanager
async def _told(client: Client, key: str) -> AsyncIterator[None]:
    """Turn Redis' errors into ours, and say so where a key holds something else than a stream."""
    async with translated(client):
        try:
            yield
        except ResponseError as error:
            if "WRONGTYPE" not in str(error):
                raise
            raise Misconfigured(
                f"CHATWOOT_CACHE_STREAM_KEY={key} holds something else than a stream, "
                f"or {key}:dead does: choose another key"
            ) from error


def _entries(reply: Any, **_options: Any) -> list[Entry]:
    """Return the entries of the one stream in a reply, which is empty when there are none."""
    if not reply:
        return []
    # RESP3 answers with a map, RESP2 with pairs.
    (rows,) = reply.values() if isinstance(reply, dict) else [rows for _, rows in reply]
    return [Entry(entry_id, _pairs(fields)) for entry_id, fields in rows]


def _pairs(fields: list[bytes] | None) -> dict[bytes, bytes]:
    """Return names and values as the wire has them; nothing for an entry that was trimmed."""
    return dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}


def _bounded(fields: Mapping[bytes, bytes]) -> dict[bytes, bytes]:
    """Return fields few enough for one command; the surplus is kept in one of them, as JSON."""
    if len(fields) <= _MAX_LETTER_FIELDS:
        return dict(fields)
    items = list(fields.items())
    kept, surplus = dict(items[:_MAX_LETTER_FIELDS]), items[_MAX_LETTER_FIELDS:]
    more = {name.decode("latin-1"): value.decode("latin-1") for name, value in surplus}
    return {**kept, b"_more": msgspec.json.encode(more)}


def _flat(fields: Mapping[bytes, bytes]) -> Iterable[bytes]:
    for name, value in fields.items():
        yield name
        yield value
