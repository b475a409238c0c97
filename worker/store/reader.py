"""Documents out of Redis, with plain commands; `store.cache` writes them."""

from collections.abc import Awaitable
from typing import Any

from redis.exceptions import ResponseError

from worker.core.keys import Keys, digits_of
from worker.core.model import Conversation, Message
from worker.store.cache import decode
from worker.store.connect import Client, translated


class Reader:
    """The documents of one prefix, to be read."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self.keys = Keys(prefix)

    async def message(self, instance: str, message_id: int) -> Message | None:
        """Return a message, None where the cache has none."""
        key = self.keys.message(instance, message_id)
        message: Message | None = await self._get(instance, key, Message)
        return message

    async def message_by_source(self, instance: str, source_id: str) -> Message | None:
        """Return the message with that source id; the document's own word counts."""
        held = await self._ask(self._client.get(self.keys.source(instance, source_id)))
        if not (held and held.isdigit()):
            return None
        message = await self.message(instance, int(held))
        return message if message and message.source_id == source_id else None

    async def conversation(self, instance: str, display_id: int) -> Conversation | None:
        """Return a conversation, None where the cache has none."""
        key = self.keys.conversation(instance, display_id)
        conversation: Conversation | None = await self._get(instance, key, Conversation)
        return conversation

    async def messages(self, instance: str, display_id: int, limit: int) -> list[Message]:
        """Return the newest messages of a conversation that the cache has, oldest first."""
        timeline = self.keys.timeline(instance, display_id)
        ids = await self._ask(self._client.zrevrange(timeline, 0, limit - 1))
        if not ids:
            return []
        keys = [self.keys.message(instance, int(member)) for member in reversed(ids)]
        values = await self._ask(self._client.mget(keys))
        owner = await self._owner(instance)
        messages = (decode(value, Message) for value in values if value)
        return [m for m in messages if m and owner in (m.account_id, None)]

    async def conversation_of(self, instance: str, contact: str) -> int | None:
        """Return the newest conversation with a contact: a JID, or a phone number however written.

        A contact's JID is stored beside its number only where they differ, so both are looked up.
        """
        phone, _, server = contact.partition("@")
        names = [contact] if server else []
        if server in ("", "s.whatsapp.net"):
            names += [digits] if (digits := digits_of(phone)) else []
        if not names:
            return None
        async with translated(self._client):
            held = await self._client.mget([self.keys.contact(instance, name) for name in names])
        return max((int(value) for value in held if value and value.isdigit()), default=None)

    async def _get(self, instance: str, key: str, kind: type[Any]) -> Any:
        value = await self._ask(self._client.get(key))
        document = decode(value, kind) if value else None
        if document is None or await self._owner(instance) not in (document.account_id, None):
            return None
        return document

    async def _owner(self, instance: str) -> int | None:
        """Return the account an instance belongs to: what another one left is nobody's to read."""
        owner = await self._ask(self._client.hget(self.keys.accounts, instance))
        return int(owner) if owner and owner.isdigit() else None

    async def _ask(self, reply: Awaitable[Any]) -> Any:
        """Return a reply, None where the key holds a value of a type that is none of ours."""
        async with translated(self._client):
            try:
                return await reply
            except ResponseError as error:
                if str(error).startswith("WRONGTYPE"):
                    return None
                raise
