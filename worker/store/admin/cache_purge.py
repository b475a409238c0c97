"""Taking a part of one instance out of the cache: all of it, a conversation, or a contact."""

from collections.abc import Container, Mapping
from typing import Final

from worker.core.cache_keys import KeyKind
from worker.core.documents import Conversation, Document, Message
from worker.core.tooling.purge_scope import PurgeScope
from worker.store.cache.keyspace import Advance, Keyspace

_AT_ONCE: Final = 100

WALKS: Final = 3
"""How often the database is walked, at most."""


async def purge_cache(namespace: Keyspace, advance: Advance, selection: PurgeScope) -> int:
    """Delete exactly the keys of a selection; returns how many documents there were."""
    if selection.is_all:
        return await _forget_instance(namespace, advance, selection.instance)
    conversations = await conversations_of(namespace, advance, selection)
    erased, ids = await _forget_documents(namespace, advance, selection, conversations)
    await _forget_pointers(namespace, advance, selection, {"contact": conversations, "source": ids})
    return erased


async def _forget_instance(namespace: Keyspace, advance: Advance, instance: str) -> int:
    erased = 0
    async for places in namespace.places(advance, instance=instance):
        documents = [name for name, place in places if place.kind in ("message", "conversation")]
        erased += await namespace.unlink(documents)
        await namespace.unlink([name for name, _ in places])
    return erased


async def conversations_of(
    namespace: Keyspace, advance: Advance, selection: PurgeScope
) -> set[int]:
    """Return the conversations of a selection that the cache knows, by their display ids."""
    if selection.conversation_id is not None:
        return {selection.conversation_id}
    found = await namespace.newest_conversations(selection.instance, selection.contact)
    async for document in namespace.documents(
        advance, instance=selection.instance, kind="conversation"
    ):
        if isinstance(document, Conversation) and selection.has_conversation(document):
            found.add(document.id)
    return found


async def _forget_documents(
    namespace: Keyspace, advance: Advance, selection: PurgeScope, conversations: set[int]
) -> tuple[int, set[int]]:
    """Delete documents; returns how many there were, and the ids of the messages among them."""
    erased, ids = 0, set[int]()
    whole, single = list[Document](), list[Document]()
    async for document in namespace.documents(advance, instance=selection.instance):
        conversation_id = document.conversation_id if isinstance(document, Message) else document.id
        if conversation_id in conversations:
            whole.append(document)
        elif isinstance(document, Message) and selection.has_message(document, conversations):
            single.append(document)
        else:
            continue
        if isinstance(document, Message):
            ids.add(document.id)
        if len(whole) + len(single) >= _AT_ONCE:
            erased += await _erase(namespace, whole, single)
            whole, single = [], []
    erased += await _erase(namespace, whole, single)
    for key in (namespace.keys.timeline, namespace.keys.start):
        await namespace.unlink([key(selection.instance, n).encode() for n in conversations])
    return erased, ids


async def _erase(namespace: Keyspace, whole: list[Document], single: list[Document]) -> int:
    return await namespace.erase(whole) + await namespace.erase(single, whole_timeline=False)


async def _forget_pointers(
    namespace: Keyspace,
    advance: Advance,
    selection: PurgeScope,
    targets: Mapping[KeyKind, Container[int]],
) -> None:
    """Delete what still leads there: a former source id, or a contact's former number."""
    async for places in namespace.places(advance, instance=selection.instance):
        gone = [n for n, p in places if p.kind == "contact" and p.id in selection.contact]
        for kind, ids in targets.items():
            names = [name for name, place in places if place.kind == kind]
            gone += await namespace.pointing(names, ids)
        await namespace.unlink(gone)
