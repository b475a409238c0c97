"""When each instance last had an event, told by the newest entries of the stream."""

from collections.abc import Iterable

from worker.core import chatwoot_event, stream_entry
from worker.core.binding_rules import BindingClaim, BindingResolver
from worker.core.stream_entry import Entry
from worker.errors import UnusableEntry


def last_activity(entries: Iterable[Entry], resolver: BindingResolver) -> dict[str, int]:
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


def _tell(one: Entry, resolver: BindingResolver) -> tuple[str, int] | None:
    try:
        said = stream_entry.read_envelope(one)
        event = chatwoot_event.decode_event(said.payload)
        belongs = None if event is None else resolver.resolve(event, said)
    except UnusableEntry:
        return None
    # A claim is what a worker will bind, unless somebody else does before.
    if belongs is None or not isinstance(belongs, BindingClaim | chatwoot_event.Destination):
        return None
    return belongs.instance, said.ms
