"""What is done on a timer beside the loop: measure, trim, retire, drop old dead letters."""

from dataclasses import dataclass
from typing import Final, Protocol

import structlog

from worker.core.group_stats import GroupStats, LossState, lag
from worker.errors import PermissionRefused
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

MEASURE_S: Final = 5.0
SLOW_INTERVAL_S: Final = 60.0

LEASE_S: Final = 3 * MEASURE_S
RETIRE_AFTER_S: Final = 3600.0

_HOURLY_S: Final = 3600.0


class Membership(Protocol):
    """Who is in the group."""

    async def retire(self, idle_s: float) -> int:
        """Delete other consumers that hold nothing and gave no sign of life for so long."""


class Book(Protocol):
    """How the group stands, and what it lost."""

    async def keep(self) -> tuple[GroupStats, LossState | None]:
        """Count what was lost, keep how the group stands, and return that."""

    def count(self, lost: int) -> None:
        """Count entries that were trimmed unread."""


class Step(Protocol):
    """What a step of trimming did."""

    @property
    def entries(self) -> int:
        """Entries trimmed."""

    @property
    def unread(self) -> int:
        """Those of them that our group had not read."""

    @property
    def held_by(self) -> str | None:
        """The other group that keeps entries beyond the retention, if one does."""


class TrimmedStream(Protocol):
    """The stream, as far as it is trimmed."""

    async def trim(self) -> Step:
        """Trim a bounded number of entries that nobody needs."""


class DeadLetters(Protocol):
    """The dead letters, as far as they grow old."""

    async def drop_old(self) -> int:
        """Drop dead letters beyond their retention; returns how many."""


class Lease(Protocol):
    """What only one worker of the group does at a time."""

    async def hold(self, ttl_s: float) -> bool:
        """Take the lease for so long, or renew it; False when another worker holds it."""


class Server(Protocol):
    """What serves the stream."""

    async def server(self) -> tuple[str, str]:
        """Return the server's name and version."""


@dataclass(frozen=True, slots=True)
class MaintenanceDeps:
    """All that upkeep looks after."""

    group: Membership
    ledger: Book
    stream: TrimmedStream
    letters: DeadLetters
    lease: Lease
    server: Server


class Maintenance:
    """The tasks for `run_periodically`. One worker of the group trims and retires."""

    def __init__(self, charges: MaintenanceDeps, metrics: Metrics) -> None:
        self._of = charges
        self._metrics = metrics
        self._holders = LogThrottle(_HOURLY_S)

    async def measure(self) -> None:
        """Show how stream and group stand; what the server does not know is absent."""
        figures, losses = await self._of.ledger.keep()
        metrics, to_read = self._metrics, lag(figures, losses)
        metrics.stream_length.set(figures.length)
        metrics.stream_pending_entries.set(figures.pending)
        metrics.stream_lag_known.set(to_read is not None)
        _show(metrics.stream_lag_entries, to_read)
        _show(metrics.stream_oldest_pending_timestamp_seconds, figures.oldest_pending_s)

    async def trim(self) -> None:
        """Trim until nothing is left that nobody needs."""
        while await self._of.lease.hold(LEASE_S):
            step = await self._of.stream.trim()
            self._metrics.stream_trimmed_entries.inc(step.entries)
            self._of.ledger.count(step.unread)
            self._tell_who_holds(step.held_by)
            if step.entries == 0:
                return

    async def retire(self) -> None:
        """Delete consumers that died long ago and hold nothing."""
        if await self._of.lease.hold(LEASE_S):
            retired = await self._of.group.retire(RETIRE_AFTER_S)
            if retired:
                log.info("consumers.retired", consumers=retired)

    async def drop_old_letters(self) -> None:
        """Drop dead letters beyond their retention, and count them."""
        dropped = await self._of.letters.drop_old()
        self._metrics.stream_lost_entries.labels(reason="dead_dropped").inc(dropped)

    async def identify_server(self) -> None:
        """Show which server this is; it may have been upgraded under us."""
        try:
            name, version = await self._of.server.server()
        except PermissionRefused:
            # INFO is a right that nothing else here needs.
            return
        self._metrics.redis_server_info.set({"server": name, "version": version})

    def _tell_who_holds(self, group: str | None) -> None:
        self._metrics.stream_trim_held_back.set(group is not None)
        if group is not None and self._holders.ready(group) is not None:
            log.warning("stream.trim_blocked", group=group)


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
