"""Values read from Redis, kept in this process's memory while invalidations are known to arrive.

Redis reports every write under the prefix (`tracking`). When that can no longer be relied on,
all values are dropped. A value that was written while it was being read is not stored: the
invalidation may arrive before the reply to the earlier read, which uses another connection.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, Final

from cachetools import LRUCache

from worker.store.cache.value_reader import ReadValue

OVERHEAD_BYTES: Final = 700
"""Memory per item besides its text: key, objects, slots of two dictionaries (measured)."""

_MAX_INVALIDATED: Final = 1_000
"""Invalidated keys remembered per read in progress; after more, nothing of that read is stored."""

Store = Callable[[str, ReadValue], None]
"""Stores a value that was just read under its key, unless the key was invalidated meanwhile."""


@dataclass(frozen=True, slots=True)
class CacheItem:
    """A value in memory; None means that Redis has no such key."""

    value: Any
    size: int
    expires_at: float


class ExpiringLru(LRUCache[str, CacheItem]):
    """An LRU cache of at most `max_bytes`, whose items expire by `clock`.

    The library's own `TLRUCache` takes several times as long to get an item.
    """

    def __init__(self, max_bytes: int, clock: Callable[[], float]) -> None:
        super().__init__(max_bytes, getsizeof=lambda item: item.size)
        self._clock = clock

    def unexpired(self, key: str) -> CacheItem | None:
        """Return an item that has not expired."""
        item = self.get(key)
        if item is not None and item.expires_at <= self._clock():
            del self[key]
            return None
        return item

    def put(self, key: str, value: Any, size: int, expires_at: float) -> None:
        """Store a value of `size` bytes, unless it is larger than the whole cache."""
        size += OVERHEAD_BYTES + len(key)
        if size <= self.maxsize:
            self[key] = CacheItem(value, size, expires_at)


@dataclass(slots=True, eq=False)
class _Read:
    """A read in progress, and the keys that were invalidated since it began."""

    storable: bool
    invalidated: set[str] = field(default_factory=set)


class LocalCache:
    """The local tier: at most `max_bytes`, least recently used items are evicted first.

    A value stays for `ttl_s` seconds, and never longer than its key in Redis.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._items = ExpiringLru(max_bytes, clock)
        self._ttl_s = ttl_s
        self._clock = clock
        self._valid_until = float("-inf")
        self._reads: set[_Read] = set()
        self._generations: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._items)

    def get(self, key: str) -> CacheItem | None:
        """Return an item; None if it is unknown or may be out of date."""
        item = self._items.unexpired(key)
        return item if self._clock() < self._valid_until else None

    def field_key(self, key: str, field: str) -> str:
        """Return the local key of a hash field; it changes when the hash is invalidated."""
        generation = self._generations.setdefault(key, 0)
        return f"{key}\0{generation}\0{field}"

    @contextmanager
    def reading(self) -> Iterator[Store]:
        """Store what is read within the block, which must begin before the command is sent."""
        started_at = self._clock()
        read = _Read(storable=started_at < self._valid_until)

        def store(key: str, value: ReadValue) -> None:
            if read.storable and key not in read.invalidated:
                ttl_s = self._ttl_s if value.ttl_s is None else min(self._ttl_s, value.ttl_s)
                self._items.put(key, value.value, value.size, started_at + ttl_s)

        self._reads.add(read)
        try:
            yield store
        finally:
            self._reads.discard(read)

    def invalidate(self, keys: Iterable[str]) -> None:
        """Drop keys that were written."""
        keys = list(keys)
        for key in keys:
            self._items.pop(key, None)
            if key in self._generations:
                self._generations[key] += 1
        for read in self._reads:
            read.invalidated.update(keys)
            if len(read.invalidated) > _MAX_INVALIDATED:
                read.storable = False
                read.invalidated.clear()

    def extend_validity(self, until: float) -> None:
        """Answer from memory until a time of the clock: all earlier writes will be reported."""
        self._valid_until = max(self._valid_until, until)

    def reset(self) -> None:
        """Drop all values, and answer nothing until `extend_validity` is called again."""
        self._valid_until = float("-inf")
        self.clear()

    def clear(self) -> None:
        """Drop all values, also those that are being read."""
        self._items.clear()
        for read in self._reads:
            read.storable = False
