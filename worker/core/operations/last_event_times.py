"""The time of each instance's newest event, by the newest entries of the stream."""

from collections.abc import Iterable

from worker.core import chatwoot_event, stream_entry
from worker.core.binding_rules import BindingResolver
from worker.core.stream_entry import Entry
from worker.errors import UnusableEntry


def last_event_ms(entries: Iterable[Entry], resolver: BindingResolver) -> dict[str, int]:
    """Return the Unix milliseconds of each instance's newest event among these entries.

    Entries are resolved as by the worker; those without an instance are ignored. A claim counts:
    a worker will grant it, unless another instance claims the inbox before.
    """
    newest_ms: dict[str, int] = {}
    for entry in entries:
        try:
            envelope = stream_entry.read_envelope(entry)
            event = chatwoot_event.decode_event(envelope.payload)
            target = None if event is None else resolver.resolve(event, envelope)
        except UnusableEntry:
            continue
        if target is not None:
            newest_ms[target.instance] = max(envelope.ms, newest_ms.get(target.instance, 0))
    return newest_ms
