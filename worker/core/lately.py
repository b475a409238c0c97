"""When each instance last had an event, told by the newest entries of the stream."""

from collections.abc import Iterable

from worker.core import chatwoot, entry
from worker.core.bindings import Claim, Resolver
from worker.core.entry import Entry
from worker.errors import Unusable


def last_events(entries: Iterable[Entry], resolver: Resolver) -> dict[str, int]:
    """Return the Unix milliseconds of each instance's newest event among these.

    Judged as the worker does; an entry that belongs to no instance says nothing here.
    """
    found: dict[str, int] = {}
    for one in entries:
        told = _tell(one, resolver)
        if told is not None:
            instance, ms = told
            found[instance] = max(ms, found.get(instance, 0))
    return found


def _tell(one: Entry, resolver: Resolver) -> tuple[str, int] | None:
    try:
        said = entry.read(one)
        event = chatwoot.decode(said.payload)
        belongs = None if event is None else resolver.resolve(event, said)
    except Unusable:
        return None
    # A claim is what a worker will bind, unless somebody else does before.
    if belongs is None or not isinstance(belongs, Claim | chatwoot.Address):
        return None
    return belongs.instance, said.ms
