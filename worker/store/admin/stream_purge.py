"""Deletes entries about a part of one instance from a stream and its dead letters."""

from collections.abc import Callable, Collection, Sequence
from typing import Final

import anyio

from worker.core.binding_rules import Bindings
from worker.core.cache_keys import dead_key
from worker.core.operations.entry_summary import summarize_entry
from worker.core.operations.purge_scope import PurgeScope
from worker.core.stream_entry import Entry
from worker.store.admin.stream_admin import StreamAdmin
from worker.store.cache.keyspace import Advance
from worker.store.client import Client

_SETTLE_TIMEOUT_S: Final = 10.0
_POLL_S: Final = 0.1


class StreamPurge:
    """One stream and its dead letters."""

    def __init__(self, client: Client, key: str, group: str) -> None:
        self._stream = StreamAdmin(client, key)
        self._dead_letters = StreamAdmin(client, dead_key(key))
        self._group = group

    async def size(self) -> int:
        """Return the number of entries and dead letters."""
        return await self._stream.length() + await self._dead_letters.length()

    async def delete_entries(
        self,
        advance: Advance,
        scope: PurgeScope,
        bindings: Bindings,
        conversations: Collection[int],
    ) -> int:
        """Delete entries from the stream; returns how many.

        Waits up to ten seconds until workers have settled those that are pending, so that they
        cannot write what is deleted afterwards.
        """
        matches = _entry_filter(scope, bindings, conversations)
        ids = await self._stream.delete_where(matches, advance)
        with anyio.move_on_after(_SETTLE_TIMEOUT_S):
            while await self._is_pending(ids):  # noqa: ASYNC110 - other processes set no event
                await anyio.sleep(_POLL_S)
        return len(ids)

    async def _is_pending(self, ids: Sequence[bytes]) -> bool:
        if not ids:
            return False
        return not (await self._stream.pending(self._group, ids[0], ids[-1])).isdisjoint(ids)

    async def delete_dead_letters(
        self,
        advance: Advance,
        scope: PurgeScope,
        bindings: Bindings,
        conversations: Collection[int],
    ) -> int:
        """Delete dead letters; returns how many."""
        matches = _entry_filter(scope, bindings, conversations)
        return len(await self._dead_letters.delete_where(matches, advance))


def _entry_filter(
    scope: PurgeScope, bindings: Bindings, conversations: Collection[int]
) -> Callable[[Entry], bool]:
    return lambda entry: scope.has_entry(summarize_entry(entry.fields), bindings, conversations)
