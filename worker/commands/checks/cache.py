"""The cache: what we may do there, and who else writes under our prefix."""

from worker.commands.checks.finding import Finding, ok, problem
from worker.commands.checks.stream import judged
from worker.commands.checks.subject import Subject
from worker.commands.quantities import counted
from worker.core.keys import Keys
from worker.store import rights as needed
from worker.store.tally import tally


async def rights(subject: Subject) -> Finding:
    """Whether the user may do everything the worker does in the cache."""
    of = subject.settings
    commands = [*needed.of_cache(Keys(of.cache_redis_prefix_key))]
    if of.cache_local_enabled:
        commands += needed.of_memory()
    return await judged(subject.survey, commands)


async def prefix(subject: Subject) -> Finding:
    """Whether somebody else writes where our documents are."""
    name = subject.settings.cache_redis_prefix_key
    found = await tally(subject.client, name)
    if found.strangers:
        return problem(
            f"under {name}:chatwoot: stand keys of another program, {found.strangers} of them, "
            f"such as {found.a_stranger!r}",
            "give each program a prefix of its own: set CACHE_REDIS_PREFIX_KEY",
        )
    ours = f"{counted(len(found.kinds), 'instance')} under {name}:chatwoot:"
    if found.neighbours:
        others = ", ".join(found.neighbours)
        return ok(f"{ours}; others use {name}: for {others}, which is no harm")
    return ok(f"{ours}, nobody else's keys")
