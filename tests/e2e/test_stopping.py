"""SIGTERM and SIGINT: whatever the worker is doing, it ends well and leaves nothing half done."""

import signal
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ServerStarter
from tests.e2e.place import GROUP, Place, load
from tests.e2e.process import Worker, running
from tests.events import message
from tests.servers import Server
from tests.waiting import wait_until

SIGNALS = (signal.SIGTERM, signal.SIGINT)


async def test_an_idle_worker_ends_at_once_with_0(place: Place, tmp_path: Path) -> None:
    async with two(tmp_path, place) as workers:
        for worker, number in zip(workers, SIGNALS, strict=True):
            assert await worker.stop(number, within_s=10) == 0
            assert worker.lines[-1]["event"] == "worker.stopping"
            assert worker.lines[-1]["signal"] == number.name
            assert {line["level"] for line in worker.lines} == {"info"}


async def test_a_read_that_waits_is_not_waited_for(place: Place, tmp_path: Path) -> None:
    """PM2 kills after 1.6 s, which is less than a read waits."""
    async with running(tmp_path, place.settings(STREAM_BLOCK_S="20")) as worker:
        await wait_until(place.has_blocked, "it waits for entries")
        started = time.monotonic()
        assert await worker.stop(within_s=10) == 0
        assert time.monotonic() - started < 1.5
        assert place.pending() == []


async def test_without_the_right_to_end_a_read_it_is_waited_for(
    private: ServerStarter, tmp_path: Path
) -> None:
    """As with providers that rename CLIENT; nothing is logged about it."""
    _, place = private()
    place.do("ACL SETUSER modest on >s3cret-password ~* &* +@all -client")
    settings = place.settings(STREAM_BLOCK_S="1.5")
    settings["CACHE_REDIS_URI"] = place.uri.replace("//", "//modest:s3cret-password@")
    async with running(tmp_path, settings) as worker:
        place.add(message(1))
        await place.settled()
        assert await worker.stop(within_s=10) == 0
        assert {line["level"] for line in worker.lines} == {"info"}


async def test_what_cannot_be_settled_in_time_is_handed_over(
    private: ServerStarter, tmp_path: Path
) -> None:
    """The cache hangs and the stream does not: another worker need not wait for it to be idle."""
    stream_server, place = private()
    with Server(stream_server.binary) as cache_server:
        settings = place.settings(SHUTDOWN_TIMEOUT_S="0.5", STREAM_RECLAIM_AFTER_S="600")
        settings["CHATWOOT_CACHE_STREAM_REDIS_URI"] = place.uri
        settings["CACHE_REDIS_URI"] = cache_server.uri
        async with running(tmp_path, settings) as worker:
            cache_server.pause()
            try:
                place.add(message(1), message(2))
                await wait_until(lambda: len(place.pending()) == 2, "it has them in hand")
                assert await worker.stop(within_s=10) == 0
            finally:
                cache_server.resume()
            assert worker.logged("entries.released")[0]["entries"] == 2
        idle: Any = place.redis.xpending_range(place.stream, GROUP, "-", "+", 9, idle=600_000)
        assert [row["times_delivered"] for row in idle] == [0, 0]

        other = tmp_path / "other"
        other.mkdir()
        async with running(other, settings | {"CHATWOOT_CACHE_STREAM_CONSUMER": "other"}) as peer:
            await place.settled()
            assert peer.metric("entries_read_total", source="reclaimed") == 2


async def test_under_load_the_batch_in_hand_is_settled(place: Place, tmp_path: Path) -> None:
    """What was read is in the cache; what was not read is still to come."""
    async with two(tmp_path, place) as workers:
        with load(place) as published:
            for worker, number in zip(workers, SIGNALS, strict=True):
                await has_acked(worker, 300)
                assert await worker.stop(number, within_s=10) == 0

    group: Any = place.redis.xinfo_groups(place.stream)
    read: Any = place.redis.xrange(place.stream, "-", group[0]["last-delivered-id"])
    assert place.pending() == []
    assert len(read) <= len(published)
    with place.redis.pipeline(transaction=False) as pipeline:
        for number_read in published[: len(read)]:
            pipeline.exists(place.key("loja-aurora", "message", number_read))
        assert all(pipeline.execute())


@asynccontextmanager
async def two(directory: Path, place: Place) -> AsyncIterator[list[Worker]]:
    """Two workers of one group, one for each signal."""
    async with AsyncExitStack() as stack:
        workers = []
        for number in SIGNALS:
            folder = directory / number.name
            folder.mkdir()
            settings = place.settings(STREAM_CONSUMER=number.name)
            workers.append(stack.enter_context(Worker(folder, settings)))
        for worker in workers:
            await worker.started()
        yield workers


async def has_acked(worker: Worker, entries: float) -> None:
    await wait_until(lambda: worker.metric("entries_acked_total") > entries, "it works")


async def test_readiness_turns_red_while_it_drains(private: ServerStarter, tmp_path: Path) -> None:
    server, place = private()
    async with running(tmp_path, place.settings()) as worker:
        assert worker.ops("/readyz").json() == {"status": "ok"}
        server.pause()
        try:
            worker.process.terminate()
            await wait_until(lambda: worker.logged("worker.stopping"), "it drains")
            ready, alive = worker.ops("/readyz"), worker.ops("/livez")
        finally:
            server.resume()

        assert (ready.status_code, ready.json()["reason"]) == (503, "the worker is stopping")
        assert alive.status_code == 200
        assert await worker.ended(within_s=20) == 0


async def test_it_ends_quickly_while_redis_is_down(private: ServerStarter, tmp_path: Path) -> None:
    server, place = private()
    async with running(tmp_path, place.settings()) as worker:
        server.stop()
        await wait_until(lambda: worker.logged("redis.unavailable"), "it noticed")

        assert await worker.stop(within_s=10) == 0
        assert worker.logged("worker.stopped_without_redis")


async def test_it_ends_in_time_while_redis_hangs(private: ServerStarter, tmp_path: Path) -> None:
    server, place = private()
    async with running(tmp_path, place.settings(SHUTDOWN_TIMEOUT_S="1")) as worker:
        place.add(message())
        await place.settled()
        server.pause()
        started = time.monotonic()
        try:
            assert await worker.stop(within_s=10) == 0
        finally:
            server.resume()

        assert time.monotonic() - started < 3


async def test_a_closed_terminal_ends_it_as_well_as_a_signal_does(
    place: Place, tmp_path: Path
) -> None:
    async with running(tmp_path, place.settings()) as worker:
        assert await worker.stop(signal.SIGHUP) == 0
        assert worker.logged("worker.stopping")[0]["signal"] == "SIGHUP"


async def test_a_second_signal_changes_nothing(place: Place, tmp_path: Path) -> None:
    async with running(tmp_path, place.settings(STREAM_BLOCK_S="0.5")) as worker:
        worker.process.terminate()
        worker.process.send_signal(signal.SIGINT)

        assert await worker.ended(within_s=20) == 0


async def test_a_signal_before_it_has_started_ends_it_too(
    private: ServerStarter, tmp_path: Path
) -> None:
    server, place = private()
    server.stop()
    with Worker(tmp_path, place.settings()) as worker:
        await wait_until(lambda: worker.logged("redis.unavailable"), "it tries")

        assert await worker.stop(within_s=10) == 0
