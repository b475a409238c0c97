"""A local tier hears of every write, by whomever, and is not used while it might not."""

import time
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import anyio
import pytest

from tests import events
from tests.e2e.proxy import proxied
from tests.servers import Server
from tests.store.test_document_reader import CONVERSATION, Shelf, is_trusted, tracked
from tests.store.test_document_writer import INSTANCE
from tests.waiting import wait_until
from worker.core.message_page import MessageRange
from worker.errors import ConfigurationError, PermissionRefused
from worker.store.cache.local_cache import LocalCache
from worker.store.cache.tracking import LEASE_S, Tracking
from worker.store.client import create_client

Change = Callable[[Shelf], Awaitable[object]]


@pytest.fixture
async def shelf(redis_uri: str, prefix: str) -> AsyncIterator[Shelf]:
    async with create_client(redis_uri) as own, tracked(redis_uri, prefix) as local:
        yield Shelf(own, prefix, local)


async def content(shelf: Shelf) -> str | None:
    """What a reader sees of message 1."""
    found = await shelf.of().message(1)
    return None if found is None else found.json.decode()


async def ids(shelf: Shelf) -> list[int]:
    """What a reader sees of the conversation."""
    page = await shelf.of().page(CONVERSATION, MessageRange())
    return [message.id for message in page.messages] if page else []


async def is_from_memory(shelf: Shelf) -> bool:
    """Whether a reader is answered from memory."""
    reader = shelf.of()
    await reader.message(1)
    return reader.from_memory


async def delete(shelf: Shelf) -> None:
    """As an operator does."""
    await shelf.client.delete(shelf.keys.message(INSTANCE, 1))


async def purge(shelf: Shelf) -> None:
    """As Evolution's `deleteAll` does."""
    pattern = shelf.keys.instance_pattern(INSTANCE)
    found = [key async for key in shelf.client.scan_iter(pattern, count=1000)]
    await shelf.client.delete(*found)


async def expire(shelf: Shelf) -> None:
    """An end that comes by itself, sooner than was said when it was read."""
    await shelf.client.pexpire(shelf.keys.message(INSTANCE, 1), 20)


async def rename(shelf: Shelf) -> None:
    await shelf.client.rename(shelf.keys.message(INSTANCE, 1), f"{shelf.keys.root}elsewhere")


async def by_script(shelf: Shelf) -> None:
    await shelf.client.eval("redis.call('DEL', ARGV[1])", 0, shelf.keys.message(INSTANCE, 1))


@pytest.mark.parametrize("change", [delete, purge, expire, rename, by_script])
async def test_whatever_takes_a_document_is_seen(shelf: Shelf, change: Change) -> None:
    await shelf.write(events.message(1), events.message(2))
    assert await ids(shelf) == [1, 2]
    assert await is_from_memory(shelf)

    await change(shelf)
    await wait_until(lambda: gone(shelf), "the document is gone", timeout_s=2)
    assert 1 not in await ids(shelf)


async def gone(shelf: Shelf) -> bool:
    """Whether message 1 is gone for readers."""
    return await content(shelf) is None


async def test_what_comes_is_seen_where_nothing_was(shelf: Shelf) -> None:
    """That something is not there is remembered too, until it comes."""
    assert await content(shelf) is None
    assert await ids(shelf) == []
    assert await is_from_memory(shelf)

    await shelf.write(events.message(1))
    assert await content(shelf) is not None
    assert await ids(shelf) == [1]


async def test_a_document_never_outlives_its_key(shelf: Shelf) -> None:
    """A server that is not asked for a key may tell of its expiry late."""
    await shelf.write(events.message(1))
    await shelf.client.pexpire(shelf.keys.message(INSTANCE, 1), 150)
    await shelf.heard()
    assert await content(shelf) is not None
    held = shelf.reader._local.get(shelf.keys.message(INSTANCE, 1))  # type: ignore[union-attr]

    assert held is not None
    assert held.expires_at <= time.monotonic() + 0.15


async def test_a_flush_is_seen(server_binary: Path, prefix: str) -> None:
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            shelf = Shelf(own, prefix, local)
            await shelf.write(events.message(1))
            assert await content(shelf) is not None

            await own.flushall()
            await wait_until(lambda: gone(shelf), "the flush is seen", timeout_s=1)


async def test_nothing_is_answered_from_memory_after_a_cut(
    server_binary: Path, prefix: str
) -> None:
    """And when it stands again, only what was read since."""
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            shelf = Shelf(own, prefix, local)
            await shelf.write(events.message(1))
            assert await content(shelf) is not None
            assert len(local) > 0

            await own.execute_command("CLIENT", "KILL", "TYPE", "pubsub")
            await wait_until(lambda: len(local) == 0, "all is forgotten")
            await wait_until(lambda: is_trusted(local), "it stands again")
            await delete(shelf)
            await wait_until(lambda: gone(shelf), "the deletion is seen", timeout_s=1)


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
        shelf = Shelf(own, prefix, local)
        await shelf.write(events.message(1))
        assert await content(shelf) is not None
        assert await is_from_memory(shelf)

        proxy.is_mute = True
        muted_at = time.monotonic()
        await delete(shelf)
        await wait_until(lambda: gone(shelf), "memory is not used", timeout_s=2 * LEASE_S)
        assert time.monotonic() - muted_at < LEASE_S + 0.3

        # What was lost on the way never comes, so neither does trust in what was held before.
        assert not await is_from_memory(shelf)


async def test_memory_answers_for_a_server_that_hangs_as_long_as_it_may(
    server_binary: Path, prefix: str
) -> None:
    """For the time that the last sign of life vouches for, and no longer."""
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            shelf = Shelf(own, prefix, local)
            await shelf.write(events.message(1))
            assert await content(shelf) is not None

            server.pause()
            assert await is_from_memory(shelf)
            await wait_until(lambda: not is_trusted(local), "trust ends", timeout_s=2 * LEASE_S)
            server.resume()
            await wait_until(lambda: is_trusted(local), "trust is back")
            assert await is_from_memory(shelf)


async def test_a_server_that_restarts_is_tracked_again(server_binary: Path, prefix: str) -> None:
    with Server(server_binary) as server:
        async with create_client(server.uri) as own, tracked(server.uri, prefix) as local:
            shelf = Shelf(own, prefix, local)
            await shelf.write(events.message(1))
            assert await content(shelf) is not None

            server.restart()
            await wait_until(lambda: len(local) == 0, "all is forgotten")
            await wait_until(lambda: is_trusted(local), "it is tracked again", timeout_s=10)
            assert await content(shelf) is None


async def test_it_works_where_the_uri_asks_for_resp3(redis_uri: str, prefix: str) -> None:
    uri = f"{redis_uri}?protocol=3"
    async with create_client(uri) as own, tracked(uri, prefix) as local:
        shelf = Shelf(own, prefix, local)
        await shelf.write(events.message(1))
        assert await content(shelf) is not None
        assert await is_from_memory(shelf)

        await delete(shelf)
        await wait_until(lambda: gone(shelf), "the deletion is seen", timeout_s=1)


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
