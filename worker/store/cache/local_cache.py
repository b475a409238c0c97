"""Values in this process's memory, for as long as they are known to be what Redis holds.

Known means: Redis tells us of every write (`tracking`), and has lately shown that it does.
Whenever that ends, all is forgotten. What was read while it was written is never kept:
the news of a write may overtake the reply to an earlier read, which comes on another connection.
"""

import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Final, Protocol

from cachetools import LRUCache

from worker.store.cache.value_reader import ReadValue

OVERHEAD_BYTES: Final = 700
"""What an entry takes beside its text: key, objects, places in two dictionaries (measured)."""

_MAX_RECENT: Final = 50_000
"""Writes remembered while something is being read; beyond them, what is being read is not kept."""


@dataclass(frozen=True, slots=True)
class CacheItem:
    """A value in memory; None is a key of which Redis said that it holds nothing."""

    value: Any
    size: int
    expires_at: float


class StoreIfUnchanged(Protocol):
    """Keeps a value that was just read, unless it was written meanwhile."""

    def __call__(self, key: str, value: ReadValue) -> None:
        """Keep a value under its key."""


class LocalCache:
    """The local tier: at most `max_bytes`, the least recently used go first.

    A value stays `ttl_s` seconds, and never longer than its key in Redis.
    """

    def __init__(
        self, max_bytes: int, ttl_s: float, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._held: LRUCache[str, CacheItem] = LRUCache(max_bytes, getsizeof=lambda held: held.size)
        self._ttl_s = ttl_s
        self._clock = clock
        self._fresh_until = float("-inf")
        self._news = 0
        self._forgotten_at = 0
        self._recent: dict[str, int] = {}
        self._reading = 0
        self._generations: dict[str, int] = {}

    def __len__(self) -> int:
        return len(self._held)

    def get(self, key: str) -> CacheItem | None:
        """Return what is held, None where that is nothing or may be out of date."""
        held = self._held.get(key)
        if held is None:
            return None
        now = self._clock()
        if held.expires_at <= now:
            del self._held[key]
            return None
        return held if now < self._fresh_until else None

    def field(self, key: str, field: str) -> str:
        """Return the name under which a hash's field is kept, until any field is written."""
        generation = self._generations.setdefault(key, 0)
        return f"{key}\0{generation}\0{field}"

    @contextmanager
    def reading(self) -> Iterator[StoreIfUnchanged]:
        """Keep what is read within the block. It must begin before the question is sent."""
        began, started_at = self._news, self._clock()
        was_fresh = started_at < self._fresh_until

        def keep(key: str, value: ReadValue) -> None:
            if was_fresh and began >= self._forgotten_at and self._recent.get(key, 0) <= began:
                self._put(key, value, started_at)

        self._reading += 1
        try:
            yield keep
        finally:
            self._reading -= 1
            if not self._reading:
                self._recent.clear()

    def _put(self, key: str, value: ReadValue, started_at: float) -> None:
        life_s = self._ttl_s if value.life_s is None else min(self._ttl_s, value.life_s)
        size = OVERHEAD_BYTES + len(key) + value.size
        if size <= self._held.maxsize:
            self._held[key] = CacheItem(value.value, size, started_at + life_s)

    def invalidate(self, keys: Iterable[str]) -> None:
        """Forget keys that somebody wrote."""
        self._news += 1
        for key in keys:
            self._held.pop(key, None)
            if key in self._generations:
                self._generations[key] += 1
            if self._reading:
                self._recent[key] = self._news
        if len(self._recent) > _MAX_RECENT:
            self._forgotten_at = self._news
            self._recent.clear()

    def trust(self, until: float) -> None:
        """Answer from memory until a time of the monotonic clock: until then every write is known.

        Time has passed since Redis showed it, so `until` counts from when it was asked.
        """
        self._fresh_until = max(self._fresh_until, until)

    def forget(self) -> None:
        """Forget everything, and what is being read too; answer nothing until trusted anew."""
        self._fresh_until = float("-inf")
        self.clear()

    def clear(self) -> None:
        """Forget everything, and what is being read too."""
        self._news += 1
        self._forgotten_at = self._news
        self._held.clear()
        self._recent.clear()
