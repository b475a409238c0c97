"""Messages of a conversation as one answer, made of stored bytes: nothing is written anew."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from worker.core.document_views import MessageView


@dataclass(frozen=True, slots=True)
class MessageRange:
    """Which messages of a conversation: those between two ids, both exclusive.

    The newest `limit` of them, or the oldest where only `after` is given, to read on from there.
    """

    limit: int = 20
    before: int | None = None
    after: int | None = None

    @property
    def newest(self) -> bool:
        """Whether the newest are meant."""
        return self.after is None or self.before is not None

    def of(self, ids: Sequence[int]) -> list[int]:
        """Return those of the ascending ids that are meant, the first to be read first."""
        first = bisect_right(ids, self.after or 0)
        last = len(ids) if self.before is None else bisect_left(ids, self.before)
        meant = ids[first:last]
        return list(reversed(meant)) if self.newest else list(meant)


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages of a conversation, oldest first.

    `next_before` asks for the older ones of the same range, where there are any;
    `complete` says that the cache knows the conversation from its start.
    `human_active`: somebody is assigned, or an agent wrote to the contact lately.
    """

    conversation_id: int
    messages: list[MessageView]
    complete: bool
    next_before: int | None
    human_active: bool


def page_json(
    page: MessagePage, *, arrived: bool | None = None, read_through: str | None = None
) -> bytes:
    """Write a page; `arrived` tells whether the message came that was waited for.

    `read_through` tells what became of asking Chatwoot, where it was asked.
    """
    rest = {
        "complete": page.complete,
        "next_before": page.next_before,
        "human_active": page.human_active,
        **({} if arrived is None else {"arrived": arrived}),
        **({} if read_through is None else {"read_through": read_through}),
    }
    messages = b",".join(message.json for message in page.messages)
    head = b'{"conversation_id":%d,"messages":[%b],' % (page.conversation_id, messages)
    return head + msgspec.json.encode(rest)[1:]
