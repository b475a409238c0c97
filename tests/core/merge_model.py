"""The cache in memory, by the rules of the script that writes the real one, with a clock to set."""

from dataclasses import dataclass, field
from typing import Any, cast

from worker.core.documents import Document, Message, PendingWrite
from worker.core.merge import STAMP_DIGITS, merge

DAY_MS = 86_400_000

Place = tuple[type[Document], str, int]


def stamps(revision: str) -> list[str]:
    """Cut a revision into the stamps of its registers."""
    return [revision[at : at + STAMP_DIGITS] for at in range(0, len(revision), STAMP_DIGITS)]


def judge(mine: str, stored: str) -> str:
    """Compare two revisions as the script does: applied, stale, or to be merged first."""
    pairs = list(zip(stamps(mine), stamps(stored), strict=True))
    if all(a <= b for a, b in pairs):
        return "stale"
    return "applied" if all(a >= b for a, b in pairs) else "merge"


@dataclass(slots=True)
class ModelCache:
    """Documents with the time at which each expires; `now_ms` only ever grows."""

    ttl_ms: int
    tombstone_extra_ms: int = DAY_MS
    has_age_rule: bool = True
    now_ms: int = 0
    _stored: dict[Place, tuple[Document, int]] = field(default_factory=dict)

    def get(self, place: Place) -> Document | None:
        """Return what a reader finds now."""
        document, expires_ms = self._stored.get(place, (None, 0))
        return document if self.now_ms < expires_ms else None

    def write(self, pending: PendingWrite) -> str:
        """Write a document, merged with the stored one if neither covers the other."""
        document = pending.document
        place: Place = (type(document), document.instance, document.id)
        stored = self.get(place)
        if stored is None:
            if self._is_too_old(pending):
                return "stale"
        else:
            answer = judge(document.revision, stored.revision)
            if answer == "stale":
                return answer
            if answer == "merge":
                merged: Document = merge(cast("Any", document), stored)
                return self.write(PendingWrite(merged, pending.event_ms))
        self._put(place, document)
        return "applied"

    def _is_too_old(self, pending: PendingWrite) -> bool:
        if not self.has_age_rule or _is_deleted(pending.document):
            return False
        return pending.event_ms < self.now_ms - self.ttl_ms

    def _put(self, place: Place, document: Document) -> None:
        life_ms = self.ttl_ms + (self.tombstone_extra_ms if _is_deleted(document) else 0)
        self._stored[place] = document, self.now_ms + life_ms


def _is_deleted(document: Document) -> bool:
    return isinstance(document, Message) and document.deleted
