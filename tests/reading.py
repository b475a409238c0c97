"""The cache's documents as structs, to be compared: what readers are given is bytes."""

import msgspec

from worker.core.cache_keys import CacheKeys
from worker.core.documents import Conversation, Message
from worker.core.history.message_page import MessageRange
from worker.store.cache.document_reader import redis_reader
from worker.store.client import Client


class Documents:
    """Everything under a prefix, private notes too, read without a local tier."""

    def __init__(self, client: Client, prefix: str) -> None:
        self.keys = CacheKeys(prefix)
        self._reader = redis_reader(client, prefix)

    async def message(self, instance: str, message_id: int) -> Message | None:
        """A message by its id."""
        view = await self._reader.of(instance).message(message_id)
        return msgspec.json.decode(view.json, type=Message) if view else None

    async def message_by_source(self, instance: str, source_id: str) -> Message | None:
        """A message by its source id."""
        view = await self._reader.of(instance).message_by_source(source_id)
        return msgspec.json.decode(view.json, type=Message) if view else None

    async def conversation(self, instance: str, display_id: int) -> Conversation | None:
        """A conversation."""
        view = await self._reader.of(instance).conversation(display_id)
        return msgspec.json.decode(view.json, type=Conversation) if view else None

    async def messages(self, instance: str, display_id: int, limit: int) -> list[Message]:
        """The newest messages of a conversation, oldest first."""
        page = await self._reader.of(instance).page(display_id, MessageRange(limit))
        views = page.messages if page else []
        return [msgspec.json.decode(view.json, type=Message) for view in views]

    async def conversation_of(self, instance: str, contact: str) -> int | None:
        """The newest conversation with a contact."""
        return await self._reader.of(instance).conversation_of(contact)
