"""The group on a real server: where it resumes, its lag, who is in it."""

from collections.abc import AsyncIterator

import pytest

from tests.waiting import wait_until
from worker.core.group_stats import GroupStats
from worker.core.stream_keys import StreamKeys
from worker.errors import GroupMissing
from worker.store.client import Client, create_client
from worker.store.stream.consumer_group import ConsumerGroup, CreatedGroup
from worker.store.stream.lease import Lease


@pytest.fixture
async def group(redis_uri: str, prefix: str) -> AsyncIterator[ConsumerGroup]:
    async with create_client(redis_uri) as own:
        group = ConsumerGroup(own, prefix, "g", "c")
        await group.create()
        yield group


async def add(client: Client, key: str, count: int) -> list[bytes]:
    return [await client.xadd(key, {"payload": str(n)}) for n in range(count)]


async def read(client: Client, key: str, count: int, *, ack: int = 0) -> None:
    reply = await client.xreadgroup("g", "c", {key: ">"}, count=count)
    ids = [entry_id for _, entries in reply for entry_id, _ in entries]
    if ids[:ack]:
        await client.xack(key, "g", *ids[:ack])


async def left(client: Client, key: str) -> list[bytes]:
    """What a group has still to read."""
    reply = await client.xreadgroup("g", "c", {key: ">"})
    return [entry_id for _, entries in reply for entry_id, _ in entries]


async def measured(group: ConsumerGroup) -> GroupStats:
    """Measure as the timer does."""
    stats = await group.stats()
    await group.save(stats)
    return stats


def text(entry_id: bytes) -> str:
    return entry_id.decode()


async def test_the_position_is_below_what_is_pending(
    group: ConsumerGroup, client: Client, prefix: str
) -> None:
    """Everything up to it is settled; nothing pending is."""
    ids = await add(client, prefix, 4)
    assert (await group.stats()).position == b"0-0"
    await read(client, prefix, 3, ack=1)
    stats = await group.stats()

    assert ids[0] <= stats.position < ids[1]
    assert (stats.pending, stats.oldest_pending) == (2, ids[1])
    await client.xack(prefix, "g", *ids)
    assert (await group.stats()).position == ids[2]


async def test_a_destroyed_group_resumes_where_it_was(
    group: ConsumerGroup, client: Client, prefix: str
) -> None:
    """What was pending comes again, what was settled does not; the key has a time to live."""
    ids = await add(client, prefix, 4)
    await read(client, prefix, 3, ack=2)
    position = text((await measured(group)).position)
    key = StreamKeys(prefix, "g").position
    assert 0 < await client.ttl(key) <= 7 * 86_400
    await client.xgroup_destroy(prefix, "g")

    assert await group.create() == CreatedGroup(position, again=True, lost=0)
    assert await group.create() is None
    assert await left(client, prefix) == ids[2:]
    assert await client.ttl(key) > 0


async def test_a_group_that_resumes_still_knows_its_lag(
    group: ConsumerGroup, client: Client, prefix: str
) -> None:
    """Where the server counts at all; else it is unknown until the group has caught up."""
    await add(client, prefix, 3)
    await read(client, prefix, 3, ack=3)
    await measured(group)
    await add(client, prefix, 2)
    await client.xgroup_destroy(prefix, "g")
    await group.create()

    stats = await group.stats()
    assert stats.lag == (None if stats.added is None else 2)
    await left(client, prefix)
    assert (await group.stats()).lag == 0


@pytest.mark.parametrize("lost", ["stream", "everything"])
async def test_another_stream_is_read_from_its_start(
    group: ConsumerGroup, client: Client, prefix: str, lost: str
) -> None:
    """Its ids may have gone back with the clock: to skip by the old position would lose entries."""
    await add(client, prefix, 3)
    await read(client, prefix, 2, ack=1)
    await measured(group)
    await client.delete(prefix)
    if lost == "everything":
        await client.delete(StreamKeys(prefix, "g").position)
    await client.xadd(prefix, {"payload": "a"}, id="1-1")

    created = await group.create()
    assert created is not None
    assert (created.position, created.again) == ("0-0", True)
    # One was pending and one unread, of which servers before 7.0 do not know.
    assert created.lost in (1, 2)
    assert await left(client, prefix) == [b"1-1"]


async def test_a_new_group_is_no_recreation(redis_uri: str, prefix: str) -> None:
    async with create_client(redis_uri) as own:
        group = ConsumerGroup(own, prefix, "g", "c")
        assert await group.create() == CreatedGroup("0-0", again=False, lost=0)
        await own.delete(prefix)

        assert await group.create() == CreatedGroup("0-0", again=True, lost=0)


async def test_a_position_outlives_its_worker(
    group: ConsumerGroup, redis_uri: str, client: Client, prefix: str
) -> None:
    """The next one finds it beside the stream, though nobody ran when the group went."""
    ids = await add(client, prefix, 2)
    await read(client, prefix, 1, ack=1)
    await measured(group)
    await client.xgroup_destroy(prefix, "g")
    async with create_client(redis_uri) as own:
        created = await ConsumerGroup(own, prefix, "g", "other").create()

    assert created == CreatedGroup(text(ids[0]), again=True, lost=0)


async def test_a_missing_group_is_said(group: ConsumerGroup, client: Client, prefix: str) -> None:
    await client.xgroup_destroy(prefix, "g")
    with pytest.raises(GroupMissing):
        await group.stats()
    with pytest.raises(GroupMissing):
        await group.retire(0)


async def test_a_gap_is_seen_until_the_group_reads_beyond_it(
    group: ConsumerGroup, client: Client, prefix: str
) -> None:
    """On each line of servers: those that mend their count, those that do not, those without."""
    gaps: list[int | None] = []

    async def measure() -> int | None:
        stats = await measured(group)
        gaps.append(stats.unread_gap)
        return stats.lag

    counts = (await group.stats()).added is not None
    await measure()
    await add(client, prefix, 10)
    await read(client, prefix, 3, ack=3)
    assert await measure() == (7 if counts else None)
    await client.xtrim(prefix, maxlen=4, approximate=False)
    assert await measure() == 4
    assert await measure() == 4
    await read(client, prefix, 9, ack=9)
    assert await measure() == 0
    await add(client, prefix, 10)
    await client.xtrim(prefix, maxlen=5, approximate=False)
    assert await measure() == 5
    await read(client, prefix, 1, ack=1)
    assert await measure() in (4, None)
    await read(client, prefix, 9, ack=9)
    assert await measure() == 0
    # Trimming what was read is no loss.
    await client.xtrim(prefix, maxlen=1, approximate=False)
    assert await measure() == 0

    known, unknown = [0, 0, 3, 3, 0, 5, 0, 0, 0], [None, 0, None, None, 0, None, 0, 0, 0]
    assert gaps == (known if counts else unknown)


async def test_a_group_that_somebody_else_created_ahead_is_set_back(
    group: ConsumerGroup, redis_uri: str, client: Client, prefix: str
) -> None:
    """As with `$`, while no worker ran: to where we were, though a measurement came first."""
    ids = await add(client, prefix, 4)
    await read(client, prefix, 2, ack=2)
    await measured(group)
    await client.xgroup_destroy(prefix, "g")
    await client.xgroup_create(prefix, "g", "$")
    async with create_client(redis_uri) as own:
        another = ConsumerGroup(own, prefix, "g", "c")
        await measured(another)
        created = await another.create()
        assert created == CreatedGroup(text(ids[1]), again=True, lost=0, set_back_from=text(ids[3]))
        assert await another.create() is None

    assert await left(client, prefix) == ids[2:]


@pytest.mark.parametrize("has_position", [True, False])
async def test_a_group_that_somebody_set_stays_where_consumers_read_or_no_position_is_known(
    redis_uri: str, client: Client, prefix: str, *, has_position: bool
) -> None:
    """An operator may skip entries, and create the group before the first worker starts."""
    await add(client, prefix, 3)
    async with create_client(redis_uri) as own:
        group = ConsumerGroup(own, prefix, "g", "c")
        if has_position:
            await group.create()
            await read(client, prefix, 1, ack=1)
            await measured(group)
            await client.xgroup_setid(prefix, "g", "$")
        else:
            await client.xgroup_create(prefix, "g", "$")

        assert await ConsumerGroup(own, prefix, "g", "c").create() is None
    assert await left(client, prefix) == []


async def test_what_went_before_the_group_existed_is_not_its_loss(
    redis_uri: str, client: Client, prefix: str
) -> None:
    await add(client, prefix, 10)
    await client.xtrim(prefix, maxlen=4, approximate=False)
    async with create_client(redis_uri) as own:
        group = ConsumerGroup(own, prefix, "g", "c")
        await group.create()
        await read(client, prefix, 1)
        stats = await measured(group)
        counts = stats.added is not None
        assert stats.lag in ((3, None) if counts else (None,))
        assert stats.unread_gap == 0
        await left(client, prefix)
        stats = await measured(group)
        assert (stats.unread_gap, stats.lag) == (0, 0)


async def test_entries_deleted_one_by_one_make_the_lag_unknown_or_right(
    group: ConsumerGroup, client: Client, prefix: str
) -> None:
    """Servers say null then, or a wrong number; never 0 while there is something to read."""
    ids = await add(client, prefix, 5)
    await read(client, prefix, 1, ack=1)
    await client.xdel(prefix, ids[2])

    await group.save(await group.stats())
    assert (await group.stats()).lag in (None, 3)


async def test_dead_consumers_are_retired_and_no_others(
    group: ConsumerGroup, client: Client, prefix: str
) -> None:
    """Whoever holds something stays, and so do the living, and we."""
    await add(client, prefix, 1)
    for name in ("holds", "dead", "c"):
        await client.xreadgroup("g", name, {prefix: ">"}, count=1)
    await client.xgroup_createconsumer(prefix, "g", "dead")

    async def has_idled() -> bool:
        return all(c["idle"] >= 50 for c in await client.xinfo_consumers(prefix, "g"))

    await wait_until(has_idled, "50 ms went by")
    await client.xgroup_createconsumer(prefix, "g", "young")
    await client.xgroup_createconsumer(prefix, "g", "c")
    assert await group.retire(3600) == 0
    assert await group.retire(0.05) == 1
    names = {c["name"] for c in await client.xinfo_consumers(prefix, "g")}
    assert names == {b"holds", b"young", b"c"}


async def test_a_lease_is_held_by_one_and_expires(redis_uri: str, client: Client) -> None:
    """Its holder may renew it and give it back; nobody else may."""
    key = StreamKeys("s", "g:1").lease("sweep") + redis_uri
    async with create_client(redis_uri) as own:
        first, second = Lease(own, key), Lease(own, key)
        assert await first.hold(60)
        assert await first.hold(60)
        assert not await second.hold(60)
        await second.release()
        assert 0 < await client.pttl(key) <= 60_000
        assert not await second.hold(60)
        await first.release()
        assert await second.hold(0.01)
        await wait_until(lambda: first.hold(60), "the lease of one that died is free")
        await first.release()
