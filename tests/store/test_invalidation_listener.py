"""A local tier receives an invalidation of every write, and is not used without them."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from tests import events
from tests.e2e.proxy import proxied
from tests.servers import Server
from tests.store.test_document_reader import CONVERSATION, CacheFixture, is_valid, tracked
from tests.store.test_document_writer import INSTANCE
from tests.waiting import wait_until
from worker.core.history.message_page import MessageRange
from worker.errors import ConfigurationError, PermissionDenied
from worker.store.cache.invalidation_listener import LEASE_S, InvalidationListener
from worker.store.cache.local_cache import LocalCache
from worker.store.client import create_client

Change = Callable[[CacheFixture], Awaitable[object]]


@pytest.fixture
async def cache(redis_uri: str, prefix: str) -> AsyncIterator[CacheFixture]:
    async with create_client(redis_uri) as own, tracked(redis_uri, prefix) as local:
        yield CacheFixture(own, prefix, local)


async def content(cache: CacheFixture) -> str | None:
    """Message 1, as a reader sees it."""
    found = await cache.of().message(1)
    return None if found is None else found.json.decode()


async def ids(cache: CacheFixture) -> list[int]:
    """The ids of the conversation, as a reader sees them."""
    page = await cache.of().page(CONVERSATION, MessageRange())
    return [message.id for message in page.messages] if page else []


async def is_from_memory(cache: CacheFixture) -> bool:
    """Whether a reader answers from memory."""
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
    """Expire earlier than stated when the value was read."""
    await cache.client.pexpire(cache.keys.message(INSTANCE, 1), 20)


async def rename(cache: CacheFixture) -> None:
    await cache.client.rename(cache.keys.message(INSTANCE, 1), f"{cache.keys.root}elsewhere")


async def by_script(cache: CacheFixture) -> None:
    await cache.client.eval("redis.call('DEL', ARGV[1])", 0, cache.keys.message(INSTANCE, 1))


@pytest.mark.parametrize("change", [delete, purge, expire, rename, by_script])
async def test_every_way_of_deleting_a_document_is_seen(
    cache: CacheFixture, change: Change
) -> None:
    await cache.write(events.message(1), events.message(2))
    assert await ids(cache) == [1, 2]
    assert await is_from_memory(cache)

    await change(cache)
    await wait_until(lambda: gone(cache), "the document is gone", timeout_s=2)
    assert 1 not in await ids(cache)


async def gone(cache: CacheFixture) -> bool:
    """Whether readers do not see message 1."""
    return await content(cache) is None


async def test_a_new_key_is_seen_after_its_absence_was_cached(cache: CacheFixture) -> None:
    """Missing keys are cached, too."""
    assert await content(cache) is None
    assert await ids(cache) == []
    assert await is_from_memory(cache)

    await cache.write(events.message(1))
    assert await content(cache) is not None
    assert await ids(cache) == [1]


async def test_a_document_never_outlives_its_key(cache: CacheFixture) -> None:
    """A server may report the expiry of an unused key late."""
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
    """After the reconnect only values that were read since."""
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            cache = CacheFixture(own, prefix, local)
            await cache.write(events.message(1))
            assert await content(cache) is not None
            assert len(local) > 0

            await own.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await wait_until(lambda: len(local) == 0, "all values are dropped")
            await wait_until(lambda: is_valid(local), "the connection is restored")
            await delete(cache)
            await wait_until(lambda: gone(cache), "the deletion is seen", timeout_s=1)


async def test_nothing_is_answered_from_memory_when_invalidations_may_be_lost(
    redis_uri: str, prefix: str
) -> None:
    """A silent connection is not relied on, even before its loss is noticed."""
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

        # Lost invalidations never arrive, so values stored before must not be used again.
        assert not await is_from_memory(cache)


async def test_memory_answers_while_a_server_hangs_until_the_lease_ends(
    server_binary: Path, prefix: str
) -> None:
    """For the lease of the last answered PING, and no longer."""
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            cache = CacheFixture(own, prefix, local)
            await cache.write(events.message(1))
            assert await content(cache) is not None

            server.pause()
            assert await is_from_memory(cache)
            await wait_until(
                lambda: not is_valid(local), "the local tier is invalid", timeout_s=2 * LEASE_S
            )
            server.resume()
            await wait_until(lambda: is_valid(local), "the local tier is valid again")
            assert await is_from_memory(cache)


async def test_a_server_that_restarts_is_tracked_again(server_binary: Path, prefix: str) -> None:
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            cache = CacheFixture(own, prefix, local)
            await cache.write(events.message(1))
            assert await content(cache) is not None

            server.restart()
            await wait_until(lambda: len(local) == 0, "all values are dropped")
            await wait_until(lambda: is_valid(local), "it is tracked again", timeout_s=10)
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
                (PermissionDenied, ConfigurationError), match="CACHE_LOCAL_ENABLED=true needs"
            ):
                with anyio.fail_after(5):
                    await InvalidationListener(own, f"{prefix}:", LocalCache(1000, 60.0)).run()
