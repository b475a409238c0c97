"""What is done on a timer beside the loop: measure the stream, drop old dead letters."""

import time
from collections.abc import Awaitable, Callable
from typing import Final, Protocol

import anyio
import structlog

from worker.core.entry import Figures
from worker.errors import Error, GroupMissing, Refused, Unavailable
from worker.logs import Throttle, where
from worker.metrics import Metrics

log = structlog.get_logger()

MEASURE_S: Final = 5.0
SELDOM_S: Final = 60.0

_FAILURES_S: Final = 3600.0


class MeasuredStream(Protocol):
    """What upkeep asks of the stream."""

    async def figures(self) -> Figures:
        """Ask the server how stream and group stand."""

    async def drop_old_letters(self) -> int:
        """Drop dead letters beyond their retention; returns how many."""

    async def server(self) -> tuple[str, str]:
        """Return the server's name and version."""


async def every(period_s: float, task: Callable[[], Awaitable[None]]) -> None:
    """Do a task at once and then in every period; while Redis is away it is left out.

    The consumer reports outages; a second voice would only double its lines.
    What a server cannot answer at all (INFO may be switched off) is logged once an hour.
    """
    failures = Throttle(_FAILURES_S)
    while True:
        started = time.monotonic()
        try:
            await task()
        except (Unavailable, GroupMissing) as error:
            log.debug("upkeep.skipped", error=str(error))
        except Error:
            raise
        except Exception as error:  # noqa: BLE001 - a defect here must not end the loop
            if failures.ready(where(error)) is not None:
                log.error("upkeep.failed", error=where(error))
        await anyio.sleep(max(0.0, started + period_s - time.monotonic()))


class Upkeep:
    """The tasks, each to be run by `every`."""

    def __init__(self, stream: MeasuredStream, metrics: Metrics) -> None:
        self._stream = stream
        self._metrics = metrics

    async def measure(self) -> None:
        """Show how stream and group stand; what the server does not know is absent."""
        figures = await self._stream.figures()
        metrics = self._metrics
        metrics.stream_length.set(figures.length)
        metrics.stream_pending_entries.set(figures.pending)
        metrics.stream_lag_known.set(figures.lag is not None)
        _show(metrics.stream_lag_entries, figures.lag)
        _show(metrics.stream_oldest_pending_timestamp_seconds, figures.oldest_pending_s)

    async def drop_old_letters(self) -> None:
        """Drop dead letters beyond their retention, and count them."""
        dropped = await self._stream.drop_old_letters()
        self._metrics.stream_lost_entries.labels(reason="dead_dropped").inc(dropped)

    async def identify_server(self) -> None:
        """Show which server this is; it may have been upgraded under us."""
        try:
            name, version = await self._stream.server()
        except Refused:
            # INFO is a right that nothing else here needs.
            return
        self._metrics.redis_server_info.info({"server": name, "version": version})


class _Optional(Protocol):
    """A gauge that can be absent."""

    def set(self, value: float) -> None:
        """Show a value."""

    def clear(self) -> None:
        """Show nothing."""


def _show(gauge: _Optional, value: float | None) -> None:
    if value is None:
        gauge.clear()
    else:
        gauge.set(value)
