"""Redis goes, hangs, forgets, refuses or is full: nothing is lost, and the worker says so."""

from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from urllib.parse import urlsplit

import anyio
import pytest

from tests.e2e.conftest import ServerStarter
from tests.e2e.place import GROUP, Place, load
from tests.e2e.process import Worker, running
from tests.e2e.proxy import proxied
from tests.events import encode, message
from tests.servers import Server
from tests.waiting import wait_until

INSTANCE = "loja-aurora"


def is_cached(place: Place, number: int) -> bool:
    return place.redis.exists(place.key(INSTANCE, "message", number)) == 1


async def cached(place: Place, number: int, *, timeout_s: float = 10) -> None:
    await wait_until(
        lambda: is_cached(place, number), f"message {number} is cached", timeout_s=timeout_s
    )


async def test_redis_may_come_later_than_the_worker(private: ServerStarter, tmp_path: Path) -> None:
    server, place = private()
    server.stop()
    async with running(tmp_path, place.settings()) as worker:
        ready = worker.ops("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"].startswith("Redis cannot be used (connection): ")
        assert worker.ops("/livez").status_code == 200
        assert worker.metric("redis_up") == 0

        with ThreadPoolExecutor() as pool:
            posted = pool.submit(worker.post, encode(message(4)))
            await wait_until(lambda: worker.metric("redis_errors_total") > 2, "it tries")
            server.start()
            # Chatwoot sends an event once: a short absence must not cost it.
            assert posted.result().status_code == 200
        await wait_until(lambda: worker.ops("/readyz").status_code == 200, "it is ready")
        place.add(message(5))
        await cached(place, 5)
        assert is_cached(place, 4)
        assert worker.metric("redis_up") == 1
        assert len(worker.logged("redis.recovered")) == 1


async def test_redis_killed_under_load_costs_nothing(
    private: ServerStarter, tmp_path: Path
) -> None:
    """Append-only with fsync on every write: what was published is cached, after two deaths."""
    server, place = private("--appendonly", "yes", "--appendfsync", "always")
    async with running(tmp_path, place.settings()) as worker:
        with load(place) as published:
            for _ in range(2):
                await has_acked(worker, worker.metric("entries_acked_total") + 200)
                server.kill()
                await wait_until(lambda: worker.ops("/readyz").status_code == 503, "it noticed")
                assert worker.ops("/livez").status_code == 200
                server.start()
                await wait_until(lambda: worker.ops("/readyz").status_code == 200, "it is back")
        await place.settled()

        assert worker.metric("dead_letters_total") == 0
        assert len(worker.lines) < 20
        assert worker.logged("entry.failed") == []
    assert [number for number in published if not is_cached(place, number)] == []


async def has_acked(worker: Worker, entries: float) -> None:
    await wait_until(lambda: worker.metric("entries_acked_total") > entries, "it works")


async def test_what_is_in_hand_when_redis_goes_costs_no_attempt(
    private: ServerStarter, tmp_path: Path
) -> None:
    """The cache is away and the stream is not: the batch waits in hand, and is not read again."""
    stream_server, place = private()
    with Server(stream_server.binary) as cache_server:
        settings = place.settings(STREAM_RECLAIM_AFTER_S="0.1")
        settings["CHATWOOT_CACHE_STREAM_REDIS_URI"] = place.uri
        settings["CACHE_REDIS_URI"] = cache_server.uri
        async with running(tmp_path, settings) as worker:
            cache_server.stop()
            place.add(message(1), message(2), b"not JSON")
            await wait_until(lambda: worker.metric("redis_errors_total") >= 4, "it tries again")

            assert [row["times_delivered"] for row in place.pending()] == [1, 1, 1]
            assert worker.metric("inflight_entries") == 3
            assert worker.metric("redis_up") == 0
            assert worker.ops("/readyz").status_code == 503
            place.add(message(3))
            cache_server.start()
            await place.settled()
            assert worker.metric("entries_read_total", source="new") == 4
            assert worker.metric("entries_read_total", source="own") == 0
            assert worker.metric("entries_settled_total", outcome="applied") == 3
            # One line when it went, one when it came back; and the letter.
            assert len(worker.lines) <= 5
        assert Place(cache_server.uri, place.name).document(INSTANCE, "message", 3)
    assert place.letters()[0][b"_attempts"] == b"1"


@pytest.mark.parametrize("fault", ["swallow", "cut"])
async def test_what_a_lost_reply_handed_out_is_taken_up(
    place: Place, tmp_path: Path, fault: str
) -> None:
    """The server counts it as handed out; no later read for new entries would give it again."""
    async with proxied(urlsplit(place.uri).port or 0) as proxy:
        settings = place.settings() | {"CACHE_REDIS_URI": f"redis://127.0.0.1:{proxy.port}/0"}
        async with running(tmp_path, settings) as worker:
            setattr(proxy, fault, b"this reply is lost")
            place.add(message(1, content="this reply is lost"))
            await cached(place, 1)
            place.add(message(2))
            await cached(place, 2)
            await place.settled()

            # On another thread, because the proxy's time is this test's; as is the stop.
            read = partial(worker.metric, "entries_read_total", source="own")
            assert await anyio.to_thread.run_sync(read) == 1
            assert await worker.stop() == 0
    assert place.letters() == []


async def test_a_redis_that_hangs_is_noticed_by_readiness(
    private: ServerStarter, tmp_path: Path
) -> None:
    server, place = private()
    async with running(tmp_path, place.settings()) as worker:
        server.pause()
        try:
            ready = worker.ops("/readyz")
            alive = worker.ops("/livez")
        finally:
            server.resume()
        assert (ready.status_code, ready.json()["reason"]) == (
            503,
            "Redis did not answer within 1 s",
        )
        assert alive.status_code == 200
        place.add(message(4))
        await cached(place, 4)


@pytest.mark.parametrize("loss", ["stream", "group", "everything"])
async def test_it_consumes_on_when_redis_forgets(
    private: ServerStarter, tmp_path: Path, loss: str
) -> None:
    _, place = private()
    async with running(tmp_path, place.settings()) as worker:
        place.add(message(1))
        await cached(place, 1)
        if loss == "stream":
            place.redis.delete(place.stream)
        elif loss == "group":
            place.redis.xgroup_destroy(place.stream, GROUP)
        else:
            place.redis.flushall()
        await wait_until(lambda: worker.logged("group.lost"), "it noticed")
        place.add(message(2))
        await cached(place, 2)
        await place.settled()

        assert worker.metric("stream_group_recreations_total") == 1
        assert len(worker.logged("group.lost")) == 1
        assert worker.ops("/readyz").status_code == 200
        if loss == "everything":
            assert all(int(place.redis.ttl(key)) > 0 for key in place.found())


async def test_a_full_redis_is_waited_for(private: ServerStarter, tmp_path: Path) -> None:
    _, place = private()
    async with running(tmp_path, place.settings()) as worker:
        place.add(message(1))
        await cached(place, 1)
        place.redis.config_set("maxmemory", "1")
        # Nothing can come in, so nothing fails: readiness has to ask by itself.
        ready = worker.ops("/readyz")
        assert ready.status_code == 503
        assert ready.json()["reason"].startswith("Redis cannot be used: command not allowed when u")
        assert worker.ops("/livez").status_code == 200
        place.redis.config_set("maxmemory", "0")
        place.add(message(3))
        await cached(place, 3)
    assert place.letters() == []


async def test_a_server_that_became_a_replica_is_waited_for(
    private: ServerStarter, tmp_path: Path
) -> None:
    _, place = private("--replica-read-only", "yes")
    async with running(tmp_path, place.settings()) as worker:
        place.add(message(1))
        await cached(place, 1)
        place.do("REPLICAOF 127.0.0.1 1")
        assert worker.ops("/readyz").status_code == 503
        await wait_until(lambda: worker.metric("redis_errors_total") > 0, "it noticed")
        assert worker.ops("/livez").status_code == 200
        place.do("REPLICAOF NO ONE")
        place.add(message(2))
        await cached(place, 2)
    assert place.letters() == []


REFUSED = [
    ("reader:wrong", "invalid username-password pair"),
    ("nobody:s3cret-password", "invalid username-password pair"),
    ("", "Authentication required"),
    ("reader:s3cret-password", "no permissions to run the '"),
]
RIGHTS = ["xreadgroup", "xack", "evalsha", "hgetall", "xpending", "xtrim", "xinfo"]


def all_ended(
    stack: ExitStack, directory: Path, settings: Iterable[dict[str, str]]
) -> list[Worker]:
    """Start workers together, since each takes its time to start, and wait until all ended."""
    workers = []
    for number, given in enumerate(settings):
        folder = directory / str(number)
        folder.mkdir()
        workers.append(stack.enter_context(Worker(folder, given)))
    assert [worker.process.wait(15) for worker in workers] == [2] * len(workers)
    return workers


def test_a_wrong_password_ends_it_with_one_line(private: ServerStarter, tmp_path: Path) -> None:
    """Exit code 2, before anybody is told that it is ready; the password stays unsaid."""
    _, place = private()
    place.do("ACL SETUSER reader on >s3cret-password ~* +@read +ping")
    place.do("ACL SETUSER default resetpass -@all +acl +shutdown")
    base = place.settings()
    addresses = [place.uri.replace("//", f"//{user}@" if user else "//") for user, _ in REFUSED]
    with ExitStack() as stack:
        settings = (base | {"CACHE_REDIS_URI": address} for address in addresses)
        for worker, (_, names) in zip(all_ended(stack, tmp_path, settings), REFUSED, strict=True):
            (line,) = worker.log.splitlines()
            assert line.startswith("chatwoot-cache: Redis refuses us: ")
            assert names in line
            assert "s3cret" not in line


def test_each_right_that_is_missing_is_named(private: ServerStarter, tmp_path: Path) -> None:
    """Also those that are needed only once an event has come."""
    _, place = private()
    settings = []
    for right in RIGHTS:
        place.do(f"ACL SETUSER without-{right} on >s3cret-password ~* +@all -{right}")
        own = Place(place.uri, f"{place.name}-{right}")
        with own.redis:
            own.add(message())
        address = place.uri.replace("//", f"//without-{right}:s3cret-password@")
        settings.append(own.settings() | {"CACHE_REDIS_URI": address})
    with ExitStack() as stack:
        for worker, right in zip(all_ended(stack, tmp_path, settings), RIGHTS, strict=True):
            assert right in worker.log.splitlines()[-1].replace(f"without-{right}", "")
            assert "s3cret" not in worker.log
            assert "Traceback" not in worker.log


async def test_a_server_that_still_loads_is_waited_for(
    private: ServerStarter, tmp_path: Path
) -> None:
    """After a restart with much to load, it answers LOADING to everything for a while."""
    slowly = ("--key-load-delay", "2000", "--loading-process-events-interval-bytes", "1024")
    server, place = private(*slowly)
    async with running(tmp_path, place.settings()) as worker:
        for number in range(1000):
            place.redis.set(f"{place.name}:filler:{number}", "x" * 100, ex=60)
        place.add(message(1))
        await cached(place, 1)
        place.redis.save()
        server.kill()
        with ThreadPoolExecutor() as pool:
            starting = pool.submit(server.start)
            loading = partial(worker.metric, "redis_errors_total", kind="loading")
            await wait_until(loading, "it is told to wait", timeout_s=10)
            assert worker.ops("/livez").status_code == 200
            await anyio.to_thread.run_sync(starting.result)
        place.add(message(2))
        await cached(place, 2)
        assert len(worker.lines) < 10
    assert place.letters() == []


async def test_a_password_that_was_changed_ends_it_and_the_next_start_goes_on(
    private: ServerStarter, tmp_path: Path
) -> None:
    """Connections live on with the old one; the next to be opened is refused."""
    _, place = private()
    place.do("ACL SETUSER worker on >old-password ~* &* +@all")
    settings = place.settings()
    settings["CACHE_REDIS_URI"] = place.uri.replace("//", "//worker:old-password@")
    with Worker(tmp_path, settings) as worker:
        await worker.started()
        place.do("ACL SETUSER worker resetpass >new-password")
        place.redis.client_kill_filter(_type="normal", skipme=True)
        place.add(message(2))
        assert await worker.ended() == 2
        assert worker.log.splitlines()[-1].startswith("chatwoot-cache: Redis refuses us: ")
        assert "password@" not in worker.log

    settings["CACHE_REDIS_URI"] = place.uri.replace("//", "//worker:new-password@")
    async with running(tmp_path, settings):
        await cached(place, 2)


async def test_restarts_without_a_right_cost_no_attempt(
    private: ServerStarter, tmp_path: Path
) -> None:
    """A supervisor starts it again and again, and it ends again: the entries are not to blame."""
    _, place = private()
    place.do("ACL SETUSER modest on >s3cret-password ~* &* +@all -zadd")
    full = place.settings(STREAM_MAX_ATTEMPTS="1")
    settings = full | {
        "CHATWOOT_CACHE_STREAM_REDIS_URI": place.uri,
        "CACHE_REDIS_URI": place.uri.replace("//", "//modest:s3cret-password@"),
    }
    place.add(message(1), message(2))
    for _ in range(4):
        with Worker(tmp_path, settings) as worker:
            assert await worker.ended() == 2
            assert len(worker.lines_before_the_last) < 5
    assert max(row["times_delivered"] for row in place.pending()) <= 1

    async with running(tmp_path, full):
        await place.settled()
    assert place.letters() == []


async def test_a_server_without_info_is_good_enough(private: ServerStarter, tmp_path: Path) -> None:
    """Providers switch commands off; one that only figures need stops no cache."""
    _, place = private("--rename-command", "INFO", "")
    async with running(tmp_path, place.settings()) as worker:
        place.add(message(1))
        await cached(place, 1)

        assert len(worker.logged("maintenance.failed")) == 1
        assert worker.ops("/readyz").status_code == 200
