"""Recovery of pending entries: our own at a start or after a lost reply, others' once idle."""

import math
import time
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import Final

from worker.consumer.entry_stream import EntryStream
from worker.consumer.retry import Retry, jitter
from worker.core.stream_entry import DeadEntry, DeliverySource, Entry, PendingEntry
from worker.errors import UnusableEntry

SUSPECT_ATTEMPTS: Final = 2
"""An entry with at least this many attempts is settled alone, so that it harms no other."""


class PendingRecovery:
    """Recovers pending entries. It must not run while entries are in flight.

    `own_pending_unknown` is set when a read failed: if the server executed it, its entries are
    pending under our name, and no read for new entries returns them again.
    """

    def __init__(
        self,
        stream: EntryStream,
        retry: Retry,
        *,
        settle: Callable[[Sequence[Entry], DeliverySource], Awaitable[None]],
        bury: Callable[[DeadEntry], Awaitable[None]],
        max_attempts: int,
        reclaim_after_s: float,
    ) -> None:
        self._stream = stream
        self._retry = retry
        self._settle = settle
        self._bury = bury
        self._max_attempts = max_attempts
        self._reclaim_after_s = reclaim_after_s
        self._lease = stream.reclaim_lease
        self._reclaim_at = time.monotonic() if self._lease else math.inf
        self.own_pending_unknown = True

    @property
    def is_due(self) -> bool:
        """Whether there may be entries to recover now."""
        return self.own_pending_unknown or time.monotonic() >= self._reclaim_at

    async def run_due(self) -> None:
        """Settle our own pending entries where unknown, else reclaim others' when it is time."""
        if self.own_pending_unknown:
            self.own_pending_unknown = False
            await self._recover("own")
        elif self._lease and self.is_due:
            await self._recover("reclaimed")
            await self._retry.call(self._lease.release)
            # Not all workers at once, and often enough to be late by a fraction only.
            self._reclaim_at = time.monotonic() + self._reclaim_after_s / 4 * jitter()

    async def _recover(self, source: DeliverySource) -> None:
        """Settle pending entries page by page, suspects last.

        Nothing is in flight meanwhile, so our own idle entries were left by a defect or a lost
        reply.
        """
        idle_s = None if source == "own" else self._reclaim_after_s
        after = b"0-0"
        while not self._retry.stop.is_set():
            if source == "reclaimed" and not await self._hold_lease():
                return
            page = await self._retry.call(partial(self._stream.pending, after, idle_s=idle_s))
            if not page:
                return
            after = page[-1].id
            fresh = [entry for entry in page if entry.attempts < SUSPECT_ATTEMPTS]
            if fresh:
                await self._settle(await self._claim(fresh, idle_s), source)
            for suspect in sorted(set(page) - set(fresh), key=lambda p: (p.attempts, p.id)):
                await self._recover_suspect(suspect, source, idle_s)

    async def _hold_lease(self) -> bool:
        """Return whether this worker reclaims; another one that crashed blocks it only briefly.

        Two at once would do no harm, since only idle entries are claimed.
        """
        if self._lease is None:
            return False
        return await self._retry.call(partial(self._lease.hold, self._reclaim_after_s / 2))

    async def _claim(self, pending: Sequence[PendingEntry], idle_s: float | None) -> list[Entry]:
        return await self._retry.call(partial(self._stream.claim, pending, idle_s=idle_s or 0.0))

    async def _recover_suspect(
        self, suspect: PendingEntry, source: DeliverySource, idle_s: float | None
    ) -> None:
        """Settle alone an entry that may have killed a worker; bury it after enough attempts."""
        claimed = await self._claim([suspect], idle_s)
        # It was alone in every attempt after the second, whatever the limit is.
        if suspect.attempts < max(self._max_attempts, SUSPECT_ATTEMPTS + 1):
            await self._settle(claimed, source)
            return
        error = UnusableEntry("max_attempts", f"tried {suspect.attempts} times, alone at last")
        for entry in claimed:
            if entry.fields:
                await self._retry.call(partial(self._bury, DeadEntry(entry, error)))
            else:
                await self._settle([entry], source)
