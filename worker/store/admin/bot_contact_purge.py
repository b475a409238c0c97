"""Deletes what an earlier release cached of Evolution's bot contact: QR images, pairing codes."""

from collections.abc import AsyncIterator, Collection
from typing import Final, NamedTuple

from worker.core import bot_contact
from worker.core.cache_keys import dead_key
from worker.core.document_views import is_of_bot
from worker.core.documents import Document, Message
from worker.core.stream_entry import Fields
from worker.store.admin.stream_admin import StreamAdmin
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.keyspace import Keyspace
from worker.store.client import Client

_AT_ONCE: Final = 100

_Conversation = tuple[str, int]
"""An instance, and the display id of a conversation of it."""


class Purged(NamedTuple):
    """How much was deleted: documents, entries of the stream, and dead letters."""

    documents: int = 0
    entries: int = 0
    dead_letters: int = 0


class BotPurge:
    """The purge of one cache and one stream. May be repeated, and run by several workers at once.

    Whoever caches a conversation with the bot contact also writes the contact's own key: where no
    instance has one, nothing else is read.
    """

    def __init__(
        self, bindings: BindingTable, namespace: Keyspace, stream: Client, key: str, group: str
    ) -> None:
        self._bindings = bindings
        self._namespace = namespace
        self._entries = StreamAdmin(stream, key)
        self._dead_letters = StreamAdmin(stream, dead_key(key))
        self._group = group

    async def run(self) -> Purged:
        """Delete all of it; returns how much."""
        instances = set((await self._bindings.peek()).instances.values())
        keys = self._namespace.keys
        pointers = {keys.contact(name, bot_contact.NUMBER): name for name in instances}
        held = await self._namespace.leading_to(list(pointers))
        if not held:
            return Purged()
        # First what a worker of an earlier release may still replay, then what it wrote.
        entries = await self._delete_entries()
        dead_letters = await _delete(self._dead_letters)
        conversations = {(pointers[pointer], found) for pointer, found in held.items()}
        documents = await self._erase(conversations)
        for pointer, found in held.items():
            await self._namespace.unlink(
                await self._namespace.pointing([pointer.encode()], {found})
            )
        return Purged(documents, entries, dead_letters)

    async def _erase(self, conversations: set[_Conversation]) -> int:
        """Erase conversations with the bot contact: these, and others of the same instances."""
        instances = {instance for instance, _ in conversations}
        async for document in self._documents(instances):
            if is_of_bot(document):
                conversations.add(_conversation_of(document))
        erased, some = 0, list[Document]()
        async for document in self._documents(instances):
            if _conversation_of(document) in conversations:
                some.append(document)
            if len(some) >= _AT_ONCE:
                erased += await self._namespace.erase(some)
                some = []
        erased += await self._namespace.erase(some)
        keys = self._namespace.keys
        for instance, found in conversations:
            rest = (keys.timeline(instance, found), keys.start(instance, found))
            await self._namespace.unlink([key.encode() for key in rest])
        return erased

    async def _documents(self, instances: Collection[str]) -> AsyncIterator[Document]:
        async for places in self._namespace.places(_ignore):
            ours = [(name, place) for name, place in places if place.instance in instances]
            async for document in self._namespace.documents_at(ours):
                yield document

    async def _delete_entries(self) -> int:
        """Delete settled entries; workers delete those that they have yet to settle."""
        deleted = 0
        delivered = await self._entries.delivered(self._group)
        if delivered is None:
            return 0
        async for some in self._entries.walk(delivered):
            ids = [entry.id for entry in some if _is_about_bot(entry.fields)]
            if ids:
                pending = await self._entries.pending(self._group, ids[0], ids[-1])
                deleted += await self._entries.delete([i for i in ids if i not in pending])
        return deleted


async def _delete(entries: StreamAdmin) -> int:
    deleted = 0
    async for some in entries.walk():
        deleted += await entries.delete([e.id for e in some if _is_about_bot(e.fields)])
    return deleted


def _is_about_bot(fields: Fields) -> bool:
    return bot_contact.is_about_bot(fields.get(b"payload", b""))


def _conversation_of(document: Document) -> _Conversation:
    if isinstance(document, Message):
        return document.instance, document.conversation_id
    return document.instance, document.id


def _ignore(_keys: int) -> None:
    """Nobody watches the progress."""
