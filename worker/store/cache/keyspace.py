"""All keys of a prefix, walked in bounded steps: for whoever looks at them or takes them away."""

from collections.abc import AsyncIterator, Callable, Collection, Container, Iterator, Sequence
from typing import Any, Final, NamedTuple

from msgspec.structs import replace

from worker.core.cache_keys import CacheKeys, KeyKind, ParsedKey
from worker.core.documents import Conversation, Document, Message
from worker.store.cache.document_writer import decode
from worker.store.client import Client, load_script, translate_errors

_STEP: Final = 500
"""Keys the server looks at for one step."""
_VALUES: Final = 50
"""Documents that are read at once: they may be of a megabyte each."""

Advance = Callable[[int], None]
"""Is told how many keys of the database were looked at."""

_DOCUMENTS: Final[dict[KeyKind, type[Any]]] = {"message": Message, "conversation": Conversation}


class KeyInfo(NamedTuple):
    """A key: what it stands for (None: nothing of ours), its type, and its milliseconds to live.

    Milliseconds are -1 where it lives for ever; `value` is that of a string.
    """

    key: bytes
    place: ParsedKey | None
    type: bytes
    ttl_ms: int
    value: bytes | None

    def document(self) -> Document | None:
        """Return the document at the key, None where it is none of ours."""
        return document_of(self.place, self.value)


class Keyspace:
    """The keys of one prefix."""

    def __init__(self, client: Client, prefix: str) -> None:
        self._client = client
        self.keys = CacheKeys(prefix)
        self._erase = load_script(client, __file__, "erase_documents")

    async def size(self) -> int:
        """Return how many keys the database has, others' too: what a walk looks at."""
        async with translate_errors(self._client):
            return int(await self._client.dbsize())

    async def walk(self, advance: Advance) -> AsyncIterator[list[KeyInfo]]:
        """Yield everything of the prefix; what lives all the while comes at least once."""
        async for names in self._steps(self.keys.pattern, advance):
            async for found in self.revisit(names):
                yield found

    async def inspect(self, names: Sequence[bytes]) -> list[KeyInfo]:
        """Return what stands at keys now; those that are gone are left out."""
        async with (
            translate_errors(self._client),
            self._client.pipeline(transaction=False) as pipeline,
        ):
            for name in names:
                pipeline.type(name)
                pipeline.pttl(name)
            facts = await pipeline.execute()
            values = await self._client.mget(names)
        found = zip(names, facts[::2], facts[1::2], values, strict=True)
        return [
            KeyInfo(name, self.keys.parse(name), kind, ttl_ms, value)
            for name, kind, ttl_ms, value in found
            if kind != b"none"
        ]

    async def revisit(self, names: Sequence[bytes]) -> AsyncIterator[list[KeyInfo]]:
        """Yield what stands at these keys now, in steps."""
        for some in _slices(names, _VALUES):
            yield await self.inspect(some)

    async def documents(
        self, advance: Advance, *, instance: str | None = None, kind: KeyKind | None = None
    ) -> AsyncIterator[Document]:
        """Yield the documents of one instance, or of all, and of one kind, or of both."""
        async for places in self.places(advance, instance=instance):
            async for document in self.documents_at(
                [(n, p) for n, p in places if kind in (None, p.kind)]
            ):
                yield document

    async def documents_at(
        self, places: Sequence[tuple[bytes, ParsedKey]]
    ) -> AsyncIterator[Document]:
        """Yield the documents among these keys; where one stands counts, not what it says."""
        wanted = [(name, place) for name, place in places if place.kind in _DOCUMENTS]
        for some in _slices(wanted, _VALUES):
            async with translate_errors(self._client):
                values = await self._client.mget([name for name, _ in some])
            for (_, place), value in zip(some, values, strict=True):
                document = document_of(place, value)
                if document is not None:
                    yield replace(document, instance=place.instance)

    async def places(
        self, advance: Advance, *, instance: str | None = None
    ) -> AsyncIterator[list[tuple[bytes, ParsedKey]]]:
        """Yield the keys of one instance, or of all, with what they stand for; no others."""
        every = instance is None
        pattern = self.keys.pattern if instance is None else self.keys.instance_pattern(instance)
        async for names in self._steps(pattern, advance):
            parsed = ((name, self.keys.parse(name)) for name in names)
            yield [(n, p) for n, p in parsed if p is not None and (every or p.instance == instance)]

    async def pointing(self, names: Sequence[bytes], ids: Container[int]) -> list[bytes]:
        """Return those of the pointers that lead to one of these ids."""
        if not names:
            return []
        async with translate_errors(self._client):
            held = await self._client.mget(names)
        pairs = zip(names, held, strict=True)
        return [name for name, value in pairs if value and value.isdigit() and int(value) in ids]

    async def leading_to(self, names: Sequence[str]) -> dict[str, int]:
        """Return those of the pointers that hold an id, and the id that each holds."""
        found: dict[str, int] = {}
        for some in _slices(names, _STEP):
            async with translate_errors(self._client):
                held = await self._client.mget(some)
            pairs = zip(some, held, strict=True)
            found |= {n: int(value) for n, value in pairs if value and value.isdigit()}
        return found

    async def newest_conversations(self, instance: str, contact: Collection[str]) -> set[int]:
        """Return the conversations that a contact's names lead to."""
        found = await self.leading_to([self.keys.contact(instance, name) for name in contact])
        return set(found.values())

    async def unlink(self, names: Sequence[bytes]) -> int:
        """Delete keys; returns how many there were."""
        if not names:
            return 0
        async with translate_errors(self._client):
            return int(await self._client.unlink(*names))

    async def erase(
        self, documents: Sequence[Document], *, inbox: str = "/", whole_timeline: bool = True
    ) -> int:
        """Delete documents and what points to them; returns how many there were.

        Those that stand there by then must be of the inbox, where one is stated.
        """
        if not documents:
            return 0
        account_id, _, inbox_id = inbox.partition("/")
        names: list[str] = []
        arguments: list[str | int] = []
        for document in documents:
            key, timeline, pointers = self.keys.locate(document)
            timeline = timeline or self.keys.timeline(document.instance, document.id)
            names += (key, timeline, *pointers)
            arguments += (document.id, len(pointers), int(whole_timeline), account_id, inbox_id)
        async with translate_errors(self._client):
            return int(await self._erase(names, arguments))

    async def _steps(self, pattern: str, advance: Advance) -> AsyncIterator[list[bytes]]:
        cursor = 0
        while True:
            async with translate_errors(self._client):
                cursor, names = await self._client.scan(cursor, match=pattern, count=_STEP)
            advance(_STEP)
            yield names
            if cursor == 0:
                return


def document_of(place: ParsedKey | None, value: bytes | None) -> Document | None:
    """Return the document that a place of that kind holds, None where it is none of ours."""
    kind = _DOCUMENTS.get(place.kind) if place else None
    document: Document | None = decode(value, kind) if kind and value else None
    return document


def _slices(items: Sequence[Any], size: int) -> Iterator[Sequence[Any]]:
    for start in range(0, len(items), size):
        yield items[start : start + size]
