"""How many entries to request at once, so that a batch stays near a size in bytes.

Redis limits a reply by the number of entries only. Two hundred entries of 5 MB are a gigabyte: more
than a small container has, and more than arrives within the read time-out.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from worker.core.stream_entry import DeadEntry, Entry

MAX_BYTES: Final = 8 * 1024 * 1024

_FIRST: Final = 8


class AdaptiveBatchSize:
    """A number of entries that starts small, grows by doubling and follows the observed sizes.

    When entries suddenly become much larger, one batch exceeds `MAX_BYTES`.
    """

    def __init__(self, limit: int) -> None:
        self._limit = limit
        self.count = min(limit, _FIRST)

    def observe(self, entries: Sequence[Entry]) -> None:
        """Set `count` to what would have fitted of entries like these."""
        if entries:
            pairs = chain.from_iterable(entry.fields.items() for entry in entries)
            size = sum(map(len, chain.from_iterable(pairs)))
            fitting = max(1, MAX_BYTES * len(entries) // max(1, size))
            self.count = min(self._limit, 2 * self.count, fitting)

    def shrink(self) -> None:
        """Request a single entry: a reply did not arrive, perhaps because of its size."""
        self.count = 1


def split(dead_entries: Iterable[DeadEntry]) -> Iterator[list[DeadEntry]]:
    """Split into commands of at most `MAX_BYTES`; a larger entry has its own."""
    part: list[DeadEntry] = []
    part_bytes = 0
    for dead_entry in dead_entries:
        fields = dead_entry.entry.fields
        size = sum(map(len, fields)) + sum(map(len, fields.values()))
        if part and part_bytes + size > MAX_BYTES:
            yield part
            part, part_bytes = [], 0
        part.append(dead_entry)
        part_bytes += size
    if part:
        yield part
