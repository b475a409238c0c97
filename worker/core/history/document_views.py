"""Documents as readers see them: the JSON to return, and what decides who may see it."""

import re
from dataclasses import dataclass, field
from typing import Any, Final, NamedTuple

import msgspec
from msgspec import Struct
from msgspec.structs import replace

from worker.core import bot_contact
from worker.core.documents import Conversation, Document, Message, encode
from worker.core.history.evolution_text import has_edit_marker, is_one_emoji
from worker.core.history.message_origin import SOURCE_ID_PREFIX, Origin, OriginRules
from worker.core.timestamps import to_us

_CONVERSATIONS: Final = msgspec.json.Decoder(Conversation)
_MESSAGES: Final = msgspec.json.Decoder(Message)
_POINTER: Final = re.compile(rb"[1-9][0-9]{0,15}")

DEFAULT_RULES: Final = OriginRules()


class ReplyReference(NamedTuple):
    """What a message states of the one it replies to: its Chatwoot id, its possible source ids."""

    id: int | None
    source_ids: tuple[str, ...]


class MessageLinks(NamedTuple):
    """The ids of the messages that a message is linked with; `edited_by` is its newest edit."""

    in_reply_to: int | None = None
    edits: int | None = None
    edited_by: int | None = None


NO_LINKS: Final = MessageLinks()


class MessageView(Struct, frozen=True, gc=False):
    """A message; `json` is the stored document with additional members: `origin` and links.

    `of_bot`: written by Evolution's bot contact. `may_be_of_bot`: only the conversation shows
    whether it is one with that contact.
    `links` are set by `message_links.link`.
    """

    json: bytes
    instance: str
    account_id: int
    conversation_id: int
    id: int
    source_id: str | None
    private: bool
    origin: Origin | None
    created_us: int
    of_bot: bool
    may_be_of_bot: bool
    deleted: bool
    reply: ReplyReference | None
    is_edit: bool
    is_reaction: bool
    links: MessageLinks = NO_LINKS

    def __repr__(self) -> str:
        """Return the ids only: a message's text must not get into a log."""
        return f"MessageView({self.instance!r}, {self.id})"


@dataclass(frozen=True, slots=True)
class ConversationView:
    """A conversation; `json` is the stored document.

    `assigned`: to a person, not to a bot. `of_bot`: with Evolution's bot contact.
    """

    json: bytes = field(repr=False)
    instance: str
    account_id: int
    id: int
    status: str | None
    assigned: bool
    of_bot: bool


def message_view(value: bytes, rules: OriginRules = DEFAULT_RULES) -> MessageView | None:
    """Parse a stored message; None for any other value."""
    message: Message | None = _decode(_MESSAGES, value)
    if message is None:
        return None
    if message.deleted and (message.content is not None or message.attachments):
        message = replace(message, content=None, attachments=[])
        value = encode(message)
    origin = rules.origin_of(message)
    member = f'"{origin}"' if origin else "null"
    reply = _reply_reference(message)
    is_reaction = (
        reply is not None
        and not (message.private or message.attachments)
        and is_one_emoji(message.content)
    )
    if is_reaction:
        member += ',"reaction":true'
    return MessageView(
        json=b'%b,"origin":%b,"in_reply_to":null}' % (value.rstrip()[:-1], member.encode()),
        instance=message.instance,
        account_id=message.account_id,
        conversation_id=message.conversation_id,
        id=message.id,
        source_id=message.source_id,
        private=message.private,
        origin=origin,
        created_us=to_us(message.created_at),
        of_bot=is_of_bot(message),
        # Messages to the bot contact are not sent, so they never get a source id.
        may_be_of_bot=origin != "contact" and message.source_id is None,
        deleted=message.deleted,
        reply=reply,
        is_edit=message.source_id is not None and has_edit_marker(message.content),
        is_reaction=is_reaction,
    )


def without_text(view: MessageView) -> bytes:
    """Return the JSON of a message without its content and attachments."""
    return msgspec.json.encode(
        {**msgspec.json.decode(view.json), "content": None, "attachments": []}
    )


def possible_source_ids(source_id: str) -> tuple[str, ...]:
    """Return a source id, and for WhatsApp's id without the prefix also the one with it."""
    if source_id.startswith(SOURCE_ID_PREFIX):
        return (source_id,)
    return source_id, f"{SOURCE_ID_PREFIX}{source_id}"


def _reply_reference(message: Message) -> ReplyReference | None:
    attributes = message.content_attributes
    if not attributes:
        return None
    stated, source_id = attributes.get("in_reply_to"), attributes.get("in_reply_to_external_id")
    if (stated is None and source_id is None) or message.deleted:
        return None
    target = parse_pointer(str(stated).encode()) if isinstance(stated, int | str) else None
    source_ids: tuple[str, ...] = ()
    if source_id and isinstance(source_id, str):
        source_ids = possible_source_ids(source_id.removeprefix(SOURCE_ID_PREFIX))
    return ReplyReference(target, source_ids) if target or source_ids else None


def conversation_view(value: bytes) -> ConversationView | None:
    """Parse a stored conversation; None for any other value."""
    conversation: Conversation | None = _decode(_CONVERSATIONS, value)
    if conversation is None:
        return None
    return ConversationView(
        json=value,
        instance=conversation.instance,
        account_id=conversation.account_id,
        id=conversation.id,
        status=conversation.status,
        assigned=conversation.assignee is not None and conversation.assignee.type in (None, "User"),
        of_bot=is_of_bot(conversation),
    )


def is_of_bot(document: Document) -> bool:
    """Say whether a document names Evolution's bot contact as its sender or contact."""
    person = document.sender if isinstance(document, Message) else document.contact
    return person is not None and bot_contact.is_bot(person.identifier, person.phone_number)


def parse_pointer(value: bytes) -> int | None:
    """Parse the id in a pointer; None for any other value."""
    return int(value) if _POINTER.fullmatch(value) else None


def _decode(decoder: msgspec.json.Decoder[Any], value: bytes) -> Any:
    try:
        return decoder.decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return None
