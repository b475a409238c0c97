"""Trims the stream, by one worker of the group."""

from typing import Final

import structlog

from worker.maintenance import LEASE_S
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics
from worker.store.stream.lease import Lease
from worker.store.stream.trimmer import Trimmer

log = structlog.get_logger()

_HOURLY_S: Final = 3600.0
_LOG_EVERY_S: Final = 60.0


class StreamTrimming:
    """Trims what no group needs, and counts what was trimmed before our group read it."""

    def __init__(self, trimmer: Trimmer, lease: Lease, metrics: Metrics) -> None:
        self._trimmer = trimmer
        self._lease = lease
        self._metrics = metrics
        self._blocked = LogThrottle(_HOURLY_S)
        self._lost = LogThrottle(_LOG_EVERY_S)

    async def run(self) -> None:
        """Trim until nothing is left to trim."""
        while await self._lease.hold(LEASE_S):
            step = await self._trimmer.trim()
            self._metrics.stream_trimmed_entries.inc(step.entries)
            self._count_unread(step.unread)
            self._show_blocking_group(step.held_by)
            if step.entries == 0:
                return

    def _count_unread(self, unread: int) -> None:
        self._metrics.stream_lost_entries.labels(reason="trimmed_unread").inc(unread)
        suppressed = self._lost.ready("trimmed_unread") if unread else None
        if suppressed is not None:
            log.warning(
                "entries.lost", reason="trimmed_unread", entries=unread, suppressed=suppressed
            )

    def _show_blocking_group(self, group: str | None) -> None:
        self._metrics.stream_trim_held_back.set(group is not None)
        if group is not None and self._blocked.ready(group) is not None:
            log.warning("stream.trim_blocked", group=group)
