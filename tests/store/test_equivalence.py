"""One rule, written down three times: the script, the memory and the model end alike.

Whatever the history, however it is cut into batches and repeated, under whatever name.
"""

import time
import uuid
from collections.abc import Iterator, Sequence
from functools import reduce
from typing import Any, cast

import pytest
from anyio.from_thread import BlockingPortal, start_blocking_portal
from hypothesis import given, settings, strategies as st
from msgspec.structs import replace

from tests.core.merge_model import ModelCache
from tests.core.names import names
from tests.core.rows import CONVERSATION_ID, MESSAGE_ID, Reading, histories
from worker.core.cache_keys import CacheKeys
from worker.core.coalescer import Coalescer
from worker.core.documents import Document, Message, PendingWrite, encode
from worker.core.merge import merge
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.cache.memory_documents import MemoryDocuments
from worker.store.client import Client, create_client

TTL_S = 1000
NOW_MS = int(time.time() * 1000)
MOST = 2

Step = tuple[Reading, bool]
"""A reading, and whether its entry is older than what may create a document."""

_SPECIAL_NAMES = ('x","inbox_id":', '"', "\\", '\\","inbox_id":9', '}"', '{"revision":"')


def steps() -> st.SearchStrategy[list[list[Step]]]:
    """Batches of readings, some of them again, some in entries that are too old to create."""
    ids = tuple(MESSAGE_ID + n for n in (0, 0, 1, 2, 3))
    some = histories(min_size=2, max_size=8, message_ids=ids)
    return st.tuples(some, st.booleans()).flatmap(_batches)


def _batches(of: tuple[list[Reading], bool]) -> st.SearchStrategy[list[list[Step]]]:
    history, some_are_old = of
    step = st.tuples(st.sampled_from(history), st.booleans() if some_are_old else st.just(False))
    return st.lists(st.lists(step, min_size=1, max_size=4), min_size=1, max_size=5)


def pending_writes(batch: Sequence[Step], instance: str) -> list[PendingWrite]:
    fold = Coalescer()
    for reading, is_old in batch:
        for document in reading.documents():
            event_ms = NOW_MS - is_old * (TTL_S + 1000) * 1000
            fold.add(replace(document, instance=instance), event_ms)
    return fold.writes


class Stores:
    """The same documents in Redis, in memory and in the model."""

    def __init__(self, client: Client) -> None:
        self.prefix = f"test-{uuid.uuid4().hex}"
        self.client = client
        of = CacheSettings(self.prefix, TTL_S, MOST)
        self.keys = CacheKeys(self.prefix)
        self.cache = DocumentWriter(client, of)
        self.memory = MemoryDocuments(
            of, 10**7, accounts={}, is_whole=lambda: True, clock=lambda: NOW_MS / 1000
        )
        self.model = ModelCache(TTL_S * 1000, now_ms=NOW_MS)

    async def write(self, some: list[PendingWrite]) -> list[list[str]]:
        """Write one batch to all; gives the answers of each."""
        return [
            list((await self.cache.write(some)).outcomes),
            list((await self.memory.write(some)).outcomes),
            [self.model.write(write) for write in some],
        ]

    async def held(self, document: Document) -> list[bytes | None]:
        """What each holds of a document."""
        key, _, _ = self.keys.locate(document)
        modelled = self.model.get((type(document), document.instance, document.id))
        return [
            await self.client.get(key),
            self.memory._get(key),
            None if modelled is None else encode(modelled),
        ]

    async def indexes(self, instance: str) -> tuple[list[int], list[int]]:
        key = self.keys.timeline(instance, CONVERSATION_ID)
        members = await self.client.zrange(key, 0, -1)
        return [int(member) for member in members], list(self.memory._get(key) or ())

    async def keys_without_end(self) -> list[bytes]:
        keys = await self.client.keys(f"{self.prefix}:*")
        return [key for key in keys if await self.client.ttl(key) < 0]

    async def clear(self) -> None:
        await self.client.delete(*await self.client.keys(f"{self.prefix}:*"), "nothing")


@pytest.fixture(scope="module")
def portal() -> Iterator[BlockingPortal]:
    with start_blocking_portal("asyncio", {"use_uvloop": True}) as made:
        yield made


@pytest.fixture(scope="module")
def shared(portal: BlockingPortal, redis_uri: str) -> Iterator[Client]:
    client = create_client(redis_uri)
    yield client
    portal.call(client.aclose)


@settings(max_examples=60, deadline=None)
@given(steps(), st.sampled_from(_SPECIAL_NAMES) | names())
@pytest.mark.usefixtures("server_binary")
def test_script_memory_and_model_end_alike(
    portal: BlockingPortal, shared: Client, batches: list[list[Step]], instance: str
) -> None:
    portal.call(_compare, Stores(shared), batches, instance)


async def _compare(stores: Stores, batches: list[list[Step]], instance: str) -> None:
    seen: dict[tuple[type, int], Document] = {}
    for batch in batches:
        some = pending_writes(batch, instance)
        redis, memory, model = await stores.write(some)
        assert redis == memory == model
        seen |= {(type(write.document), write.document.id): write.document for write in some}
    for document in seen.values():
        redis_, memory_, model_ = await stores.held(document)
        assert redis_ == memory_ == model_
    if not any(is_old for batch in batches for _, is_old in batch):
        in_redis, in_memory = await stores.indexes(instance)
        assert in_redis == in_memory
        await _is_the_join(stores, batches, instance)
    assert await stores.keys_without_end() == []
    await stores.clear()


async def _is_the_join(stores: Stores, batches: list[list[Step]], instance: str) -> None:
    """Nothing decides but merge."""
    readings = [reading for batch in batches for reading, _ in batch]
    for message_id in {reading.message_id for reading in readings}:
        known = [r.documents()[0] for r in readings if r.message_id == message_id]
        joined: Message = replace(reduce(merge, known), instance=instance)
        assert (await stores.held(joined))[0] == encode(cast("Any", joined))
