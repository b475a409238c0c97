"""Writes documents to Redis with the script `write_documents.lua`."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, cast

import msgspec

from worker.core.cache_keys import CacheKeys
from worker.core.coalescer import WriteOutcome, WriteResult
from worker.core.documents import (
    Conversation,
    Document,
    Message,
    PendingWrite,
    encode,
    is_tombstone,
)
from worker.core.merge import STAMP_DIGITS, merge
from worker.errors import BindingsChanged
from worker.store.client import Client, load_script, translate_errors

_OUTCOMES: Final[Mapping[bytes, WriteOutcome]] = {
    b"applied": "applied",
    b"stale": "stale",
    b"wrong_type": "wrong_type",
}
_OUTDATED: Final = b"outdated"
_ANY_VERSION: Final = b"*"
_NO_MAX_AGE: Final = -1

TOMBSTONE_EXTRA_S: Final = 86_400
"""A tombstone lives one day longer than any entry that could recreate the deleted message."""

_DECODERS: Final[Mapping[type, msgspec.json.Decoder[Any]]] = {
    kind: msgspec.json.Decoder(kind) for kind in (Message, Conversation)
}
_REVISION: Final = slice(len('{"revision":"'), None)


@dataclass(frozen=True, slots=True)
class CacheSettings:
    """The key prefix, the TTL of documents in seconds, and the length limit of a timeline."""

    prefix: str
    ttl_s: int = 604_800
    conversation_messages: int = 200


class DocumentWriter:
    """Writes the documents of one prefix."""

    def __init__(self, client: Client, settings: CacheSettings) -> None:
        self._client = client
        self._settings = settings
        self.keys = CacheKeys(settings.prefix)
        self._script = load_script(client, __file__, "write_documents")

    async def write(
        self, writes: Sequence[PendingWrite], version: bytes | None = None
    ) -> WriteResult:
        """Write documents, in one round trip unless stored documents must be merged first.

        `version` is the bindings version that the documents were resolved with; None skips the
        check. Raises `BindingsChanged` where the stored version is another one.
        """
        outcomes: dict[int, WriteOutcome] = {}
        unreadable: list[bytes] = []
        conflicts = 0
        pending = dict(enumerate(writes))
        while pending:
            replies = await self._send(list(pending.values()), version, unreadable)
            conflicting: dict[int, PendingWrite] = {}
            for (index, write), reply in zip(pending.items(), replies, strict=True):
                if outcome := _OUTCOMES.get(reply):
                    outcomes[index] = outcome
                else:
                    conflicting[index] = _merge_stored(write, reply, unreadable)
            conflicts += len(conflicting)
            pending = conflicting
        return WriteResult([outcomes[index] for index in range(len(writes))], conflicts)

    async def _send(
        self, writes: Sequence[PendingWrite], version: bytes | None, unreadable: Sequence[bytes]
    ) -> list[bytes]:
        """Run the script; returns one reply per document, as `write_documents.lua` states."""
        locations = [self.keys.locate(write.document) for write in writes]
        keys = [self.keys.version]
        keys += [key for key, _, _ in locations]
        keys += [pointer for _, _, pointers in locations for pointer in pointers]
        keys += [timeline for _, timeline, _ in locations if timeline is not None]
        numbers: list[int] = []
        for write, (_, timeline, pointers) in zip(writes, locations, strict=True):
            document = write.document
            event_ms = _NO_MAX_AGE if is_tombstone(document) else write.event_ms
            numbers += (document.id, len(pointers), int(timeline is not None), event_ms)
        arguments: tuple[bytes | int, ...] = (
            STAMP_DIGITS,
            self._settings.ttl_s,
            self._settings.ttl_s + TOMBSTONE_EXTRA_S,
            self._settings.conversation_messages,
            _ANY_VERSION if version is None else version,
            b",".join((b"", *unreadable, b"")),
            msgspec.json.encode(numbers),
            *[encode(write.document) for write in writes],
        )
        async with translate_errors(self._client):
            replies = await self._script(keys, arguments)
        if replies == _OUTDATED:
            raise BindingsChanged("the bindings were changed since these documents were resolved")
        return cast("list[bytes]", replies)


def _merge_stored(write: PendingWrite, stored: bytes, unreadable: list[bytes]) -> PendingWrite:
    """Merge a write with the stored document, or mark an unreadable document for replacement."""
    document = decode(stored, type(write.document))
    if document is None:
        unreadable.append(stored[_REVISION].partition(b'"')[0])
        return write
    merged: Document = merge(cast("Any", write.document), document)
    return PendingWrite(merged, write.event_ms)


def decode(value: bytes, kind: type[Any]) -> Any:
    """Decode a stored document; None if the value is not a document of this kind."""
    try:
        return _DECODERS[kind].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
