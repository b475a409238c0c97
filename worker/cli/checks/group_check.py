"""Our group's place on the stream, and what others do to it."""

import time
from typing import Final

from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.cli.context import CheckContext
from worker.cli.formatting import format_seconds
from worker.core.stream_entry import entry_time_s
from worker.store.admin.stream_info import GroupInfo, StreamInfo

_ACTIVE_S: Final = 60.0
_STUCK_S: Final = 600.0
_HOLDING_S: Final = 86_400.0

_NOT_YET: Final = "there is no stream yet: the worker makes it, and a producer fills it"


async def position(subject: CheckContext) -> CheckResult:
    """How far the group has read, and whether anybody reads on."""
    view = await subject.inspector.stream()
    if view is None:
        return ok(_NOT_YET)
    group = view.group(subject.settings.stream_group)
    if group is None:
        return warning(
            f"the stream has {view.length} entries and no group {subject.settings.stream_group!r}",
            "start the worker: it makes the group, and reads from the stream's beginning",
        )
    return await _judge(subject, group, view)


async def trimming(subject: CheckContext) -> CheckResult:
    """Whether somebody trims the stream ahead of the group."""
    view = await subject.inspector.stream()
    group = view.group(subject.settings.stream_group) if view else None
    if view is None or group is None:
        return ok("nothing is lost")
    advice = (
        "a producer trims too early: take MAXLEN and MINID out of its XADD, or give them more room"
    )
    gone = await subject.inspector.pending_gone() if group.pending else 0
    if gone:
        return problem(f"{gone} entries were trimmed before they were acknowledged", advice)
    read = 0 if group.position == "0-0" else group.entries_read
    if view.added is None or read is None:
        return unknown("this server does not count, so entries lost unread cannot be told")
    lost = view.added - view.length - read
    if lost > 0:
        return problem(f"at least {lost} entries were trimmed before the group read them", advice)
    return ok("nothing was trimmed ahead of the group")


async def others(subject: CheckContext) -> CheckResult:
    """Whether another group keeps entries on the stream."""
    view = await subject.inspector.stream()
    now = time.time()
    slow = {
        group.name: now - at
        for group in (view.groups if view else ())
        if group.name != subject.settings.stream_group
        and view is not None
        and (at := _unfinished_since(view, group)) is not None
        and now - at > _HOLDING_S
    }
    if not slow:
        return ok("none holds entries back")
    named = ", ".join(f"{name!r} ({format_seconds(age)})" for name, age in slow.items())
    return warning(
        f"entries stay on the stream for {named}",
        "what a group has not acknowledged is not trimmed: "
        "let it read on, or remove it with XGROUP DESTROY",
    )


async def _judge(subject: CheckContext, group: GroupInfo, view: StreamInfo) -> CheckResult:
    consumers = await subject.inspector.consumers()
    active = [consumer for consumer in consumers if consumer.idle_s < _ACTIVE_S]
    readers = f"{len(active)} of {len(consumers)} consumers active"
    says = f"{_behind(view, group)}, {group.pending} pending, {readers}"
    if not active and (group.pending or group.position != view.last):
        return problem(f"nobody reads: {says}", "start the worker, or look at its log")
    age_s = (
        time.time() - entry_time_s(group.oldest_pending.encode()) if group.oldest_pending else 0.0
    )
    if age_s > max(_STUCK_S, 3 * subject.settings.stream_reclaim_after_s):
        return warning(
            f"an entry has been pending for {format_seconds(age_s)}: {says}",
            "look at the worker's log for entry.failed or redis.unavailable",
        )
    return ok(says)


def _behind(view: StreamInfo, group: GroupInfo) -> str:
    if group.lag is not None:
        return f"{group.lag} entries to read"
    if group.position == view.last:
        return "all entries read"
    return f"read up to {group.position} of {view.last}; the server does not know the lag"


def _unfinished_since(view: StreamInfo, group: GroupInfo) -> float | None:
    """Return when the oldest entry came that a group has not finished, None if there is none."""
    if group.oldest_pending is not None:
        return entry_time_s(group.oldest_pending.encode())
    if group.position == view.last or view.first is None:
        return None
    return entry_time_s(max(view.first, group.position, key=_order).encode())


def _order(entry_id: str) -> tuple[int, int]:
    ms, _, sequence = entry_id.partition("-")
    return int(ms), int(sequence)
