"""The cached documents, and the outcomes of an entry.

Members are written in the order in which they stand here. Scripts depend on that order: see
`write_documents.lua` before a member is added or moved. Payload members without a member here are
not cached.
"""

from enum import StrEnum
from typing import Any, final

import msgspec
from msgspec import UNSET, Struct, UnsetType

Time = int | float | str | None
"""A time as Chatwoot wrote it: Unix seconds, or ISO-8601 text."""

Attributes = dict[str, Any]
"""A JSON object with members that Chatwoot users and integrations choose."""


class Ref(Struct, frozen=True, gc=False):
    """A Chatwoot record, by id and name."""

    id: int | str | None = None
    name: str | None = None


class Assignee(Struct, frozen=True, gc=False):
    """Whom a conversation is assigned to.

    `type` is Chatwoot's `assignee_type`: `User`, `AgentBot`, or another kind of bot; None where
    Chatwoot, or a worker of 0.1.0, did not state it.
    """

    id: int | str | None = None
    name: str | None = None
    type: str | None = None


class Contact(Struct, frozen=True, gc=False):
    """The person or group a conversation is with."""

    id: int | str | None = None
    name: str | None = None
    identifier: str | None = None
    phone_number: str | None = None
    email: str | None = None


class Sender(Struct, frozen=True, gc=False):
    """The author of a message. Chatwoot states no `type` for contacts."""

    type: str | None = "contact"
    id: int | str | None = None
    name: str | None = None
    identifier: str | None = None
    phone_number: str | None = None
    email: str | None = None


class Attachment(Struct, frozen=True, gc=False):
    """A file, location or card of a message; absent members are not written."""

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
    assignee: Assignee | None
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
    """Say whether a document is a deleted message, which outlives any entry that could undo it."""
    return isinstance(document, Message) and document.deleted


encode = msgspec.json.Encoder().encode
"""Encode a document as it is stored."""


class PendingWrite(Struct, frozen=True, gc=False):
    """A document to write, merged from one or more events.

    `event_ms` is the time of the newest event, by entry id. A write older than the cache's TTL
    updates a document but never creates one.
    """

    document: Document
    event_ms: int


class Outcome(StrEnum):
    """How an entry was settled; of its documents' outcomes, the later one in this list counts."""

    IGNORED = "ignored"
    STALE = "stale"
    APPLIED = "applied"
    DEAD = "dead"
