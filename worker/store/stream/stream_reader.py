"""The stream: reading as a member of a group, and adding."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from redis.exceptions import ResponseError

from worker.core.cache_keys import dead_key
from worker.core.stream_entry import BuryResult, DeadEntry, Entry, PendingEntry, SpoolPosition
from worker.core.stream_keys import SPOOL_RECORD_S, StreamKeys, spool_key
from worker.errors import RedisUnavailable
from worker.store.client import Client, load_script
from worker.store.stream.batch_size import AdaptiveBatchSize
from worker.store.stream.consumer_group import ConsumerGroup, NewGroup
from worker.store.stream.dead_letters import DeadLetterStream
from worker.store.stream.lease import Lease
from worker.store.stream.server_identity import identify
from worker.store.stream.stream_errors import stream_errors

_GREATEST_ID: Final = f"{2**64 - 1}-{2**64 - 2}"

_IMPOSSIBLE_ID: Final = "0-0"

_ONE_FIELD: Final = 2

_attempts = attrgetter("attempts")


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


class StreamReader:
    """One stream, read as one consumer of one group.

    `reader` is used for nothing but blocking reads, so that no other command waits behind them.
    """

    def __init__(self, reader: Client, writer: Client, settings: StreamSettings) -> None:
        self._reader = reader
        self._writer = writer
        self._of = settings
        self._portion = AdaptiveBatchSize(settings.batch_size)
        self._reader_id: int | None = None
        self._may_unblock = True
        self.sweeping = Lease(writer, StreamKeys(settings.key, settings.group).lease("sweep"))
        self.group = ConsumerGroup(writer, settings.key, settings.group, settings.consumer)
        self.letters = DeadLetterStream(
            writer,
            dead_key(settings.key),
            stream=settings.key,
            group=settings.group,
            consumer=settings.consumer,
            max_entries=settings.dead_max_entries,
            retention_s=settings.dead_retention_s,
        )
        # One pass from the reply to entries: the library's own makes three.
        reader.set_response_callback("XREADGROUP", _entries)

    async def create_group(self) -> NewGroup | None:
        """Create stream and group where they are missing; None when the group exists."""
        return await self.group.create()

    async def keep_name(self) -> None:
        """Be seen as a living consumer: servers before 7.2 notice no read that brings nothing.

        Reads our pending entries behind the greatest id there can be, so none and without effect.
        """
        async with stream_errors(self._writer, self._of.key):
            await self._writer.xreadgroup(
                self._of.group, self._of.consumer, {self._of.key: _GREATEST_ID}, count=1
            )

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our consumer name has not been used, None when it never was."""
        return await self.group.consumer_idle_ms()

    async def read(self) -> list[Entry]:
        """Return the next entries, as many as a batch holds; none when none came in time."""
        async with self._shrinking(), stream_errors(self._reader, self._of.key):
            await self._learn_id()
            entries: list[Entry] = await self._reader.xreadgroup(
                self._of.group,
                self._of.consumer,
                {self._of.key: ">"},
                count=self._portion.count,
                block=max(1, round(self._of.block_s * 1000)),
            )
        self._portion.learn(entries)
        return entries

    async def _learn_id(self) -> None:
        """Ask which connection of the server's our reads have, so that one can be unblocked."""
        if self._reader_id is None and self._may_unblock:
            try:
                self._reader_id = await self._reader.client_id()
            except ResponseError:
                self._may_unblock = False

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[PendingEntry]:
        """Return a batch of what is pending under our name, in order, behind the id `after`.

        With `idle_s`: under anybody's name, and not handed out for that many seconds.
        """
        async with stream_errors(self._writer, self._of.key):
            rows = await self._writer.xpending_range(
                self._of.key,
                self._of.group,
                min=b"(" + after,
                max="+",
                count=self._portion.count,
                consumername=self._of.consumer if idle_s is None else None,
                idle=None if idle_s is None else round(idle_s * 1000),
            )
        return [PendingEntry(row["message_id"], row["times_delivered"]) for row in rows]

    async def claim(self, pending: Sequence[PendingEntry], *, idle_s: float = 0.0) -> list[Entry]:
        """Take pending entries in hand once more, which is one more attempt for each.

        May be repeated where the reply was lost: that is the same attempt still.
        One that somebody took within `idle_s` seconds is left out.
        One that was trimmed from the stream meanwhile comes without fields.
        """
        fields_of: dict[bytes, dict[bytes, bytes]] = {}
        async with self._shrinking(), stream_errors(self._writer, self._of.key):
            for attempts, some in groupby(sorted(pending, key=_attempts), _attempts):
                reply = await self._writer.xclaim(
                    self._of.key,
                    self._of.group,
                    self._of.consumer,
                    round(idle_s * 1000),
                    [p.id for p in some],
                    retrycount=attempts + 1,
                )
                fields_of |= dict(reply)
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
        async with stream_errors(self._writer, self._of.key):
            await self._writer.xclaim(
                self._of.key, self._of.group, self._of.consumer, 0, list(ids), idle=0, justid=True
            )

    async def give_back(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:
        """Let this attempt on entries not count: they were handed out, and not tried.

        They count as idle for `idle_s` seconds, so that others take them no later than that.
        """
        async with (
            stream_errors(self._writer, self._of.key),
            self._writer.pipeline(transaction=False) as pipeline,
        ):
            for entry in entries:
                # By hand: the library leaves RETRYCOUNT 0 out.
                pipeline.execute_command(
                    *("XCLAIM", self._of.key, self._of.group, self._of.consumer, 0, entry.id),
                    *("IDLE", round(idle_s * 1000)),
                    *("RETRYCOUNT", entry.attempts - 1, "JUSTID"),
                    parse_justid=True,
                )
            await pipeline.execute()

    async def unblock(self) -> bool:
        """Let a read that waits return with nothing.

        False when no read waits, or where CLIENT is no right of ours, as with some providers.
        """
        if self._reader_id is None:
            return False
        async with stream_errors(self._writer, self._of.key):
            try:
                return bool(await self._writer.client_unblock(self._reader_id))
            except ResponseError:
                self._reader_id, self._may_unblock = None, False
                return False

    @asynccontextmanager
    async def _shrinking(self) -> AsyncIterator[None]:
        """Ask for less where a reply does not come."""
        try:
            yield
        except RedisUnavailable:
            self._portion.shrink()
            self._reader_id = None
            raise

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge entries; returns how many were pending."""
        if not ids:
            return 0
        async with stream_errors(self._writer, self._of.key):
            return int(await self._writer.xack(self._of.key, self._of.group, *ids))

    async def bury(self, letters: Sequence[DeadEntry]) -> BuryResult:
        """Move entries to the dead letters and acknowledge them, each in one step."""
        return await self.letters.bury(letters)

    async def delete(self, ids: Sequence[bytes]) -> None:
        """Delete entries from the stream."""
        async with stream_errors(self._writer, self._of.key):
            await self._writer.xdel(self._of.key, *ids)

    async def server(self) -> tuple[str, str]:
        """Return the server's name and version."""
        async with stream_errors(self._writer, self._of.key):
            return await identify(self._writer)


class StreamProducer:
    """Adds entries to a stream."""

    def __init__(self, client: Client, key: str) -> None:
        self._client = client
        self._key = key
        self._drain = load_script(client, __file__, "drain_spool")

    async def add(self, fields: Mapping[str, bytes]) -> str:
        """Add one entry; returns its id once the server has it."""
        async with stream_errors(self._client, self._key):
            entry_id: bytes = await self._client.xadd(self._key, dict(fields))
        return entry_id.decode()

    async def add_all(self, entries: Iterable[Mapping[str, bytes]]) -> list[str]:
        """Add many entries in order, in one round trip; returns their ids."""
        async with (
            stream_errors(self._client, self._key),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for fields in entries:
                pipeline.xadd(self._key, dict(fields))
            return [entry_id.decode() for entry_id in await pipeline.execute()]

    async def drain(
        self, after: SpoolPosition, rows: Iterable[tuple[bytes, Mapping[str, bytes]]]
    ) -> tuple[SpoolPosition, int]:
        """Add rows of a spool in order, each given as its position there and its fields.

        The position of the last row is recorded beside the stream, in the same step. Nothing is
        added where the record is not `after`: the stream has other rows than the caller knows.
        Returns the record and how many rows were added: some only where the next one is refused.
        An error says that none of them was added, or that the reply was lost.
        """
        arguments: list[bytes | str | int] = [after.row, SPOOL_RECORD_S]
        for position, fields in rows:
            arguments += (position, 2 * len(fields))
            for name, value in fields.items():
                arguments += (name, value)
        async with stream_errors(self._client, self._key):
            row, added = await self._drain(
                [self._key, spool_key(self._key, after.spool)], arguments
            )
        return SpoolPosition(after.spool, row), added

    async def ping(self) -> None:
        """Raise unless the server would take an entry now; one that is full answers PING.

        Tried with the one id that no stream takes, which is looked at last.
        """
        async with stream_errors(self._client, self._key):
            try:
                await self._client.xadd(self._key, {"payload": b""}, id=_IMPOSSIBLE_ID)
            except ResponseError as error:
                if _IMPOSSIBLE_ID not in str(error):
                    raise


def _entries(reply: Any, **_options: Any) -> list[Entry]:
    """Return the entries of the one stream in a reply, which is empty when there are none."""
    if not reply:
        return []
    # RESP3 answers with a map, RESP2 with pairs.
    (rows,) = reply.values() if isinstance(reply, dict) else [rows for _, rows in reply]
    return [Entry(entry_id, _pairs(fields)) for entry_id, fields in rows]


def _pairs(fields: list[bytes] | None) -> dict[bytes, bytes]:
    """Return names and values as the wire has them; nothing for an entry that was trimmed."""
    if fields and len(fields) == _ONE_FIELD:
        return {fields[0]: fields[1]}
    return dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}
