"""Spooled events are relayed to the stream in order once it is available, and none is lost."""

from collections.abc import AsyncIterator, Iterable, Mapping
from contextlib import asynccontextmanager, closing
from itertools import count
from pathlib import Path
from typing import Any, cast

import anyio
import msgspec
import pytest
import redis.asyncio
from redis.exceptions import ResponseError
from structlog.testing import capture_logs

from tests.disks import KIB, MIB, fill, small_disk
from tests.waiting import wait_until
from worker.core.stream_entry import Entry, SpoolPosition, read_envelope
from worker.errors import ConfigurationError, PermissionDenied, RedisUnavailable, SpoolError
from worker.ingest.spool.spool_file import SpoolFile
from worker.ingest.spool.spool_queue import SpoolQueue
from worker.ingest.spool.spool_relay import SpoolRelay
from worker.ops.metrics import Metrics
from worker.store.client import create_client
from worker.store.stream.stream_reader import StreamProducer

AWAY = RedisUnavailable("connection", "away")


class Stream:
    """A stream that fails with `outage` while it is set, and always for the payload `poison`."""

    def __init__(self) -> None:
        self.entries: list[dict[str, bytes]] = []
        self.record = SpoolPosition("")
        self.outage: Exception | None = None
        self.poison: bytes | None = None
        self.pings = 0

    async def drain(
        self, after: SpoolPosition, rows: Iterable[tuple[bytes, Mapping[str, bytes]]]
    ) -> tuple[SpoolPosition, int]:
        if self.outage:
            raise self.outage
        record = self.record if self.record.spool == after.spool else SpoolPosition(after.spool)
        if record != after:
            return record, 0
        added = 0
        for position, entry in rows:
            if entry["payload"] == self.poison:
                if added:
                    break
                raise ResponseError("a reason that nobody knew of")
            self.entries.append(dict(entry))
            record = SpoolPosition(after.spool, position)
            added += 1
        self.record = record
        return record, added

    async def ping(self) -> None:
        self.pings += 1
        if self.outage:
            raise self.outage

    @property
    def payloads(self) -> list[bytes]:
        return [entry["payload"] for entry in self.entries]


class SpooledStream:
    """A spool, and the relay to its stream."""

    def __init__(self, spool: SpoolQueue, stream: Stream | StreamProducer) -> None:
        self.spool = spool
        self.metrics = Metrics("1", max_instances=1)
        self.relay = SpoolRelay(spool, cast("StreamProducer", stream), self.metrics)

    async def keep(self, *payloads: bytes) -> list[str]:
        return [await self.relay.keep({"payload": payload}) for payload in payloads]

    def figure(self, name: str) -> float | None:
        return self.metrics.registry.get_sample_value(f"chatwoot_cache_webhook_spool_{name}")

    async def emptied(self) -> None:
        async def is_empty() -> bool:
            return (await self.spool.call(SpoolFile.stats)).entries == 0

        await wait_until(is_empty, "the spool is empty")


@asynccontextmanager
async def keeping(directory: Path, stream: Stream | StreamProducer) -> AsyncIterator[SpooledStream]:
    spool = SpoolQueue(SpoolFile(directory, 1 << 24, "events"))
    try:
        await spool.open()
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(spool.run)
            kept = SpooledStream(spool, stream)
            tasks.start_soon(kept.relay.run)
            yield kept
            tasks.cancel_scope.cancel()
    finally:
        spool.close()


@pytest.mark.parametrize(
    "outage", [AWAY, PermissionDenied("WRONGPASS"), ConfigurationError("MOVED")]
)
async def test_events_are_relayed_in_order_after_an_outage(
    tmp_path: Path, outage: Exception
) -> None:
    stream = Stream()
    stream.outage = outage
    async with keeping(tmp_path, stream) as kept:
        kept.relay.mark_unavailable(outage)
        ids = await kept.keep(*(b"%d" % n for n in range(250)))
        await wait_until(lambda: stream.pings >= 2, "it retries")
        assert kept.relay.unavailable
        assert stream.entries == []
        stream.outage = None
        await kept.emptied()
        await wait_until(lambda: not kept.relay.unavailable, "the stream is available again")

        assert stream.payloads == [b"%d" % n for n in range(250)]
        assert [entry["_id"].decode() for entry in stream.entries] == ids
        assert kept.figure("drained_total") == 250
        await wait_until(lambda: kept.figure("entries") == 0, "the gauge is updated")


async def test_events_are_relayed_after_a_restart(tmp_path: Path) -> None:
    stream = Stream()
    stream.outage = AWAY
    async with keeping(tmp_path, stream) as kept:
        kept.relay.mark_unavailable(AWAY)
        await kept.keep(b"1")

    stream.outage = None
    async with keeping(tmp_path, stream) as kept:
        await kept.emptied()
    assert stream.payloads == [b"1"]


async def test_an_event_that_is_always_refused_does_not_block_others(tmp_path: Path) -> None:
    stream = Stream()
    stream.poison = b"bad"
    async with keeping(tmp_path, stream) as kept:
        await kept.keep(b"bad", b"1")
        await wait_until(lambda: kept.figure("drained_total") == 1, "the other is relayed")
        assert stream.payloads == [b"1"]
        assert (await kept.spool.call(SpoolFile.stats)).entries == 1
        assert not kept.relay.unavailable


async def test_one_worker_relays_events_of_all_that_share_the_directory(tmp_path: Path) -> None:
    stream, other_stream = Stream(), Stream()
    stream.outage = other_stream.outage = AWAY
    async with keeping(tmp_path, stream) as one, keeping(tmp_path, other_stream) as other:
        one.relay.mark_unavailable(AWAY)
        other.relay.mark_unavailable(AWAY)
        await one.keep(b"1")
        await other.keep(b"2")
        stream.outage = None
        await one.emptied()
    assert stream.payloads == [b"1", b"2"]


async def test_the_id_preserves_the_order_and_is_never_a_servers(
    redis_uri: str, prefix: str, client: redis.asyncio.Redis, tmp_path: Path
) -> None:
    """An event that is relayed late has the age and the order of its arrival."""
    async with create_client(redis_uri) as ours:
        stream = StreamProducer(ours, prefix)
        before = await stream.add({"payload": b"{}"})
        async with keeping(tmp_path, stream) as kept:
            ids = await kept.keep(b"{}", b"{}")
            await kept.emptied()
        after = await stream.add({"payload": b"{}"})
        rows: Any = await client.xrange(prefix)
        found = [read_envelope(Entry(entry_id, fields)) for entry_id, fields in rows]

    orders = [statement.order for statement in found]
    assert orders[0] < min(orders[1:3])
    assert max(orders[1:3]) < orders[3]
    assert len(set(orders)) == 4
    assert [order.split("-")[0] for order in ids] == [str(s.ms) for s in found[1:3]]
    assert before < after


async def test_events_that_cannot_be_deleted_are_relayed_once(
    redis_uri: str, prefix: str, client: redis.asyncio.Redis, tmp_path: Path
) -> None:
    """Another program filled the disk, and took the ballast's space: nothing is relayed twice.

    Not after a restart either; and rows are deleted as soon as the disk allows it.
    """
    with small_disk(tmp_path, 3 * MIB) as disk:
        file = SpoolFile(disk, 1 << 24, "events")
        with closing(file):
            file.open()
            kept = append_until_full(file)
        async with create_client(redis_uri) as ours:
            stream = StreamProducer(ours, prefix)
            for _ in range(2):
                (disk / "ballast").unlink(missing_ok=True)
                other = fill(disk)
                async with keeping(disk, stream) as worker:
                    await worker.emptied()
                    await wait_until(lambda: worker.figure("entries") == 0, "none waits")
                    assert (await worker.spool.call(SpoolFile.stats)).used_bytes > MIB
                assert await client.xlen(prefix) == kept
            (record,) = await client.keys(f"{prefix}:spool:*")
            assert await client.ttl(record) > 29 * 86_400

            async with keeping(disk, stream) as worker:
                await worker.emptied()
                other.unlink()
                await worker.keep(b"{}")
                await wait_until((disk / "ballast").exists, "the disk has room")
                await worker.emptied()
                assert (await worker.spool.call(SpoolFile.stats)).used_bytes < 64 * KIB
            found: Any = await client.xrange(prefix)
    numbers = [int(fields[b"payload"].partition(b" ")[0]) for _, fields in found[:-1]]
    assert numbers == [*range(kept)]
    assert found[-1][1][b"payload"] == b"{}"


def append_until_full(file: SpoolFile) -> int:
    for number in count():
        try:
            file.append([msgspec.msgpack.encode({"payload": b"%d " % number + b"x" * 3000})])
        except SpoolError:
            return number
    raise AssertionError


async def test_an_outage_logs_few_lines(tmp_path: Path) -> None:
    stream = Stream()
    stream.outage = AWAY
    with capture_logs() as logs:
        async with keeping(tmp_path, stream) as kept:
            for _ in range(500):
                kept.relay.mark_unavailable(AWAY)
            await kept.keep(b"secret text")
            await wait_until(lambda: stream.pings >= 2, "it retries")
            stream.outage = None
            await wait_until(lambda: len(logs) == 3, "the end of the outage is logged")
    assert [line["event"] for line in logs] == [
        "webhook.spooled",
        "spool.drain_failed",
        "spool.drained",
    ]
    assert "secret text" not in str(logs)


async def test_a_failing_disk_does_not_make_the_stream_unavailable(tmp_path: Path) -> None:
    """Events still go to the stream; the disk is tried again."""
    spool = SpoolQueue(SpoolFile(tmp_path, 1 << 20, "events"))
    relay = SpoolRelay(spool, cast("StreamProducer", Stream()), Metrics("1", max_instances=1))
    with pytest.raises(SpoolError):
        await spool.probe()
    with capture_logs() as logs:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(relay.run)
            await wait_until(lambda: logs, "the failure is logged")
            tasks.cancel_scope.cancel()
    assert [line["event"] for line in logs] == ["spool.failed"]
    assert not relay.unavailable
