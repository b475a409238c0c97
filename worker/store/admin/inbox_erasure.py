"""Deletes an inbox's documents from instances that it is not bound to any more."""

from collections.abc import AsyncIterator

from worker.core.binding_rules import inbox_key
from worker.core.documents import Document
from worker.store.cache.keyspace import Advance, Keyspace


async def erase_inbox(
    keyspace: Keyspace, advance: Advance, inbox: str, *, was: str | None, now: str | None
) -> int:
    """Delete an inbox's documents from the instance `was`, or from all but `now` if None.

    The binding must have been changed before, so that no worker writes there any more.
    Returns how many documents existed.
    """

    async def misplaced() -> AsyncIterator[Document]:
        instances = None if was is None else {was}
        async for document in keyspace.documents(advance, instances=instances):
            is_of_inbox = inbox_key(document.account_id, document.inbox_id) == inbox
            if is_of_inbox and document.instance != now:
                yield document

    return await keyspace.erase(misplaced(), inbox=inbox)
