"""Checks of the consumer group: progress, lost entries, other groups that block trimming."""

import time
from typing import Final

from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.cli.context import CheckContext
from worker.cli.formatting import format_seconds
from worker.core.group_stats import GroupStats
from worker.store.admin.stream_info import StreamInfo

_ACTIVE_S: Final = 60.0
_STUCK_S: Final = 600.0
_BLOCKED_S: Final = 86_400.0


async def position(context: CheckContext) -> CheckResult:
    """How far the group has read, and whether a worker reads on."""
    stream = await context.inspector.stream()
    if stream is None:
        return ok("there is no stream yet: the worker creates it, and a producer fills it")
    if stream.group is None:
        return warning(
            f"the stream has {stream.length} entries and no group "
            f"{context.settings.stream_group!r}",
            "start the worker: it creates the group and reads from the stream's beginning",
        )
    return await _progress(context, stream.group, stream)


async def trimming(context: CheckContext) -> CheckResult:
    """Whether entries were trimmed that the group had not settled."""
    stream = await context.inspector.stream()
    if stream is None or stream.group is None:
        return ok("nothing is lost")
    advice = (
        "a producer trims too early, or the stream is longer than "
        "CHATWOOT_CACHE_STREAM_MAX_ENTRIES: take MAXLEN and MINID out of the producer's XADD, or "
        "raise the limit"
    )
    gone = await context.inspector.pending_gone() if stream.group.pending else 0
    if gone:
        return problem(f"{gone} entries were trimmed before they were acknowledged", advice)
    gap = stream.group.unread_gap
    if gap is None or stream.group.added is None:
        return unknown("the server's counts do not show whether entries were trimmed unread")
    if gap > 0:
        return problem(f"at least {gap} entries were trimmed before the group read them", advice)
    return ok("nothing was trimmed ahead of the group")


async def others(context: CheckContext) -> CheckResult:
    """Whether another group keeps old entries on the stream."""
    now = time.time()
    ages_s = {
        group.name: now - group.unfinished_since_s
        for group in await context.inspector.other_groups()
        if group.unfinished_since_s is not None
    }
    slow = [
        f"{name!r} ({format_seconds(age_s)})"
        for name, age_s in ages_s.items()
        if age_s > _BLOCKED_S
    ]
    if not slow:
        return ok("none holds entries back")
    return warning(
        f"entries stay on the stream for {', '.join(slow)}",
        "what a group has not acknowledged is not trimmed: "
        "let it read on, or remove it with XGROUP DESTROY",
    )


async def _progress(context: CheckContext, group: GroupStats, stream: StreamInfo) -> CheckResult:
    consumers = await context.inspector.consumers()
    active = [consumer for consumer in consumers if consumer.idle_s < _ACTIVE_S]
    readers = f"{len(active)} of {len(consumers)} consumers active"
    says = f"{_behind(group, stream)}, {group.pending} pending, {readers}"
    if not active and (group.pending or not group.is_caught_up):
        return problem(f"nobody reads: {says}", "start the worker, or look at its log")
    age_s = 0.0 if group.oldest_pending_s is None else time.time() - group.oldest_pending_s
    if age_s > max(_STUCK_S, 3 * context.settings.stream_reclaim_after_s):
        return warning(
            f"an entry has been pending for {format_seconds(age_s)}: {says}",
            "look at the worker's log for entry.failed or redis.unavailable",
        )
    return ok(says)


def _behind(group: GroupStats, stream: StreamInfo) -> str:
    if group.lag is not None:
        return f"{group.lag} entries to read"
    position = group.delivered.decode()
    return f"read up to {position} of {stream.last_id}; the lag is unknown"
