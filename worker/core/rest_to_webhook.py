"""What Chatwoot's REST API says, as webhook bodies, so that merge decides as it does of any event.

The row of a message comes without the time of its last change, so a body made here is dated by
its conversation's *clock*: the same times that date a webhook's body (`core.chatwoot_event`), read
before the message was. Chatwoot only moves them forward. So whatever a webhook says of a later
reading is dated at least as late, and stands; what was read before is dated at most as late.
The time of the request would be a bound as true, but one that webhooks do not keep to: a change
of an older message moves no time of its conversation, and would lose to a reading before it.

Where the dates are equal, the entry's `_id` decides: the time at which the row was asked for.
"""

from collections.abc import Sequence
from typing import Any, Final

import msgspec
from msgspec import Struct

from worker.core import bot_contact
from worker.core.documents import Attributes, Contact, Time
from worker.core.inbox_matching import Inbox
from worker.core.timestamps import to_iso, to_us

MESSAGES_PER_PAGE: Final = 20

_ACTIVITY: Final = (2, "activity")


class RestMessage(Struct):
    """A message as `GET …/conversations/{id}/messages` shows it, or as a conversation holds it."""

    id: int
    message_type: int | str = 0
    content: str | None = None
    content_type: str | None = None
    content_attributes: Attributes | None = None
    status: str | None = None
    created_at: Time = None
    updated_at: Time = None
    private: bool | None = None
    source_id: str | None = None
    sender: Any = None
    attachments: list[Any] | None = None

    @property
    def is_activity(self) -> bool:
        """Whether it is a line of Chatwoot's own, which no webhook ever carries."""
        return self.message_type in _ACTIVITY


class _Meta(Struct):
    sender: Contact | None = None
    channel: str | None = None
    assignee: Any = None
    team: Any = None


class RestConversation(Struct):
    """A conversation as `GET …/conversations` shows it."""

    id: int
    inbox_id: int | None = None
    meta: _Meta = msgspec.field(default_factory=_Meta)
    messages: list[RestMessage] | None = None
    last_non_activity_message: RestMessage | None = None
    status: str | None = None
    labels: list[str] | None = None
    priority: str | None = None
    unread_count: int | None = None
    custom_attributes: Attributes | None = None
    additional_attributes: Attributes | None = None
    can_reply: bool | None = None
    created_at: Time = None
    updated_at: Time = None
    last_activity_at: Time = None
    timestamp: Time = None
    waiting_since: Time = None
    snoozed_until: Time = None

    @property
    def is_bot(self) -> bool:
        """Whether it is with Evolution's bot contact, whose messages are never cached."""
        contact = self.meta.sender
        return contact is not None and bot_contact.is_bot(contact.identifier, contact.phone_number)

    @property
    def activity_us(self) -> int:
        """When something last happened in it, by Chatwoot's clock; 0 where it does not say."""
        return to_us(self.last_activity_at) or to_us(self.timestamp)

    def latest_public(self) -> RestMessage | None:
        """Return the message that a webhook would show as the latest, where it can be told."""
        held = [*(self.messages or []), self.last_non_activity_message]
        public = [m for m in held if m and not m.private and not m.is_activity]
        return max(public, key=lambda message: message.id, default=None)

    def clock_us(self) -> int:
        """Return the latest time by which a webhook would date a body of this conversation."""
        latest = self.latest_public()
        latest_us = to_us(latest.updated_at) if latest else 0
        return max(to_us(self.updated_at), self.activity_us, latest_us)


def is_ahead(messages: Sequence[RestMessage], conversation: RestConversation) -> bool:
    """Say whether a message is younger than the reading of its conversation."""
    clock_us = conversation.clock_us()
    return any(to_us(message.created_at) > clock_us for message in messages)


def message_body(message: RestMessage, conversation: RestConversation, inbox: Inbox) -> bytes:
    """Return a message as the body of the webhook `message_updated`."""
    return msgspec.json.encode(
        {
            "event": "message_updated",
            "id": message.id,
            "account": {"id": inbox.account_id},
            "inbox": {"id": inbox.id, "name": inbox.name},
            "message_type": message.message_type,
            "content_type": message.content_type,
            "content": message.content,
            "content_attributes": message.content_attributes or {},
            "created_at": to_iso(to_us(message.created_at)),
            "private": bool(message.private),
            "source_id": message.source_id,
            "sender": message.sender,
            "attachments": message.attachments or [],
            "conversation": {
                **_conversation(conversation, inbox),
                "messages": [_dated(message, conversation, inbox)],
            },
        }
    )


def _dated(message: RestMessage, conversation: RestConversation, inbox: Inbox) -> dict[str, Any]:
    """Return what dates a message's status: its own time where it is known, else the clock."""
    latest = conversation.latest_public()
    own_us = to_us(latest.updated_at) if latest and latest.id == message.id else 0
    return {
        "id": message.id,
        "account_id": inbox.account_id,
        "inbox_id": inbox.id,
        "status": message.status,
        "updated_at": to_iso(own_us or conversation.clock_us()),
    }


def conversation_body(conversation: RestConversation, inbox: Inbox) -> bytes:
    """Return a conversation as the body of the webhook `conversation_updated`."""
    clock = to_iso(conversation.clock_us())
    dated = {"account_id": inbox.account_id, "inbox_id": inbox.id, "updated_at": clock}
    body = {**_conversation(conversation, inbox), "messages": [dated]}
    return msgspec.json.encode({"event": "conversation_updated", **body})


def _conversation(conversation: RestConversation, inbox: Inbox) -> dict[str, Any]:
    """Return the members of a webhook's conversation, all but `messages`."""
    members = msgspec.structs.asdict(conversation)
    del members["messages"], members["last_non_activity_message"]
    channel = conversation.meta.channel or inbox.channel
    account = {"id": inbox.account_id}
    return {**members, "account": account, "inbox_id": inbox.id, "channel": channel}
