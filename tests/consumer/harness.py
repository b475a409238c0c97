"""A consumer and its maintenance on a real server, wired as in production."""

import contextlib
import time
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import anyio
from redis.exceptions import ResponseError

from tests import events
from tests.reading import Documents
from tests.waiting import wait_until
from worker.consumer.instance_resolver import InstanceResolver
from worker.consumer.loop import Consumer
from worker.consumer.processor import BatchProcessor, DocumentCache
from worker.core.coalescer import WriteResult
from worker.core.documents import PendingWrite
from worker.core.stream_keys import StreamKeys
from worker.maintenance.dead_letter_retention import drop_old_dead_letters
from worker.maintenance.group_metrics import GroupMetricsUpdate
from worker.maintenance.retire_consumers import retire_consumers
from worker.maintenance.server_info_metric import update_server_info
from worker.maintenance.trim import StreamTrimming
from worker.ops.metrics import Metrics
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.client import Client, create_client
from worker.store.stream.lease import Lease
from worker.store.stream.stream_reader import StreamReader
from worker.store.stream.stream_settings import StreamSettings
from worker.store.stream.trimmer import Trimmer


@dataclass
class Harness:
    """A consumer wired as in production, but for the cache it may be given."""

    client: Client
    stream: StreamReader
    documents: Documents
    consumer: Consumer
    metrics: Metrics
    key: str
    max_entries: int | None
    maintenance: "HarnessMaintenance" = field(init=False)
    born: float = field(default_factory=time.monotonic)

    def __post_init__(self) -> None:
        self.maintenance = HarnessMaintenance(self)

    async def add(self, body: Any, **fields: str | bytes) -> bytes:
        payload = body if isinstance(body, bytes) else events.encode(body)
        entry_id: bytes = await self.client.xadd(self.key, {"payload": payload, **fields})
        return entry_id

    async def is_idle(self) -> bool:
        """Nothing is pending, and nothing is still to be read."""
        groups = await self.client.xinfo_groups(self.key)
        group = next((g for g in groups if g["name"] == b"g"), None)
        (last,) = await self.client.xrevrange(self.key, count=1) or [(b"0-0", {})]
        return bool(group and group["pending"] == 0 and group["last-delivered-id"] == last[0])

    @asynccontextmanager
    async def running(self) -> AsyncIterator[None]:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(self.consumer.run)
            try:
                yield
            finally:
                self.consumer.stop()

    async def consume(self) -> None:
        """Run until everything is settled."""
        async with self.running():
            await wait_until(self.is_idle, "everything is settled")

    async def has_read(self) -> bool:
        return await self.stream.consumer_idle_ms() is not None

    def has_swept(self) -> bool:
        """It had the time to look for idle entries more than once."""
        return time.monotonic() > self.born + 1.5

    async def letters(self) -> list[dict[bytes, bytes]]:
        return [fields for _, fields in await self.client.xrange(f"{self.key}:dead")]

    def count(self, series: str, **labels: str) -> float:
        return self.metrics.registry.get_sample_value(f"chatwoot_cache_{series}", labels) or 0.0

    def lost(self, reason: str) -> float:
        return self.count("stream_lost_entries_total", reason=reason)

    def outcomes(self) -> dict[str, int]:
        names = ("applied", "stale", "ignored", "dead")
        counts = {n: int(self.count("entries_settled_total", outcome=n)) for n in names}
        return {name: count for name, count in counts.items() if count}


class HarnessMaintenance:
    """The timers' tasks, each run by hand."""

    def __init__(self, rig: Harness) -> None:
        group, metrics = rig.stream.group, rig.metrics
        lease = Lease(rig.client, StreamKeys(rig.key, "g").lease("upkeep"))
        trimmer = Trimmer(rig.client, rig.key, "g", retention_s=3600, max_entries=rig.max_entries)
        self.measure = GroupMetricsUpdate(group, metrics).run
        self.trim = StreamTrimming(trimmer, lease, metrics).run
        self.retire = partial(retire_consumers, group, lease)
        self.drop_old_letters = partial(drop_old_dead_letters, rig.stream.dead_letters, metrics)
        self.show_server = partial(update_server_info, rig.client, metrics)


@asynccontextmanager
async def harnessed(  # noqa: PLR0913 - what a test may want to vary
    uri: str,
    prefix: str,
    *,
    consumer: str = "c",
    instances: Mapping[str, str] | None = None,
    batch_size: int = 200,
    max_attempts: int = 5,
    reclaim_after_s: float = 60.0,
    max_document_bytes: int = 1_048_576,
    cache: DocumentCache | None = None,
    max_entries: int | None = None,
) -> AsyncIterator[Harness]:
    key = f"{prefix}:events"
    of = CacheSettings(prefix)
    settings = StreamSettings(key, "g", consumer, batch_size=batch_size, block_s=0.05)
    metrics = Metrics("0", 200)
    async with create_client(uri, block_s=0.05) as reader, create_client(uri) as own:
        stream = StreamReader(reader, own, settings)
        resolver = InstanceResolver(
            BindingTable(own, of),
            operator=instances or {},
            from_inbox_name=True,
            clock=time.monotonic,
        )
        processor = BatchProcessor(
            stream,
            cache or DocumentWriter(own, of),
            resolver,
            metrics,
            max_document_bytes=max_document_bytes,
        )
        loop = Consumer(
            stream,
            processor,
            metrics,
            name=consumer,
            max_attempts=max_attempts,
            reclaim_after_s=reclaim_after_s,
        )
        # By hand: what this user may not do is for the consumer to find out.
        with contextlib.suppress(ResponseError):
            await own.xgroup_create(key, "g", "0", mkstream=True)
        yield Harness(own, stream, Documents(own, prefix), loop, metrics, key, max_entries)


class Fragile:
    """A cache that meets a defect of ours in every batch with one message."""

    def __init__(self, message_id: int) -> None:
        self._message_id = message_id
        self.written: list[int] = []

    async def write(self, drafts: Sequence[PendingWrite], version: bytes | None) -> WriteResult:  # noqa: ARG002
        ids = [draft.document.id for draft in drafts]
        if self._message_id in ids:
            raise ZeroDivisionError("a message's text")
        self.written += ids
        return WriteResult(["applied"] * len(drafts), 0)


class Gate:
    """A cache that takes its time."""

    def __init__(self) -> None:
        self.open = anyio.Event()
        self.waiting = False

    async def write(self, drafts: Sequence[PendingWrite], version: bytes | None) -> WriteResult:  # noqa: ARG002
        self.waiting = True
        await self.open.wait()
        return WriteResult(["applied"] * len(drafts), 0)
