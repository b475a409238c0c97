"""Messages in the chat format of language models: a role and a text."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Final
from urllib.parse import unquote

import msgspec
from msgspec import Struct

from worker.core.documents import Attachment, Message
from worker.core.history.document_views import MessageView
from worker.core.history.evolution_text import participant_label, without_edit_marker

_DECODE: Final = msgspec.json.Decoder(Message).decode
_QUOTED_CHARACTERS: Final = 100


class ChatTurn(Struct, frozen=True):
    """One message; the contact has the role `user`, everybody else `assistant`."""

    role: str
    content: str


def as_chat(messages: Sequence[MessageView], linked: Iterable[MessageView] = ()) -> bytes:
    """Encode linked messages as a JSON array of turns; `linked` are others they refer to.

    An edit stands at its original's place, a reaction as a line of its target.
    """
    shown = {message.id: message for message in messages}
    known = {**{message.id: message for message in linked}, **shown}
    reactions: dict[int, list[str]] = {}
    for message in messages:
        target = message.links.in_reply_to
        if message.is_reaction and target is not None:
            line = f"[{_role(message)} reacted: {_DECODE(message.json).content}]"
            reactions.setdefault(target, []).append(line)
    newest_edits = {message.source_id: message.id for message in messages if message.is_edit}
    turns = [
        chat_turn(message, known, reactions.get(message.links.edits or message.id, ()))
        for message in messages
        if not message.is_reaction
        and message.links.edits not in shown
        and not (message.is_edit and newest_edits[message.source_id] != message.id)
    ]
    return msgspec.json.encode([turn for turn in turns if turn])


def chat_turn(
    view: MessageView, known: Mapping[int, MessageView] | None = None, reactions: Sequence[str] = ()
) -> ChatTurn | None:
    """Return a message as a turn; None if it is deleted, a private note, or an activity line.

    Attachments precede the text as type and name, such as `[image: offer.jpg]`, followed by
    Chatwoot's transcription if there is one. The first line quotes the message it replies to.
    """
    known = known or {}
    content = _text(view, known)
    if not content:
        return None
    quoted = known.get(view.links.in_reply_to or 0) if view.reply and not view.is_edit else None
    quote = _quote(_text(quoted, known)) if quoted else ""
    parts = [part for part in (quote, content, *reactions) if part]
    return ChatTurn(_role(view), "\n".join(parts))


def _quote(text: str) -> str:
    """Return a text as one line that quotes its beginning."""
    line = " ".join(text.split())
    ellipsis = "…" if len(line) > _QUOTED_CHARACTERS else ""
    return f"> {line[:_QUOTED_CHARACTERS]}{ellipsis}" if line else ""


def _role(view: MessageView) -> str:
    return "user" if view.origin == "contact" else "assistant"


def _text(view: MessageView, known: Mapping[int, MessageView]) -> str:
    """Return the attachments and the newest text; nothing of what a chat leaves out."""
    message = _DECODE(view.json)
    if message.deleted or message.private or view.origin is None:
        return ""
    text = message.content or ""
    edited_by = view.links.edited_by
    if edited_by and (edit := known.get(edited_by)) and (new_text := _DECODE(edit.json).content):
        text = participant_label(text) + without_edit_marker(new_text)
    elif view.is_edit:
        text = without_edit_marker(text)
    if not message.attachments:
        return text
    return "\n".join(part for part in (*map(_describe, message.attachments), text) if part)


def _describe(attachment: Attachment) -> str:
    name = attachment.fallback_title or _file_name(attachment.data_url or "")
    label = f"{attachment.file_type or 'file'}: {name}" if name else attachment.file_type or "file"
    text = attachment.transcribed_text
    return f"[{label}] {text}" if text else f"[{label}]"


def _file_name(url: str) -> str:
    name = unquote(url.partition("?")[0].rpartition("/")[2])
    return "".join(character for character in name if character.isprintable())
