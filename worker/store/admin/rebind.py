"""Taking an inbox's documents out of the instances that it is not bound to any more."""

from typing import Final

from worker.core.binding_rules import inbox_key
from worker.core.documents import Document
from worker.store.cache.keyspace import Advance, Keyspace

_AT_ONCE: Final = 100


async def erase_inbox(
    namespace: Keyspace, advance: Advance, inbox: str, *, was: str | None, now: str | None
) -> int:
    """Delete an inbox's documents from the instance it was bound to, or from every other one.

    The binding must have been changed before: then nothing can be written there any more.
    Returns how many documents there were.
    """
    erased, held = 0, list[Document]()
    async for document in namespace.documents(advance, instance=was):
        of = inbox_key(document.account_id, document.inbox_id)
        if of != inbox or document.instance == now:
            continue
        held.append(document)
        if len(held) >= _AT_ONCE:
            erased += await namespace.erase(held, inbox=inbox)
            held = []
    return erased + await namespace.erase(held, inbox=inbox)
