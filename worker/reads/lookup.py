"""What a question finds in the cache."""

from collections.abc import Awaitable, Callable, Mapping
from typing import Final, Protocol

from worker.core.document_views import ConversationView, MessageView
from worker.core.message_page import MessagePage, MessageRange
from worker.reads.read_request import ReadKind, ReadRequest, as_id

Found = MessageView | ConversationView | MessagePage


class Asked(Protocol):
    """One question about an instance, as one reader may see it."""

    @property
    def from_memory(self) -> bool:
        """Whether all of the answer came from the local tier."""

    async def message(self, message_id: int) -> MessageView | None:
        """Return a message."""

    async def message_by_source(self, source_id: str) -> MessageView | None:
        """Return the message with a source id, or with WhatsApp's bare id of it."""

    async def conversation(self, display_id: int) -> ConversationView | None:
        """Return a conversation."""

    async def conversation_of(self, contact: str) -> int | None:
        """Return the newest conversation with a contact."""

    async def page(self, display_id: int, asked: MessageRange) -> MessagePage | None:
        """Return messages of a conversation."""


class Documents(Protocol):
    """What can be read; all of it raises RedisUnavailable and Refused."""

    def of(self, instance: str, *, notes: bool) -> Asked:
        """Return a reader of one instance, for one question; private notes only with `notes`."""


async def find(reader: Asked, asked: ReadRequest) -> Found | None:
    """Return what was asked for, None where the cache has none for this reader."""
    return await _FIND[asked.kind](reader, asked)


def may_be_incomplete(found: Found | None, asked: ReadRequest) -> bool:
    """Say whether a conversation, or messages that were asked for of one, may be Chatwoot's alone.

    A contact that the cache does not know cannot be asked for, nor a message by itself.
    """
    if found is None:
        return asked.kind in ("conversation", "messages")
    if not isinstance(found, MessagePage) or not asked.range.newest:
        return False
    is_short = len(found.messages) < asked.range.limit and found.next_before is None
    return is_short and not found.complete


async def has(reader: Asked, message: str) -> bool:
    """Say whether a message is there, by Chatwoot's id of it or WhatsApp's."""
    number = as_id(message)
    if number is not None and await reader.message(number) is not None:
        return True
    return await reader.message_by_source(message) is not None


async def _message(reader: Asked, asked: ReadRequest) -> MessageView | None:
    return await reader.message(asked.id)


async def _source(reader: Asked, asked: ReadRequest) -> MessageView | None:
    return await reader.message_by_source(asked.target)


async def _conversation(reader: Asked, asked: ReadRequest) -> ConversationView | None:
    return await reader.conversation(asked.id)


async def _messages(reader: Asked, asked: ReadRequest) -> MessagePage | None:
    return await reader.page(asked.id, asked.range)


async def _contact(reader: Asked, asked: ReadRequest) -> MessagePage | None:
    display_id = await reader.conversation_of(asked.target)
    return None if display_id is None else await reader.page(display_id, asked.range)


_FIND: Final[Mapping[ReadKind, Callable[[Asked, ReadRequest], Awaitable[Found | None]]]] = {
    "message": _message,
    "source": _source,
    "conversation": _conversation,
    "messages": _messages,
    "contact": _contact,
}
