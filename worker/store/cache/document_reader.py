"""Reads documents from the cache, as one reader may see them.

Each question is answered from the local tier where that has all it takes, else by Redis,
in one round trip for most.
"""

import time
from collections.abc import Iterable, Sequence
from typing import Any, Final

from worker.core import bot_contact, contact_names
from worker.core.cache_keys import CacheKeys
from worker.core.document_views import (
    ConversationView,
    MessageView,
    conversation_view,
    message_view,
    parse_pointer,
)
from worker.core.message_page import MessagePage, MessageRange
from worker.core.stream_entry import MAX_ID
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.request_cache import RequestCache, ValueReader
from worker.store.cache.value_reader import KeyRequest, RedisValueReader, TimelineWindow
from worker.store.client import Client

KEY_ID_MARK: Final = "WAID:"
"""What Evolution writes before WhatsApp's id of a message, which is how bots know it."""

ACTIVE_S: Final = 3600.0
"""How long a conversation counts as somebody's after an agent wrote."""

_SPARE: Final = 4
"""Messages read beyond those asked for: some may be gone, or not for this reader."""

_LATEST: Final = 20
"""Messages read in any case: they tell whether an agent is at work."""

_MOST: Final = 200


class DocumentReader:
    """The documents of one prefix, to be read; private notes only where `notes` says so."""

    def __init__(self, values: ValueReader, prefix: str, local: LocalCache | None = None) -> None:
        self._values = values
        self._local = local
        self.keys = CacheKeys(prefix)

    def of(self, instance: str, *, notes: bool = True) -> "InstanceReader":
        """Return a reader of one instance, for one question."""
        look = RequestCache(self._values, self._local, self.keys.accounts, instance)
        return InstanceReader(look, self.keys, instance, notes=notes)

    async def ping(self) -> None:
        """Raise unless the server answers."""
        await self._values.ping()


def redis_reader(client: Client, prefix: str, local: LocalCache | None = None) -> DocumentReader:
    """Return a reader of the cache in Redis, with a local tier in front of it or without."""
    return DocumentReader(RedisValueReader(client, prefix, timed=local is not None), prefix, local)


class InstanceReader:
    """Answers one question about an instance: what it has read is not read again."""

    def __init__(self, look: RequestCache, keys: CacheKeys, instance: str, *, notes: bool) -> None:
        self._look = look
        self._keys = keys
        self._instance = instance
        self._notes = notes
        self._has_met_bot = False

    @property
    def from_memory(self) -> bool:
        """Whether all of the answer came from the local tier."""
        return self._look.from_memory

    async def message(self, message_id: int) -> MessageView | None:
        """Return a message, None where the cache has none for this reader."""
        (message,) = await self._messages([message_id])
        return await self._unless_of_bot(message)

    async def message_by_source(self, source_id: str) -> MessageView | None:
        """Return the message with a source id, or with WhatsApp's bare id of it.

        The index points at the newest with that id; the document's own word counts.
        """
        bare = not source_id.startswith(KEY_ID_MARK)
        names = [source_id, f"{KEY_ID_MARK}{source_id}"] if bare else [source_id]
        ids = await self._pointers([self._keys.source(self._instance, name) for name in names])
        messages = await self._messages([i for i in ids if i is not None])
        found = next((m for m in messages if m and m.source_id in names), None)
        return await self._unless_of_bot(found)

    async def conversation(self, display_id: int) -> ConversationView | None:
        """Return a conversation, None where the cache has none."""
        wanted = self._wanted_conversation(display_id)
        found = (await self._look.at([wanted]))[wanted.key]
        is_ours = self._is_ours(found) and found.id == display_id
        return found if is_ours and not found.of_bot else None

    async def conversation_of(self, contact: str) -> int | None:
        """Return the newest conversation with a contact: a JID, or a phone number however written.

        A number's other form in Brazil counts only where nothing is known under its own.
        """
        own, other_form = contact_names.lookup_names(contact)
        if bot_contact.NUMBER in own:
            return None
        names = [self._keys.contact(self._instance, name) for name in (*own, *other_form)]
        held = await self._pointers(names)
        of_own = [display_id for display_id in held[: len(own)] if display_id]
        return max(of_own or [display_id for display_id in held if display_id], default=None)

    async def page(self, display_id: int, asked: MessageRange) -> MessagePage | None:
        """Return messages of a conversation, None where the cache knows nothing of it.

        Messages that are gone or not for this reader are passed over, and do not count.
        """
        wanted = self._wanted_conversation(display_id)
        timeline = self._keys.timeline(self._instance, display_id)
        window = self._window(timeline, asked)
        start = KeyRequest(self._keys.start(self._instance, display_id), parse_pointer)
        found = await self._look.at([wanted, start], window)
        ids: list[int] = found[timeline]
        if await self._is_of_bot(display_id):
            return None
        conversation = await self.conversation(display_id)
        seen = await self._visible(asked.of(ids), asked.limit + 1)
        messages, more = seen[: asked.limit], seen[asked.limit :]
        if self._has_met_bot or (not messages and conversation is None):
            return None
        return MessagePage(
            display_id,
            messages=list(reversed(messages)) if asked.newest else messages,
            complete=await self._has_start(found[start.key], ids),
            next_before=messages[-1].id if more and asked.newest else None,
            human_active=await self._is_human_active(conversation, ids),
        )

    async def _has_start(self, start: int | None, ids: Sequence[int]) -> bool:
        """Say whether the cache has a conversation's first message, and so all after it.

        A timeline loses its lowest ids first, and a document that is older expires earlier.
        """
        if start is None or start not in ids:
            return False
        wanted = KeyRequest(self._keys.message(self._instance, start), message_view)
        return (await self._look.at([wanted]))[wanted.key] is not None

    def _window(self, timeline: str, asked: MessageRange) -> TimelineWindow:
        stem = self._keys.message_stem(self._instance)
        count = asked.limit + 1 + _SPARE
        return TimelineWindow(
            timeline,
            stem,
            after=asked.after or 0,
            before=asked.before or MAX_ID + 1,
            most=max(count, _LATEST) if asked.newest else count,
            newest=asked.newest,
        )

    async def _visible(self, ids: Sequence[int], count: int) -> list[MessageView]:
        """Return the first messages that are there for this reader."""
        found: list[MessageView] = []
        at, size = 0, max(count + _SPARE, _LATEST)
        while at < len(ids) and len(found) < count:
            found += [m for m in await self._messages(ids[at : at + size]) if m]
            at, size = at + size, min(2 * size, _MOST)
        return found[:count]

    async def _is_human_active(
        self, conversation: ConversationView | None, ids: Sequence[int]
    ) -> bool:
        """Say whether somebody is assigned, or an agent wrote to the contact lately."""
        if conversation is not None and conversation.assigned:
            return True
        since_us = (time.time() - ACTIVE_S) * 1e6
        for last in range(len(ids), 0, -_LATEST):
            some = [m for m in await self._messages(ids[max(0, last - _LATEST) : last]) if m]
            lately = [m for m in some if m.created_us >= since_us]
            if any(m.origin == "agent" and not m.private for m in lately):
                return True
            if some and not lately:
                return False
        return False

    async def _messages(self, ids: Iterable[int]) -> list[MessageView | None]:
        keys = {i: self._keys.message(self._instance, i) for i in ids}
        found = await self._look.at([KeyRequest(key, message_view) for key in keys.values()])
        return [self._for_us(i, found[key]) for i, key in keys.items()]

    async def _pointers(self, keys: Sequence[str]) -> list[int | None]:
        found = await self._look.at([KeyRequest(key, parse_pointer) for key in keys])
        return [found[key] for key in keys]

    def _wanted_conversation(self, display_id: int) -> KeyRequest:
        return KeyRequest(self._keys.conversation(self._instance, display_id), conversation_view)

    async def _is_of_bot(self, display_id: int) -> bool:
        """Say whether a conversation is with Evolution's bot contact: nobody reads any of it.

        A worker of an earlier release may have cached it.
        """
        wanted = self._wanted_conversation(display_id)
        found = (await self._look.at([wanted]))[wanted.key]
        return found is not None and found.of_bot

    async def _unless_of_bot(self, message: MessageView | None) -> MessageView | None:
        if message is None or not message.may_be_of_bot:
            return message
        return None if await self._is_of_bot(message.conversation_id) else message

    def _for_us(self, message_id: int, message: MessageView | None) -> MessageView | None:
        if message is None or message.id != message_id or not self._is_ours(message):
            return None
        if message.of_bot:
            self._has_met_bot = True
            return None
        return message if self._notes or not message.private else None

    def _is_ours(self, document: Any) -> bool:
        """What another account left under an instance's name is nobody's to read."""
        if document is None or document.instance != self._instance:
            return False
        return self._look.owner in (document.account_id, None)
