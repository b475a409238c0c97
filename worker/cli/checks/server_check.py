"""What a server is like: version, memory, persistence, role and clock."""

from typing import Final

from worker.cli.checks.check_context import CheckContext
from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.cli.formatting import format_bytes, format_seconds
from worker.errors import PermissionRefused

_NEARLY_FULL: Final = 0.9
_SKEW_S: Final = 30.0
_BAD_SKEW_S: Final = 300.0

_NOBODY: Final = "chatwoot-cache-doctor"
_NEEDED: Final = (
    ("XPENDING", _NOBODY, _NOBODY, "IDLE", 0, "-", "+", 1),
    ("XTRIM", _NOBODY, "MINID", "0"),
    ("EVALSHA", "0" * 40, 0),
)
_NEWER: Final = (("XACKDEL", _NOBODY, _NOBODY, "IDS", 1, "0-0"),)


async def version(subject: CheckContext) -> CheckResult:
    """What the server can do, tried rather than read from its version."""
    survey = subject.survey
    missing = [command[0] for command in _NEEDED if not await survey.understands(command)]
    newer = [command[0] for command in _NEWER if await survey.understands(command)]
    name = await _name(subject)
    if missing:
        return problem(
            f"{name} lacks {', '.join(map(str, missing))}, or forms of them that are needed",
            "use Redis 6.2 or newer, or Valkey",
        )
    return ok(f"{name}{' with ' + ', '.join(map(str, newer)) if newer else ''}")


async def role(subject: CheckContext) -> CheckResult:
    """Whether it takes writes."""
    if (await subject.survey.info("cluster")).get("cluster_enabled") == "1":
        return problem(
            "it is part of a Redis Cluster, which this version does not support",
            "use a server of its own for the stream and the cache",
        )
    info = await subject.survey.info("replication")
    if info.get("role") != "slave":
        return ok("a primary: it takes writes")
    primary = f"{info.get('master_host')}:{info.get('master_port')}"
    return problem(
        "a replica, which takes no writes", f"let the URI name its primary, now {primary}"
    )


async def memory(subject: CheckContext) -> CheckResult:
    """Whether it may throw the stream away, or run full."""
    info = await subject.survey.info("memory")
    policy = info.get("maxmemory_policy", "noeviction")
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if policy.startswith("allkeys-"):
        return problem(
            f"maxmemory-policy is {policy}: it may evict the stream, with every event on it",
            "use volatile-lru (only keys with a time to live, as all of the cache's) or noeviction",
        )
    if not limit:
        return ok(f"no limit, {format_bytes(used)} in use; {policy}")
    share = f"{format_bytes(used)} of {format_bytes(limit)} in use; {policy}"
    if used > _NEARLY_FULL * limit:
        return warning(
            f"nearly full: {share}",
            "raise maxmemory, lower CACHE_REDIS_TTL, or trim the stream: "
            "a full server takes no events",
        )
    return ok(share)


async def persistence(subject: CheckContext) -> CheckResult:
    """What a crash of the server costs."""
    info = await subject.survey.info("persistence")
    failed = [
        name
        for name in ("rdb_last_bgsave_status", "aof_last_write_status", "aof_last_bgrewrite_status")
        if info.get(name, "ok") != "ok"
    ]
    if failed:
        return problem(
            f"its last attempt to write to the disk failed ({', '.join(failed)})",
            "look at the server's log and disk: it may stop taking writes",
        )
    if info.get("aof_enabled") == "1":
        return _append_only(await _config(subject, "appendfsync"))
    return _snapshots(await _config(subject, "save"))


async def clock(subject: CheckContext) -> CheckResult:
    """Whether the server's clock and ours agree: entries are dated by the server's."""
    ahead_s = await subject.survey.clock_ahead_s()
    says = (
        f"{format_seconds(abs(ahead_s))} {'ahead of' if ahead_s > 0 else 'behind'} this machine's"
    )
    advice = "set both clocks by NTP; Chatwoot's too"
    if abs(ahead_s) > _BAD_SKEW_S:
        return problem(says, advice)
    if abs(ahead_s) > _SKEW_S:
        return warning(says, advice)
    return ok("agrees with this machine's")


async def _name(subject: CheckContext) -> str:
    try:
        info = await subject.survey.info("server")
    except PermissionRefused:
        return "a server that does not say its version"
    name = info.get("server_name", "redis")
    return f"{name.capitalize()} {info.get(f'{name}_version', info.get('redis_version', '?'))}"


async def _config(subject: CheckContext, name: str) -> str | None:
    try:
        return await subject.survey.config(name)
    except PermissionRefused:
        return None


def _append_only(fsync: str | None) -> CheckResult:
    if fsync == "no":
        return warning(
            "append-only, but the disk is written when the system likes (appendfsync no)",
            "set appendfsync everysec, or always",
        )
    if fsync == "always":
        return ok("append-only, every write synced")
    return ok("append-only; a crash may lose the last second")


def _snapshots(save: str | None) -> CheckResult:
    if save is None:
        return unknown("not append-only; the server does not say whether it takes snapshots")
    cost = "everything, the stream included" if not save else "what came since the last snapshot"
    return warning(
        f"a crash of the server loses {cost}: webhooks that were answered 200 too",
        "set appendonly yes, with appendfsync everysec or always",
    )
