"""Checks of a server: version, role, memory, persistence and clock."""

from typing import Final

from worker.cli.checks.check_result import CheckResult, ok, problem, unknown, warning
from worker.cli.context import CheckContext
from worker.cli.formatting import format_bytes, format_seconds
from worker.errors import PermissionDenied

_NEARLY_FULL: Final = 0.9
_SKEW_S: Final = 30.0
_MAX_SKEW_S: Final = 300.0

_NO_KEY: Final = "chatwoot-cache-doctor"
_REQUIRED: Final = (
    ("XPENDING", _NO_KEY, _NO_KEY, "IDLE", 0, "-", "+", 1),
    ("XTRIM", _NO_KEY, "MINID", "0"),
    ("EVALSHA", "0" * 40, 0),
)
_SAVE_STATES: Final = (
    "rdb_last_bgsave_status",
    "aof_last_write_status",
    "aof_last_bgrewrite_status",
)


async def version(context: CheckContext) -> CheckResult:
    """Whether the server has the required commands; tried, as a version says too little."""
    probe = context.probe
    missing = [str(command[0]) for command in _REQUIRED if not await probe.understands(command)]
    name = await _server_name(context)
    if missing:
        return problem(
            f"{name} lacks {', '.join(missing)}, or forms of them that are needed",
            "use Redis 6.2 or newer, or Valkey",
        )
    return ok(name)


async def role(context: CheckContext) -> CheckResult:
    """Whether the server accepts writes."""
    if (await context.probe.info("cluster")).get("cluster_enabled") == "1":
        return problem(
            "it is part of a Redis Cluster, which this version does not support",
            "use a server of its own for the stream and the cache",
        )
    info = await context.probe.info("replication")
    if info.get("role") != "slave":
        return ok("a primary: it accepts writes")
    primary = f"{info.get('master_host')}:{info.get('master_port')}"
    return problem(
        "a replica, which accepts no writes", f"name its primary in the URI, now {primary}"
    )


async def memory(context: CheckContext) -> CheckResult:
    """Whether the server may evict the stream, or run out of memory."""
    info = await context.probe.info("memory")
    policy = info.get("maxmemory_policy", "noeviction")
    limit, used = int(info.get("maxmemory", 0)), int(info.get("used_memory", 0))
    if policy.startswith("allkeys-"):
        return problem(
            f"maxmemory-policy is {policy}: it may evict the stream, with every event on it",
            "use noeviction, or volatile-lru, which evicts only keys with a time to live",
        )
    if not limit:
        return ok(f"no limit, {format_bytes(used)} in use; {policy}")
    share = f"{format_bytes(used)} of {format_bytes(limit)} in use; {policy}"
    if used > _NEARLY_FULL * limit:
        return warning(
            f"nearly full: {share}",
            "raise maxmemory, lower CACHE_REDIS_TTL, or trim the stream: "
            "a full server accepts no events",
        )
    return ok(share)


async def persistence(context: CheckContext) -> CheckResult:
    """What a crash of the server loses."""
    info = await context.probe.info("persistence")
    failed = [name for name in _SAVE_STATES if info.get(name, "ok") != "ok"]
    if failed:
        return problem(
            f"its last attempt to write to the disk failed ({', '.join(failed)})",
            "see the server's log and disk: it may stop accepting writes",
        )
    if info.get("aof_enabled") == "1":
        return _append_only(await _config(context, "appendfsync"))
    return _snapshots(await _config(context, "save"))


async def clock(context: CheckContext) -> CheckResult:
    """Whether the clocks of server and machine agree: entry ids have the server's time."""
    ahead_s = await context.probe.clock_ahead_s()
    direction = "ahead of" if ahead_s > 0 else "behind"
    says = f"{format_seconds(abs(ahead_s))} {direction} this machine's"
    advice = "synchronize both clocks by NTP, and Chatwoot's too"
    if abs(ahead_s) > _MAX_SKEW_S:
        return problem(says, advice)
    if abs(ahead_s) > _SKEW_S:
        return warning(says, advice)
    return ok("agrees with this machine's")


async def _server_name(context: CheckContext) -> str:
    try:
        info = await context.probe.info("server")
    except PermissionDenied:
        return "a server that does not say its version"
    name = info.get("server_name", "redis")
    return f"{name.capitalize()} {info.get(f'{name}_version', info.get('redis_version', '?'))}"


async def _config(context: CheckContext, name: str) -> str | None:
    try:
        return await context.probe.config(name)
    except PermissionDenied:
        return None


def _append_only(fsync: str | None) -> CheckResult:
    if fsync == "no":
        return warning(
            "append-only, but the system decides when to write to the disk (appendfsync no)",
            "set appendfsync everysec, or always",
        )
    if fsync == "always":
        return ok("append-only, every write synced")
    return ok("append-only; a crash may lose the last second")


def _snapshots(save: str | None) -> CheckResult:
    if save is None:
        return unknown("not append-only; the server does not say whether it takes snapshots")
    lost = "everything since the last snapshot" if save else "everything, including the stream"
    return warning(
        f"a crash of the server loses {lost}, even webhooks that were answered with 200",
        "set appendonly yes, with appendfsync everysec or always",
    )
