"""The loop: take up what is ours, then read, settle and ack, until told to stop.

Redis may be away at any point: the step in hand is tried again until it succeeds, and nothing
else is begun meanwhile. Told to stop while Redis is away, the loop ends at once,
and what is in hand stays pending for the next start.
"""

import contextlib
import random
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final, Protocol, TypeVar

import anyio
import structlog

from worker.core.entry import Entry, Letter, Pending, Source
from worker.errors import Error, GroupMissing, Misconfigured, Unavailable, Unusable
from worker.logs import Throttle, where
from worker.metrics import Metrics
from worker.pipeline.settle import Acknowledger, Settler
from worker.pipeline.upkeep import every

log = structlog.get_logger()

T = TypeVar("T")

SUSPECT_ATTEMPTS: Final = 2
"""An entry handed out more often than this is settled alone, so that it harms no neighbour."""

_HEARTBEAT_S: Final = 0.5
_UNUSED_S: Final = 1.5
"""A name that was not seen for three heartbeats is free."""
_RIVAL_POLL_S: Final = 0.1
_GIVE_BACK_S: Final = 1.0

_BACKOFF_S: Final = (0.1, 0.2, 0.4, 0.8, 1.6, 2.0)


class EntryStream(Acknowledger, Protocol):
    """Where entries come from."""

    async def create_group(self) -> bool:
        """Create stream and group; False when the group exists."""

    async def keep_name(self) -> None:
        """Be seen as a living consumer."""

    async def consumer_idle_ms(self) -> int | None:
        """Return how long our name has not been used, None when it never was."""

    async def read(self) -> list[Entry]:
        """Wait for new entries and return a batch of them."""

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[Pending]:
        """Return a batch of what is pending behind an id: ours, or what has long been idle."""

    async def claim(self, pending: Sequence[Pending], *, idle_s: float = 0.0) -> list[Entry]:
        """Take pending entries in hand once more."""

    async def keep(self, ids: Sequence[bytes]) -> None:
        """Keep entries in hand from being taken by others."""

    async def give_back(self, entries: Sequence[Entry]) -> None:
        """Let this attempt on entries not count."""


class _Stopped(Exception):
    """Told to stop while Redis was away."""


class Consumer:
    """One consumer of the group; `trouble` says why Redis cannot be used now, if it cannot."""

    def __init__(
        self,
        stream: EntryStream,
        settler: Settler,
        metrics: Metrics,
        *,
        name: str,
        max_attempts: int,
        reclaim_after_s: float,
    ) -> None:
        self._stream = stream
        self._settler = settler
        self._metrics = metrics
        self._name = name
        self._max_attempts = max_attempts
        self._reclaim_after_s = reclaim_after_s
        self._sweep_at = time.monotonic() + reclaim_after_s
        self._in_hand: Sequence[bytes] = ()
        self._stop = anyio.Event()
        self._throttle = Throttle(10.0)
        self._in_doubt = True
        self.started = anyio.Event()
        self.progressed_at = time.monotonic()
        self.trouble: Unavailable | None = None

    def stop(self) -> None:
        """End after the batch in hand."""
        self._stop.set()

    async def run(self) -> None:
        """Consume until stopped; raises `Refused` and `Misconfigured`, which no waiting mends."""
        try:
            await self._insist(self._create_group)
            await self._refuse_a_rival()
            self.started.set()
            async with anyio.create_task_group() as beside:
                beside.start_soon(every, _HEARTBEAT_S, self._stream.keep_name)
                beside.start_soon(every, self._reclaim_after_s / 3, self._keep_in_hand)
                await self._consume()
                beside.cancel_scope.cancel()
        except* _Stopped:
            log.warning("worker.stopped_without_redis", in_hand="stays pending")

    async def _consume(self) -> None:
        while not self._stop.is_set():
            await self._take_up_what_waits()
            if self._stop.is_set():
                return
            if batch := await self._insist(self._read):
                await self._take(batch, "new")

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
            # Not all workers at once, and often enough to be late by a fraction only.
            self._sweep_at = time.monotonic() + self._reclaim_after_s / 4 * _jitter()

    async def _take_up(self, source: Source) -> None:
        """Settle what is pending, least tried first: our own, or anybody's that is long idle.

        Nothing is in hand meanwhile, so what of ours is idle was left by a defect or a lost reply.
        """
        idle_s = None if source == "own" else self._reclaim_after_s
        after = b"0-0"
        while not self._stop.is_set():
            page = await self._insist(partial(self._stream.pending, after, idle_s=idle_s))
            if not page:
                return
            after = page[-1].id
            fresh = [p for p in page if p.attempts < SUSPECT_ATTEMPTS]
            if fresh:
                await self._take(await self._claim(fresh, idle_s), source)
            for suspect in sorted(set(page) - set(fresh), key=lambda p: (p.attempts, p.id)):
                await self._take_up_suspect(suspect, source, idle_s)

    async def _claim(self, pending: Sequence[Pending], idle_s: float | None) -> list[Entry]:
        return await self._insist(partial(self._stream.claim, pending, idle_s=idle_s or 0.0))

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
                await self._insist(partial(self._settler.bury, Letter(entry, error)))
            else:
                await self._take([entry], source)

    async def _take(self, batch: Sequence[Entry], source: Source) -> None:
        """Settle entries that were just handed out to us."""
        if not batch:
            return
        self._metrics.entries_read.labels(source=source).inc(len(batch))
        self._metrics.last_read_timestamp_seconds.set(time.time())
        self._metrics.inflight_entries.set(len(batch))
        self._in_hand = [entry.id for entry in batch]
        try:
            await self._settle(batch)
        except _Stopped:
            await self._give_back(batch)
            raise
        finally:
            self._in_hand = ()
            self._metrics.inflight_entries.set(0)

    async def _give_back(self, batch: Sequence[Entry]) -> None:
        """Take back the attempt of entries that an outage kept us from trying, if that can be."""
        with anyio.move_on_after(_GIVE_BACK_S), contextlib.suppress(Unavailable, GroupMissing):
            await self._stream.give_back(batch)

    async def _keep_in_hand(self) -> None:
        await self._stream.keep(self._in_hand)

    async def _settle(self, batch: Sequence[Entry]) -> None:
        """Settle a batch; where a defect of ours stops it, settle its entries one by one."""
        if await self._insist(partial(self._try, batch)):
            return
        for entry in batch if len(batch) > 1 else ():
            await self._insist(partial(self._try, [entry]))

    async def _try(self, batch: Sequence[Entry]) -> bool:
        """Say whether a batch was settled: an entry with a defect stays pending, for later."""
        try:
            await self._settler.settle(batch)
        except Error:
            raise
        except Exception as error:  # noqa: BLE001 - the one place that catches everything
            if len(batch) == 1:
                self._report_defect(batch[0], error)
            return False
        return True

    def _report_defect(self, entry: Entry, error: Exception) -> None:
        count = self._throttle.ready(where(error))
        if count is not None:
            entry_id = entry.id.decode()
            log.error("entry.failed", id=entry_id, error=where(error), suppressed=count)

    async def _insist(self, step: Callable[[], Awaitable[T]]) -> T:
        """Do one step, again and again while Redis is away, and with a new group if it is gone."""
        tries = 0
        while True:
            self.progressed_at = time.monotonic()
            try:
                result = await step()
            except GroupMissing as error:
                await self._recreate_group(error)
            except Unavailable as error:
                await self._wait(error, tries)
                tries += 1
            else:
                self._recovered()
                return result

    async def _recreate_group(self, error: GroupMissing) -> None:
        count = self._throttle.ready("group")
        if count is not None:
            log.warning("group.lost", error=str(error), suppressed=count)
        self._settler.distrust_bindings()
        if await self._insist(self._create_group):
            self._metrics.stream_group_recreations.inc()
        else:
            # It was there all the same: somebody else created it, or the server is of two minds.
            await anyio.sleep(_BACKOFF_S[0])

    async def _create_group(self) -> bool:
        created = await self._stream.create_group()
        if created:
            log.info("group.created", position="0")
        return created

    async def _wait(self, error: Unavailable, tries: int) -> None:
        self.trouble = error
        self.started.set()
        self._metrics.redis_up.set(0)
        self._metrics.redis_errors.labels(kind=error.kind).inc()
        count = self._throttle.ready(error.kind)
        if count is not None:
            log.warning("redis.unavailable", kind=error.kind, error=str(error), suppressed=count)
        delay_s = _BACKOFF_S[min(tries, len(_BACKOFF_S) - 1)] * _jitter()
        with anyio.move_on_after(delay_s):
            await self._stop.wait()
        if self._stop.is_set():
            raise _Stopped

    def _recovered(self) -> None:
        self._metrics.redis_up.set(1)
        if self.trouble is not None:
            log.info("redis.recovered", after=self.trouble.kind)
            self.trouble = None

    async def _refuse_a_rival(self) -> None:
        """Refuse a consumer name that a live worker uses: both would settle one list of entries.

        A live one is seen with every heartbeat, and so is never idle for long.
        """
        idle_ms = await self._insist(self._stream.consumer_idle_ms)
        used_at = time.monotonic() - (_UNUSED_S if idle_ms is None else idle_ms / 1000)
        while (unused_s := time.monotonic() - used_at) < _UNUSED_S:
            with anyio.move_on_after(_RIVAL_POLL_S):
                await self._stop.wait()
                return
            idle_ms = await self._insist(self._stream.consumer_idle_ms)
            if idle_ms is not None and idle_ms / 1000 < unused_s - _RIVAL_POLL_S:
                raise Misconfigured(
                    f"a live worker is consumer {self._name!r} of this group already: "
                    "give each worker its own CHATWOOT_CACHE_STREAM_CONSUMER"
                )


def _jitter() -> float:
    return random.uniform(0.8, 1.2)  # noqa: S311 - nothing to guess here
