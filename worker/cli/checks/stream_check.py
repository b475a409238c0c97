"""Checks of the stream: permissions, blocking reads and dead letters."""

from collections.abc import Iterable
from typing import Final

from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.cli.context import CheckContext
from worker.errors import PermissionDenied, RedisUnavailable
from worker.store.admin import permission_probe
from worker.store.admin.permission_probe import Command
from worker.store.admin.server_probe import ServerProbe
from worker.store.client import READ_MARGIN_S

_MIN_SHARE: Final = 0.8


async def permissions(context: CheckContext) -> CheckResult:
    """Whether the user may run every command of the worker on the stream."""
    settings = context.settings
    commands = permission_probe.of_stream(settings.stream_key, settings.stream_group)
    return await try_commands(context.probe, commands)


async def blocking_read(context: CheckContext) -> CheckResult:
    """Whether a read may block as long as the worker's; a proxy may cut it off."""
    block_s = context.settings.stream_block_s
    allowed = f"the socket allows {block_s + READ_MARGIN_S:g} s"
    advice = "lower CHATWOOT_CACHE_STREAM_BLOCK_S, or raise the time-out of the proxy in between"
    try:
        took_s = await ServerProbe(context.blocking).blocked_s(block_s)
    except RedisUnavailable as error:
        return problem(f"a read that waits {block_s:g} s is cut off: {error}", advice)
    except PermissionDenied:
        return unknown(
            f"a read waits {block_s:g} s, {allowed}; not tried, as the user may not run XREAD"
        )
    if took_s < _MIN_SHARE * block_s:
        return problem(f"a read that waits {block_s:g} s returns after {took_s:.1f} s", advice)
    return ok(f"a read waited {took_s:.1f} s; {allowed}")


async def dead_letters(context: CheckContext) -> CheckResult:
    """Whether there are events that could not be cached."""
    found = await context.inspector.dead_letters()
    if not found.total:
        return ok("none")
    reasons = ", ".join(f"{reason} {count}" for reason, count in found.by_reason.items())
    newest = f", of the newest {found.looked_at}" if found.looked_at < found.total else ""
    advice = "see chatwoot-cache dead list"
    if "instance_conflict" in found.by_reason:
        advice += (
            "; instance_conflict also occurs when two installations share a prefix: "
            "then set another CACHE_REDIS_PREFIX_KEY for one of them"
        )
    if "no_instance" in found.by_reason:
        advice += (
            "; no_instance is an inbox without a binding: bind it with `chatwoot-cache connect` "
            "or `chatwoot-cache bindings set`, then run `chatwoot-cache dead replay`"
        )
    return warning(f"{found.total}: {reasons}{newest}", advice)


async def try_commands(probe: ServerProbe, commands: Iterable[Command]) -> CheckResult:
    """Try each command, and name those that the server refuses."""
    refused = {
        permission_probe.name(command): refusal
        for command in commands
        if (refusal := await probe.refusal(command))
    }
    if not refused:
        return ok("all that the worker needs")
    names = ", ".join(name.upper().replace("|", " ") for name in refused)
    granted = " ".join(map(permission_probe.rule, refused))
    return problem(
        f"the user in the URI may not run {names}: {next(iter(refused.values()))}",
        f"grant it: ACL SETUSER … {granted}, on the keys that `chatwoot-cache acl worker` names",
    )
