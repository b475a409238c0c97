"""What is pending already: ours at a start or in doubt, at times anybody's that is long idle."""

import time
from collections.abc import Sequence
from functools import partial
from typing import Final, Protocol

from worker.consumer.retry import Retry, jitter
from worker.core.stream_entry import DeadEntry, DeliverySource, Entry, PendingEntry
from worker.errors import UnusableEntry

SUSPECT_ATTEMPTS: Final = 2
"""An entry handed out more often than this is settled alone, so that it harms no neighbour."""


class Turn(Protocol):
    """What only one worker of the group does at a time."""

    async def hold(self, ttl_s: float) -> bool:
        """Take the turn for so long, or keep it; False when another worker has it."""

    async def release(self) -> None:
        """Let others have it at once."""


class PendingEntries(Protocol):
    """The group's list of pending entries."""

    @property
    def sweeping(self) -> Turn:
        """Who takes over what others left idle."""

    async def pending(self, after: bytes, *, idle_s: float | None = None) -> list[PendingEntry]:
        """Return a batch of what is pending behind an id: ours, or what has long been idle."""

    async def claim(self, pending: Sequence[PendingEntry], *, idle_s: float = 0.0) -> list[Entry]:
        """Take pending entries in hand once more."""


class Taker(Protocol):
    """Who settles what is taken up."""

    async def take(self, entries: Sequence[Entry], source: DeliverySource) -> None:
        """Settle entries that were just handed out to us."""

    async def bury(self, letter: DeadEntry) -> None:
        """Settle one entry as dead, without trying it."""


class PendingRecovery:
    """Takes up what is pending. It must not be called while anything is in hand.

    `own_pending_unknown` is set where a read failed: the server may have done it, and then what it
    handed out is pending under our name, and no read for new entries gives it again.
    """

    def __init__(
        self,
        stream: PendingEntries,
        taker: Taker,
        patience: Retry,
        *,
        max_attempts: int,
        reclaim_after_s: float,
    ) -> None:
        self._stream = stream
        self._taker = taker
        self._patience = patience
        self._max_attempts = max_attempts
        self._reclaim_after_s = reclaim_after_s
        self._sweep_at = time.monotonic()
        self.own_pending_unknown = True

    @property
    def is_due(self) -> bool:
        """Whether there may be something to take up now."""
        return self.own_pending_unknown or time.monotonic() >= self._sweep_at

    async def take_up_what_is_due(self) -> None:
        """Settle what is pending: ours at first and when in doubt, at times anybody's."""
        if self.own_pending_unknown:
            self.own_pending_unknown = False
            await self._take_up("own")
        elif self.is_due:
            await self._take_up("reclaimed")
            await self._patience.call(self._stream.sweeping.release)
            # Not all workers at once, and often enough to be late by a fraction only.
            self._sweep_at = time.monotonic() + self._reclaim_after_s / 4 * jitter()

    async def _take_up(self, source: DeliverySource) -> None:
        """Settle what is pending, least tried first: our own, or anybody's that is long idle.

        Nothing is in hand meanwhile, so what of ours is idle was left by a defect or a lost reply.
        """
        idle_s = None if source == "own" else self._reclaim_after_s
        after = b"0-0"
        while not self._patience.stop.is_set():
            if source == "reclaimed" and not await self._is_our_turn():
                return
            page = await self._patience.call(partial(self._stream.pending, after, idle_s=idle_s))
            if not page:
                return
            after = page[-1].id
            fresh = [p for p in page if p.attempts < SUSPECT_ATTEMPTS]
            if fresh:
                await self._taker.take(await self._claim(fresh, idle_s), source)
            for suspect in sorted(set(page) - set(fresh), key=lambda p: (p.attempts, p.id)):
                await self._take_up_suspect(suspect, source, idle_s)

    async def _is_our_turn(self) -> bool:
        """Sweep alone, or leave it to the worker that does; a crashed one blocks nobody for long.

        Two at once would do no harm, since entries are taken only once they are idle.
        """
        ttl_s = self._reclaim_after_s / 2
        return await self._patience.call(partial(self._stream.sweeping.hold, ttl_s))

    async def _claim(self, pending: Sequence[PendingEntry], idle_s: float | None) -> list[Entry]:
        return await self._patience.call(partial(self._stream.claim, pending, idle_s=idle_s or 0.0))

    async def _take_up_suspect(
        self, suspect: PendingEntry, source: DeliverySource, idle_s: float | None
    ) -> None:
        """Try an entry alone that may have killed us, or bury it when that was tried enough."""
        claimed = await self._claim([suspect], idle_s)
        # It was alone on every attempt beyond the second, whatever the limit says.
        if suspect.attempts < max(self._max_attempts, SUSPECT_ATTEMPTS + 1):
            await self._taker.take(claimed, source)
            return
        error = UnusableEntry("max_attempts", f"tried {suspect.attempts} times, alone at last")
        for entry in claimed:
            if entry.fields:
                await self._patience.call(partial(self._taker.bury, DeadEntry(entry, error)))
            else:
                await self._taker.take([entry], source)
