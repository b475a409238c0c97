"""A batch on its way: its entries as cases, each of which gets its outcome."""

from collections.abc import Sequence

from msgspec import Struct

from worker.core.chatwoot_event import ChatwootEvent, Destination
from worker.core.coalescer import Contribution, WriteResult
from worker.core.documents import Outcome, PendingWrite
from worker.core.stream_entry import Entry, Envelope
from worker.errors import UnusableEntry


class EntryState(Struct, gc=False):
    """An entry on its way to its outcome; `outcome` is set once that is known.

    `discard` says that the entry must not stay on the stream once it is settled.
    """

    entry: Entry
    said: Envelope | None = None
    event: ChatwootEvent | None = None
    address: Destination | None = None
    parts: tuple[Contribution, ...] = ()
    outcome: Outcome | UnusableEntry | None = None
    discard: bool = False


class Batch(Struct, gc=False):
    """Entries, decoded and folded; `written` is set once the cache has their drafts.

    `version` is that of the bindings that they were resolved by, `took_s` the time to write them.
    An entry that was trimmed from the stream has no case.
    """

    entries: Sequence[Entry]
    cases: Sequence[EntryState]
    drafts: Sequence[PendingWrite]
    version: bytes | None = None
    written: WriteResult | None = None
    took_s: float = 0.0
