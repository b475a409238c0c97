"""Documents in memory alone: by the rules that the cache in Redis is held to."""

import asyncio
import itertools
import time
from typing import Any

import pytest

from tests import events
from tests.store.test_document_writer import INSTANCE, NOW_MS, pending_writes
from worker.core.binding_rules import BindingClaim
from worker.core.history.message_page import MessageRange
from worker.errors import RedisUnavailable
from worker.store.cache.document_reader import DocumentReader
from worker.store.cache.document_writer import CacheSettings
from worker.store.cache.memory_bindings import MemoryBindings
from worker.store.cache.memory_documents import MemoryDocuments

DAY_S = 86_400


class MemoryFixture:
    """A memory, its reader, and a clock to set."""

    def __init__(self, max_bytes: int = 1_000_000) -> None:
        self.now = NOW_MS / 1000
        self.accounts = {INSTANCE: 3}
        self.memory = MemoryDocuments(
            CacheSettings("p", ttl_s=100, conversation_messages=3),
            max_bytes,
            accounts=self.accounts,
            is_whole=lambda: True,
            clock=lambda: self.now,
        )
        self.reader = DocumentReader(self.memory, "p")

    async def write(self, *bodies: dict[str, Any], **when: Any) -> list[str]:
        """Write events one after the other; gives what became of their documents."""
        answers: list[str] = []
        for body in bodies:
            answers += (await self.memory.write(pending_writes(body, **when))).outcomes
        return answers

    async def text(self, number: int = 90214) -> str | None:
        """A message as it is stored."""
        view = await self.reader.of(INSTANCE).message(number)
        return view.json.decode() if view else None

    async def ids(self) -> list[int]:
        """A conversation's messages."""
        page = await self.reader.of(INSTANCE).page(1584, MessageRange())
        return [message.id for message in page.messages] if page else []


async def test_any_order_of_events_ends_the_same() -> None:
    """Redelivered, reordered: the end state is one."""
    bodies = [
        events.message(content="one", at=1_790_863_300.0),
        events.message(content="two", at=1_790_863_301.0, event="message_updated"),
        events.message(source_id="WAID:A", at=1_790_863_299.0, status="delivered"),
        events.message(deleted=True, at=1_790_863_298.0, event="message_updated"),
    ]
    ends = set()
    for order in itertools.permutations(bodies):
        cache = MemoryFixture()
        await cache.write(*order, *order[:2])
        ends.add(await cache.text())

    assert len(ends) == 1
    assert '"deleted":true' in str(ends)
    assert "WAID:A" in str(ends)


async def test_says_what_became_of_a_draft() -> None:
    cache = MemoryFixture()
    body = events.message()

    assert await cache.write(body) == ["applied", "applied"]
    assert await cache.write(body) == ["stale", "stale"]


async def test_a_timeline_keeps_the_newest() -> None:
    cache = MemoryFixture()
    await cache.write(*(events.message(number) for number in (5, 2, 4, 3, 1, 4)))

    assert await cache.ids() == [3, 4, 5]


async def test_pointers_keep_the_greater_id() -> None:
    cache = MemoryFixture()
    for number in (7, 9, 8):
        await cache.write(events.message(number, conversation_id=number, source_id="WAID:S"))
    found = await cache.reader.of(INSTANCE).message_by_source("S")

    assert found is not None
    assert found.id == 9
    assert await cache.reader.of(INSTANCE).conversation_of("5511900000042") == 9


async def test_a_document_lives_from_its_newest_event() -> None:
    """Not from when this process happened to read it, so every process holds the same."""
    cache = MemoryFixture()
    await cache.write(events.message(1), ms=NOW_MS - 60_000)
    cache.now += 39
    assert await cache.text(1) is not None

    cache.now += 2
    assert await cache.text(1) is None
    assert await cache.ids() == []


async def test_a_deletion_is_remembered_longer_and_a_late_event_creates_nothing() -> None:
    cache = MemoryFixture()
    await cache.write(events.message(1, deleted=True))
    cache.now += 200
    assert await cache.write(events.message(1, content="late", at=2e9)) == ["stale", "stale"]
    assert await cache.write(events.message(2)) == ["stale", "stale"]

    assert await cache.text(2) is None
    cache.now += DAY_S
    assert await cache.text(1) is None


async def test_what_another_account_left_is_nobodys() -> None:
    cache = MemoryFixture()
    await cache.write(events.message(1))
    cache.accounts[INSTANCE] = 4

    assert await cache.text(1) is None


async def test_the_least_recently_used_go_first() -> None:
    cache = MemoryFixture(max_bytes=20_000)
    for number in range(1, 50):
        await cache.write(events.message(number, content="x" * 500))

    assert await cache.text(1) is None
    assert await cache.text(49) is not None
    assert len(cache.memory) < 30


async def test_half_a_memory_answers_nothing() -> None:
    memory = MemoryDocuments(CacheSettings("p"), 1000, accounts={}, is_whole=lambda: False)

    with pytest.raises(RedisUnavailable, match="being rebuilt"):
        await DocumentReader(memory, "p").of(INSTANCE).message(1)


@pytest.mark.parametrize(
    ("claim", "granted"),
    [
        (BindingClaim(3, 1, "a", further=False), "a"),  # it stands already
        (BindingClaim(3, 1, "b", further=True), "a"),  # an inbox has one instance
        (BindingClaim(3, 2, "a", further=False), None),  # not by name alone
        (BindingClaim(3, 2, "a", further=True), "a"),
        (BindingClaim(4, 1, "a", further=True), None),  # an instance has one account
        (BindingClaim(4, 1, "b", further=False), "b"),
    ],
)
async def test_bindings_are_granted_as_by_the_script(
    claim: BindingClaim, granted: str | None
) -> None:
    table = MemoryBindings()
    await table.claim([BindingClaim(3, 1, "a", further=False)])
    answer = await table.claim([claim])

    assert answer.instances.get(claim.inbox) == granted
    assert (await table.load()).accounts["a"] == 3
    assert table.accounts["a"] == 3


def test_writing_is_quick() -> None:
    """A stream of a day is read at each start."""
    some = [write for number in range(200) for write in pending_writes(events.message(number + 1))]
    cache = MemoryFixture(max_bytes=50_000_000)
    began = time.perf_counter()
    asyncio.run(_write(cache.memory, some))

    assert len(some) / (time.perf_counter() - began) > 2000


async def _write(memory: MemoryDocuments, some: list[Any]) -> None:
    await memory.write(some)
