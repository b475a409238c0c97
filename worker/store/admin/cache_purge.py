"""Deletes a part of one instance from the cache: all of it, a conversation, or a contact."""

from collections.abc import AsyncIterator
from typing import Final

from worker.core.cache_keys import KeyKind
from worker.core.documents import Conversation, Document, Message
from worker.core.operations.purge_scope import PurgeScope
from worker.store.cache.keyspace import Advance, Keyspace

WALKS: Final = 3
"""How often the database is scanned, at most."""


async def purge_cache(keyspace: Keyspace, advance: Advance, scope: PurgeScope) -> int:
    """Delete exactly the keys of a scope; returns how many documents existed."""
    if scope.is_all:
        return await _purge_instance(keyspace, advance, scope.instance)
    instances = {scope.instance}
    conversations = await conversations_of(keyspace, advance, scope)
    message_ids: set[int] = set()

    async def in_scope() -> AsyncIterator[Document]:
        async for document in keyspace.documents(advance, instances=instances):
            if not isinstance(document, Message):
                if document.id in conversations:
                    yield document
            elif scope.has_message(document, conversations):
                message_ids.add(document.id)
                yield document

    erased = await keyspace.erase(in_scope())
    for key in (keyspace.keys.timeline, keyspace.keys.start):
        await keyspace.unlink([key(scope.instance, n).encode() for n in conversations])
    await _unlink_pointers(keyspace, advance, scope, conversations, message_ids)
    return erased


async def _unlink_pointers(
    keyspace: Keyspace,
    advance: Advance,
    scope: PurgeScope,
    conversations: set[int],
    message_ids: set[int],
) -> None:
    """Delete what still points to the documents: former source ids, former numbers of a contact."""
    targets: dict[KeyKind, set[int]] = {"contact": conversations, "source": message_ids}
    async for places in keyspace.places(advance, instances={scope.instance}):
        pointers = {name: place for name, place in places if place.kind in targets}
        ids = await keyspace.pointers(list(pointers))
        await keyspace.unlink(
            [
                name
                for name, place in pointers.items()
                if ids.get(name) in targets[place.kind]
                or (place.kind == "contact" and place.id in scope.contact)
            ]
        )


async def _purge_instance(keyspace: Keyspace, advance: Advance, instance: str) -> int:
    erased = 0
    async for places in keyspace.places(advance, instances={instance}):
        documents = [name for name, place in places if place.kind in ("message", "conversation")]
        erased += await keyspace.unlink(documents)
        await keyspace.unlink([name for name, _ in places])
    return erased


async def conversations_of(keyspace: Keyspace, advance: Advance, scope: PurgeScope) -> set[int]:
    """Return the display ids of the cached conversations of a scope."""
    if scope.conversation_id is not None:
        return {scope.conversation_id}
    keys = [keyspace.keys.contact(scope.instance, name).encode() for name in scope.contact]
    found = set((await keyspace.pointers(keys)).values())
    async for document in keyspace.documents(
        advance, instances={scope.instance}, kind="conversation"
    ):
        if isinstance(document, Conversation) and scope.has_conversation(document):
            found.add(document.id)
    return found
