"""Decodes Chatwoot's webhook bodies, and builds documents from them.

The schema is that of Chatwoot 2.x to 4.17 (`Message#webhook_data` and
`Conversations::EventDataPresenter#webhook_data`). Versions differ, so members that are not needed
to cache an event may be missing or null.
"""

from typing import Annotated, Any, Final, Literal, cast, get_args

import msgspec
from msgspec import Meta, Struct

from worker.core import bot_contact
from worker.core.documents import (
    Assignee,
    Attachment,
    Attributes,
    Contact,
    Conversation,
    Message,
    Ref,
    Sender,
    Time,
)
from worker.core.merge import UNKNOWN, source_stamp, stamp, stamp_tail, status_stamp
from worker.core.stream_entry import MAX_ID, Envelope
from worker.core.timestamps import canonical_iso, to_us
from worker.errors import UnusableEntry

EventName = Literal[
    "message_created",
    "message_updated",
    "conversation_created",
    "conversation_updated",
    "conversation_status_changed",
]
"""The cached events; all others are ignored."""

EVENTS: Final[tuple[EventName, ...]] = get_args(EventName)

API_CHANNEL = "Channel::Api"
"""The channel of inboxes that Evolution creates."""

CLOCK_TOLERANCE_US = 600_000_000
"""How far a witness time may be later than the entry's own time: ten minutes."""

MAX_NESTING = 100
"""Maximum depth of arrays and objects in an attribute."""

_MESSAGE_TYPES = {0: "incoming", 1: "outgoing", 2: "activity", 3: "template"}
_KNOWN_TYPES = frozenset((*_MESSAGE_TYPES, *_MESSAGE_TYPES.values()))
_ASSIGNEE_TYPES = {"user": "User", "agent_bot": "AgentBot"}
_MESSAGE_EVENTS = frozenset(("message_created", "message_updated"))

Id = Annotated[int, Meta(ge=1, le=MAX_ID)]
"""A Chatwoot id."""


class _Named(Struct, gc=False):
    id: Id | None = None
    name: str | None = None


class _Latest(Struct, gc=False):
    """An item of `messages`: the conversation's latest public message."""

    id: Id | None = None
    account_id: Id | None = None
    inbox_id: Id | None = None
    updated_at: Time = None
    status: str | None = None


_NO_LATEST = _Latest()


class _Meta(Struct, gc=False):
    sender: Contact | None = None
    assignee: Assignee | None = None
    assignee_type: str | None = None
    team: Ref | None = None


_NO_META = _Meta()


class _Conversation(Struct, gc=False):
    id: Id | None = None
    account: _Named | None = None
    inbox_id: Id | None = None
    messages: list[_Latest] | None = None
    meta: _Meta | None = None
    status: str | None = None
    channel: str | None = None
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


class _Body(_Conversation, kw_only=True, gc=False):
    """A webhook body: that of a conversation event is the conversation, others contain one."""

    event: str
    conversation: _Conversation | None = None
    inbox: _Named | None = None
    message_type: str | int | None = None
    content_type: str | None = None
    content: str | None = None
    content_attributes: Attributes | None = None
    private: bool | None = None
    source_id: str | None = None
    sender: Sender | None = None
    attachments: list[Attachment] | None = None


class _Head(Struct):
    event: str


_BODY = msgspec.json.Decoder(_Body)
_HEAD = msgspec.json.Decoder(_Head)
_ANY = msgspec.json.Decoder()


class ChatwootEvent(Struct, frozen=True, gc=False):
    """A decoded event: its account and inbox as far as stated, and its body."""

    name: EventName
    account_id: int | None
    inbox_id: int
    inbox_name: str | None
    channel: str | None
    body: _Body
    conversation: _Conversation


def decode_event(payload: bytes) -> ChatwootEvent | None:
    """Decode a webhook body; None if the event is not cached.

    Raises `UnusableEntry`: `bad_json` if it is not a JSON object, `bad_event` if it does not match
    Chatwoot's schema.
    """
    try:
        if not payload.isascii():
            # The decoder does not check the UTF-8 of members that it skips.
            payload.decode()
        body = _decode_body(payload)
    except UnicodeDecodeError as error:
        raise UnusableEntry("bad_json", f"the payload is not UTF-8 (byte {error.start})") from None
    except RecursionError:
        raise UnusableEntry("bad_json", "the payload is nested too deeply") from None
    except msgspec.DecodeError as error:
        raise UnusableEntry("bad_json", str(error)) from None
    if body is None or body.event not in EVENTS:
        return None
    return _event(body.event, body)


def _decode_body(payload: bytes) -> _Body | None:
    """Decode in one pass; only a body that does not match is decoded again, to report why."""
    try:
        return _BODY.decode(payload)
    except msgspec.ValidationError as error:
        mismatch = str(error)
    if not isinstance(_ANY.decode(payload), dict):
        raise UnusableEntry("bad_json", "the payload is JSON, but not an object")
    try:
        name = _HEAD.decode(payload).event
    except msgspec.ValidationError as error:
        raise UnusableEntry("bad_event", str(error)) from None
    if name in EVENTS:
        raise UnusableEntry("bad_event", mismatch)
    return None


def _event(name: EventName, body: _Body) -> ChatwootEvent:
    is_message = name in _MESSAGE_EVENTS
    conversation = body.conversation if is_message else body
    if conversation is None or conversation.id is None:
        raise UnusableEntry("bad_event", "the conversation's id is missing")
    if body.id is None:
        raise UnusableEntry("bad_event", "the message's id is missing")
    if (
        body.content_attributes
        or conversation.custom_attributes
        or conversation.additional_attributes
    ):
        _check_nesting(body, conversation)
    if is_message and body.message_type not in _KNOWN_TYPES:
        raise UnusableEntry("bad_event", "`message_type` is missing or unknown")

    return ChatwootEvent(
        name,
        _account_id(body, conversation),
        _inbox_id(body, conversation),
        body.inbox.name if body.inbox else None,
        conversation.channel,
        body,
        conversation,
    )


def _check_nesting(body: _Body, conversation: _Conversation) -> None:
    """Reject nesting that the decoder accepts, but not every reader of the cache."""
    level: list[Any] = [
        body.content_attributes,
        conversation.custom_attributes,
        conversation.additional_attributes,
    ]
    for _ in range(MAX_NESTING):
        level = [inner for outer in level if outer for inner in _inner(outer)]
        if not level:
            return
    raise UnusableEntry("bad_event", f"attributes are nested more than {MAX_NESTING} levels deep")


def _inner(outer: Any) -> list[Any]:
    """Return the arrays and objects directly inside a value."""
    items = outer.values() if isinstance(outer, dict) else outer
    return [item for item in items if isinstance(item, dict | list)]


def _latest(conversation: _Conversation) -> _Latest:
    return conversation.messages[0] if conversation.messages else _NO_LATEST


def _account_id(body: _Body, conversation: _Conversation) -> int | None:
    """Return the account, which conversation events state only since 2026."""
    return (
        (body.account and body.account.id)
        or (conversation.account and conversation.account.id)
        or _latest(conversation).account_id
    )


def _inbox_id(body: _Body, conversation: _Conversation) -> int:
    stated = body.inbox.id if body.inbox else None
    inbox_id = stated or conversation.inbox_id or _latest(conversation).inbox_id
    if inbox_id is None:
        raise UnusableEntry("bad_event", "the inbox's id is missing")
    return inbox_id


def is_about_bot(event: ChatwootEvent, payload: bytes) -> bool:
    """Say whether the contact or the sender of an event is Evolution's bot contact."""
    meta, sender = event.conversation.meta, event.body.sender
    contact = meta.sender if meta else None
    if contact is None:
        return bot_contact.is_about_bot(payload)
    if bot_contact.is_bot(contact.identifier, contact.phone_number):
        return True
    return sender is not None and bot_contact.is_bot(sender.identifier, sender.phone_number)


class Destination(Struct, frozen=True, gc=False):
    """The instance and account of an event's documents, by its binding."""

    instance: str
    account_id: int


def build_documents(
    event: ChatwootEvent, envelope: Envelope, destination: Destination
) -> tuple[Message | None, Conversation]:
    """Return the documents of an event: a message event contains its conversation, too."""
    updated_at = _latest(event.conversation).updated_at
    latest_us = to_us(updated_at)
    # A new message is mostly the conversation's latest, and then both have the same time.
    created_at = event.body.created_at
    created_us = latest_us if created_at == updated_at else to_us(created_at)
    witness_us = max(_witness_us(event.conversation), created_us, latest_us)
    witness_us = min(witness_us, envelope.ms * 1000 + CLOCK_TOLERANCE_US)
    conversation = _conversation(event, envelope, destination, witness_us)
    if event.name not in _MESSAGE_EVENTS:
        return None, conversation
    return _message(event, envelope, destination, witness_us, latest_us), conversation


def _witness_us(conversation: _Conversation) -> int:
    """Return a lower bound of the time at which Chatwoot read the row, by Chatwoot's clock.

    Times of messages are considered by the caller; `created_at` is never later than these.
    """
    activity_us = to_us(conversation.last_activity_at) or to_us(conversation.timestamp)
    return max(to_us(conversation.updated_at), activity_us)


def _conversation(
    event: ChatwootEvent, envelope: Envelope, destination: Destination, witness_us: int
) -> Conversation:
    state = event.conversation
    meta = state.meta or _NO_META
    # Positional arguments: keywords take several times as long.
    return Conversation(
        stamp(flag=True, witness_us=witness_us, kind=0, order=envelope.order),
        destination.instance,
        destination.account_id,
        event.inbox_id,
        cast("int", state.id),
        state.status,
        state.channel,
        state.labels,
        state.priority,
        state.unread_count,
        _assignee(meta),
        meta.team,
        meta.sender,
        state.custom_attributes,
        state.additional_attributes,
        state.can_reply,
        state.created_at,
        state.updated_at,
        state.last_activity_at,
        state.waiting_since,
        state.snoozed_until,
    )


def _assignee(meta: _Meta) -> Assignee | None:
    """Return the assignee with its type, which older releases state in the assignee itself."""
    stated = meta.assignee
    if stated is None:
        return None
    kind = meta.assignee_type or _ASSIGNEE_TYPES.get(stated.type or "", stated.type)
    return Assignee(stated.id, stated.name, kind)


def _message(
    event: ChatwootEvent,
    envelope: Envelope,
    destination: Destination,
    witness_us: int,
    latest_us: int,
) -> Message:
    body = event.body
    deleted = _is_deleted(body)
    status, updated_at, status_register = _status(event, latest_us)
    is_update = event.name == "message_updated"
    tail = stamp_tail(witness_us, int(is_update), envelope.order)
    source = UNKNOWN if body.source_id is None else source_stamp(tail, is_update=is_update)
    return Message(
        f"{'1' if deleted else '0'}{tail}{status_register}{source}",
        destination.instance,
        destination.account_id,
        event.inbox_id,
        cast("int", event.conversation.id),
        cast("int", body.id),
        body.source_id,
        _message_type(body.message_type),
        body.content_type,
        body.content,
        {"deleted": True} if deleted else _attributes(body.content_attributes),
        bool(body.private),
        deleted,
        status,
        body.created_at,
        updated_at,
        body.sender,
        [] if deleted else body.attachments or [],
    )


def _message_type(stated: str | int | None) -> str:
    return _MESSAGE_TYPES[stated] if isinstance(stated, int) else cast("str", stated)


def _is_deleted(body: _Body) -> bool:
    attributes = body.content_attributes
    return attributes is not None and attributes.get("deleted") is True


def _status(event: ChatwootEvent, updated_us: int) -> tuple[str | None, str | None, str]:
    """Return status, time and stamp; they are known only if this is the latest message."""
    latest = _latest(event.conversation)
    if latest.id != event.body.id or latest.status is None:
        return None, None, UNKNOWN
    updated_at = canonical_iso(latest.updated_at, updated_us)
    return latest.status, updated_at, status_stamp(latest.status, updated_us)


def _attributes(stated: Attributes | None) -> Attributes | None:
    """Return attributes without the bodies of an e-mail."""
    email: Any = (stated or {}).get("email")
    if stated is None or not isinstance(email, dict):
        return stated
    headers = {name: value for name, value in email.items() if name not in _EMAIL_BODIES}
    return {**stated, "email": headers}


_EMAIL_BODIES = {"html_content", "text_content"}
