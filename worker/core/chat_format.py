"""A message as a language model is told it: a role and a text."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from worker.core.document_views import MessageView
from worker.core.documents import Attachment, Message

_DECODE: Final = msgspec.json.Decoder(Message).decode


class ChatTurn(Struct, frozen=True):
    """One message of a chat: the contact is the `user`, everybody else the `assistant`."""

    role: str
    content: str


def as_chat(messages: Iterable[MessageView]) -> bytes:
    """Write messages as the JSON array of turns that language models are given."""
    return msgspec.json.encode([said for message in messages if (said := chat_turn(message))])


def chat_turn(view: MessageView) -> ChatTurn | None:
    """Return a message as a turn; None for one that nobody said to the other.

    Left out: deleted messages, private notes, and Chatwoot's own notes of what happened.
    An attachment is told by its type and name, as `[image: offer.jpg]`, before the text;
    what is in it, where Chatwoot transcribed it, follows the name.
    """
    message = _DECODE(view.json)
    if message.deleted or message.private or view.origin is None:
        return None
    content = "\n".join(part for part in (*_attached(message), message.content) if part)
    if not content:
        return None
    return ChatTurn("user" if view.origin == "contact" else "assistant", content)


def _attached(message: Message) -> list[str]:
    return [_told(attachment) for attachment in message.attachments]


def _told(attachment: Attachment) -> str:
    name = attachment.fallback_title or _file_name(attachment.data_url or "")
    label = f"{attachment.file_type or 'file'}: {name}" if name else attachment.file_type or "file"
    said = attachment.transcribed_text
    return f"[{label}] {said}" if said else f"[{label}]"


def _file_name(url: str) -> str:
    name = unquote(url.partition("?")[0].rpartition("/")[2])
    return "".join(character for character in name if character.isprintable())
