"""A stream: reading as a consumer of a group, and adding."""

from collections.abc import AsyncIterator, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from itertools import groupby
from operator import attrgetter
from typing import Any, Final

from redis.exceptions import ResponseError

from worker.core.stream_entry import Entry, PendingEntry, SpoolPosition
from worker.core.stream_keys import SPOOL_RECORD_S, StreamKeys, spool_key
from worker.errors import RedisUnavailable
from worker.store.client import Client, load_script
from worker.store.stream.batch_size import AdaptiveBatchSize
from worker.store.stream.consumer_group import ConsumerGroup
from worker.store.stream.dead_letters import DeadLetterStream
from worker.store.stream.lease import Lease
from worker.store.stream.stream_errors import stream_errors
from worker.store.stream.stream_settings import StreamSettings

_GREATEST_ID: Final = f"{2**64 - 1}-{2**64 - 2}"

_IMPOSSIBLE_ID: Final = "0-0"

_ONE_FIELD: Final = 2

_attempts = attrgetter("attempts")


class StreamReader:
    """One stream, read as one consumer of one group.

    `reader` is used for blocking reads only, so that no other command waits behind them.
    """

    def __init__(self, reader: Client, writer: Client, settings: StreamSettings) -> None:
        self._reader = reader
        self._writer = writer
        self._key = settings.key
        self._group = settings.group
        self._consumer = settings.consumer
        self._block_ms = max(1, round(settings.block_s * 1000))
        self._batch_size = AdaptiveBatchSize(settings.batch_size)
        self._reader_id: int | None = None
        self._may_unblock = True
        self.reclaim_lease = Lease(writer, StreamKeys(settings.key, settings.group).lease("sweep"))
        self.group = ConsumerGroup(writer, settings.key, settings.group, settings.consumer)
        self.dead_letters = DeadLetterStream(writer, settings)
        self.create_group = self.group.create
        self.consumer_idle_ms = self.group.consumer_idle_ms
        self.bury = self.dead_letters.bury
        # Converts the reply in one pass; the library makes three.
        reader.set_response_callback("XREADGROUP", _entries)

    async def heartbeat(self) -> None:
        """Reset our consumer's idle time, which a read without result does not before Redis 7.2.

        Reads our pending entries behind the greatest possible id, so none and without effect.
        """
        async with self._errors():
            await self._writer.xreadgroup(
                self._group, self._consumer, {self._key: _GREATEST_ID}, count=1
            )

    async def read(self) -> list[Entry]:
        """Return the next entries, at most a batch; none when none came within `block_s`."""
        async with self._shrinking(), stream_errors(self._reader, self._key):
            await self._fetch_reader_id()
            entries: list[Entry] = await self._reader.xreadgroup(
                self._group,
                self._consumer,
                {self._key: ">"},
                count=self._batch_size.count,
                block=self._block_ms,
            )
        self._batch_size.observe(entries)
        return entries

    async def _fetch_reader_id(self) -> None:
        """Fetch the id of the connection that reads, which `unblock` needs."""
        if self._reader_id is None and self._may_unblock:
            try:
                self._reader_id = await self._reader.client_id()
            except ResponseError:
                self._may_unblock = False

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[PendingEntry]:
        """Return a batch of our pending entries, in order, behind the id `after`.

        With `idle_s`: of any consumer's that have been idle for that many seconds.
        """
        async with self._errors():
            rows = await self._writer.xpending_range(
                self._key,
                self._group,
                min=b"(" + after,
                max="+",
                count=self._batch_size.count,
                consumername=self._consumer if idle_s is None else None,
                idle=None if idle_s is None else round(idle_s * 1000),
            )
        return [PendingEntry(row["message_id"], row["times_delivered"]) for row in rows]

    async def claim(self, pending: Sequence[PendingEntry], *, idle_s: float = 0.0) -> list[Entry]:
        """Take over pending entries, which counts as one more attempt for each.

        Repeated after a lost reply, it is still the same attempt. An entry that another worker took
        within `idle_s` seconds is left out. One that was trimmed meanwhile has no fields.
        """
        fields_of: dict[bytes, dict[bytes, bytes]] = {}
        async with self._shrinking(), self._errors():
            for attempts, some in groupby(sorted(pending, key=_attempts), _attempts):
                reply = await self._writer.xclaim(
                    self._key,
                    self._group,
                    self._consumer,
                    round(idle_s * 1000),
                    [entry.id for entry in some],
                    retrycount=attempts + 1,
                )
                fields_of |= dict(reply)
            missing = [entry.id for entry in pending if not fields_of.get(entry.id)]
            fields_of |= {entry_id: {} for entry_id in await self._trimmed(missing)}
        entries = [
            Entry(entry.id, fields_of[entry.id], entry.attempts + 1)
            for entry in pending
            if entry.id in fields_of
        ]
        self._batch_size.observe(entries)
        return entries

    async def _trimmed(self, ids: Sequence[bytes]) -> list[bytes]:
        """Return those of the entries that are gone from the stream."""
        if not ids:
            return []
        async with self._writer.pipeline(transaction=False) as pipeline:
            for entry_id in ids:
                pipeline.xrange(self._key, entry_id, entry_id)
            found = await pipeline.execute()
        return [entry_id for entry_id, rows in zip(ids, found, strict=True) if not rows]

    async def reset_idle(self, ids: Sequence[bytes]) -> None:
        """Reset the idle time of pending entries, so that no other worker takes them over."""
        if not ids:
            return
        async with self._errors():
            await self._writer.xclaim(
                self._key, self._group, self._consumer, 0, list(ids), idle=0, justid=True
            )

    async def release(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:
        """Undo this attempt on entries and count them as idle for `idle_s` seconds."""
        async with self._errors(), self._writer.pipeline(transaction=False) as pipeline:
            for entry in entries:
                # The library omits RETRYCOUNT 0.
                pipeline.execute_command(
                    *("XCLAIM", self._key, self._group, self._consumer, 0, entry.id),
                    *("IDLE", round(idle_s * 1000)),
                    *("RETRYCOUNT", entry.attempts - 1, "JUSTID"),
                    parse_justid=True,
                )
            await pipeline.execute()

    async def unblock(self) -> bool:
        """Let a read that waits return with nothing.

        False when no read waits, or where the user may not run CLIENT, as with some providers.
        """
        if self._reader_id is None:
            return False
        async with self._errors():
            try:
                return bool(await self._writer.client_unblock(self._reader_id))
            except ResponseError:
                self._reader_id, self._may_unblock = None, False
                return False

    async def ack(self, ids: Sequence[bytes]) -> int:
        """Acknowledge entries; returns how many were pending."""
        if not ids:
            return 0
        async with self._errors():
            return int(await self._writer.xack(self._key, self._group, *ids))

    async def delete(self, ids: Sequence[bytes]) -> None:
        """Delete entries from the stream."""
        async with self._errors():
            await self._writer.xdel(self._key, *ids)

    @asynccontextmanager
    async def _shrinking(self) -> AsyncIterator[None]:
        """Request less, and fetch the connection's id again, after a reply did not arrive."""
        try:
            yield
        except RedisUnavailable:
            self._batch_size.shrink()
            self._reader_id = None
            raise

    def _errors(self) -> AbstractAsyncContextManager[None]:
        return stream_errors(self._writer, self._key)


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
    """Return the entries of a reply of one stream."""
    if not reply:
        return []
    # RESP3 answers with a map, RESP2 with pairs.
    (rows,) = reply.values() if isinstance(reply, dict) else [rows for _, rows in reply]
    return [Entry(entry_id, _pairs(fields)) for entry_id, fields in rows]


def _pairs(fields: list[bytes] | None) -> dict[bytes, bytes]:
    """Return fields from names and values in turn; none for an entry that was trimmed."""
    if fields and len(fields) == _ONE_FIELD:
        return {fields[0]: fields[1]}
    return dict(zip(fields[::2], fields[1::2], strict=True)) if fields else {}
