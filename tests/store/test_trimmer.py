"""Trimming on a real server: what nobody needs goes, and nothing else."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

import pytest

from worker.errors import GroupMissing
from worker.store.client import Client, create_client
from worker.store.stream.trimmer import Trimmed, Trimmer


@asynccontextmanager
async def trimming(
    uri: str, key: str, *, retention_s: float = 3600, **limit: int
) -> AsyncIterator[Trimmer]:
    async with create_client(uri) as own:
        yield Trimmer(own, key, "g", retention_s=retention_s, max_entries=limit.get("max_entries"))


async def add_old(client: Client, key: str, count: int) -> list[bytes]:
    """Entries of long ago."""
    return [await client.xadd(key, {"p": "x"}, id=f"{n + 1}-0") for n in range(count)]


async def settle(client: Client, key: str, count: int, *, group: str = "g") -> None:
    reply: Any = await client.xreadgroup(group, "c", {key: ">"}, count=count)
    await client.xack(key, group, *(entry_id for _, entries in reply for entry_id, _ in entries))


async def ids(client: Client, key: str) -> list[bytes]:
    return [entry_id for entry_id, _ in await client.xrange(key)]


@pytest.fixture
async def key(client: Client, prefix: str) -> str:
    await client.xgroup_create(prefix, "g", "0", mkstream=True)
    return prefix


async def test_acknowledged_entries_beyond_the_retention_go(
    redis_uri: str, client: Client, key: str
) -> None:
    """Young ones stay, and so does the last one acknowledged: the group is known by it."""
    await add_old(client, key, 250)
    young = await client.xadd(key, {"p": "x"})
    await settle(client, key, 300)
    async with trimming(redis_uri, key) as trimmer:
        trimmed = 0
        while step := (await trimmer.trim()).entries:
            trimmed += step

    assert trimmed == 250
    assert await ids(client, key) == [young]


@pytest.mark.parametrize("days", [1, 30, 60, 80, 110])
async def test_what_comes_after_a_long_silence_stays(
    redis_uri: str, client: Client, key: str, days: int
) -> None:
    """Redis 6.2 compares ids that are near each other in memory as if they were 32 bits."""
    now_s, _ = await client.time()
    await client.xadd(key, {"p": "x"}, id=f"{(now_s - days * 86_400) * 1000}-0")
    young = [await client.xadd(key, {"p": "x"}) for _ in range(3)]
    await settle(client, key, 3)
    async with trimming(redis_uri, key) as trimmer:
        assert await trimmer.trim() == Trimmed(1, 0, None)

    assert await ids(client, key) == young


async def test_nothing_unread_or_pending_goes(redis_uri: str, client: Client, key: str) -> None:
    """However old it is."""
    old = await add_old(client, key, 5)
    async with trimming(redis_uri, key) as trimmer:
        assert await trimmer.trim() == Trimmed(0, 0, None)
        await client.xreadgroup("g", "c", {key: ">"}, count=4)
        await client.xack(key, "g", old[0], old[1], old[3])
        assert await trimmer.trim() == Trimmed(2, 0, None)

    assert await ids(client, key) == old[2:]


@pytest.mark.parametrize("begins", ["0", "2-0"])
async def test_another_group_holds_entries_and_is_named(
    redis_uri: str, client: Client, key: str, begins: str
) -> None:
    """One that never reads too, with or without consumers."""
    old = await add_old(client, key, 5)
    await settle(client, key, 5)
    await client.xgroup_create(key, "other", begins)
    async with trimming(redis_uri, key) as trimmer:
        held = await trimmer.trim()
        assert held.held_by == "other"
        assert await ids(client, key) == (old if begins == "0" else old[1:])
        await settle(client, key, 5, group="other")
        assert (await trimmer.trim()).held_by is None

    assert await ids(client, key) == old[4:]


async def test_beyond_the_limit_acknowledged_entries_go_though_they_are_young(
    redis_uri: str, client: Client, key: str
) -> None:
    for _ in range(10):
        await client.xadd(key, {"p": "x"})
    await settle(client, key, 10)
    async with trimming(redis_uri, key, max_entries=4) as trimmer:
        assert await trimmer.trim() == Trimmed(6, 0, None)
        assert await trimmer.trim() == Trimmed(0, 0, None)

    assert await client.xlen(key) == 4


async def test_beyond_the_limit_unread_ones_go_too_and_are_counted(
    redis_uri: str, client: Client, key: str
) -> None:
    """The oldest first, in bounded steps; what was read and is pending is not among them."""
    for _ in range(10):
        await client.xadd(key, {"p": "x"})
    await client.xreadgroup("g", "c", {key: ">"}, count=3)
    async with trimming(redis_uri, key, max_entries=4) as trimmer:
        assert await trimmer.trim() == Trimmed(6, 3, None)
        await client.xgroup_setid(key, "g", "0")
        await client.xack(
            key, "g", *[r["message_id"] for r in await client.xpending_range(key, "g", "-", "+", 9)]
        )
        await client.xadd(key, {"p": "x"})
        assert await trimmer.trim() == Trimmed(1, 1, None)
        for _ in range(600):
            await client.xadd(key, {"p": "x"})
        assert await trimmer.trim() == Trimmed(500, 500, None)


async def test_an_id_beyond_64_bits_of_a_double_is_compared_exactly(
    redis_uri: str, client: Client, key: str
) -> None:
    """Producers may choose ids; Lua's numbers have 53 bits."""
    near = [b"1-9007199254740993", b"1-9007199254740994", b"1-18446744073709551615"]
    for entry_id in near:
        await client.xadd(key, {"p": "x"}, id=entry_id)
    await settle(client, key, 2)
    async with trimming(redis_uri, key) as trimmer:
        await trimmer.trim()

    assert await ids(client, key) == near[1:]


async def test_a_missing_group_trims_nothing(redis_uri: str, client: Client, key: str) -> None:
    """What it had not read is not known then."""
    await add_old(client, key, 3)
    await settle(client, key, 3)
    await client.xgroup_create(key, "other", "$")
    await client.xgroup_destroy(key, "g")
    async with trimming(redis_uri, key) as trimmer:
        with pytest.raises(GroupMissing):
            await trimmer.trim()

    assert await client.xlen(key) == 3
