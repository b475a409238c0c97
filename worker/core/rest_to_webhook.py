"""Turns replies of Chatwoot's REST API into stream entries with webhook bodies, for the merge.

The API returns a message without the time of its last change, so its body is dated by the *clock*
of its conversation: the times that also date a webhook's body (`core.chatwoot_event`), read before
the message. Chatwoot only moves them forward. So a webhook of a later state has at least that
date, and is kept; a webhook of an earlier state has at most that date.
The time of the request would be as true a bound, but webhooks are not dated by it: a change of an
older message moves no time of its conversation, and would lose to an earlier request.

Where the dates are equal, the entry's `_id` decides: the time just before the request.
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
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
    """A message in `GET …/conversations/{id}/messages`, or within a conversation."""

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
        """Whether it is an activity message (assigned, resolved, …), which no webhook carries."""
        return self.message_type in _ACTIVITY


class _Meta(Struct):
    sender: Contact | None = None
    channel: str | None = None
    assignee: Any = None
    assignee_type: str | None = None
    team: Any = None


class RestConversation(Struct):
    """A conversation in `GET …/conversations`."""

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
        """The time of its last activity, by Chatwoot's clock; 0 where it is missing."""
        return to_us(self.last_activity_at) or to_us(self.timestamp)

    def latest_public(self) -> RestMessage | None:
        """Return the message that a webhook would show as the latest, None where it is unknown."""
        known = [*(self.messages or []), self.last_non_activity_message]
        public = [m for m in known if m and not m.private and not m.is_activity]
        return max(public, key=lambda message: message.id, default=None)

    def clock_us(self) -> int:
        """Return the latest time by which a webhook would date a body of this conversation."""
        latest = self.latest_public()
        latest_us = to_us(latest.updated_at) if latest else 0
        return max(to_us(self.updated_at), self.activity_us, latest_us)


@dataclass(frozen=True, slots=True)
class ConversationSnapshot:
    """A conversation as it was read; `id` is a stream entry id from just before the request."""

    conversation: RestConversation
    inbox: Inbox
    id: str

    @property
    def display_id(self) -> int:
        """The conversation's id within its account."""
        return self.conversation.id

    def is_older_than(self, messages: Iterable[RestMessage]) -> bool:
        """Whether one of the messages was created after the conversation was read."""
        clock_us = self.conversation.clock_us()
        return any(to_us(message.created_at) > clock_us for message in messages)

    def message_entries(
        self, messages: Iterable[RestMessage], instance: str
    ) -> list[Mapping[str, bytes]]:
        """Return the stream entries for messages, in their order."""
        return [
            self._entry(message_body(message, self.conversation, self.inbox), instance)
            for message in messages
        ]

    def conversation_entry(self, instance: str) -> Mapping[str, bytes]:
        """Return the stream entry for the conversation alone."""
        return self._entry(conversation_body(self.conversation, self.inbox), instance)

    def _entry(self, body: bytes, instance: str) -> Mapping[str, bytes]:
        return {
            "payload": body,
            "instance": instance.encode(),
            "account": str(self.inbox.account_id).encode(),
            "_id": self.id.encode(),
        }


def message_body(message: RestMessage, conversation: RestConversation, inbox: Inbox) -> bytes:
    """Return the body of a webhook `message_updated`."""
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
    """Return the member that dates a message's status: by its own time if known, else the clock."""
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
    """Return the body of a webhook `conversation_updated`."""
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
