"""The documents we cache and the outcomes of an entry.

A document's members stand in the order in which they are written;
`revision` is the first, so that a script can compare two stored documents without parsing them.
Nothing of Chatwoot's payload is kept that has no member here.
"""

from enum import StrEnum
from typing import Any, final

import msgspec
from msgspec import UNSET, Struct, UnsetType

Time = int | float | str | None
"""A time as Chatwoot wrote it: Unix seconds, or ISO-8601 text."""

Attributes = dict[str, Any]
"""An open JSON object: whatever a Chatwoot user or integration put there."""


class Ref(Struct, frozen=True, gc=False):
    """Somebody or something of Chatwoot's, by id and name."""

    id: int | str | None = None
    name: str | None = None


class Contact(Struct, frozen=True, gc=False):
    """The person or group a conversation is with."""

    id: int | str | None = None
    name: str | None = None
    identifier: str | None = None
    phone_number: str | None = None
    email: str | None = None


class Sender(Struct, frozen=True, gc=False):
    """Who wrote a message. Chatwoot gives contacts no `type`."""

    type: str | None = "contact"
    id: int | str | None = None
    name: str | None = None
    identifier: str | None = None
    phone_number: str | None = None
    email: str | None = None


class Attachment(Struct, frozen=True, gc=False):
    """A file, place or card that came with a message; only what was present is kept."""

    id: int | UnsetType | None = UNSET
    file_type: str | UnsetType | None = UNSET
    data_url: str | UnsetType | None = UNSET
    thumb_url: str | UnsetType | None = UNSET
    extension: str | UnsetType | None = UNSET
    file_size: int | float | UnsetType | None = UNSET
    width: int | float | UnsetType | None = UNSET
    height: int | float | UnsetType | None = UNSET
    fallback_title: str | UnsetType | None = UNSET
    coordinates_lat: int | float | str | UnsetType | None = UNSET
    coordinates_long: int | float | str | UnsetType | None = UNSET
    transcribed_text: str | UnsetType | None = UNSET


@final
class Message(Struct, frozen=True, gc=False):
    """One message; `conversation_id` is the display id, unique within the account."""

    revision: str
    instance: str
    account_id: int
    inbox_id: int
    conversation_id: int
    id: int
    source_id: str | None
    message_type: str
    content_type: str | None
    content: str | None
    content_attributes: Attributes | None
    private: bool
    deleted: bool
    status: str | None
    created_at: Time
    updated_at: str | None
    sender: Sender | None
    attachments: list[Attachment]


@final
class Conversation(Struct, frozen=True, gc=False):
    """One conversation; `id` is the display id, unique within the account."""

    revision: str
    instance: str
    account_id: int
    inbox_id: int
    id: int
    status: str | None
    channel: str | None
    labels: list[str] | None
    priority: str | None
    unread_count: int | None
    assignee: Ref | None
    team: Ref | None
    contact: Contact | None
    custom_attributes: Attributes | None
    additional_attributes: Attributes | None
    can_reply: bool | None
    created_at: Time
    updated_at: Time
    last_activity_at: Time
    waiting_since: Time
    snoozed_until: Time


Document = Message | Conversation


def is_tombstone(document: Document) -> bool:
    """Say whether a document is a deleted message: it outlives any entry that could undo it."""
    return isinstance(document, Message) and document.deleted


encode = msgspec.json.Encoder().encode
"""Write a document as it is stored."""


class PendingWrite(Struct, frozen=True, gc=False):
    """A document on its way to the cache, folded from one or more events.

    `event_ms` is the time of the newest of them, by entry id:
    a draft older than the cache's time to live updates a document but never creates one.
    """

    document: Document
    event_ms: int


class Outcome(StrEnum):
    """How an entry was settled, best first: of what its documents say, the later one counts."""

    IGNORED = "ignored"
    STALE = "stale"
    APPLIED = "applied"
    DEAD = "dead"
