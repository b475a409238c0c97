"""A batch of entries and the outcome of each."""

from collections.abc import Sequence

from msgspec import Struct

from worker.core.chatwoot_event import ChatwootEvent, Destination
from worker.core.coalescer import Contribution, WriteResult
from worker.core.documents import Outcome, PendingWrite
from worker.core.stream_entry import Entry, Envelope
from worker.errors import UnusableEntry


class EntryState(Struct, gc=False):
    """What is known of an entry; `outcome` is None until it is settled.

    With `discard` the entry is deleted from the stream once it is settled.
    """

    entry: Entry
    envelope: Envelope | None = None
    event: ChatwootEvent | None = None
    destination: Destination | None = None
    contributions: tuple[Contribution, ...] = ()
    outcome: Outcome | UnusableEntry | None = None
    discard: bool = False


class Batch(Struct, gc=False):
    """Entries that are settled together.

    `states` and `writes` are set by preparing, `written` and `write_s` (seconds) by writing.
    An entry that was trimmed from the stream has no state.
    `bindings_version` is that of the bindings by which the entries were resolved.
    `failed` is set when a defect of this program stopped a step.
    """

    entries: Sequence[Entry]
    states: Sequence[EntryState] = ()
    writes: Sequence[PendingWrite] = ()
    bindings_version: bytes | None = None
    written: WriteResult | None = None
    write_s: float = 0.0
    failed: bool = False
