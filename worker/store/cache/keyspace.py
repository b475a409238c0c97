"""Iterates over the keys of a prefix with SCAN, in bounded steps, and deletes some of them."""

from collections.abc import AsyncIterator, Callable, Collection, Iterator, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from worker.core.cache_keys import CacheKeys, KeyKind, ParsedKey
from worker.core.documents import Conversation, Document, Message
from worker.store.cache.document_writer import decode
from worker.store.client import Client, load_script, translate_errors

_SCAN_COUNT: Final = 500
_VALUES_AT_ONCE: Final = 50
"""Documents read at once: each may be one megabyte."""
_ERASED_AT_ONCE: Final = 100

Advance = Callable[[int], None]
"""Receives how many further keys of the database were scanned."""

_DOCUMENTS: Final[dict[KeyKind, type[Any]]] = {"message": Message, "conversation": Conversation}


class KeyInfo(NamedTuple):
    """A key, its meaning (`place`, None for a foreign key), type and remaining TTL.

    `ttl_ms` is -1 without a TTL; `value` is set for strings.
    """

    key: bytes
    place: ParsedKey | None
    type: bytes
    ttl_ms: int
    value: bytes | None

    def document(self) -> Document | None:
        """Return the document at the key; None for any other value."""
        return _decode(self.place, self.value)


class Keyspace:
    """The keys of one prefix."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self.keys = CacheKeys(prefix)
        self._erase = load_script(client, __file__, "erase_documents")

    async def size(self) -> int:
        """Return the number of keys in the database, which a full SCAN goes through."""
        async with translate_errors(self._client):
            return int(await self._client.dbsize())

    async def walk(self, advance: Advance) -> AsyncIterator[list[KeyInfo]]:
        """Yield all keys of the prefix in batches; a key may come more than once."""
        async for names in self._scan(self.keys.pattern, advance):
            async for infos in self.revisit(names):
                yield infos

    async def revisit(self, names: Sequence[bytes]) -> AsyncIterator[list[KeyInfo]]:
        """Yield the current state of keys in batches, without those that no longer exist."""
        for batch in _batches(names, _VALUES_AT_ONCE):
            async with (
                translate_errors(self._client),
                self._client.pipeline(transaction=False) as pipeline,
            ):
                for name in batch:
                    pipeline.type(name)
                    pipeline.pttl(name)
                replies = await pipeline.execute()
                values = await self._client.mget(batch)
            rows = zip(batch, replies[::2], replies[1::2], values, strict=True)
            yield [
                KeyInfo(name, self.keys.parse(name), key_type, ttl_ms, value)
                for name, key_type, ttl_ms, value in rows
                if key_type != b"none"
            ]

    async def documents(
        self,
        advance: Advance,
        *,
        instances: Collection[str] | None = None,
        kind: KeyKind | None = None,
    ) -> AsyncIterator[Document]:
        """Yield documents, with the instance of their key; of some instances or one kind only."""
        kinds = _DOCUMENTS if kind is None else {kind}
        async for places in self.places(advance, instances=instances):
            wanted = [(name, place) for name, place in places if place.kind in kinds]
            for batch in _batches(wanted, _VALUES_AT_ONCE):
                async with translate_errors(self._client):
                    values = await self._client.mget([name for name, _ in batch])
                for (_, place), value in zip(batch, values, strict=True):
                    document = _decode(place, value)
                    if document is not None:
                        yield replace(document, instance=place.instance)

    async def places(
        self, advance: Advance, *, instances: Collection[str] | None = None
    ) -> AsyncIterator[list[tuple[bytes, ParsedKey]]]:
        """Yield keys with their meaning in batches; of some instances only. Skips foreign keys."""
        pattern = self.keys.pattern
        if instances is not None and len(instances) == 1:
            pattern = self.keys.instance_pattern(next(iter(instances)))
        async for names in self._scan(pattern, advance):
            parsed = ((name, self.keys.parse(name)) for name in names)
            yield [
                (name, place)
                for name, place in parsed
                if place is not None and (instances is None or place.instance in instances)
            ]

    async def pointers(self, names: Sequence[bytes]) -> dict[bytes, int]:
        """Return the ids that pointers hold; keys without an id are left out."""
        ids: dict[bytes, int] = {}
        for batch in _batches(names, _SCAN_COUNT):
            async with translate_errors(self._client):
                values = await self._client.mget(batch)
            pairs = zip(batch, values, strict=True)
            ids |= {name: int(value) for name, value in pairs if value and value.isdigit()}
        return ids

    async def unlink(self, names: Sequence[bytes]) -> int:
        """Delete keys; returns how many existed."""
        if not names:
            return 0
        async with translate_errors(self._client):
            return int(await self._client.unlink(*names))

    async def erase(self, documents: AsyncIterator[Document], *, inbox: str = "/") -> int:
        """Delete documents and the keys that point to them; returns how many documents existed.

        A conversation's timeline is deleted with it, a message's id is removed from its timeline.
        `inbox` deletes only documents that are still of this inbox.
        """
        erased, batch = 0, list[Document]()
        async for document in documents:
            batch.append(document)
            if len(batch) == _ERASED_AT_ONCE:
                erased += await self._erase_batch(batch, inbox)
                batch = []
        return erased + (await self._erase_batch(batch, inbox) if batch else 0)

    async def _erase_batch(self, documents: Sequence[Document], inbox: str) -> int:
        account_id, _, inbox_id = inbox.partition("/")
        names: list[str] = []
        arguments: list[str | int] = []
        for document in documents:
            key, timeline, pointers = self.keys.locate(document)
            whole_timeline = int(timeline is None)
            timeline = timeline or self.keys.timeline(document.instance, document.id)
            names += (key, timeline, *pointers)
            arguments += (document.id, len(pointers), whole_timeline, account_id, inbox_id)
        async with translate_errors(self._client):
            return int(await self._erase(names, arguments))

    async def _scan(self, pattern: str, advance: Advance) -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            async with translate_errors(self._client):
                cursor, names = await self._client.scan(cursor, match=pattern, count=_SCAN_COUNT)
            advance(_SCAN_COUNT)
            yield names
            if cursor == 0:
                return


def _decode(place: ParsedKey | None, value: bytes | None) -> Document | None:
    kind = _DOCUMENTS.get(place.kind) if place else None
    document: Document | None = decode(value, kind) if kind and value else None
    return document


def _batches(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
