"""Documents in this process alone, by the rules of the script that writes Redis: local only.

A view of the stream: what a document's newest event is, says how long it lives, so that every
process that reads the same entries holds the same, whenever it was started.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, Final, cast

from cachetools import LRUCache

from worker.core.cache_keys import CacheKeys
from worker.core.coalescer import WriteOutcome, WriteResult
from worker.core.documents import Document, PendingWrite, encode, is_tombstone
from worker.core.merge import merge
from worker.errors import RedisUnavailable
from worker.store.cache.document_writer import TOMBSTONE_EXTRA_S, CacheSettings, decode
from worker.store.cache.local_cache import OVERHEAD_BYTES, CacheItem
from worker.store.cache.value_reader import (
    ID_BYTES,
    FetchResult,
    KeyRequest,
    ReadValue,
    TimelineWindow,
)

_BEING_REBUILT: Final = "the memory of this process is being rebuilt from the stream"


class MemoryDocuments:
    """The documents of one process: at most `max_bytes`, the least recently used go first.

    `accounts` says which account an instance belongs to; `is_whole` whether all was read that the
    stream held at the start.
    """

    def __init__(
        self,
        settings: CacheSettings,
        max_bytes: int,
        *,
        accounts: Mapping[str, int],
        is_whole: Callable[[], bool],
        clock: Callable[[], float] = time.time,
    ) -> None:
        self._held: LRUCache[str, CacheItem] = LRUCache(max_bytes, getsizeof=lambda held: held.size)
        self._of = settings
        self._keys = CacheKeys(settings.prefix)
        self._accounts = accounts
        self._is_whole = is_whole
        self._clock = clock

    def __len__(self) -> int:
        return len(self._held)

    async def write(
        self,
        drafts: Sequence[PendingWrite],
        version: bytes | None = None,  # noqa: ARG002  (bindings are this process's too)
    ) -> WriteResult:
        """Write documents; one that must be merged with what is held is merged at once."""
        return WriteResult([self._write(draft) for draft in drafts], 0)

    async def fetch(
        self,
        instance: str,
        wanted: Sequence[KeyRequest],
        window: TimelineWindow | None,
        parse: Callable[[bytes], Any],  # noqa: ARG002  (messages are asked for one by one)
    ) -> FetchResult:
        """Read keys, and with a window its timeline; raises `RedisUnavailable` during a rebuild."""
        await self.ping()
        values = {want.key: _value(self._get(want.key), want.parse) for want in wanted}
        if window:
            values[window.timeline] = ReadValue(self._get(window.timeline) or (), 0, None)
        return FetchResult(ReadValue(self._accounts.get(instance), 0, None), values)

    async def ping(self) -> None:
        """Raise `RedisUnavailable` while it is being rebuilt."""
        if not self._is_whole():
            raise RedisUnavailable("loading", _BEING_REBUILT)

    def _write(self, draft: PendingWrite) -> WriteOutcome:
        document, born_s = draft.document, draft.event_ms / 1000
        key, timeline, pointers = self._keys.locate(document)
        stored = self._stored(key, document)
        if stored is not None:
            merged: Document = merge(cast("Any", document), stored)
            if merged.revision == stored.revision:
                return "stale"
            document = merged
        elif not is_tombstone(document) and born_s < self._clock() - self._of.ttl_s:
            return "stale"

        life_s = self._of.ttl_s + (TOMBSTONE_EXTRA_S if is_tombstone(document) else 0)
        value = encode(document)
        self._put(key, value, len(value), born_s + life_s)
        self._index(document.id, timeline, pointers, born_s + self._of.ttl_s)
        return "applied"

    def _stored(self, key: str, document: Document) -> Document | None:
        """Return what is held of a document; what another account left is no state of it."""
        held = self._get(key)
        stored: Document | None = decode(held, type(document)) if held else None
        return stored if stored and stored.account_id == document.account_id else None

    def _index(
        self, number: int, timeline: str | None, pointers: Sequence[str], expires_at: float
    ) -> None:
        for pointer in pointers:
            held = int(self._get(pointer) or 0)
            self._put(pointer, b"%d" % max(held, number), 0, expires_at)
        if timeline is not None:
            ids: tuple[int, ...] = self._get(timeline) or ()
            at = bisect_left(ids, number)
            if ids[at : at + 1] != (number,):
                ids = (*ids[:at], number, *ids[at:])[-self._of.conversation_messages :]
            self._put(timeline, ids, ID_BYTES * len(ids), expires_at)

    def _get(self, key: str) -> Any:
        held = self._held.get(key)
        if held is None:
            return None
        if held.expires_at <= self._clock():
            del self._held[key]
            return None
        return held.value

    def _put(self, key: str, value: Any, size: int, expires_at: float) -> None:
        held = self._held.get(key)
        lasts = max(expires_at, held.expires_at) if held else expires_at
        taken = OVERHEAD_BYTES + len(key) + size
        if taken <= self._held.maxsize:
            self._held[key] = CacheItem(value, taken, lasts)


def _value(value: bytes | None, parse: Callable[[bytes], Any]) -> ReadValue:
    return ReadValue(None if value is None else parse(value), 0, None)
