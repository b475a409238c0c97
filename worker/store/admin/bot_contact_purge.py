"""Deletes what an earlier release cached of Evolution's bot contact: QR images, pairing codes."""

from collections.abc import AsyncIterator, Collection
from typing import NamedTuple

from worker.core import bot_contact
from worker.core.cache_keys import dead_key
from worker.core.documents import Document, Message
from worker.core.history.document_views import is_of_bot
from worker.core.stream_entry import Entry
from worker.store.admin.stream_admin import StreamAdmin
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.keyspace import Keyspace
from worker.store.client import Client


class PurgeCounts(NamedTuple):
    """How many documents, stream entries and dead letters were deleted."""

    documents: int = 0
    entries: int = 0
    dead_letters: int = 0


class BotContactPurge:
    """The purge of one cache and one stream. Idempotent; several workers may run it at once.

    A cached conversation with the bot contact always comes with the contact's own key. If no
    instance has that key, nothing else is read.
    """

    def __init__(
        self, bindings: BindingTable, keyspace: Keyspace, stream: Client, key: str, group: str
    ) -> None:
        self._bindings = bindings
        self._keyspace = keyspace
        self._stream = StreamAdmin(stream, key)
        self._dead_letters = StreamAdmin(stream, dead_key(key))
        self._group = group

    async def run(self) -> PurgeCounts:
        """Delete everything; returns how much."""
        instances = set((await self._bindings.peek()).instances.values())
        keys = self._keyspace.keys
        contacts = {keys.contact(name, bot_contact.NUMBER).encode(): name for name in instances}
        pointers = await self._keyspace.pointers(list(contacts))
        if not pointers:
            return PurgeCounts()
        # First the entries that a worker of an earlier release may still read, then its documents.
        entries = await self._delete_settled_entries()
        dead_letters = await self._dead_letters.delete_where(_is_about_bot)
        documents = await self._erase({(contacts[key], n) for key, n in pointers.items()})
        # A pointer that has changed meanwhile leads to another conversation, for the next run.
        current = await self._keyspace.pointers(list(pointers))
        await self._keyspace.unlink([key for key, n in current.items() if n == pointers[key]])
        return PurgeCounts(documents, entries, len(dead_letters))

    async def _erase(self, conversations: set[tuple[str, int]]) -> int:
        """Erase conversations (instance, display id), and others with the bot contact there."""
        instances = {instance for instance, _ in conversations}
        async for document in self._documents(instances):
            if is_of_bot(document):
                conversations.add(_conversation_of(document))
        erased = await self._keyspace.erase(
            document
            async for document in self._documents(instances)
            if _conversation_of(document) in conversations
        )
        keys = self._keyspace.keys
        for instance, display_id in conversations:
            rest = (keys.timeline(instance, display_id), keys.start(instance, display_id))
            await self._keyspace.unlink([key.encode() for key in rest])
        return erased

    def _documents(self, instances: Collection[str]) -> AsyncIterator[Document]:
        return self._keyspace.documents(lambda _: None, instances=instances)

    async def _delete_settled_entries(self) -> int:
        """Delete settled entries; workers ignore those that are pending or unread."""
        deleted = 0
        delivered = await self._stream.last_delivered(self._group)
        if delivered is None:
            return 0
        async for batch in self._stream.walk(delivered):
            if ids := [entry.id for entry in batch if _is_about_bot(entry)]:
                pending = await self._stream.pending(self._group, ids[0], ids[-1])
                deleted += await self._stream.delete([i for i in ids if i not in pending])
        return deleted


def _is_about_bot(entry: Entry) -> bool:
    return bot_contact.is_about_bot(entry.fields.get(b"payload", b""))


def _conversation_of(document: Document) -> tuple[str, int]:
    if isinstance(document, Message):
        return document.instance, document.conversation_id
    return document.instance, document.id
