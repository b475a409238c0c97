"""A local tier receives an invalidation of every write, and is not used without them."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from tests import events
from tests.e2e.proxy import proxied
from tests.servers import Server
from tests.store.test_document_reader import CONVERSATION, CacheFixture, is_trusted, tracked
from tests.store.test_document_writer import INSTANCE
from tests.waiting import wait_until
from worker.core.message_page import MessageRange
from worker.errors import ConfigurationError, PermissionRefused
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.tracking import LEASE_S, Tracking
from worker.store.client import create_client

Change = Callable[[CacheFixture], Awaitable[object]]


@pytest.fixture
async def cache(redis_uri: str, prefix: str) -> AsyncIterator[CacheFixture]:
    async with create_client(redis_uri) as own, tracked(redis_uri, prefix) as local:
        yield CacheFixture(own, prefix, local)


async def content(cache: CacheFixture) -> str | None:
    """What a reader sees of message 1."""
    found = await cache.of().message(1)
    return None if found is None else found.json.decode()


async def ids(cache: CacheFixture) -> list[int]:
    """What a reader sees of the conversation."""
    page = await cache.of().page(CONVERSATION, MessageRange())
    return [message.id for message in page.messages] if page else []


async def is_from_memory(cache: CacheFixture) -> bool:
    """Whether a reader is answered from memory."""
    reader = cache.of()
    await reader.message(1)
    return reader.from_memory


async def delete(cache: CacheFixture) -> None:
    """As an operator does."""
    await cache.client.delete(cache.keys.message(INSTANCE, 1))


async def purge(cache: CacheFixture) -> None:
    """As Evolution's `deleteAll` does."""
    pattern = cache.keys.instance_pattern(INSTANCE)
    found = [key async for key in cache.client.scan_iter(pattern, count=1000)]
    await cache.client.delete(*found)


async def expire(cache: CacheFixture) -> None:
    """An end that comes by itself, sooner than was said when it was read."""
    await cache.client.pexpire(cache.keys.message(INSTANCE, 1), 20)


async def rename(cache: CacheFixture) -> None:
    await cache.client.rename(cache.keys.message(INSTANCE, 1), f"{cache.keys.root}elsewhere")


async def by_script(cache: CacheFixture) -> None:
    await cache.client.eval("redis.call('DEL', ARGV[1])", 0, cache.keys.message(INSTANCE, 1))


@pytest.mark.parametrize("change", [delete, purge, expire, rename, by_script])
async def test_whatever_takes_a_document_is_seen(cache: CacheFixture, change: Change) -> None:
    await cache.write(events.message(1), events.message(2))
    assert await ids(cache) == [1, 2]
    assert await is_from_memory(cache)

    await change(cache)
    await wait_until(lambda: gone(cache), "the document is gone", timeout_s=2)
    assert 1 not in await ids(cache)


async def gone(cache: CacheFixture) -> bool:
    """Whether message 1 is gone for readers."""
    return await content(cache) is None


async def test_what_comes_is_seen_where_nothing_was(cache: CacheFixture) -> None:
    """That something is not there is remembered too, until it comes."""
    assert await content(cache) is None
    assert await ids(cache) == []
    assert await is_from_memory(cache)

    await cache.write(events.message(1))
    assert await content(cache) is not None
    assert await ids(cache) == [1]


async def test_a_document_never_outlives_its_key(cache: CacheFixture) -> None:
    """A server that is not asked for a key may tell of its expiry late."""
    await cache.write(events.message(1))
    await cache.client.pexpire(cache.keys.message(INSTANCE, 1), 150)
    await cache.wait_for_invalidations()
    assert await content(cache) is not None
    held = cache.reader._local.get(cache.keys.message(INSTANCE, 1))  # type: ignore[union-attr]

    assert held is not None
    assert held.expires_at <= time.monotonic() + 0.15


async def test_a_flush_is_seen(server_binary: Path, prefix: str) -> None:
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            cache = CacheFixture(own, prefix, local)
            await cache.write(events.message(1))
            assert await content(cache) is not None

            await own.flushall()
            await wait_until(lambda: gone(cache), "the flush is seen", timeout_s=1)


async def test_nothing_is_answered_from_memory_after_a_cut(
    server_binary: Path, prefix: str
) -> None:
    """And when it stands again, only what was read since."""
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            cache = CacheFixture(own, prefix, local)
            await cache.write(events.message(1))
            assert await content(cache) is not None
            assert len(local) > 0

            await own.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await wait_until(lambda: len(local) == 0, "all is forgotten")
            await wait_until(lambda: is_trusted(local), "it stands again")
            await delete(cache)
            await wait_until(lambda: gone(cache), "the deletion is seen", timeout_s=1)


async def test_nothing_is_answered_from_memory_when_news_may_be_lost(
    redis_uri: str, prefix: str
) -> None:
    """A connection that says nothing any more is worth nothing, before it is known to be gone."""
    port = int(redis_uri.rpartition(":")[2].partition("/")[0])
    async with (
        create_client(redis_uri) as own,
        proxied(port) as proxy,
        tracked(f"redis://127.0.0.1:{proxy.port}", prefix) as local,
    ):
        cache = CacheFixture(own, prefix, local)
        await cache.write(events.message(1))
        assert await content(cache) is not None
        assert await is_from_memory(cache)

        proxy.is_mute = True
        muted_at = time.monotonic()
        await delete(cache)
        await wait_until(lambda: gone(cache), "memory is not used", timeout_s=2 * LEASE_S)
        assert time.monotonic() - muted_at < LEASE_S + 0.3

        # What was lost on the way never comes, so neither does trust in what was held before.
        assert not await is_from_memory(cache)


async def test_memory_answers_for_a_server_that_hangs_as_long_as_it_may(
    server_binary: Path, prefix: str
) -> None:
    """For the time that the last sign of life vouches for, and no longer."""
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            cache = CacheFixture(own, prefix, local)
            await cache.write(events.message(1))
            assert await content(cache) is not None

            server.pause()
            assert await is_from_memory(cache)
            await wait_until(lambda: not is_trusted(local), "trust ends", timeout_s=2 * LEASE_S)
            server.resume()
            await wait_until(lambda: is_trusted(local), "trust is back")
            assert await is_from_memory(cache)


async def test_a_server_that_restarts_is_tracked_again(server_binary: Path, prefix: str) -> None:
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            cache = CacheFixture(own, prefix, local)
            await cache.write(events.message(1))
            assert await content(cache) is not None

            server.restart()
            await wait_until(lambda: len(local) == 0, "all is forgotten")
            await wait_until(lambda: is_trusted(local), "it is tracked again", timeout_s=10)
            assert await content(cache) is None


async def test_it_works_where_the_uri_asks_for_resp3(redis_uri: str, prefix: str) -> None:
    uri = f"{redis_uri}?protocol=3"
    async with create_client(uri) as own, tracked(uri, prefix) as local:
        cache = CacheFixture(own, prefix, local)
        await cache.write(events.message(1))
        assert await content(cache) is not None
        assert await is_from_memory(cache)

        await delete(cache)
        await wait_until(lambda: gone(cache), "the deletion is seen", timeout_s=1)


@pytest.mark.parametrize("missing", ["-client", "-subscribe", "resetchannels"])
async def test_a_missing_right_is_named(server_binary: Path, prefix: str, missing: str) -> None:
    with Server(server_binary) as server:
        async with create_client(server.uri) as admin:
            rights = ("~*", "&*", "+@all", missing)
            await admin.execute_command("ACL", "SETUSER", "reader", "on", ">pw", *rights)
        uri = f"redis://reader:pw@127.0.0.1:{server.port}"
        async with create_client(uri) as own:
            with pytest.raises(
                (PermissionRefused, ConfigurationError), match="CACHE_LOCAL_ENABLED=true needs"
            ):
                with anyio.fail_after(5):
                    await Tracking(own, f"{prefix}:", LocalCache(1000, 60.0)).run()
