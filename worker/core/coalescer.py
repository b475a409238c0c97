"""Merges the events of one document within a batch into one write."""

from typing import Any, Literal, NamedTuple, cast

from msgspec import Struct

from worker.core.documents import Document, PendingWrite
from worker.core.merge import merge

WriteOutcome = Literal["applied", "stale", "wrong_type"]
"""The result of a write: applied, stale (this state or a newer one is stored), or not possible
because a key has another type."""


class WriteResult(NamedTuple):
    """The outcome of each write, and how many were first merged with the stored document."""

    outcomes: list[WriteOutcome]
    conflicts: int


class Contribution(Struct, frozen=True, gc=False):
    """The index of the write that an event was merged into, and whether it changed the write."""

    write: int
    added: bool


class Coalescer:
    """Collects documents; those with the same key become one write."""

    def __init__(self) -> None:
        self.writes: list[PendingWrite] = []
        self._indexes: dict[tuple[type, str, int], int] = {}

    def add(self, document: Document, event_ms: int) -> Contribution:
        """Add one event's document; `event_ms` is the time of its entry's id."""
        key = (type(document), document.instance, document.id)
        index = self._indexes.setdefault(key, len(self.writes))
        if index == len(self.writes):
            self.writes.append(PendingWrite(document, event_ms))
            return Contribution(index, True)

        previous = self.writes[index]
        merged: Document = merge(cast("Any", previous.document), document)
        self.writes[index] = PendingWrite(merged, max(previous.event_ms, event_ms))
        return Contribution(index, merged.revision != previous.document.revision)
