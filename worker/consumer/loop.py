"""The consumer: recovers pending entries, then reads, settles and acknowledges until stopped.

New entries pass through four tasks: while one batch is written, the previous one is acknowledged,
the next is prepared, and the one after that is read. Pending entries are settled batch by batch.

While Redis is unavailable, the current step is repeated and nothing more is read. When told to stop
during an outage, the consumer ends at once; entries in flight stay pending for the next start.
"""

import contextlib
from collections.abc import Awaitable, Callable, Sequence
from typing import Final

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from worker.consumer.batch import Batch
from worker.consumer.consumer_name import HEARTBEAT_S, ensure_unique
from worker.consumer.defect_isolation import PoisonIsolation
from worker.consumer.entry_stream import EntryStream
from worker.consumer.in_flight import InFlight
from worker.consumer.pending_recovery import PendingRecovery
from worker.consumer.periodic import run_periodically
from worker.consumer.processor import BatchProcessor
from worker.consumer.retry import Retry, StopRequested
from worker.core.stream_entry import DeliverySource, Entry
from worker.errors import RedisUnavailable, WorkerError
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics
from worker.store.stream.consumer_group import CreatedGroup

log = structlog.get_logger()

_UNBLOCK_S: Final = 0.05
_RECREATE_PAUSE_S: Final = 0.1


class Consumer:
    """One consumer of the group; takes over what others left pending for `reclaim_after_s`."""

    def __init__(
        self,
        stream: EntryStream,
        processor: BatchProcessor,
        metrics: Metrics,
        *,
        name: str,
        max_attempts: int = 5,
        reclaim_after_s: float = 60.0,
    ) -> None:
        self._stream = stream
        self._processor = processor
        self._metrics = metrics
        self._name = name
        self._reclaim_after_s = reclaim_after_s
        self._throttle = LogThrottle(10.0)
        self._retry = Retry(metrics, on_group_missing=self._recreate_group)
        self._isolation = PoisonIsolation(processor, self._retry)
        self._in_flight = InFlight(stream, metrics, reclaim_after_s=reclaim_after_s)
        self._recovery = PendingRecovery(
            stream,
            self._retry,
            settle=self._settle_recovered,
            bury=processor.bury,
            max_attempts=max_attempts,
            reclaim_after_s=reclaim_after_s,
        )

    def stop(self) -> None:
        """End `run` once the entries in flight are settled."""
        self._retry.stop.set()

    @property
    def progressed_at(self) -> float:
        """When a step last began, by the monotonic clock."""
        return self._retry.progressed_at

    @property
    def outage(self) -> RedisUnavailable | None:
        """Why Redis is unavailable, None when it is not."""
        return self._retry.outage

    @property
    def started(self) -> anyio.Event:
        """Set once entries are consumed, or the first outage was met."""
        return self._retry.first_attempt

    async def run(self) -> None:
        """Consume until stopped; raises `PermissionDenied` and `ConfigurationError`."""
        renew_s = self._reclaim_after_s / 3
        try:
            await self._retry.call(self._create_group)
            await ensure_unique(self._stream, self._retry, self._name)
            self._retry.first_attempt.set()
            async with anyio.create_task_group() as tasks:
                tasks.start_soon(run_periodically, HEARTBEAT_S, self._stream.heartbeat)
                tasks.start_soon(run_periodically, renew_s, self._in_flight.reset_idle)
                tasks.start_soon(self._unblock_when_stopped)
                while not self._retry.stop.is_set():
                    await self._recovery.run_due()
                    await self._consume_new()
                tasks.cancel_scope.cancel()
        except* StopRequested:
            log.warning("worker.stopped_without_redis", in_flight=len(self._in_flight))
        finally:
            await self._in_flight.release()

    async def _unblock_when_stopped(self) -> None:
        """Unblock reads once told to stop; one may only be about to wait."""
        await self._retry.stop.wait()
        while True:
            with contextlib.suppress(WorkerError):
                await self._stream.unblock()
            await anyio.sleep(_UNBLOCK_S)

    async def _settle_recovered(self, entries: Sequence[Entry], source: DeliverySource) -> None:
        if not entries:
            return
        self._in_flight.add(entries, source)
        batch = Batch(entries)
        await self._isolation.prepare(batch)
        await self._isolation.write(batch)
        await self._settle(batch)

    async def _consume_new(self) -> None:
        """Settle new entries until told to stop or a recovery is due.

        Each task holds at most one batch and passes it on only to an idle one.
        """
        to_prepare, read = anyio.create_memory_object_stream[Batch]()
        to_write, prepared = anyio.create_memory_object_stream[Batch]()
        to_settle, written = anyio.create_memory_object_stream[Batch]()
        async with read, prepared, written, anyio.create_task_group() as tasks:
            tasks.start_soon(_run_step, self._isolation.prepare, read, to_write)
            tasks.start_soon(_run_step, self._isolation.write, prepared, to_settle)
            tasks.start_soon(self._settle_each, written)
            await self._read_each(to_prepare)

    async def _read_each(self, to_prepare: MemoryObjectSendStream[Batch]) -> None:
        async with to_prepare:
            while not (self._retry.stop.is_set() or self._recovery.is_due):
                await self._retry.wait_until_healthy()
                if entries := await self._retry.call(self._read):
                    self._in_flight.add(entries, "new")
                    await to_prepare.send(Batch(entries))

    async def _settle_each(self, written: MemoryObjectReceiveStream[Batch]) -> None:
        async for batch in written:
            await self._settle(batch)

    async def _settle(self, batch: Batch) -> None:
        await self._isolation.settle(batch)
        self._in_flight.remove(batch.entries)

    async def _read(self) -> list[Entry]:
        try:
            return await self._stream.read()
        except RedisUnavailable:
            self._recovery.own_pending_unknown = True
            raise

    async def _recreate_group(self) -> None:
        self._processor.invalidate_bindings()
        if not await self._retry.call(self._create_group):
            # Another worker created it, or the server's replies disagree.
            await anyio.sleep(_RECREATE_PAUSE_S)

    async def _create_group(self) -> bool:
        """Return whether the group was missing, or stood ahead of its saved position."""
        created = await self._stream.create_group()
        if created is None:
            return False
        if created.set_back_from:
            position, was = created.position, created.set_back_from
            log.warning("group.set_back", position=position, was=was)
        elif created.again:
            self._count_recreated(created)
        else:
            log.info("group.created", position=created.position)
        return True

    def _count_recreated(self, created: CreatedGroup) -> None:
        # Entries in flight were not settled either, but will be.
        lost = max(0, created.lost - len(self._in_flight))
        self._metrics.stream_group_recreations.inc()
        self._metrics.stream_lost_entries.labels(reason="group_recreated").inc(lost)
        suppressed = self._throttle.ready("group.recreated")
        if suppressed is not None:
            details = {"position": created.position, "lost_estimate": lost}
            log.warning("group.recreated", suppressed=suppressed, **details)


async def _run_step(
    step: Callable[[Batch], Awaitable[None]],
    source: MemoryObjectReceiveStream[Batch],
    target: MemoryObjectSendStream[Batch],
) -> None:
    async with target:
        async for batch in source:
            await step(batch)
            await target.send(batch)
