"""Taking entries about a part of one instance off a stream and out of its dead letters."""

from collections.abc import Collection, Sequence
from typing import Final

import anyio

from worker.core.binding_rules import Bindings
from worker.core.cache_keys import dead_key
from worker.core.tooling.entry_summary import summarize_entry
from worker.core.tooling.purge_scope import PurgeScope
from worker.store.admin.stream_admin import StreamAdmin
from worker.store.cache.keyspace import Advance
from worker.store.client import Client

_IN_HAND_S: Final = 10.0
_POLL_S: Final = 0.1


class StreamPurge:
    """One stream and its dead letters."""

    def __init__(self, client: Client, key: str, group: str) -> None:
        self._stream = StreamAdmin(client, key)
        self._letters = StreamAdmin(client, dead_key(key))
        self._group = group

    async def size(self) -> int:
        """Return how many entries and letters there are."""
        return await self._stream.length() + await self._letters.length()

    async def delete_entries(
        self,
        advance: Advance,
        selection: PurgeScope,
        bindings: Bindings,
        conversations: Collection[int],
    ) -> int:
        """Delete entries from the stream; returns how many.

        Waits a while until workers have settled those that they have in hand, so that what is
        deleted afterwards stays so.
        """
        gone = await _delete(self._stream, advance, selection, bindings, conversations)
        with anyio.move_on_after(_IN_HAND_S):
            while await self._in_hand(gone):  # noqa: ASYNC110 - workers set no event of ours
                await anyio.sleep(_POLL_S)
        return len(gone)

    async def _in_hand(self, ids: Sequence[bytes]) -> bool:
        if not ids:
            return False
        return not (await self._stream.pending(self._group, ids[0], ids[-1])).isdisjoint(ids)

    async def delete_dead_letters(
        self,
        advance: Advance,
        selection: PurgeScope,
        bindings: Bindings,
        conversations: Collection[int],
    ) -> int:
        """Delete dead letters; returns how many."""
        return len(await _delete(self._letters, advance, selection, bindings, conversations))


async def _delete(
    entries: StreamAdmin,
    advance: Advance,
    selection: PurgeScope,
    bindings: Bindings,
    conversations: Collection[int],
) -> list[bytes]:
    gone: list[bytes] = []
    async for some in entries.walk():
        ids = [
            entry.id
            for entry in some
            if selection.has_entry(summarize_entry(entry.fields), bindings, conversations)
        ]
        await entries.delete(ids)
        gone += ids
        advance(len(some))
    return gone
