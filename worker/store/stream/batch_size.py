"""How many entries to ask for at once, so that a batch stays near a size in bytes.

Redis can bound a reply by its entries alone. Two hundred entries of 5 MB are a gigabyte: more than
a small container has, and more than comes before any sensible time-out.
"""

from collections.abc import Iterable, Iterator, Sequence
from itertools import chain
from typing import Final

from worker.core.stream_entry import DeadEntry, Entry

MAX_BYTES: Final = 8 * 1024 * 1024

_FIRST: Final = 8


class AdaptiveBatchSize:
    """A number of entries, learned from those that came: it starts small and grows by doubling.

    Entries that are suddenly much larger than the last ones pass once as a larger batch.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self.count = min(most, _FIRST)

    def learn(self, entries: Sequence[Entry]) -> None:
        """Let the next portion be what would have fitted of entries like these."""
        if entries:
            pairs = chain.from_iterable(entry.fields.items() for entry in entries)
            size = sum(map(len, chain.from_iterable(pairs)))
            fitting = max(1, MAX_BYTES * len(entries) // max(1, size))
            self.count = min(self._most, 2 * self.count, fitting)

    def shrink(self) -> None:
        """Ask for one only: a reply did not come, perhaps for its size."""
        self.count = 1


def size_of(entry: Entry) -> int:
    """Return the bytes of an entry's names and values."""
    return sum(map(len, entry.fields)) + sum(map(len, entry.fields.values()))


def split(letters: Iterable[DeadEntry]) -> Iterator[list[DeadEntry]]:
    """Divide letters, so that no command exceeds `MAX_BYTES` unless by a single letter."""
    held: list[DeadEntry] = []
    held_bytes = 0
    for letter in letters:
        size = size_of(letter.entry)
        if held and held_bytes + size > MAX_BYTES:
            yield held
            held, held_bytes = [], 0
        held.append(letter)
        held_bytes += size
    if held:
        yield held
