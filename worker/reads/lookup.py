"""Looks up in the cache what a read requests."""

from worker.core.history.document_views import ConversationView, MessageView
from worker.core.history.message_page import MessagePage
from worker.reads.read_request import ReadRequest, parse_id
from worker.store.cache.document_reader import InstanceReader

Found = MessageView | ConversationView | MessagePage


async def find(reader: InstanceReader, request: ReadRequest) -> Found | None:
    """Return what a read requests, None where the cache has nothing for this reader."""
    match request.kind:
        case "message":
            return await reader.message(request.id)
        case "source":
            return await reader.message_by_source(request.target)
        case "conversation":
            return await reader.conversation(request.id)
        case "messages":
            return await reader.page(request.id, request.range, request.human_window_s)
        case "contact":
            display_id = await reader.conversation_of(request.target)
            if display_id is None:
                return None
            return await reader.page(display_id, request.range, request.human_window_s)


def may_be_incomplete(found: Found | None, request: ReadRequest) -> bool:
    """Say whether Chatwoot may have more of a conversation than the cache.

    False for what Chatwoot cannot be asked for: a contact unknown here, and a single message.
    """
    if found is None:
        return request.kind in ("conversation", "messages")
    if not isinstance(found, MessagePage) or not request.range.newest:
        return False
    is_short = len(found.messages) < request.range.limit and found.next_before is None
    return is_short and not found.complete


async def has_message(reader: InstanceReader, message: str) -> bool:
    """Say whether a message is in the cache, by its Chatwoot or WhatsApp id."""
    message_id = parse_id(message)
    if message_id is not None and await reader.message(message_id) is not None:
        return True
    return await reader.message_by_source(message) is not None
