"""Writes documents to Redis, by the script beside this module."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, cast

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

_ANSWERS: Mapping[bytes, WriteOutcome] = {
    b"applied": "applied",
    b"stale": "stale",
    b"wrong_type": "wrong_type",
}

_OUTDATED = b"outdated"
ANY_VERSION = b"*"

_AGELESS = -1

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


class DocumentWriter:
    """The documents of one prefix."""

    def __init__(self, client: Client, settings: CacheSettings) -> None:
        self._client = client
        self._of = settings
        self.keys = CacheKeys(settings.prefix)
        self._write = load_script(client, __file__, "write_documents")

    async def write(
        self, drafts: Sequence[PendingWrite], version: bytes | None = None
    ) -> WriteResult:
        """Write documents, in one round trip unless the cache knows what a draft does not.

        Such a draft is merged with what is stored, and sent again.
        `version` is that of the bindings that say where the documents belong;
        raises `BindingsChanged` where they stand no more. None asks nothing.
        """
        return await self._insist(drafts, version, []) if drafts else WriteResult([], 0)

    async def _insist(
        self, drafts: Sequence[PendingWrite], version: bytes | None, unreadable: list[bytes]
    ) -> WriteResult:
        replies = await self._send(drafts, version, unreadable)
        answers = [_ANSWERS.get(reply) for reply in replies]
        if None not in answers:
            return WriteResult(cast("list[WriteOutcome]", answers), 0)
        conflicting = [index for index, answer in enumerate(answers) if answer is None]
        merged = [_merged(drafts[index], replies[index], unreadable) for index in conflicting]
        written = await self._insist(merged, version, unreadable)
        for index, answer in zip(conflicting, written.answers, strict=True):
            answers[index] = answer
        return WriteResult(
            cast("list[WriteOutcome]", answers), len(conflicting) + written.conflicts
        )

    async def _send(
        self, drafts: Sequence[PendingWrite], version: bytes | None, unreadable: Sequence[bytes]
    ) -> list[bytes]:
        own: list[str] = [self.keys.version]
        pointing: list[str] = []
        timelines: list[str] = []
        about: list[int] = []
        documents: list[bytes] = []
        for draft in drafts:
            document = draft.document
            key, timeline, pointers = self.keys.locate(document)
            own.append(key)
            pointing += pointers
            if timeline is not None:
                timelines.append(timeline)
            event_ms = _AGELESS if is_tombstone(document) else draft.event_ms
            about += (document.id, len(pointers), int(timeline is not None), event_ms)
            documents.append(encode(document))
        arguments = (
            STAMP_DIGITS,
            self._of.ttl_s,
            self._of.ttl_s + TOMBSTONE_EXTRA_S,
            self._of.conversation_messages,
            ANY_VERSION if version is None else version,
            b",".join((b"", *unreadable, b"")),
            msgspec.json.encode(about),
            *documents,
        )
        async with translate_errors(self._client):
            replies = await self._write(own + pointing + timelines, arguments)
        if replies == _OUTDATED:
            raise BindingsChanged("the bindings were changed since these documents were resolved")
        return cast("list[bytes]", replies)


def _merged(draft: PendingWrite, stored: bytes, unreadable: list[bytes]) -> PendingWrite:
    """Return a draft that holds what is stored too; what cannot be read is to be replaced."""
    document = decode(stored, type(draft.document))
    if document is None:
        unreadable.append(stored[_REVISION].partition(b'"')[0])
        return draft
    merged: Document = merge(cast("Any", draft.document), document)
    return PendingWrite(merged, draft.event_ms)


def decode(value: bytes, kind: type[Any]) -> Any:
    """Return a stored document, None when the value is not one of ours."""
    try:
        return _DECODERS[kind].decode(value)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return None
