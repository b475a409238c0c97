"""Reads documents of an instance, hiding what a reader may not see.

A request is answered from the local tier where that has all values, else by Redis, mostly in one
round trip.
"""

import time
from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Final

from worker.core import bot_contact
from worker.core.cache_keys import CacheKeys
from worker.core.contact_identifiers import lookup_identifiers
from worker.core.history.document_views import (
    DEFAULT_RULES,
    ConversationView,
    MessageView,
    conversation_view,
    message_view,
    parse_pointer,
    possible_source_ids,
)
from worker.core.history.human_activity import (
    DEFAULT_WINDOW_S,
    INACTIVE,
    HumanActivity,
    by_conversation,
    by_messages,
)
from worker.core.history.message_links import link
from worker.core.history.message_origin import OriginRules
from worker.core.history.message_page import MessagePage, MessageRange
from worker.core.stream_entry import MAX_ID
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.request_cache import RequestCache
from worker.store.cache.value_reader import (
    KeyRequest,
    RedisValueReader,
    TimelineWindow,
    ValueReader,
)
from worker.store.client import Client

_EXTRA: Final = 4
"""Messages read beyond the limit: some may have expired or be hidden from this reader."""

_MIN_BATCH: Final = 20
"""Messages read at least: the newest ones tell whether a person is active."""

_MAX_BATCH: Final = 200


class DocumentReader:
    """Creates readers of the instances of one prefix."""

    def __init__(
        self,
        values: ValueReader,
        prefix: str,
        local: LocalCache | None = None,
        rules: OriginRules = DEFAULT_RULES,
    ) -> None:
        self._values = values
        self._local = local
        self._message_view = partial(message_view, rules=rules)
        self.keys = CacheKeys(prefix)

    def of(self, instance: str, *, notes: bool = True) -> "InstanceReader":
        """Return a reader for one request; `notes` includes private notes."""
        cache = RequestCache(self._values, self._local, self.keys.accounts, instance)
        return InstanceReader(cache, self.keys, instance, self._message_view, notes=notes)

    async def ping(self) -> None:
        """Raise unless documents can be read."""
        await self._values.ping()


def redis_reader(
    client: Client,
    prefix: str,
    local: LocalCache | None = None,
    rules: OriginRules = DEFAULT_RULES,
) -> DocumentReader:
    """Return a reader of the cache in Redis, optionally with a local tier."""
    values = RedisValueReader(client, prefix, with_ttl=local is not None)
    return DocumentReader(values, prefix, local, rules)


class InstanceReader:
    """Answers one request about an instance; each key is read at most once."""

    def __init__(
        self,
        cache: RequestCache,
        keys: CacheKeys,
        instance: str,
        parse_message: Callable[[bytes], MessageView | None],
        *,
        notes: bool,
    ) -> None:
        self._cache = cache
        self._keys = keys
        self._instance = instance
        self._message_view = parse_message
        self._notes = notes
        self._saw_bot_contact = False

    @property
    def from_memory(self) -> bool:
        """Whether all values came from the local tier."""
        return self._cache.from_memory

    async def message(self, message_id: int) -> MessageView | None:
        """Return a message; None if it is not cached or hidden from this reader."""
        (message,) = await self._messages([message_id])
        return await self._single(message)

    async def message_by_source(self, source_id: str) -> MessageView | None:
        """Return the newest message with a source id, or with WhatsApp's id without the prefix.

        The index may point to a message whose source id has changed since.
        """
        source_ids = possible_source_ids(source_id)
        messages = await self._messages(await self._ids_by_source(source_ids))
        message = next((m for m in messages if m and m.source_id in source_ids), None)
        return await self._single(message)

    async def conversation(self, display_id: int) -> ConversationView | None:
        """Return a conversation; None if it is not cached."""
        conversation = await self._stored_conversation(display_id)
        if conversation is None or conversation.of_bot or conversation.id != display_id:
            return None
        return conversation if self._is_ours(conversation) else None

    async def conversation_of(self, contact: str) -> int | None:
        """Return the newest conversation with a contact: a JID, or a phone number in any format.

        A Brazilian number's other form is used only if nothing is known under its own.
        """
        own, other_form = lookup_identifiers(contact)
        if bot_contact.NUMBER in own:
            return None
        keys = [self._keys.contact(self._instance, name) for name in (*own, *other_form)]
        found = await self._pointers(keys)
        of_own = [display_id for display_id in found[: len(own)] if display_id]
        return max(of_own or [display_id for display_id in found if display_id], default=None)

    async def page(
        self, display_id: int, requested: MessageRange, window_s: int = DEFAULT_WINDOW_S
    ) -> MessagePage | None:
        """Return messages of a conversation; None if nothing of it is cached.

        A person counts as active for `window_s` after a message.
        Messages that have expired or are hidden from this reader are skipped and not counted.
        """
        timeline = self._keys.timeline(self._instance, display_id)
        start = KeyRequest(self._keys.start(self._instance, display_id), parse_pointer)
        values = await self._cache.read(
            [self._conversation_request(display_id), start], self._window(timeline, requested)
        )
        ids: list[int] = values[timeline]
        if await self._is_of_bot(display_id):
            return None
        conversation = await self.conversation(display_id)
        visible = await self._visible(requested.of(ids), requested.limit + 1)
        messages, more = visible[: requested.limit], visible[requested.limit :]
        if self._saw_bot_contact or not (messages or conversation):
            return None
        ends_early = requested.before is not None or (bool(more) and not requested.newest)
        linked = await self._linked(messages, look_ahead=ends_early)
        messages = link(messages, linked)
        return MessagePage(
            display_id,
            messages=list(reversed(messages)) if requested.newest else messages,
            complete=await self._has_start(values[start.key], ids),
            next_before=messages[-1].id if more and requested.newest else None,
            human=await self._human(conversation, ids, window_s),
            linked=link(linked, messages),
        )

    async def _single(self, message: MessageView | None) -> MessageView | None:
        found = await self._unless_of_bot(message)
        return link([found], await self._linked([found]))[0] if found else None

    async def _linked(
        self, messages: Sequence[MessageView], *, look_ahead: bool = False
    ) -> list[MessageView]:
        """Return the messages beside these that they reply to, or that edit any of them.

        Reads nothing for messages that reply to none, nor for links among these. `look_ahead` looks
        for edits of these: the newest page has all of them.
        """
        replies = [message.reply for message in messages if message.reply]
        if not replies and not look_ahead:
            return []
        known = {message.source_id for message in messages}
        unknown = [r.source_ids for r in replies if not r.id and known.isdisjoint(r.source_ids)]
        ids = await self._ids_by_source(i for source_ids in unknown for i in source_ids)
        targets = await self._others([*ids, *(r.id for r in replies if r.id)], messages)
        # The index leads to the newest message of a source id, which may be an edit.
        ids = [m.reply.id for m in targets if m.is_edit and m.reply and m.reply.id]
        targets += await self._others(ids, (*messages, *targets))
        originals = [*targets, *(messages if look_ahead else ())]
        ids = await self._ids_by_source(
            m.source_id for m in originals if m.source_id and not m.is_edit
        )
        return targets + await self._others(ids, (*messages, *targets))

    async def _others(self, ids: Iterable[int], known: Sequence[MessageView]) -> list[MessageView]:
        """Return the messages with these ids, without those that are known."""
        missing = set(ids) - {message.id for message in known}
        return [m for m in await self._messages(sorted(missing)) if m] if missing else []

    async def _ids_by_source(self, source_ids: Iterable[str]) -> list[int]:
        keys = [self._keys.source(self._instance, source_id) for source_id in source_ids]
        return [i for i in await self._pointers(keys) if i is not None] if keys else []

    async def _has_start(self, start: int | None, ids: Sequence[int]) -> bool:
        """Say whether the conversation's first message is cached, and so all later ones.

        A timeline drops its lowest ids first, and older documents expire earlier.
        """
        if start is None or start not in ids:
            return False
        request = KeyRequest(self._keys.message(self._instance, start), self._message_view)
        return (await self._cache.read([request]))[request.key] is not None

    def _window(self, timeline: str, requested: MessageRange) -> TimelineWindow:
        count = requested.limit + 1 + _EXTRA
        return TimelineWindow(
            timeline,
            self._keys.message_prefix(self._instance),
            after=requested.after or 0,
            before=requested.before or MAX_ID + 1,
            limit=max(count, _MIN_BATCH) if requested.newest else count,
            newest=requested.newest,
            parse=self._message_view,
        )

    async def _visible(self, ids: Sequence[int], count: int) -> list[MessageView]:
        """Return the first `count` messages that this reader may see."""
        visible: list[MessageView] = []
        start, size = 0, max(count + _EXTRA, _MIN_BATCH)
        while start < len(ids) and len(visible) < count:
            visible += [m for m in await self._messages(ids[start : start + size]) if m]
            start, size = start + size, min(2 * size, _MAX_BATCH)
        return visible[:count]

    async def _human(
        self, conversation: ConversationView | None, ids: Sequence[int], window_s: int
    ) -> HumanActivity:
        """Say whether a person is assigned, or wrote to the contact within the window."""
        if decided := by_conversation(conversation):
            return decided
        since_us = (time.time() - window_s) * 1e6
        for end in range(len(ids), 0, -_MIN_BATCH):
            batch = ids[max(0, end - _MIN_BATCH) : end]
            messages = [m for m in await self._messages(batch) if m]
            recent = [m for m in messages if m.created_us >= since_us]
            if decided := by_messages(recent, window_s):
                return decided
            if messages and not recent:
                break
        return INACTIVE

    async def _messages(self, ids: Iterable[int]) -> list[MessageView | None]:
        keys = {i: self._keys.message(self._instance, i) for i in ids}
        values = await self._cache.read(
            [KeyRequest(key, self._message_view) for key in keys.values()]
        )
        return [self._visible_to_us(i, values[key]) for i, key in keys.items()]

    async def _pointers(self, keys: Sequence[str]) -> list[int | None]:
        values = await self._cache.read([KeyRequest(key, parse_pointer) for key in keys])
        return [values[key] for key in keys]

    def _conversation_request(self, display_id: int) -> KeyRequest:
        return KeyRequest(self._keys.conversation(self._instance, display_id), conversation_view)

    async def _stored_conversation(self, display_id: int) -> ConversationView | None:
        request = self._conversation_request(display_id)
        conversation: ConversationView | None = (await self._cache.read([request]))[request.key]
        return conversation

    async def _is_of_bot(self, display_id: int) -> bool:
        """Say whether a conversation is with Evolution's bot contact, and so hidden.

        A worker of an earlier release may have cached it.
        """
        conversation = await self._stored_conversation(display_id)
        return conversation is not None and conversation.of_bot

    async def _unless_of_bot(self, message: MessageView | None) -> MessageView | None:
        if message is None or not message.may_be_of_bot:
            return message
        return None if await self._is_of_bot(message.conversation_id) else message

    def _visible_to_us(self, message_id: int, message: MessageView | None) -> MessageView | None:
        if message is None or message.id != message_id or not self._is_ours(message):
            return None
        if message.of_bot:
            self._saw_bot_contact = True
            return None
        return message if self._notes or not message.private else None

    def _is_ours(self, document: MessageView | ConversationView) -> bool:
        """Say whether a document is of this instance and of the account it belongs to now."""
        return document.instance == self._instance and self._cache.owner in (
            document.account_id,
            None,
        )
