"""The ledger: entries that were trimmed from the stream before the group read them."""

import time
from typing import Final, Protocol

import structlog

from worker.core.group_stats import GroupStats, LossState, count_unread
from worker.ops.logs import LogThrottle
from worker.ops.metrics import Metrics

log = structlog.get_logger()

_LINES_S: Final = 60.0
_GLANCE_S: Final = 0.05
"""A gap is seen until the group reads beyond it, so the reader looks before it does.

Before every batch it would cost some percent of the time; what opens and closes within this
time is missed on servers that mend their count.
"""


class WatchedGroup(Protocol):
    """The group whose losses are counted."""

    async def look(self) -> tuple[GroupStats, LossState | None]:
        """Ask how stream and group stand, and what was counted as lost already."""

    async def remember(
        self, figures: GroupStats, losses: LossState | None, *, instead_of: LossState | None
    ) -> bool:
        """Keep position and losses; False when another worker counted meanwhile."""


class LossCounter:
    """Counts what the group lost, once among all workers."""

    def __init__(self, group: WatchedGroup, metrics: Metrics) -> None:
        self._group = group
        self._metrics = metrics
        self._throttle = LogThrottle(_LINES_S)
        self._looked_at = -_GLANCE_S

    async def check(self) -> None:
        """Count what was lost, unless that was done a moment ago."""
        if time.monotonic() - self._looked_at < _GLANCE_S:
            return
        figures, losses = await self._group.look()
        self._looked_at = time.monotonic()
        if _is_news(figures, losses):
            await self._keep(figures, losses)

    async def keep(self) -> tuple[GroupStats, LossState | None]:
        """Count what was lost, keep how the group stands, and return that."""
        figures, losses = await self._group.look()
        await self._keep(figures, losses)
        return figures, losses

    def count(self, lost: int) -> None:
        """Count entries that were trimmed unread."""
        if lost == 0:
            return
        self._metrics.stream_lost_entries.labels(reason="trimmed_unread").inc(lost)
        count = self._throttle.ready("trimmed_unread")
        if count is not None:
            log.warning("entries.lost", reason="trimmed_unread", entries=lost, suppressed=count)

    async def _keep(self, figures: GroupStats, losses: LossState | None) -> None:
        lost, new = count_unread(figures, losses)
        if await self._group.remember(figures, new, instead_of=losses):
            self.count(lost)


def _is_news(figures: GroupStats, losses: LossState | None) -> bool:
    """Say whether a look changes what is counted; that the cursor moved alone does not."""
    lost, new = count_unread(figures, losses)
    if new is None or losses is None:
        return new is not losses
    return lost > 0 or (new.seen, new.mends) != (losses.seen, losses.mends)
