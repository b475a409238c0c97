"""Messages of a conversation as one answer, made of stored bytes: nothing is written anew."""

from dataclasses import dataclass

import msgspec

from worker.core.views import MessageView


@dataclass(frozen=True, slots=True)
class Page:
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


def as_json(page: Page, *, arrived: bool | None = None) -> bytes:
    """Write a page; `arrived` tells whether the message came that was waited for."""
    rest = {
        "complete": page.complete,
        "next_before": page.next_before,
        "human_active": page.human_active,
        **({} if arrived is None else {"arrived": arrived}),
    }
    messages = b",".join(message.json for message in page.messages)
    head = b'{"conversation_id":%d,"messages":[%b],' % (page.conversation_id, messages)
    return head + msgspec.json.encode(rest)[1:]
