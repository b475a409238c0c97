"""Documents in Redis: written by a script beside this module, read with plain commands."""

from collections.abc import Awaitable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

import msgspec
from redis.exceptions import ResponseError

from worker.core.fold import Answer, Written
from worker.core.keys import Keys, digits_of
from worker.core.merge import STAMP_DIGITS, merge
from worker.core.model import Conversation, Document, Draft, Message, encode
from worker.store.connect import Client, register, translated

_ANSWERS: Mapping[bytes, Answer] = {
    b"applied": "applied",
    b"stale": "stale",
    b"wrong_type": "wrong_type",
}

TOMBSTONE_EXTRA_S = 86_400
"""A deletion is remembered a day longer than any entry may create what it deleted."""

_DECODERS: Mapping[type, msgspec.json.Decoder[Any]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Message, Conversation)
}
_REVISION = slice(len('{"revision":"'), None)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """How long documents live, in seconds, and how many messages a timeline holds."""

    prefix: str
    ttl_s: int = 604_800
    conversation_messages: int = 200


@dataclass(frozen=True, slots=True)
class _Request:
    """A document that the server has not settled yet."""

    draft: Draft
    unreadable: bytes = b""


class Cache:
    """The documents of one prefix."""

    def __init__(self, client: Client, settings: CacheSettings) -> None:
        self._client = client
        self._of = settings
        self.keys = Keys(settings.prefix)
        self._write = register(client, "write")

    async def write(self, drafts: Sequence[Draft]) -> Written:
        """Write documents, in one round trip unless the cache knows what a draft does not.

        Such a draft is merged with what is stored, and sent again.
        """
        answers: dict[int, Answer] = {}
        waiting = {index: _Request(draft) for index, draft in enumerate(drafts)}
        conflicts = 0
        while waiting:
            replies = await self._send(waiting.values())
            for (index, request), reply in zip(list(waiting.items()), replies, strict=True):
                if reply in _ANSWERS:
                    answers[index] = _ANSWERS[reply]
                    del waiting[index]
                else:
                    conflicts += 1
                    waiting[index] = _merged(request.draft, reply)
        return Written([answers[index] for index in range(len(drafts))], conflicts)

    async def _send(self, requests: Iterable[_Request]) -> list[bytes]:
        keys: list[str] = []
        arguments: list[bytes | str | int] = [
            STAMP_DIGITS,
            self._of.ttl_s,
            self._of.conversation_messages,
        ]
        for request in requests:
            self._add(keys, arguments, request)
        async with translated(self._client):
            return cast("list[bytes]", await self._write(keys, arguments))

    def _add(self, keys: list[str], arguments: list[bytes | str | int], request: _Request) -> None:
        document = request.draft.document
        deleted = isinstance(document, Message) and document.deleted
        key, timeline, pointers = self.keys.locate(document)
        keys += (key, *([timeline] if timeline else []), *pointers)
        arguments += (
            encode(document),
            document.id,
            self._of.ttl_s + TOMBSTONE_EXTRA_S if deleted else self._of.ttl_s,
            "" if deleted else request.draft.born_ms,
            1 if timeline else 0,
            len(pointers),
            request.unreadable,
        )

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
        messages = (_decode(value, Message) for value in values if value)
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
        document = _decode(value, kind) if value else None
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


def _merged(draft: Draft, stored: bytes) -> _Request:
    """Return a draft that holds what is stored too; what cannot be read is to be replaced."""
    document = _decode(stored, type(draft.document))
    if document is None:
        return _Request(draft, unreadable=stored[_REVISION].partition(b'"')[0])
    merged: Document = merge(cast("Any", draft.document), document)
    return _Request(Draft(merged, draft.born_ms))


def _decode(value: bytes, kind: type[Any]) -> Any:
    """Return a stored document, None when the value is not one of ours."""
    try:
        return _DECODERS[kind].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
