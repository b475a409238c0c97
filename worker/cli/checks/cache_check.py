"""The cache: what we may do there, and who else writes under our prefix."""

from worker.cli.checks.check_context import CheckContext
from worker.cli.checks.check_result import CheckResult, ok, problem
from worker.cli.checks.stream_check import judged
from worker.cli.formatting import format_count
from worker.core.cache_keys import CacheKeys
from worker.store.admin import permission_probe as needed
from worker.store.admin.cache_usage import measure_usage


async def rights(subject: CheckContext) -> CheckResult:
    """Whether the user may do everything the worker does in the cache."""
    of = subject.settings
    commands = [*needed.of_cache(CacheKeys(of.cache_redis_prefix_key))]
    if of.cache_local_enabled:
        commands += needed.of_memory()
    return await judged(subject.survey, commands)


async def prefix(subject: CheckContext) -> CheckResult:
    """Whether somebody else writes where our documents are."""
    name = subject.settings.cache_redis_prefix_key
    found = await measure_usage(subject.client, name)
    if found.foreign_keys:
        return problem(
            f"under {name}:chatwoot: stand keys of another program, {found.foreign_keys} of them, "
            f"such as {found.foreign_example!r}",
            "give each program a prefix of its own: set CACHE_REDIS_PREFIX_KEY",
        )
    ours = f"{format_count(len(found.kinds), 'instance')} under {name}:chatwoot:"
    if found.neighbours:
        others = ", ".join(found.neighbours)
        return ok(f"{ours}; others use {name}: for {others}, which is no harm")
    return ok(f"{ours}, nobody else's keys")
