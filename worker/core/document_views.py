"""Documents as readers see them: the JSON to return, and what decides who may see it."""

import re
from dataclasses import dataclass, field
from typing import Any, Final

import msgspec

from worker.core import bot_contact
from worker.core.documents import Conversation, Document, Message
from worker.core.message_origin import Origin, OriginRules
from worker.core.timestamps import to_us

_CONVERSATIONS: Final = msgspec.json.Decoder(Conversation)
_MESSAGES: Final = msgspec.json.Decoder(Message)
_POINTER: Final = re.compile(rb"[1-9][0-9]{0,15}")

DEFAULT_RULES: Final = OriginRules()


@dataclass(frozen=True, slots=True)
class MessageView:
    """A message; `json` is the stored document with an additional member `origin`.

    `of_bot`: written by Evolution's bot contact. `may_be_of_bot`: only the conversation shows
    whether it is one with that contact.
    """

    json: bytes = field(repr=False)
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
    origin = rules.origin_of(message)
    member = f'"{origin}"' if origin else "null"
    return MessageView(
        json=b'%b,"origin":%b}' % (value.rstrip()[:-1], member.encode()),
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
    )


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
