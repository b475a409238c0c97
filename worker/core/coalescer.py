"""The events of one document within a batch, folded into one draft before it is written."""

from typing import Any, Literal, NamedTuple, cast

from msgspec import Struct

from worker.core.documents import Document, PendingWrite
from worker.core.merge import merge

WriteOutcome = Literal["applied", "stale", "wrong_type"]
"""What became of a draft: written, known already in this state or a newer one, or impossible
because its key holds a value of another type."""


class WriteResult(NamedTuple):
    """The answer to each draft, and how many had to be merged with what was stored first."""

    answers: list[WriteOutcome]
    conflicts: int


class Contribution(Struct, frozen=True, gc=False):
    """One event's share in a folded draft: which draft, and whether it added anything to it."""

    draft: int
    added: bool


class Coalescer:
    """Collects documents; those of the same place become one draft."""

    def __init__(self) -> None:
        self.drafts: list[PendingWrite] = []
        self._places: dict[tuple[type, str, int], int] = {}

    def add(self, document: Document, event_ms: int) -> Contribution:
        """Fold one event's document in; `event_ms` is the time of its entry's id."""
        place = (type(document), document.instance, document.id)
        index = self._places.setdefault(place, len(self.drafts))
        if index == len(self.drafts):
            self.drafts.append(PendingWrite(document, event_ms))
            return Contribution(index, True)

        held = self.drafts[index]
        merged: Document = merge(cast("Any", held.document), document)
        self.drafts[index] = PendingWrite(merged, max(held.event_ms, event_ms))
        return Contribution(index, merged.revision != held.document.revision)
