"""A page of a conversation's messages, encoded from stored bytes without re-encoding messages."""

from bisect import bisect_left, bisect_right
from collections.abc import Sequence
from dataclasses import dataclass

import msgspec

from worker.core.history.document_views import MessageView
from worker.core.history.human_activity import HumanActivity


@dataclass(frozen=True, slots=True)
class MessageRange:
    """Up to `limit` messages between two ids, both exclusive.

    The newest ones, or the oldest ones if only `after` is given, to continue from there.
    """

    limit: int = 20
    before: int | None = None
    after: int | None = None

    @property
    def newest(self) -> bool:
        """Whether the newest messages are requested."""
        return self.after is None or self.before is not None

    def of(self, ids: Sequence[int]) -> list[int]:
        """Return the ids in the range, of ascending ids, in the order in which to read them."""
        first = bisect_right(ids, self.after or 0)
        last = len(ids) if self.before is None else bisect_left(ids, self.before)
        in_range = ids[first:last]
        return list(reversed(in_range)) if self.newest else list(in_range)


@dataclass(frozen=True, slots=True)
class MessagePage:
    """Messages of a conversation, oldest first.

    `next_before` is the bound of the next page of older messages, if there are any.
    `complete`: the cache holds the conversation from its first message.
    `human`: whether a person is at work.
    `linked`: messages outside the page that it quotes, or that edit messages of it.
    """

    conversation_id: int
    messages: list[MessageView]
    complete: bool
    next_before: int | None
    human: HumanActivity
    linked: Sequence[MessageView] = ()

    @property
    def human_active(self) -> bool:
        """Whether a person is at work."""
        return self.human.active


def page_json(
    page: MessagePage, *, arrived: bool | None = None, read_through: str | None = None
) -> bytes:
    """Encode a page; `arrived` says whether the awaited message arrived.

    `read_through` is the result of a request to Chatwoot, if one was made.
    """
    rest = {
        "complete": page.complete,
        "next_before": page.next_before,
        "human_active": page.human_active,
        "human": page.human,
        **({} if arrived is None else {"arrived": arrived}),
        **({} if read_through is None else {"read_through": read_through}),
    }
    messages = b",".join(message.json for message in page.messages)
    head = b'{"conversation_id":%d,"messages":[%b],' % (page.conversation_id, messages)
    return head + msgspec.json.encode(rest)[1:]
