"""Documents in this process's memory, by the rules of `write_documents.lua`: local-only mode.

A document's TTL counts from its newest event, not from when it was read. So every process that
reads the same stream holds the same documents, whenever it was started.
"""

import time
from bisect import bisect_left
from collections.abc import Callable, Mapping, Sequence
from typing import Any, cast

from worker.core.cache_keys import CacheKeys
from worker.core.coalescer import WriteOutcome, WriteResult
from worker.core.documents import Document, PendingWrite, encode, is_tombstone
from worker.core.merge import merge
from worker.errors import RedisUnavailable
from worker.store.cache.document_writer import TOMBSTONE_EXTRA_S, CacheSettings, decode
from worker.store.cache.local_cache import ExpiringLru
from worker.store.cache.value_reader import ID_BYTES, KeyRequest, ReadValue, TimelineWindow


class MemoryDocuments:
    """At most `max_bytes` of documents; least recently used ones are evicted first.

    `accounts` maps instances to accounts. `is_whole` says whether the entries that the stream held
    at the start have been read.
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
        self._items = ExpiringLru(max_bytes, clock)
        self._settings = settings
        self._keys = CacheKeys(settings.prefix)
        self._accounts = accounts
        self._is_whole = is_whole
        self._clock = clock

    def __len__(self) -> int:
        return len(self._items)

    async def write(
        self,
        writes: Sequence[PendingWrite],
        version: bytes | None = None,  # noqa: ARG002  (bindings are in this process, too)
    ) -> WriteResult:
        """Write documents; conflicts are merged at once."""
        return WriteResult([self._write(write) for write in writes], 0)

    async def fetch(
        self, instance: str, requests: Sequence[KeyRequest], window: TimelineWindow | None
    ) -> dict[str, ReadValue]:
        """Read keys, and of a window the timeline; raises `RedisUnavailable` during the rebuild."""
        await self.ping()
        results = {self._keys.accounts: ReadValue(self._accounts.get(instance))}
        for key, parse in requests:
            value = self._get(key)
            results[key] = ReadValue(None if value is None else parse(value))
        if window:
            results[window.timeline] = ReadValue(self._get(window.timeline) or ())
        return results

    async def ping(self) -> None:
        """Raise `RedisUnavailable` during the rebuild."""
        if not self._is_whole():
            raise RedisUnavailable(
                "loading", "the memory of this process is being rebuilt from the stream"
            )

    def _write(self, write: PendingWrite) -> WriteOutcome:
        document, event_s = write.document, write.event_ms / 1000
        key, timeline, pointers = self._keys.locate(document)
        stored = self._stored(key, document)
        if stored is not None:
            merged: Document = merge(cast("Any", document), stored)
            if merged.revision == stored.revision:
                return "stale"
            document = merged
        elif not is_tombstone(document) and event_s < self._clock() - self._settings.ttl_s:
            return "stale"

        expires_at = event_s + self._settings.ttl_s
        value = encode(document)
        extra_s = TOMBSTONE_EXTRA_S if is_tombstone(document) else 0
        self._put(key, value, len(value), expires_at + extra_s)
        for pointer in pointers:
            greatest = max(int(self._get(pointer) or 0), document.id)
            self._put(pointer, b"%d" % greatest, 0, expires_at)
        if timeline is not None:
            self._append(timeline, document.id, expires_at)
        return "applied"

    def _stored(self, key: str, document: Document) -> Document | None:
        """Return the stored document; one of another account is ignored and overwritten."""
        value = self._get(key)
        stored: Document | None = decode(value, type(document)) if value else None
        return stored if stored and stored.account_id == document.account_id else None

    def _append(self, timeline: str, message_id: int, expires_at: float) -> None:
        ids: tuple[int, ...] = self._get(timeline) or ()
        index = bisect_left(ids, message_id)
        if ids[index : index + 1] != (message_id,):
            ids = (*ids[:index], message_id, *ids[index:])
            ids = ids[-self._settings.conversation_messages :]
        self._put(timeline, ids, ID_BYTES * len(ids), expires_at)

    def _get(self, key: str) -> Any:
        item = self._items.unexpired(key)
        return item.value if item else None

    def _put(self, key: str, value: Any, size: int, expires_at: float) -> None:
        """Store a value; its expiry time never decreases."""
        item = self._items.unexpired(key)
        expires_at = max(expires_at, item.expires_at) if item else expires_at
        self._items.put(key, value, size, expires_at)
