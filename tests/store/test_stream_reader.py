"""The stream adapter against a real server."""

import uuid
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import anyio
import pytest
from redis.exceptions import ResponseError

from tests.servers import Server
from tests.waiting import wait_until
from worker.core.stream_entry import DeadEntry, Entry, PendingEntry, SpoolPosition
from worker.errors import ConfigurationError, GroupMissing, RedisUnavailable, UnusableEntry
from worker.store.client import Client, create_client
from worker.store.stream.stream_reader import StreamProducer, StreamReader, StreamSettings


@asynccontextmanager
async def opened(
    uri: str, key: str, *, consumer: str = "c", **settings: Any
) -> AsyncIterator[StreamReader]:
    of = StreamSettings(key, "g", consumer, **{"block_s": 0.05, **settings})
    async with create_client(uri, block_s=of.block_s) as reader, create_client(uri) as writer:
        yield StreamReader(reader, writer, of)


@pytest.fixture
async def stream(redis_uri: str, prefix: str) -> AsyncIterator[StreamReader]:
    async with opened(redis_uri, prefix) as stream:
        await stream.create_group()
        yield stream


def letter(entry: Entry) -> DeadEntry:
    return DeadEntry(entry, UnusableEntry("bad_event", "it is odd"))


async def dead(client: Client, key: str) -> list[tuple[bytes, dict[bytes, bytes]]]:
    entries: list[tuple[bytes, dict[bytes, bytes]]] = await client.xrange(f"{key}:dead")
    return entries


@pytest.mark.parametrize("protocol", [2, 3])
async def test_reads_what_came_before_the_group(
    redis_uri: str, prefix: str, client: Client, protocol: int
) -> None:
    """Entries have one shape in RESP2 and RESP3; an idle stream gives none."""
    await client.xadd(prefix, {"payload": "a", "instance": "loja"})
    separator = "&" if "?" in redis_uri else "?"
    async with opened(f"{redis_uri}{separator}protocol={protocol}", prefix) as stream:
        assert await stream.create_group()
        assert not await stream.create_group()
        (entry,) = await stream.read()

        assert entry.fields == {b"payload": b"a", b"instance": b"loja"}
        assert entry.attempts == 1
        assert await stream.read() == []


@pytest.mark.parametrize("protocol", [2, 3])
async def test_a_pending_entry_that_was_trimmed_comes_without_fields(
    redis_uri: str, prefix: str, client: Client, protocol: int
) -> None:
    """Servers report it each in their own way: nil, or not at all."""
    separator = "&" if "?" in redis_uri else "?"
    async with opened(f"{redis_uri}{separator}protocol={protocol}", prefix) as stream:
        await stream.create_group()
        first, second = [await client.xadd(prefix, {"payload": str(n)}) for n in (1, 2)]
        await stream.read()
        await client.xdel(prefix, first)
        claimed = await stream.claim(await stream.pending(b"0-0"))

        assert claimed == [
            Entry(first, {}, attempts=2),
            Entry(second, {b"payload": b"2"}, attempts=2),
        ]


async def test_pages_own_pending_entries_with_their_attempts(
    redis_uri: str, prefix: str, client: Client
) -> None:
    """Each page begins behind the last; another consumer's entries are not among them."""
    async with opened(redis_uri, prefix, batch_size=2) as stream:
        await stream.create_group()
        ids = [await client.xadd(prefix, {"payload": str(n)}) for n in range(3)]
        await stream.read()
        await stream.read()
        await client.xadd(prefix, {"payload": "x"})
        async with opened(redis_uri, prefix, consumer="other") as other:
            await other.read()
        await stream.claim([PendingEntry(ids[1], 1)])

        assert await stream.pending(b"0-0") == [PendingEntry(ids[0], 1), PendingEntry(ids[1], 2)]
        assert await stream.pending(ids[1]) == [PendingEntry(ids[2], 1)]


async def test_a_claim_whose_reply_was_lost_is_one_attempt(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """Or an outage would bury entries that nobody tried."""
    for n in range(3):
        await client.xadd(prefix, {"payload": str(n)})
    tried, *_ = await stream.read()
    await stream.claim([PendingEntry(tried.id, 1)])
    pending = await stream.pending(b"0-0")
    for _ in range(5):
        claimed = await stream.claim(pending)

    assert [entry.attempts for entry in claimed] == [3, 2, 2]
    assert [p.attempts for p in await stream.pending(b"0-0")] == [3, 2, 2]


async def test_acks_only_once(stream: StreamReader, client: Client, prefix: str) -> None:
    """The count is of entries that were pending."""
    entry_id = await client.xadd(prefix, {"payload": "a"})
    await stream.read()

    assert await stream.ack([entry_id]) == 1
    assert await stream.ack([entry_id]) == 0
    assert await stream.ack([]) == 0


@pytest.mark.parametrize("command", ["delete", "xgroup_destroy"])
async def test_says_that_the_group_is_missing_when_it_goes_during_a_blocking_read(
    redis_uri: str, prefix: str, client: Client, command: str
) -> None:
    """Servers say UNBLOCKED or NOGROUP, old ones with the next read; all mean: create it again."""
    async with opened(redis_uri, prefix, block_s=2) as stream:
        await stream.create_group()
        failures: list[Exception] = []

        async def read() -> None:
            try:
                while True:
                    await stream.read()
            except GroupMissing as error:
                failures.append(error)

        async def is_blocked() -> bool:
            clients = await client.client_list()
            return any(c["cmd"] == "xreadgroup" and "b" in c["flags"] for c in clients)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(read)
            await wait_until(is_blocked, "the read blocks")
            await (
                client.delete(prefix) if command == "delete" else client.xgroup_destroy(prefix, "g")
            )

        assert len(failures) == 1


async def test_a_read_without_group_says_so(redis_uri: str, prefix: str) -> None:
    """The stream may be gone altogether."""
    async with opened(redis_uri, prefix) as stream:
        with pytest.raises(GroupMissing):
            await stream.read()
        with pytest.raises(GroupMissing):
            await stream.consumer_idle_ms()
        with pytest.raises(GroupMissing):
            await stream.group.figures()


async def test_a_key_of_another_type_is_a_wrong_setting(
    redis_uri: str, prefix: str, client: Client
) -> None:
    """The message names the setting to change."""
    await client.set(prefix, "text")
    async with opened(redis_uri, prefix) as stream:
        with pytest.raises(ConfigurationError, match="CHATWOOT_CACHE_STREAM_KEY"):
            await stream.create_group()


async def test_buries_with_every_field_and_acks_in_one_step(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """The letter holds all that the entry held, and why it is dead."""
    entry_id = await client.xadd(prefix, {"payload": b"\xff", "odd": "1", "_reason": "forged"})
    (entry,) = await stream.read()
    buried = await stream.bury([letter(entry)])
    ((_, fields),) = await dead(client, prefix)

    assert (buried.acked, buried.dropped) == (1, 0)
    assert await stream.pending(b"0-0") == []
    assert fields.pop(b"_at").endswith(b"+00:00")
    assert fields == {
        b"payload": b"\xff",
        b"odd": b"1",
        b"_id": entry_id,
        b"_stream": prefix.encode(),
        b"_reason": b"bad_event",
        b"_error": b"it is odd",
        b"_attempts": b"1",
        b"_consumer": b"c",
    }


async def test_an_entry_stays_pending_while_its_letter_cannot_be_written(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """A script that fails takes nothing back, so it lets go last."""
    entry_id = await client.xadd(prefix, {"payload": "a"})
    letters = [letter(entry) for entry in await stream.read()]
    await client.set(f"{prefix}:dead", "text")
    with pytest.raises(ConfigurationError, match=":dead"):
        await stream.bury(letters)

    assert await stream.pending(b"0-0") == [PendingEntry(entry_id, 1)]


async def test_an_attempt_that_was_none_is_given_back(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """It counts as if the entry had not been handed out."""
    entry_id = await client.xadd(prefix, {"payload": "a"})
    entries = await stream.read()
    await stream.give_back(entries)

    assert await stream.pending(b"0-0") == [PendingEntry(entry_id, 0)]


async def test_a_replayed_entry_keeps_its_first_id(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """However often it dies and is replayed."""
    await client.xadd(prefix, {"payload": "a", "_id": "5-1"})
    await stream.bury([letter(entry) for entry in await stream.read()])
    ((_, fields),) = await dead(client, prefix)

    assert fields[b"_id"] == b"5-1"


async def test_buries_once_though_the_reply_was_lost(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """A second try finds the entry acknowledged, and adds no second letter."""
    await client.xadd(prefix, {"payload": "a"})
    letters = [letter(entry) for entry in await stream.read()]
    await stream.bury(letters)

    assert (await stream.bury(letters)).acked == 0
    assert len(await dead(client, prefix)) == 1


async def test_buries_what_only_we_still_have(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """When the whole stream went meanwhile, the letter is the only copy."""
    await client.xadd(prefix, {"payload": "a"})
    letters = [letter(entry) for entry in await stream.read()]
    await client.delete(prefix)
    await stream.bury(letters)

    assert len(await dead(client, prefix)) == 1


async def test_dead_letters_are_bounded_by_number(
    redis_uri: str, prefix: str, client: Client
) -> None:
    """The oldest go first, and are counted."""
    async with opened(redis_uri, prefix, dead_max_entries=3) as stream:
        await stream.create_group()
        for n in range(5):
            await client.xadd(prefix, {"payload": str(n)})
        buried = await stream.bury([letter(entry) for entry in await stream.read()])

        assert buried.dropped == 2
        assert [f[b"payload"] for _, f in await dead(client, prefix)] == [b"2", b"3", b"4"]


@pytest.mark.parametrize("days", [31, 60, 80, 110])
async def test_dead_letters_are_bounded_by_age(
    stream: StreamReader, client: Client, prefix: str, days: int
) -> None:
    """What is older than the retention goes without a new letter, too; what is young stays.

    Redis 6.2 compares ids that are near each other in memory as if they were 32 bits.
    """
    now_s, _ = await client.time()
    for age in (days, 29, 0):
        await client.xadd(f"{prefix}:dead", {"age": age}, id=f"{(now_s - age * 86_400) * 1000}-1")

    assert await stream.letters.drop_old() == 1
    assert [f[b"age"] for _, f in await dead(client, prefix)] == [b"29", b"0"]


async def test_buries_an_entry_with_thousands_of_fields(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """The surplus is kept in one field."""
    await client.xadd(prefix, {f"field{n}": "é" for n in range(5000)})
    await stream.bury([letter(entry) for entry in await stream.read()])
    ((_, fields),) = await dead(client, prefix)

    assert b"field4999" in fields[b"_more"]
    assert fields[b"_reason"] == b"bad_event"


async def test_figures_of_stream_and_group(
    stream: StreamReader, client: Client, prefix: str
) -> None:
    """Length, what is pending and since when, what is still to come where the server knows it."""
    ids = [await client.xadd(prefix, {"payload": str(n)}) for n in range(2)]
    await stream.read()
    await client.xadd(prefix, {"payload": "late"})
    figures = await stream.group.figures()

    assert (figures.length, figures.pending) == (3, 2)
    assert figures.stated_lag in (1, None)
    assert figures.oldest_pending_s == int(ids[0].partition(b"-")[0]) / 1000
    name, version = await stream.server()
    assert name in ("redis", "valkey")
    assert version[0].isdigit()


async def test_adds_byte_for_byte(redis_uri: str, prefix: str, client: Client) -> None:
    """One, or many in order."""
    payloads: Sequence[bytes] = [uuid.uuid4().bytes for _ in range(3)]
    async with create_client(redis_uri) as own:
        producer = StreamProducer(own, prefix)
        await producer.ping()
        first = await producer.add({"payload": payloads[0]})
        rest = await producer.add_all({"payload": payload} for payload in payloads[1:])

    added = await client.xrange(prefix)
    assert [fields[b"payload"] for _, fields in added] == payloads
    assert [entry_id.decode() for entry_id, _ in added] == [first, *rest]


def rows(*numbers: int) -> list[tuple[bytes, dict[str, bytes]]]:
    """Rows of a spool, by their positions."""
    return [(b"%d-x" % n, {"payload": b"%d" % n, "_id": b"1-%d" % n}) for n in numbers]


@pytest.mark.parametrize("protocol", [2, 3])
async def test_rows_of_a_spool_are_added_once(
    redis_uri: str, prefix: str, client: Client, protocol: int
) -> None:
    """Whoever does not know the record adds nothing and is told it; a lost record is none."""
    none, second, third = (SpoolPosition("s", row) for row in (b"", b"2-x", b"3-x"))
    async with create_client(f"{redis_uri}?protocol={protocol}") as own:
        producer = StreamProducer(own, prefix)
        assert await producer.drain(none, []) == (none, 0)
        assert await producer.drain(none, rows(1, 2)) == (second, 2)
        assert await producer.drain(none, rows(1, 2)) == (second, 0)
        assert await producer.drain(second, rows(3)) == (third, 1)
        assert await producer.drain(second, []) == (third, 0)
        assert await producer.drain(SpoolPosition("other"), rows(3)) == (
            SpoolPosition("other", b"3-x"),
            1,
        )
        assert [f[b"payload"] for _, f in await client.xrange(prefix)] == [b"1", b"2", b"3", b"3"]

        assert await client.ttl(f"{prefix}:spool:s") > 29 * 86_400
        await client.expire(f"{prefix}:spool:s", 100)
        await producer.drain(third, [])
        assert await client.ttl(f"{prefix}:spool:s") > 29 * 86_400
        await client.delete(f"{prefix}:spool:s")
        assert await producer.drain(third, rows(4)) == (none, 0)
        assert await producer.drain(none, rows(3, 4)) == (SpoolPosition("s", b"4-x"), 2)


async def test_rows_of_a_spool_may_be_many(redis_uri: str, prefix: str, client: Client) -> None:
    """Lua unpacks about 8,000 values at once; these are 18,000."""
    async with create_client(redis_uri) as own:
        _, added = await StreamProducer(own, prefix).drain(SpoolPosition("s"), rows(*range(3000)))
    assert added == await client.xlen(prefix) == 3000


async def test_a_row_that_the_server_refuses_is_not_recorded(
    redis_uri: str, prefix: str, client: Client
) -> None:
    """Nor is one behind it added; those before it are. Here the stream runs out of ids."""
    await client.xadd(prefix, {"payload": "0"}, id=f"{2**64 - 1}-{2**64 - 3}")
    async with create_client(redis_uri) as own:
        producer = StreamProducer(own, prefix)
        second = SpoolPosition("s", b"2-x")
        assert await producer.drain(SpoolPosition("s"), rows(1, 2, 3)) == (second, 2)
        with pytest.raises(ResponseError, match="exhausted"):
            await producer.drain(second, rows(3, 4))
        assert await producer.drain(second, []) == (second, 0)


async def test_a_server_without_memory_adds_no_row(server_binary: Path) -> None:
    with Server(server_binary, "--maxmemory", "1") as server:
        async with create_client(server.uri) as own:
            with pytest.raises(RedisUnavailable, match="maxmemory"):
                await StreamProducer(own, "s").drain(SpoolPosition("s"), rows(1, 2))
            await own.config_set("maxmemory", 0)
            assert await StreamProducer(own, "s").drain(SpoolPosition("s"), []) == (
                SpoolPosition("s"),
                0,
            )
            assert await own.exists("s") == 0


async def test_a_consumer_is_seen_though_nothing_comes(stream: StreamReader) -> None:
    """And is unknown before."""
    assert await stream.consumer_idle_ms() is None
    await stream.keep_name()

    async def has_idled() -> bool:
        return (await stream.consumer_idle_ms() or 0) >= 50

    await wait_until(has_idled, "50 ms went by")
    await stream.keep_name()
    idle_ms = await stream.consumer_idle_ms()
    assert idle_ms is not None
    assert idle_ms < 50
