"""The loop: take up what is ours, then read, settle and ack, until told to stop.

New entries flow through four tasks: while one batch is written, the last one is acknowledged, the
next is decoded, and the one after that is read. Nothing else flows: what is pending already is
settled batch by batch.

Redis may be away at any point: the step in hand is tried again until it succeeds, and nothing
more is read meanwhile. Told to stop while Redis is away, the loop ends at once,
and what is in hand stays pending for the next start.
"""

import contextlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, Protocol

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from worker.consumer.batch import Batch
from worker.consumer.consumer_name import HEARTBEAT_S, NamedConsumer, ensure_unique
from worker.consumer.defect_isolation import DefectIsolation
from worker.consumer.in_flight import InFlight, Lender
from worker.consumer.pending_recovery import PendingEntries, PendingRecovery
from worker.consumer.periodic import run_periodically
from worker.consumer.processor import Acknowledger, BatchProcessor
from worker.consumer.retry import Retry, Stopped
from worker.core.stream_entry import DeadEntry, DeliverySource, Entry
from worker.errors import RedisUnavailable, WorkerError
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_UNBLOCK_S: Final = 0.05
_RECREATE_PAUSE_S: Final = 0.1

_InWork = tuple[Sequence[Entry], Batch | None]
"""Entries, and the batch that was made of them; None where a defect of ours stopped it."""


class CreatedGroup(Protocol):
    """A group that was just created; `again` when there had been one."""

    @property
    def position(self) -> str:
        """The id behind which it reads."""

    @property
    def again(self) -> bool:
        """Whether there had been one."""

    @property
    def lost(self) -> int:
        """How many entries the former one never settled and this one cannot read, at a guess."""


class EntryStream(Acknowledger, NamedConsumer, PendingEntries, Lender, Protocol):
    """Where entries come from."""

    async def create_group(self) -> CreatedGroup | None:
        """Create stream and group where they are missing; None when the group exists."""

    async def keep_name(self) -> None:
        """Be seen as a living consumer."""

    async def read(self) -> list[Entry]:
        """Wait for new entries and return a batch of them."""

    async def unblock(self) -> bool:
        """Let a read that waits return with nothing, if that can be."""


class Book(Protocol):
    """What the group lost."""

    async def check(self) -> None:
        """Count what was trimmed unread, unless that was done a moment ago."""


@dataclass(frozen=True, slots=True)
class ConsumerSettings:
    """As whom, how often an entry is tried, and when what others left is taken over."""

    name: str
    max_attempts: int = 5
    reclaim_after_s: float = 60.0


class Consumer:
    """One consumer of the group."""

    def __init__(
        self,
        stream: EntryStream,
        settler: BatchProcessor,
        ledger: Book,
        metrics: Metrics,
        settings: ConsumerSettings,
    ) -> None:
        self._stream = stream
        self._settler = settler
        self._ledger = ledger
        self._metrics = metrics
        self._of = settings
        self._throttle = LogThrottle(10.0)
        self._patience = Retry(metrics, on_group_missing=self._recreate_group)
        self._attempt = DefectIsolation(settler, self._patience)
        self._hand = InFlight(stream, metrics, reclaim_after_s=settings.reclaim_after_s)
        self._backlog = PendingRecovery(
            stream,
            self,
            self._patience,
            max_attempts=settings.max_attempts,
            reclaim_after_s=settings.reclaim_after_s,
        )

    def stop(self) -> None:
        """End after what is in hand."""
        self._patience.stop.set()

    @property
    def progressed_at(self) -> float:
        """When the loop last began a step, by the monotonic clock."""
        return self._patience.progressed_at

    @property
    def outage(self) -> RedisUnavailable | None:
        """Why Redis cannot be used now, None when it can."""
        return self._patience.outage

    @property
    def started(self) -> anyio.Event:
        """Set once the loop runs, or has met its first outage."""
        return self._patience.first_attempt

    async def run(self) -> None:
        """Consume until stopped; raises `PermissionRefused` and `ConfigurationError`."""
        try:
            await self._patience.call(self._create_group)
            await ensure_unique(self._stream, self._patience, self._of.name)
            self._patience.first_attempt.set()
            async with anyio.create_task_group() as beside:
                beside.start_soon(run_periodically, HEARTBEAT_S, self._stream.keep_name)
                beside.start_soon(run_periodically, self._of.reclaim_after_s / 3, self._hand.keep)
                beside.start_soon(self._end_the_waiting_read)
                await self._consume()
                beside.cancel_scope.cancel()
        except* Stopped:
            log.warning("worker.stopped_without_redis", in_hand="stays pending")
        finally:
            await self._hand.release()

    async def take(self, entries: Sequence[Entry], source: DeliverySource) -> None:
        """Settle entries that were just handed out to us."""
        if entries:
            self._hand.take(entries, source)
            batch = await self._attempt.prepare(entries)
            await self._close(entries, await self._attempt.write(entries, batch))

    async def bury(self, letter: DeadEntry) -> None:
        """Settle one entry as dead, without trying it."""
        await self._settler.bury(letter)

    async def _end_the_waiting_read(self) -> None:
        """Once told to stop, wait for no new entries; a read may only be about to wait."""
        await self._patience.stop.wait()
        while True:
            with contextlib.suppress(WorkerError):
                await self._stream.unblock()
            await anyio.sleep(_UNBLOCK_S)

    async def _consume(self) -> None:
        while not self._patience.stop.is_set():
            await self._backlog.take_up_what_is_due()
            await self._flow()

    async def _flow(self) -> None:
        """Settle new entries, reading and decoding the next ones meanwhile, until a pause is due.

        Each task holds one batch at the most, and hands it over only to one that has none.
        """
        to_prepare, read = anyio.create_memory_object_stream[Sequence[Entry]]()
        to_write, prepared = anyio.create_memory_object_stream[_InWork]()
        to_close, written = anyio.create_memory_object_stream[_InWork]()
        async with read, prepared, written, anyio.create_task_group() as flow:
            flow.start_soon(self._prepare_each, read, to_write)
            flow.start_soon(self._write_each, prepared, to_close)
            flow.start_soon(self._close_each, written)
            await self._read_new(to_prepare)

    async def _read_new(self, to_prepare: MemoryObjectSendStream[Sequence[Entry]]) -> None:
        async with to_prepare:
            while not (self._patience.stop.is_set() or self._backlog.is_due):
                await self._patience.wait_until_healthy()
                await self._patience.call(self._ledger.check)
                if entries := await self._patience.call(self._read):
                    self._hand.take(entries, "new")
                    await to_prepare.send(entries)

    async def _prepare_each(
        self,
        read: MemoryObjectReceiveStream[Sequence[Entry]],
        to_write: MemoryObjectSendStream[_InWork],
    ) -> None:
        async with to_write:
            async for entries in read:
                await to_write.send((entries, await self._attempt.prepare(entries)))

    async def _write_each(
        self,
        prepared: MemoryObjectReceiveStream[_InWork],
        to_close: MemoryObjectSendStream[_InWork],
    ) -> None:
        async with to_close:
            async for entries, batch in prepared:
                await to_close.send((entries, await self._attempt.write(entries, batch)))

    async def _close_each(self, written: MemoryObjectReceiveStream[_InWork]) -> None:
        async for entries, batch in written:
            await self._close(entries, batch)

    async def _close(self, entries: Sequence[Entry], batch: Batch | None) -> None:
        await self._attempt.close(entries, batch)
        self._hand.remove(entries)

    async def _read(self) -> list[Entry]:
        try:
            return await self._stream.read()
        except RedisUnavailable:
            self._backlog.own_pending_unknown = True
            raise

    async def _recreate_group(self) -> None:
        self._settler.invalidate_bindings()
        if not await self._patience.call(self._create_group):
            # It was there all the same: somebody else created it, or the server is of two minds.
            await anyio.sleep(_RECREATE_PAUSE_S)

    async def _create_group(self) -> bool:
        created = await self._stream.create_group()
        if created is None:
            return False
        if created.again:
            self._count_recreated(created)
        else:
            log.info("group.created", position=created.position)
        return True

    def _count_recreated(self, created: CreatedGroup) -> None:
        # What is in hand was not settled either, but will be.
        lost = max(0, created.lost - len(self._hand))
        self._metrics.stream_group_recreations.inc()
        self._metrics.stream_lost_entries.labels(reason="group_recreated").inc(lost)
        count = self._throttle.ready("group.recreated")
        if count is not None:
            about = {"position": created.position, "lost_estimate": lost}
            log.warning("group.recreated", suppressed=count, **about)
