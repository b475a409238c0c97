"""Entries that were handed to this worker and are not settled yet."""

import contextlib
import time
from collections.abc import Sequence
from typing import Final

import anyio
import structlog

from worker.consumer.entry_stream import EntryStream
from worker.core.stream_entry import DeliverySource, Entry
from worker.errors import WorkerError
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_RELEASE_S: Final = 1.0


class InFlight:
    """Entries in flight; other workers take over what was idle for `reclaim_after_s` seconds."""

    def __init__(self, stream: EntryStream, metrics: Metrics, *, reclaim_after_s: float) -> None:
        self._stream = stream
        self._metrics = metrics
        self._reclaim_after_s = reclaim_after_s
        self._entries: dict[bytes, Entry] = {}

    def __len__(self) -> int:
        return len(self._entries)

    def add(self, entries: Sequence[Entry], source: DeliverySource) -> None:
        """Add entries that were just handed out."""
        self._metrics.entries_read.labels(source=source).inc(len(entries))
        self._metrics.last_read_timestamp_seconds.set(time.time())
        self._entries.update((entry.id, entry) for entry in entries)
        self._metrics.inflight_entries.set(len(self._entries))

    def remove(self, entries: Sequence[Entry]) -> None:
        """Remove settled entries.

        One that a re-created group handed out again meanwhile stays in flight.
        """
        for entry in entries:
            if self._entries.get(entry.id) is entry:
                del self._entries[entry.id]
        self._metrics.inflight_entries.set(len(self._entries))

    async def reset_idle(self) -> None:
        """Prevent other workers from taking over; call it more often than `reclaim_after_s`."""
        await self._stream.reset_idle(list(self._entries))

    async def release(self) -> None:
        """Release what is left after an outage or a shutdown time-out: its attempt is undone."""
        if not self._entries:
            return
        entries = list(self._entries.values())
        with anyio.CancelScope(shield=True, deadline=anyio.current_time() + _RELEASE_S) as scope:
            with contextlib.suppress(WorkerError):
                await self._stream.release(entries, idle_s=self._reclaim_after_s)
                log.warning("entries.released", entries=len(entries))
        if scope.cancelled_caught:
            log.warning("entries.left_pending", entries=len(entries))
