"""The loop: take up what is ours, then read, settle and ack, until told to stop.

New entries flow through three tasks: while one batch is written, the next is decoded, and the one
after that is read. Nothing else flows: what is pending already is settled batch by batch.

Redis may be away at any point: the step in hand is tried again until it succeeds, and nothing
more is read meanwhile. Told to stop while Redis is away, the loop ends at once,
and what is in hand stays pending for the next start.
"""

import contextlib
import time
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
import structlog
from anyio.streams.memory import MemoryObjectReceiveStream, MemoryObjectSendStream

from worker.core.entry import Entry, Letter, Pending, Source
from worker.errors import Error, Unavailable, Unusable
from worker.logs import Throttle, where
from worker.metrics import Metrics
from worker.pipeline.batch import Batch
from worker.pipeline.naming import HEARTBEAT_S, NamedConsumer, refuse_a_rival
from worker.pipeline.patience import Patience, Stopped, jitter
from worker.pipeline.settle import Acknowledger, Settler
from worker.pipeline.upkeep import every

log = structlog.get_logger()

T = TypeVar("T")

SUSPECT_ATTEMPTS: Final = 2
"""An entry handed out more often than this is settled alone, so that it harms no neighbour."""

_GIVE_BACK_S: Final = 1.0
_UNBLOCK_S: Final = 0.05
_RECREATE_PAUSE_S: Final = 0.1


class Turn(Protocol):
    """What only one worker of the group does at a time."""

    async def hold(self, ttl_s: float) -> bool:
        """Take the turn for so long, or keep it; False when another worker has it."""

    async def release(self) -> None:
        """Let others have it at once."""


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


class EntryStream(Acknowledger, NamedConsumer, Protocol):
    """Where entries come from."""

    @property
    def sweeping(self) -> Turn:
        """Who takes over what others left idle."""

    async def create_group(self) -> CreatedGroup | None:
        """Create stream and group where they are missing; None when the group exists."""

    async def keep_name(self) -> None:
        """Be seen as a living consumer."""

    async def read(self) -> list[Entry]:
        """Wait for new entries and return a batch of them."""

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[Pending]:
        """Return a batch of what is pending behind an id: ours, or what has long been idle."""

    async def claim(self, pending: Sequence[Pending], *, idle_s: float = 0.0) -> list[Entry]:
        """Take pending entries in hand once more."""

    async def keep(self, ids: Sequence[bytes]) -> None:
        """Keep entries in hand from being taken by others."""

    async def give_back(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:
        """Let this attempt on entries not count, and others have them that wait for idle ones."""

    async def unblock(self) -> bool:
        """Let a read that waits return with nothing, if that can be."""


class Book(Protocol):
    """What the group lost."""

    async def glance(self) -> None:
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
        settler: Settler,
        ledger: Book,
        metrics: Metrics,
        settings: ConsumerSettings,
    ) -> None:
        self._stream = stream
        self._settler = settler
        self._ledger = ledger
        self._metrics = metrics
        self._name = settings.name
        self._max_attempts = settings.max_attempts
        self._reclaim_after_s = settings.reclaim_after_s
        self._sweep_at = time.monotonic()
        self._in_hand: dict[bytes, Entry] = {}
        self._throttle = Throttle(10.0)
        self._in_doubt = True
        self._patience = Patience(metrics, on_group_missing=self._recreate_group)

    def stop(self) -> None:
        """End after what is in hand."""
        self._patience.stop.set()

    @property
    def progressed_at(self) -> float:
        """When the loop last began a step, by the monotonic clock."""
        return self._patience.progressed_at

    @property
    def trouble(self) -> Unavailable | None:
        """Why Redis cannot be used now, None when it can."""
        return self._patience.trouble

    @property
    def started(self) -> anyio.Event:
        """Set once the loop runs, or has met its first outage."""
        return self._patience.tried

    async def run(self) -> None:
        """Consume until stopped; raises `Refused` and `Misconfigured`, which no waiting mends."""
        try:
            await self._patience.insist(self._create_group)
            await refuse_a_rival(self._stream, self._patience, self._name)
            self._patience.tried.set()
            async with anyio.create_task_group() as beside:
                beside.start_soon(every, HEARTBEAT_S, self._stream.keep_name)
                beside.start_soon(every, self._reclaim_after_s / 3, self._keep_in_hand)
                beside.start_soon(self._end_the_waiting_read)
                await self._consume()
                beside.cancel_scope.cancel()
        except* Stopped:
            log.warning("worker.stopped_without_redis", in_hand="stays pending")
        finally:
            await self._hand_over()

    async def _end_the_waiting_read(self) -> None:
        """Once told to stop, wait for no new entries; a read may only be about to wait."""
        await self._patience.stop.wait()
        while True:
            with contextlib.suppress(Error):
                await self._stream.unblock()
            await anyio.sleep(_UNBLOCK_S)

    async def _consume(self) -> None:
        while not self._patience.stop.is_set():
            await self._take_up_what_waits()
            await self._flow()

    async def _flow(self) -> None:
        """Settle new entries, reading and decoding the next ones meanwhile, until a pause is due.

        Each task holds one batch at the most, and hands it over only to one that has none.
        """
        to_prepare, read = anyio.create_memory_object_stream[Sequence[Entry]]()
        to_settle, prepared = anyio.create_memory_object_stream[
            tuple[Sequence[Entry], Batch | None]
        ]()
        async with read, prepared, anyio.create_task_group() as flow:
            flow.start_soon(self._prepare_each, read, to_settle)
            flow.start_soon(self._settle_each, prepared)
            await self._read_new(to_prepare)

    async def _read_new(self, to_prepare: MemoryObjectSendStream[Sequence[Entry]]) -> None:
        async with to_prepare:
            while not self._is_pause_due():
                await self._patience.calm()
                await self._patience.insist(self._ledger.glance)
                if entries := await self._patience.insist(self._read):
                    self._take_in_hand(entries, "new")
                    await to_prepare.send(entries)

    async def _prepare_each(
        self,
        read: MemoryObjectReceiveStream[Sequence[Entry]],
        to_settle: MemoryObjectSendStream[tuple[Sequence[Entry], Batch | None]],
    ) -> None:
        async with to_settle:
            async for entries in read:
                await to_settle.send((entries, await self._prepare(entries)))

    async def _settle_each(
        self, prepared: MemoryObjectReceiveStream[tuple[Sequence[Entry], Batch | None]]
    ) -> None:
        async for entries, batch in prepared:
            await self._settle(entries, batch)

    def _is_pause_due(self) -> bool:
        is_sweep_due = time.monotonic() >= self._sweep_at
        return self._patience.stop.is_set() or self._in_doubt or is_sweep_due

    async def _read(self) -> list[Entry]:
        """Read new entries.

        A read that failed may have been done by the server, and its reply lost: then what it
        handed out is pending under our name, and no read for new entries gives it again.
        """
        try:
            return await self._stream.read()
        except Unavailable:
            self._in_doubt = True
            raise

    async def _take_up_what_waits(self) -> None:
        """Settle what is pending already: ours at first and when in doubt, at times anybody's."""
        if self._in_doubt:
            self._in_doubt = False
            await self._take_up("own")
        elif time.monotonic() >= self._sweep_at:
            await self._take_up("reclaimed")
            await self._patience.insist(self._stream.sweeping.release)
            # Not all workers at once, and often enough to be late by a fraction only.
            self._sweep_at = time.monotonic() + self._reclaim_after_s / 4 * jitter()

    async def _take_up(self, source: Source) -> None:
        """Settle what is pending, least tried first: our own, or anybody's that is long idle.

        Nothing is in hand meanwhile, so what of ours is idle was left by a defect or a lost reply.
        """
        idle_s = None if source == "own" else self._reclaim_after_s
        after = b"0-0"
        while not self._patience.stop.is_set():
            if source == "reclaimed" and not await self._is_our_turn():
                return
            page = await self._patience.insist(partial(self._stream.pending, after, idle_s=idle_s))
            if not page:
                return
            after = page[-1].id
            fresh = [p for p in page if p.attempts < SUSPECT_ATTEMPTS]
            if fresh:
                await self._take(await self._claim(fresh, idle_s), source)
            for suspect in sorted(set(page) - set(fresh), key=lambda p: (p.attempts, p.id)):
                await self._take_up_suspect(suspect, source, idle_s)

    async def _is_our_turn(self) -> bool:
        """Sweep alone, or leave it to the worker that does; a crashed one blocks nobody for long.

        Two at once would do no harm, since entries are taken only once they are idle.
        """
        ttl_s = self._reclaim_after_s / 2
        return await self._patience.insist(partial(self._stream.sweeping.hold, ttl_s))

    async def _claim(self, pending: Sequence[Pending], idle_s: float | None) -> list[Entry]:
        return await self._patience.insist(
            partial(self._stream.claim, pending, idle_s=idle_s or 0.0)
        )

    async def _take_up_suspect(
        self, suspect: Pending, source: Source, idle_s: float | None
    ) -> None:
        """Try an entry alone that may have killed us, or bury it when that was tried enough."""
        claimed = await self._claim([suspect], idle_s)
        # It was alone on every attempt beyond the second, whatever the limit says.
        if suspect.attempts < max(self._max_attempts, SUSPECT_ATTEMPTS + 1):
            await self._take(claimed, source)
            return
        error = Unusable("max_attempts", f"tried {suspect.attempts} times, alone at last")
        for entry in claimed:
            if entry.fields:
                await self._patience.insist(partial(self._settler.bury, Letter(entry, error)))
            else:
                await self._take([entry], source)

    async def _take(self, entries: Sequence[Entry], source: Source) -> None:
        """Settle entries that were just handed out to us."""
        if entries:
            self._take_in_hand(entries, source)
            await self._settle(entries, await self._prepare(entries))

    def _take_in_hand(self, entries: Sequence[Entry], source: Source) -> None:
        self._metrics.entries_read.labels(source=source).inc(len(entries))
        self._metrics.last_read_timestamp_seconds.set(time.time())
        self._in_hand.update((entry.id, entry) for entry in entries)
        self._metrics.inflight_entries.set(len(self._in_hand))

    def _let_go(self, entries: Sequence[Entry]) -> None:
        for entry in entries:
            self._in_hand.pop(entry.id, None)
        self._metrics.inflight_entries.set(len(self._in_hand))

    async def _hand_over(self) -> None:
        """Leave what is in hand to whoever looks next: its attempt counts for none.

        There is something in hand where Redis went away, or the time to shut down is over.
        """
        if not self._in_hand:
            return
        entries = list(self._in_hand.values())
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _GIVE_BACK_S) as scope:
            with contextlib.suppress(Error):
                await self._stream.give_back(entries, idle_s=self._reclaim_after_s)
                log.warning("entries.handed_over", entries=len(entries))
        if scope.cancelled_caught:
            log.warning("entries.left_pending", entries=len(entries))

    async def _keep_in_hand(self) -> None:
        await self._stream.keep(list(self._in_hand))

    async def _prepare(self, entries: Sequence[Entry]) -> Batch | None:
        return await self._unless_defect(entries, partial(self._settler.prepare, entries))

    async def _settle(self, entries: Sequence[Entry], batch: Batch | None) -> None:
        """Settle a batch; where a defect of ours stops it, settle its entries one by one."""
        if not await self._is_settled(entries, batch) and len(entries) > 1:
            for entry in entries:
                await self._is_settled([entry], await self._prepare([entry]))
        self._let_go(entries)

    async def _is_settled(self, entries: Sequence[Entry], batch: Batch | None) -> bool:
        if batch is None:
            return False
        return bool(await self._unless_defect(entries, partial(self._settler.settle, batch)))

    async def _unless_defect(
        self, entries: Sequence[Entry], step: Callable[[], Awaitable[T]]
    ) -> T | None:
        """Do a step until it succeeds; None where a defect of ours stops it.

        An entry that meets a defect even when it is alone stays pending, for later.
        """
        try:
            return await self._patience.insist(step)
        except (Error, Stopped):
            raise
        except Exception as error:  # noqa: BLE001 - the one place that catches everything
            if len(entries) == 1:
                self._report_defect(entries[0], error)
            return None

    def _report_defect(self, entry: Entry, error: Exception) -> None:
        count = self._throttle.ready(where(error))
        if count is not None:
            entry_id = entry.id.decode()
            log.error("entry.failed", id=entry_id, error=where(error), suppressed=count)

    async def _recreate_group(self) -> None:
        self._settler.distrust_bindings()
        if not await self._patience.insist(self._create_group):
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
        lost = max(0, created.lost - len(self._in_hand))
        self._metrics.stream_group_recreations.inc()
        self._metrics.stream_lost_entries.labels(reason="group_recreated").inc(lost)
        count = self._throttle.ready("group.recreated")
        if count is not None:
            about = {"position": created.position, "lost_estimate": lost}
            log.warning("group.recreated", suppressed=count, **about)
