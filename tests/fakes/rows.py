"""Chatwoot's tables, as far as its REST API and its webhooks show them, at times that are given.

Times are microseconds. Every change is dated as Chatwoot dates it: a message's own row always,
the conversation's row only for what changes the conversation.
"""

from dataclasses import dataclass, field
from typing import Any

from worker.core.timestamps import to_iso

Json = dict[str, Any]
TYPES = ("incoming", "outgoing", "activity", "template")
PLACEHOLDER = "This message was deleted"


@dataclass
class MessageRow:
    """A message."""

    id: int
    content: str
    created_us: int
    updated_us: int
    message_type: int = 0
    status: str = "sent"
    private: bool = False
    source_id: str | None = None
    content_attributes: Json = field(default_factory=dict)

    @property
    def is_public(self) -> bool:
        """Whether a conversation shows it as its latest."""
        return not self.private and self.message_type != 2

    def rest(self, conversation: "ConversationRow") -> Json:
        """As the REST API lists it: with a status, and without the time of its last change."""
        return {
            "id": self.id,
            "content": self.content,
            "inbox_id": conversation.inbox_id,
            "conversation_id": conversation.id,
            "message_type": self.message_type,
            "content_type": "text",
            "status": self.status,
            "content_attributes": self.content_attributes,
            "created_at": self.created_us // 1_000_000,
            "private": self.private,
            "source_id": self.source_id,
            "sender": {**conversation.contact, "type": "contact"},
        }

    def pushed(self, conversation: "ConversationRow") -> Json:
        """As a conversation holds it: with the time of its last change."""
        return {
            **self.rest(conversation),
            "account_id": conversation.account_id,
            "updated_at": to_iso(self.updated_us // 1000 * 1000),
        }


@dataclass
class ConversationRow:
    """A conversation and its messages."""

    id: int
    account_id: int
    inbox_id: int
    inbox_name: str
    created_us: int
    updated_us: int
    activity_us: int
    status: str = "open"
    channel: str = "Channel::Api"
    messages: list[MessageRow] = field(default_factory=list)
    contact: Json = field(
        default_factory=lambda: {
            "id": 4821,
            "name": "Marina Lopes",
            "identifier": "5511900000042@s.whatsapp.net",
            "phone_number": "+5511900000042",
            "email": None,
        }
    )

    def latest(self) -> list[MessageRow]:
        """The latest message that people may see, or none."""
        return [m for m in self.messages if m.is_public][-1:]

    def add(self, message_id: int, now_us: int, content: str, **more: Any) -> MessageRow:
        """Write a message, which moves the conversation's last activity."""
        row = MessageRow(message_id, content, now_us, now_us, **more)
        self.messages.append(row)
        self.activity_us = now_us
        return row

    def touch(self, now_us: int, status: str) -> None:
        """Change the conversation itself."""
        self.status, self.updated_us = status, now_us

    def rest(self) -> Json:
        """As the REST API shows it."""
        public = [m for m in self.messages if m.message_type != 2]
        return {
            "meta": {"sender": self.contact, "channel": self.channel, "hmac_verified": False},
            "id": self.id,
            "messages": [m.pushed(self) for m in self.messages[-1:]],
            "account_id": self.account_id,
            "additional_attributes": {},
            "can_reply": True,
            "custom_attributes": {},
            "inbox_id": self.inbox_id,
            "labels": ["vip"],
            "snoozed_until": None,
            "status": self.status,
            "created_at": self.created_us // 1_000_000,
            "updated_at": self.updated_us / 1_000_000,
            "timestamp": self.activity_us // 1_000_000,
            "unread_count": 1,
            "last_non_activity_message": public[-1].pushed(self) if public else None,
            "last_activity_at": self.activity_us // 1_000_000,
            "priority": None,
            "waiting_since": 0,
        }

    def nested(self) -> Json:
        """As a webhook's body holds it."""
        row = self.rest()
        shown = {name: row[name] for name in row if name not in _REST_ONLY}
        return {
            **shown,
            "channel": self.channel,
            "messages": [m.pushed(self) for m in self.latest()],
            "meta": {"sender": {**self.contact, "type": "contact"}, "assignee": None, "team": None},
            "account": {"id": self.account_id, "name": "Conta"},
        }

    def webhook(self, message: MessageRow, event: str) -> Json:
        """The body of an event about a message, as the rows are now."""
        return {
            "event": event,
            "id": message.id,
            "account": {"id": self.account_id, "name": "Conta"},
            "inbox": {"id": self.inbox_id, "name": self.inbox_name},
            "message_type": TYPES[message.message_type],
            "content_type": "text",
            "content": message.content,
            "content_attributes": dict(message.content_attributes),
            "additional_attributes": {},
            "created_at": to_iso(message.created_us // 1000 * 1000),
            "private": message.private,
            "source_id": message.source_id,
            "sender": dict(self.contact),
            "conversation": self.nested(),
        }

    def conversation_webhook(self, event: str) -> Json:
        """The body of an event about the conversation, as it is now."""
        return {**self.nested(), "event": event}


_REST_ONLY = {"account_id", "last_non_activity_message"}


def delete(message: MessageRow, now_us: int) -> None:
    """Delete a message as Chatwoot does: the row stays, without its text."""
    message.content, message.content_attributes = PLACEHOLDER, {"deleted": True}
    message.updated_us = now_us
