"""The stream: what we may do there, how long we may wait, and what came to nothing."""

from collections.abc import Iterable
from typing import Final

from worker.cli.checks.check_context import CheckContext
from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.errors import PermissionRefused, RedisUnavailable
from worker.store.admin import permission_probe as needed
from worker.store.admin.server_probe import ServerProbe
from worker.store.client import READ_MARGIN_S

_SHORT: Final = 0.8


async def rights(subject: CheckContext) -> CheckResult:
    """Whether the user may do everything the worker does on the stream."""
    of = subject.settings
    return await judged(subject.survey, needed.of_stream(of.stream_key, of.stream_group))


async def waiting(subject: CheckContext) -> CheckResult:
    """Whether a read may wait as long as the worker lets it; a proxy may cut it off."""
    block_s = subject.settings.stream_block_s
    advice = "lower CHATWOOT_CACHE_STREAM_BLOCK_S, or raise the time-out of the proxy between"
    try:
        took_s = await ServerProbe(subject.blocking).blocked_s(block_s)
    except RedisUnavailable as error:
        return problem(f"a read that waits {block_s:g} s is cut off: {error}", advice)
    except PermissionRefused:
        return unknown(
            f"a read waits {block_s:g} s, the socket {block_s + READ_MARGIN_S:g} s; "
            "the user has no right to XREAD, so it was not tried"
        )
    if took_s < _SHORT * block_s:
        return problem(f"a read that waits {block_s:g} s comes back after {took_s:.1f} s", advice)
    return ok(f"a read waited {took_s:.1f} s; the socket allows {block_s + READ_MARGIN_S:g} s")


async def letters(subject: CheckContext) -> CheckResult:
    """Events that are not in the cache."""
    found = await subject.census.dead_letters()
    if not found.total:
        return ok("none")
    reasons = ", ".join(f"{reason} {count}" for reason, count in found.by_reason.items())
    of_them = f", of the newest {found.looked_at}" if found.looked_at < found.total else ""
    advice = "look at them: chatwoot-cache dead list"
    if "instance_conflict" in found.by_reason:
        advice += (
            "; instance_conflict comes too when two installations share a prefix: "
            "then give one another CACHE_REDIS_PREFIX_KEY"
        )
    if "no_instance" in found.by_reason:
        advice += (
            "; no_instance is an inbox that nobody bound: `chatwoot-cache connect` binds it, "
            "or `chatwoot-cache bindings set`, then `chatwoot-cache dead replay`"
        )
    return warning(f"{found.total}: {reasons}{of_them}", advice)


async def judged(survey: ServerProbe, commands: Iterable[needed.Command]) -> CheckResult:
    """Try each command; those that are refused are named."""
    refused = {needed.name(c): said for c in commands if (said := await survey.refusal(c))}
    if not refused:
        return ok("all that the worker needs")
    named = ", ".join(map(_spelled, refused))
    return problem(
        f"the user in the URI may not run {named}: {next(iter(refused.values()))}",
        "grant it: ACL SETUSER … "
        + " ".join(map(needed.rule, refused))
        + ", on the keys that `chatwoot-cache acl worker` names",
    )


def _spelled(name: str) -> str:
    return name.upper().replace("|", " ")
