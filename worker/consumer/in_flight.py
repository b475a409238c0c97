"""What this worker has in hand: entries that it was handed out and has not settled yet."""

import contextlib
import time
from collections.abc import Sequence
from typing import Final, Protocol

import anyio
import structlog

from worker.core.stream_entry import DeliverySource, Entry
from worker.errors import WorkerError
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_GIVE_BACK_S: Final = 1.0


class Lender(Protocol):
    """Who hands entries out."""

    async def keep(self, ids: Sequence[bytes]) -> None:
        """Keep entries in hand from being taken by others."""

    async def give_back(self, entries: Sequence[Entry], *, idle_s: float = 0.0) -> None:
        """Let this attempt on entries not count, and others have them that wait for idle ones."""


class InFlight:
    """Entries in hand; others take over what was idle for `reclaim_after_s` seconds."""

    def __init__(self, stream: Lender, metrics: Metrics, *, reclaim_after_s: float) -> None:
        self._stream = stream
        self._metrics = metrics
        self._reclaim_after_s = reclaim_after_s
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def take(self, entries: Sequence[Entry], source: DeliverySource) -> None:
        """Take note of entries that were just handed out."""
        self._metrics.entries_read.labels(source=source).inc(len(entries))
        self._metrics.last_read_timestamp_seconds.set(time.time())
        self._entries.update((entry.id, entry) for entry in entries)
        self._metrics.inflight_entries.set(len(self._entries))

    def remove(self, entries: Sequence[Entry]) -> None:
        """Take note that nothing more is done about entries.

        One that a re-created group handed out again meanwhile stays in hand.
        """
        for entry in entries:
            if self._entries.get(entry.id) is entry:
                del self._entries[entry.id]
        self._metrics.inflight_entries.set(len(self._entries))

    async def keep(self) -> None:
        """Keep what is in hand from being taken by others; to be called often enough."""
        await self._stream.keep(list(self._entries))

    async def release(self) -> None:
        """Leave what is in hand to whoever looks next: its attempt counts for none.

        There is something in hand where Redis went away, or the time to shut down is over.
        """
        if not self._entries:
            return
        entries = list(self._entries.values())
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _GIVE_BACK_S) as scope:
            with contextlib.suppress(WorkerError):
                await self._stream.give_back(entries, idle_s=self._reclaim_after_s)
                log.warning("entries.released", entries=len(entries))
        if scope.cancelled_caught:
            log.warning("entries.left_pending", entries=len(entries))
