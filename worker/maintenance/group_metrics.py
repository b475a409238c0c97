"""Measures stream and group: shows them as metrics, saves the position, reports lost entries."""

from typing import Final

import structlog

from worker.core.group_stats import GroupStats
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics, OptionalMetric
from worker.store.stream.consumer_group import ConsumerGroup

log = structlog.get_logger()

_LOG_EVERY_S: Final = 60.0


class GroupMetricsUpdate:
    """Shows one group's state. What the server does not know is absent."""

    def __init__(self, group: ConsumerGroup, metrics: Metrics) -> None:
        self._group = group
        self._metrics = metrics
        self._gap_behind: bytes | None = None
        self._throttle = LogThrottle(_LOG_EVERY_S)

    async def run(self) -> None:
        """Measure once."""
        stats = await self._group.stats()
        await self._group.save(stats)
        self._show(stats)
        self._report_gap(stats)

    def _show(self, stats: GroupStats) -> None:
        metrics, lag = self._metrics, stats.lag
        metrics.stream_length.set(stats.length)
        metrics.stream_pending_entries.set(stats.pending)
        metrics.stream_lag_known.set(lag is not None)
        _show(metrics.stream_lag_entries, lag)
        _show(metrics.stream_oldest_pending_timestamp_seconds, stats.oldest_pending_s)

    def _report_gap(self, stats: GroupStats) -> None:
        """Report entries that are gone in front of the group, once for each of its positions.

        Without saved counts they may have been gone before the group was created.
        """
        gap = stats.unread_gap
        if not gap or stats.baseline is None or stats.delivered == self._gap_behind:
            return
        self._gap_behind = stats.delivered
        self._metrics.stream_gaps.inc()
        suppressed = self._throttle.ready("gap")
        if suppressed is not None:
            position = stats.delivered.decode()
            log.warning("stream.gap", entries=gap, position=position, suppressed=suppressed)


def _show(gauge: OptionalMetric[float], value: float | None) -> None:
    if value is None:
        gauge.clear()
    else:
        gauge.set(value)
