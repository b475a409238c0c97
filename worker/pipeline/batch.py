"""A batch on its way: its entries as cases, each of which gets its outcome."""

from collections.abc import Sequence

from msgspec import Struct

from worker.core.chatwoot import Address, Event
from worker.core.entry import Entry, Statement
from worker.core.fold import Part, Written
from worker.core.model import Draft, Outcome
from worker.errors import Unusable


class Case(Struct, gc=False):
    """An entry on its way to its outcome; `verdict` is set once that is known.

    `discard` says that the entry must not stay on the stream once it is settled.
    """

    entry: Entry
    said: Statement | None = None
    event: Event | None = None
    address: Address | None = None
    parts: tuple[Part, ...] = ()
    verdict: Outcome | Unusable | None = None
    discard: bool = False


class Batch(Struct, gc=False):
    """Entries, decoded and folded; `written` is set once the cache has their drafts.

    `version` is that of the bindings that they were resolved by, `took_s` the time to write them.
    An entry that was trimmed from the stream has no case.
    """

    entries: Sequence[Entry]
    cases: Sequence[Case]
    drafts: Sequence[Draft]
    version: bytes | None = None
    written: Written | None = None
    took_s: float = 0.0
