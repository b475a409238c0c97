"""When each instance last had an event, from the newest entries of the stream."""

from collections.abc import Iterable

from worker.core import chatwoot_event, stream_entry
from worker.core.binding_rules import BindingClaim, BindingResolver
from worker.core.stream_entry import Entry
from worker.errors import UnusableEntry


def last_activity(entries: Iterable[Entry], resolver: BindingResolver) -> dict[str, int]:
    """Return the Unix milliseconds of each instance's newest event among the entries.

    Resolves instances as the worker does; an entry that belongs to no instance is skipped.
    """
    newest: dict[str, int] = {}
    for entry in entries:
        try:
            envelope = stream_entry.read_envelope(entry)
            event = chatwoot_event.decode_event(envelope.payload)
            target = None if event is None else resolver.resolve(event, envelope)
        except UnusableEntry:
            continue
        # A claim is a binding that a worker will make.
        if isinstance(target, BindingClaim | chatwoot_event.Destination):
            newest[target.instance] = max(envelope.ms, newest.get(target.instance, 0))
    return newest
