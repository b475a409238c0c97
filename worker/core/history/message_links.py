"""Resolves which message a message quotes, reacts to or edits.

Edits made on the phone are new messages with the original's source id, in reply to the original.
"""

from collections.abc import Iterable, Iterator, Sequence

from msgspec.structs import replace

from worker.core.history.document_views import MessageLinks, MessageView, without_text


def link(messages: Sequence[MessageView], others: Sequence[MessageView] = ()) -> list[MessageView]:
    """Return messages with their links; `others` are messages they may be linked with.

    A link never leaves the conversation, nor the instance.
    """
    if not any(message.reply or message.is_edit for message in (*messages, *others)):
        return list(messages)
    index = _LinkIndex([*others, *messages])
    return [index.link(message) for message in messages]


class _LinkIndex:
    def __init__(self, known: Sequence[MessageView]) -> None:
        self._by_id = {message.id: message for message in known}
        self._by_source: dict[str, list[MessageView]] = {}
        ids = sorted(self._by_id)
        edits = [message for i in ids if (message := self._by_id[i]).is_edit]
        originals = [message for i in ids if not (message := self._by_id[i]).is_edit]
        for message in (*originals, *reversed(edits)):
            if message.source_id is not None:
                self._by_source.setdefault(message.source_id, []).append(message)
        self._edits = {original.id: edit for edit in edits if (original := self._original(edit))}

    def link(self, message: MessageView) -> MessageView:
        target = self._target(message)
        original = self._original(message) if message.is_edit else None
        edit = self._edits.get(message.id)
        if target is None and original is None and edit is None:
            return message
        json = message.json
        if original is not None and original.deleted:
            json = without_text(message)
        if target is not None:
            json = b"%b%d}" % (json.removesuffix(b"null}"), target.id)
        if original is not None:
            json = b'%b,"edits":%d}' % (json[:-1], original.id)
        if edit is not None:
            json = json[:-1] + b',"edited":true}'
        found = (linked.id if linked else None for linked in (target, original, edit))
        return replace(message, json=json, links=MessageLinks(*found))

    def _target(self, message: MessageView) -> MessageView | None:
        """Return the message that another one replies to; of an edited one, the original."""
        reply = message.reply
        if reply is None:
            return None
        for target in self._candidates(reply.id, reply.source_ids):
            found = (self._original(target) if target.is_edit else None) or target
            if message.is_edit and found.is_edit:
                continue
            if found.id != message.id and _are_of_one_conversation(found, message):
                return found
        return None

    def _original(self, edit: MessageView) -> MessageView | None:
        """Return the message that an edit replaces. An agent's message may have no source id."""
        reply_id = edit.reply.id if edit.reply else None
        for original in self._candidates(reply_id, (edit.source_id or "",)):
            if (
                original.id < edit.id
                and not original.is_edit
                and original.source_id in (None, edit.source_id)
                and _are_of_one_conversation(original, edit)
            ):
                return original
        return None

    def _candidates(
        self, message_id: int | None, source_ids: Iterable[str]
    ) -> Iterator[MessageView]:
        stated = self._by_id.get(message_id or 0)
        if stated is not None:
            yield stated
        for source_id in source_ids:
            yield from self._by_source.get(source_id, ())


def _are_of_one_conversation(one: MessageView, other: MessageView) -> bool:
    return (
        one.instance == other.instance
        and one.account_id == other.account_id
        and one.conversation_id == other.conversation_id
    )
