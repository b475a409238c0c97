"""Messages in the chat format of language models: a role and a text."""

from collections.abc import Iterable
from typing import Final
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from worker.core.document_views import MessageView
from worker.core.documents import Attachment, Message

_DECODE: Final = msgspec.json.Decoder(Message).decode


class ChatTurn(Struct, frozen=True):
    """One message; the contact has the role `user`, everybody else `assistant`."""

    role: str
    content: str


def as_chat(messages: Iterable[MessageView]) -> bytes:
    """Encode messages as a JSON array of turns."""
    return msgspec.json.encode([turn for message in messages if (turn := chat_turn(message))])


def chat_turn(view: MessageView) -> ChatTurn | None:
    """Return a message as a turn; None if it is deleted, a private note, or an activity line.

    Attachments precede the text as type and name, such as `[image: offer.jpg]`, followed by
    Chatwoot's transcription if there is one.
    """
    message = _DECODE(view.json)
    if message.deleted or message.private or view.origin is None:
        return None
    attachments = map(_describe, message.attachments)
    content = "\n".join(part for part in (*attachments, message.content) if part)
    if not content:
        return None
    return ChatTurn("user" if view.origin == "contact" else "assistant", content)


def _describe(attachment: Attachment) -> str:
    name = attachment.fallback_title or _file_name(attachment.data_url or "")
    label = f"{attachment.file_type or 'file'}: {name}" if name else attachment.file_type or "file"
    text = attachment.transcribed_text
    return f"[{label}] {text}" if text else f"[{label}]"


def _file_name(url: str) -> str:
    name = unquote(url.partition("?")[0].rpartition("/")[2])
    return "".join(character for character in name if character.isprintable())
