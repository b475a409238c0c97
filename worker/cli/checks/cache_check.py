"""Checks of the cache: permissions, and other programs under the same prefix."""

from worker.cli.checks.check_result import CheckResult, ok, problem
from worker.cli.checks.stream_check import try_commands
from worker.cli.context import CheckContext
from worker.cli.formatting import format_count
from worker.core.cache_keys import CacheKeys
from worker.store.admin import permission_probe
from worker.store.admin.cache_usage import measure_usage


async def permissions(context: CheckContext) -> CheckResult:
    """Whether the user may run every command of the worker on the cache."""
    settings = context.settings
    commands = [*permission_probe.of_cache(CacheKeys(settings.cache_redis_prefix_key))]
    if settings.cache_local_enabled:
        commands += permission_probe.of_memory()
    return await try_commands(context.probe, commands)


async def prefix(context: CheckContext) -> CheckResult:
    """Whether another program writes under the prefix of the documents."""
    name = context.settings.cache_redis_prefix_key
    usage = await measure_usage(context.client, name)
    if usage.foreign_keys:
        return problem(
            f"{format_count(usage.foreign_keys, 'key')} under {name}:chatwoot: belong to another "
            f"program, such as {usage.foreign_example!r}",
            "give each program its own prefix: set CACHE_REDIS_PREFIX_KEY",
        )
    instances = f"{format_count(len(usage.kinds), 'instance')} under {name}:chatwoot:"
    if usage.neighbours:
        others = ", ".join(usage.neighbours)
        return ok(f"{instances}; other programs use {name}: for {others}, which is harmless")
    return ok(f"{instances}, no keys of other programs")
