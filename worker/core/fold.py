"""The events of one document within a batch, folded into one draft before it is written."""

from typing import Any, Literal, NamedTuple, cast

from msgspec import Struct

from worker.core.merge import merge
from worker.core.model import Document, Draft

Answer = Literal["applied", "stale", "wrong_type"]
"""What became of a draft: written, known already in this state or a newer one, or impossible
because its key holds a value of another type."""


class Written(NamedTuple):
    """The answer to each draft, and how many had to be merged with what was stored first."""

    answers: list[Answer]
    conflicts: int


class Part(Struct, frozen=True, gc=False):
    """One event's share in a folded draft: which draft, and whether it added anything to it."""

    draft: int
    added: bool


class Fold:
    """Collects documents; those of the same place become one draft."""

    def __init__(self) -> None:
        self.drafts: list[Draft] = []
        self._places: dict[tuple[type, str, int], int] = {}

    def add(self, document: Document, born_ms: int) -> Part:
        """Fold one event's document in; `born_ms` is the time of its entry's id."""
        place = (type(document), document.instance, document.id)
        index = self._places.setdefault(place, len(self.drafts))
        if index == len(self.drafts):
            self.drafts.append(Draft(document, born_ms))
            return Part(index, True)

        held = self.drafts[index]
        merged: Document = merge(cast("Any", held.document), document)
        self.drafts[index] = Draft(merged, max(held.born_ms, born_ms))
        return Part(index, merged.revision != held.document.revision)
