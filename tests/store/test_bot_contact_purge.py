"""What an earlier release cached of the bot contact: nobody reads it, and it is purged."""

from collections.abc import AsyncIterator
from dataclasses import dataclass
from typing import Any

import pytest
import redis.asyncio

from tests import events
from tests.recordings import webhooks
from worker.core import chatwoot_event
from worker.core.binding_rules import Bindings
from worker.core.bot_contact import is_about_bot
from worker.core.documents import PendingWrite
from worker.core.history.message_page import MessageRange
from worker.core.stream_entry import Entry, read_envelope
from worker.store.admin.bot_contact_purge import BotContactPurge, PurgeCounts
from worker.store.cache.binding_table import BindingTable
from worker.store.cache.document_reader import redis_reader
from worker.store.cache.document_writer import CacheSettings, DocumentWriter
from worker.store.cache.keyspace import Keyspace
from worker.store.client import Client, create_client
from worker.store.stream.stream_reader import StreamProducer

GROUP = "g"
LOJA = "loja-aurora"
BOT_CONVERSATION = 1501


@dataclass
class Place:
    """A cache and a stream, filled by a worker that did not know the bot contact."""

    client: Client
    prefix: str

    @property
    def stream(self) -> str:
        return f"{self.prefix}:events"

    async def cache(self, *bodies: bytes, instance: str = LOJA) -> None:
        """Cache what events hold, whoever they are about."""
        writes: list[PendingWrite] = []
        for number, body in enumerate(bodies, start=1):
            event = chatwoot_event.decode_event(body)
            assert event is not None
            entry = Entry(b"1795886500000-%d" % number, {b"payload": body})
            address = chatwoot_event.Destination(instance, 3)
            documents = chatwoot_event.build_documents(event, read_envelope(entry), address)
            writes += [PendingWrite(d, 2**53) for d in documents if d is not None]
        await DocumentWriter(self.client, CacheSettings(self.prefix)).write(writes)

    async def keys(self) -> set[str]:
        found = self.client.scan_iter(f"{self.prefix}:chatwoot:{LOJA}:*", count=1000)
        return {key.decode() async for key in found}

    def purge(self) -> BotContactPurge:
        table = BindingTable(self.client, CacheSettings(self.prefix))
        namespace = Keyspace(self.client, self.prefix)
        return BotContactPurge(table, namespace, self.client, self.stream, GROUP)


@pytest.fixture
async def place(redis_uri: str, prefix: str) -> AsyncIterator[Place]:
    async with create_client(redis_uri) as client:
        found = Place(client, prefix)
        table = BindingTable(client, CacheSettings(prefix))
        await table.put(Bindings.of_operator({"3/12": LOJA, "3/13": "outra"}))
        yield found


async def test_readers_refuse_all_of_it_at_once(place: Place) -> None:
    """By message, source id, conversation, contact and page; other conversations are served."""
    bodies = [*webhooks("01"), *webhooks("02")]
    await place.cache(*bodies, *webhooks("03"))
    reader = redis_reader(place.client, place.prefix).of
    messages = [event.body.id for body in bodies if (event := chatwoot_event.decode_event(body))]

    assert f"{place.prefix}:chatwoot:{LOJA}:conversation:{BOT_CONVERSATION}" in await place.keys()
    assert await reader(LOJA).conversation(BOT_CONVERSATION) is None
    assert await reader(LOJA).page(BOT_CONVERSATION, MessageRange()) is None
    assert [await reader(LOJA).conversation_of(c) for c in ("123456", "+123456")] == [None, None]
    assert [await reader(LOJA).message(m) for m in messages if m] == [None] * len(messages)
    others = [event for body in webhooks("03") if (event := chatwoot_event.decode_event(body))]
    assert others
    for event in others:
        display_id = event.conversation.id or 0
        assert await reader(LOJA).conversation(display_id) is not None
        page = await reader(LOJA).page(display_id, MessageRange())
        assert page is not None
        assert page.messages


async def test_a_page_is_refused_also_where_the_conversation_is_gone(place: Place) -> None:
    await place.cache(*webhooks("02"))
    keys = Keyspace(place.client, place.prefix).keys
    await place.client.delete(keys.conversation(LOJA, BOT_CONVERSATION))

    reader = redis_reader(place.client, place.prefix).of(LOJA)
    assert await reader.page(BOT_CONVERSATION, MessageRange(limit=1)) is None


async def test_a_purge_takes_all_of_it_and_nothing_else(place: Place) -> None:
    """More messages than the timeline holds, and an older conversation; it may be repeated."""
    await place.cache(*webhooks("03"))
    await place.cache(*webhooks("02"), instance="outra")
    kept = await place.keys()
    await place.cache(*webhooks("01"), *webhooks("02"))
    older = events.message(7, conversation_id=1400, content="WXYZ-1234")
    older["sender"]["identifier"] = older["conversation"]["meta"]["sender"]["identifier"] = None
    older["sender"]["phone_number"] = "+123456"
    older["conversation"]["meta"]["sender"]["phone_number"] = "+123456"
    typed = [events.message(n, conversation_id=1400) for n in range(1000, 1250)]
    await place.cache(*map(events.encode, [older, *typed]))
    await place.cache(events.encode(older))
    purge = place.purge()
    first, second = await purge.run(), await purge.run()

    assert first.documents > 250
    assert second == PurgeCounts()
    assert await place.keys() == kept
    outra = place.client.scan_iter(f"{place.prefix}:chatwoot:outra:*", count=1000)
    assert [key async for key in outra] == []


async def test_settled_entries_and_dead_letters_go_too(
    place: Place, client: redis.asyncio.Redis
) -> None:
    """What is pending or not read yet is left to the workers."""
    await place.cache(*webhooks("02"))
    producer = StreamProducer(place.client, place.stream)
    bodies = [*webhooks("02"), *webhooks("03")]
    ids = await producer.add_all({"payload": body} for body in bodies)
    await client.xgroup_create(place.stream, GROUP, "0")
    await client.xreadgroup(GROUP, "c", {place.stream: ">"}, count=len(bodies) - 2)
    await client.xack(place.stream, GROUP, *ids[1:])
    for body in bodies:
        await client.xadd(f"{place.stream}:dead", {"payload": body, "_reason": "no_instance"})
    purged = await place.purge().run()
    left: Any = await client.xrange(place.stream)
    dead: Any = await client.xrange(f"{place.stream}:dead")

    assert purged.entries == len(webhooks("02")) - 1
    assert [entry_id.decode() for entry_id, _ in left] == [ids[0], *ids[len(webhooks("02")) :]]
    assert purged.dead_letters == len(webhooks("02"))
    assert not any(is_about_bot(fields[b"payload"]) for _, fields in dead)


async def test_where_nothing_of_it_is_cached_nothing_is_read(place: Place) -> None:
    await place.cache(*webhooks("03"))
    await StreamProducer(place.client, place.stream).add({"payload": webhooks("02")[0]})

    assert await place.purge().run() == PurgeCounts()
    assert await place.client.xlen(place.stream) == 1
