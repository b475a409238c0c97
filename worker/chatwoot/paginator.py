"""Iterates over conversations and messages of Chatwoot's REST API, page by page.

Backfill and read-through both read the history of an instance through this module.
"""

from collections.abc import AsyncIterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import count

from worker.chatwoot.rest_client import ChatwootClient
from worker.core.inbox_matching import Inbox
from worker.core.rest_to_webhook import MESSAGES_PER_PAGE, ConversationSnapshot, RestMessage
from worker.store.client import Client
from worker.store.stream.backfill_checkpoint import snapshot_id


@dataclass(frozen=True, slots=True)
class HistoryPage:
    """Messages of a conversation in Chatwoot's order, and the snapshot that dates them."""

    snapshot: ConversationSnapshot
    messages: Sequence[RestMessage]

    @property
    def is_last(self) -> bool:
        """Whether no older messages follow."""
        return len(self.messages) < MESSAGES_PER_PAGE

    @property
    def lowest_id(self) -> int:
        """The lowest message id, 0 on an empty page."""
        return min((message.id for message in self.messages), default=0)


class HistoryPaginator:
    """Pages of one account; conversations with Evolution's bot contact are left out.

    Raises `UpstreamError`, also where a server returns the same page without end.
    """

    def __init__(self, client: ChatwootClient, stream: Client) -> None:
        self._client = client
        self._stream = stream

    async def conversations(
        self, inbox: Inbox, *, since_us: int = 0, max_pages: int | None = None
    ) -> AsyncIterator[ConversationSnapshot]:
        """Yield an inbox's conversations, latest activity first.

        Stops after the last page, or after one whose every activity is before `since_us`.
        """
        seen: set[int] = set()
        previous: list[int] = []
        for number in count(1):
            taken = await snapshot_id(self._stream)
            page = await self._client.conversations(inbox.id, number)
            ids = [conversation.id for conversation in page.conversations]
            if ids and ids == previous and (page.count is None or page.count > len(seen)):
                raise self._client.repeated_page(f"the conversations of inbox {inbox.key}", "page")
            new = [one for one in page.conversations if one.id not in seen]
            for conversation in new:
                if conversation.inbox_id in (inbox.id, None) and not conversation.is_bot:
                    yield ConversationSnapshot(conversation, inbox, taken)
            # Also where none is new.
            if number == max_pages or all(0 < one.activity_us < since_us for one in new):
                return
            seen.update(ids)
            previous = ids

    async def find(
        self, display_id: int, inboxes: Mapping[int, Inbox], *, max_pages: int | None = None
    ) -> ConversationSnapshot | None:
        """Return a conversation of these inboxes, None where none of them has it.

        Where Chatwoot does not return it by its id, up to `max_pages` of each inbox are searched.
        """
        taken = await snapshot_id(self._stream)
        conversation = await self._client.conversation(display_id)
        if conversation is not None and conversation.inbox_id is not None:
            inbox = inboxes.get(conversation.inbox_id)
            if inbox is None or conversation.is_bot:
                return None
            return ConversationSnapshot(conversation, inbox, taken)
        for inbox in inboxes.values():
            async for snapshot in self.conversations(inbox, max_pages=max_pages):
                if snapshot.display_id == display_id:
                    return snapshot
        return None

    async def messages(
        self, snapshot: ConversationSnapshot, *, before: int | None = None
    ) -> AsyncIterator[HistoryPage]:
        """Yield a conversation's messages before an id, the newest page first, at least one page.

        Where a message is younger than the snapshot, both are read again.
        """
        messages = await self._client.messages(snapshot.display_id, before=before)
        if snapshot.is_older_than(messages):
            inboxes = {snapshot.inbox.id: snapshot.inbox}
            snapshot = await self.find(snapshot.display_id, inboxes, max_pages=1) or snapshot
            messages = await self._client.messages(snapshot.display_id, before=before)
        yield (page := HistoryPage(snapshot, messages))
        while not page.is_last:
            messages = await self._client.messages(snapshot.display_id, before=page.lowest_id)
            yield (page := HistoryPage(snapshot, messages))
