"""Webhooks while Redis is unavailable: answered 200 from the disk, and cached afterwards."""

import json
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from tests.disks import KIB, MIB, fill, free_bytes, small_disk
from tests.e2e.conftest import ServerStarter
from tests.e2e.place import Place
from tests.e2e.process import END_S, Worker, running
from tests.events import encode, message
from tests.waiting import wait_until

INSTANCE = "loja-aurora"


def are_cached(place: Place, numbers: range) -> bool:
    keys = [place.key(INSTANCE, "message", number) for number in numbers]
    return bool(place.redis.exists(*keys) == len(keys))


def post(worker: Worker, numbers: range) -> None:
    """Post messages, several at a time; each is answered 200 within 4 s."""

    def one(number: int) -> float:
        began = time.monotonic()
        answer = worker.post(encode(message(number)))
        assert answer.status_code == 200, answer.text
        return time.monotonic() - began

    with ThreadPoolExecutor(8) as pool:
        assert max(pool.map(one, numbers)) < 4


async def test_webhooks_of_an_outage_survive_kill_9(private: ServerStarter, tmp_path: Path) -> None:
    """Redis stops, the worker is killed, a new one starts without Redis: every event is cached."""
    server, place = private("--appendonly", "yes", "--appendfsync", "always")
    settings = place.settings(WEBHOOK_SPOOL_DIR="spool")
    async with running(tmp_path, settings) as worker:
        post(worker, range(1, 3))
        server.stop()
        post(worker, range(3, 40))
        ready = worker.ops("/readyz")
        assert ready.status_code == 200
        assert ready.json()["reason"].endswith("; meanwhile the spool keeps webhooks")
        assert worker.metric("webhook_requests_total", code="200", reason="spooled") == 37
        assert len(worker.logged("webhook.spooled")) == 1
        worker.process.kill()
        worker.process.wait()

    async with running(tmp_path, settings) as worker:
        await wait_until(lambda: worker.metric("webhook_spool_entries") == 37, "it sees them")
        post(worker, range(40, 60))
        server.start()
        await wait_until(lambda: are_cached(place, range(1, 60)), "all is cached", timeout_s=10)
        await wait_until(lambda: worker.metric("webhook_spool_entries") == 0, "none waits")
        drained = partial(worker.metric, "webhook_spool_drained_total")
        await wait_until(lambda: drained() == 57, "the counter is updated")
        assert worker.ops("/readyz").json() == {"status": "ok"}
        post(worker, range(60, 61))
        assert worker.metric("webhook_requests_total", code="200", reason="accepted") == 1
    assert place.letters() == []


async def test_a_redis_that_is_full_or_refuses_loses_no_webhook(
    private: ServerStarter, tmp_path: Path
) -> None:
    """Only the webhook notices: the consumer has nothing to read."""
    _, place = private()
    async with running(tmp_path, place.settings(WEBHOOK_SPOOL_DIR=str(tmp_path))) as worker:
        post(worker, range(1, 2))
        place.redis.config_set("maxmemory", "1")
        post(worker, range(2, 12))
        place.redis.config_set("maxmemory", "0")
        await wait_until(lambda: are_cached(place, range(1, 12)), "those are cached")

        place.do("ACL SETUSER default -xadd")
        post(worker, range(12, 22))
        assert worker.ops("/readyz").status_code == 200
        place.do("ACL SETUSER default +xadd")
        await wait_until(lambda: are_cached(place, range(1, 22)), "all are cached")
        spooled = worker.metric("webhook_requests_total", code="200", reason="spooled")
        assert spooled == 20
        drained = partial(worker.metric, "webhook_spool_drained_total")
        await wait_until(lambda: drained() == 20, "the counter is updated")


async def test_two_workers_that_share_a_directory_relay_for_each_other(
    private: ServerStarter, tmp_path: Path
) -> None:
    """As PM2 starts them: the same directory and settings, numbered by NODE_APP_INSTANCE."""
    server, place = private()
    settings = place.settings(WEBHOOK_SPOOL_DIR="spool")
    del settings["CHATWOOT_CACHE_STREAM_CONSUMER"]
    with (
        Worker(tmp_path, settings | {"NODE_APP_INSTANCE": "0"}) as one,
        Worker(tmp_path / ".", settings | {"NODE_APP_INSTANCE": "1"}) as other,
    ):
        await wait_until(
            lambda: one.log.count("worker.started") >= 2, "both started", timeout_s=END_S
        )
        urls = {line["webhook"]: line["ops"] for line in one.logged("worker.started")}
        assert len(urls) == 2
        server.stop()
        post(one, range(1, 11))
        other.process.kill()
        other.process.wait()
        server.start()
        await wait_until(lambda: place.redis.xlen(place.stream) == 10, "one brought all")


def post_until_full(worker: Worker, start: int) -> list[int]:
    """Post messages until the disk is full; returns the numbers of those answered 200.

    While `/readyz` is 200, the next one is accepted.
    """
    taken: list[int] = []
    for number in range(start, start + 10_000):
        was_ready = worker.ops("/readyz").status_code == 200
        answer = worker.post(encode(message(number, content="x" * 20_000)))
        if answer.status_code != 200:
            break
        taken.append(number)
    assert (answer.status_code, answer.json()["reason"], was_ready) == (503, "spool_full", False)
    ready = worker.ops("/readyz")
    assert ready.status_code == 503
    assert "or its disk, is full" in ready.json()["reason"]
    return taken


def numbers_on_stream(place: Place) -> list[int]:
    """The numbers of the messages on the stream, with repetitions."""
    entries: Any = place.redis.xrange(place.stream)
    return sorted(json.loads(fields[b"payload"])["id"] for _, fields in entries)


async def none_waits(worker: Worker) -> None:
    await wait_until(
        lambda: worker.metric("webhook_spool_entries") == 0, "none waits", timeout_s=10
    )


@pytest.mark.parametrize("disk_bytes", [3 * MIB, 8 * MIB])
async def test_a_full_disk_is_drained_once_and_emptied(
    private: ServerStarter, tmp_path: Path, disk_bytes: int
) -> None:
    server, place = private("--appendonly", "yes")
    with small_disk(tmp_path, disk_bytes) as disk:
        async with running(tmp_path, place.settings(WEBHOOK_SPOOL_DIR=str(disk))) as worker:
            server.stop()
            taken = post_until_full(worker, 1)
            server.start()
            await wait_until(lambda: free_bytes(disk) > disk_bytes - 400 * KIB, "it is empty")
            await none_waits(worker)
            assert numbers_on_stream(place) == taken
            await wait_until(
                lambda: worker.ops("/readyz").json() == {"status": "ok"}, "Redis is back"
            )

            server.stop()
            post(worker, range(10_001, 10_002))
            assert worker.ops("/readyz").status_code == 200
            server.start()
            await wait_until(lambda: place.length() == len(taken) + 1, "the last one came")


async def test_a_disk_that_stays_full_is_drained_once_although_the_worker_is_killed(
    private: ServerStarter, tmp_path: Path
) -> None:
    """Another program has filled it, so nothing can be deleted; the worker is killed."""
    server, place = private("--appendonly", "yes", "--appendfsync", "always")
    with small_disk(tmp_path, 3 * MIB) as disk:
        settings = place.settings(WEBHOOK_SPOOL_DIR=str(disk))
        async with running(tmp_path, settings) as worker:
            server.stop()
            taken = post_until_full(worker, 1)
            (disk / "ballast").unlink()
            other = fill(disk)
            server.start()
            await wait_until(place.length, "it drains", timeout_s=10)
            worker.process.kill()
            worker.process.wait()
        async with running(tmp_path, settings) as worker:
            await none_waits(worker)
            assert numbers_on_stream(place) == taken
            assert worker.logged("spool.failed")
            server.stop()
            await wait_until(
                lambda: worker.ops("/readyz").status_code == 503, "nothing can be kept"
            )
            other.unlink()
            await wait_until(
                lambda: free_bytes(disk) > 2 * MIB and worker.ops("/readyz").status_code == 200,
                "the disk is emptied during the outage",
                timeout_s=10,
            )
            post(worker, range(10_001, 10_002))
            server.start()
            await wait_until(lambda: place.length() == len(taken) + 1, "the last one came")


async def test_two_workers_on_a_full_disk_relay_each_webhook_once(
    private: ServerStarter, tmp_path: Path
) -> None:
    """The one that drains is killed."""
    server, place = private("--appendonly", "yes", "--appendfsync", "always")
    folders = [tmp_path / "one", tmp_path / "other"]
    with small_disk(tmp_path, 3 * MIB) as disk, ExitStack() as stack:
        workers = []
        for number, folder in enumerate(folders):
            folder.mkdir()
            settings = place.settings(WEBHOOK_SPOOL_DIR=str(disk))
            settings |= {"CHATWOOT_CACHE_STREAM_CONSUMER": f"worker-{number}"}
            workers.append(stack.enter_context(Worker(folder, settings)))
            await workers[-1].started()
        server.stop()
        taken = post_until_full(workers[0], 1)
        server.start()
        await wait_until(place.length, "one drains", timeout_s=10)
        workers[0].process.kill()
        workers[0].process.wait()
        await none_waits(workers[1])
        await wait_until(lambda: free_bytes(disk) > 2 * MIB, "it is empty", timeout_s=10)
        assert numbers_on_stream(place) == taken


@pytest.mark.parametrize("content", [b"these are the minutes of a meeting " * 99])
def test_a_foreign_file_ends_the_start_with_one_line(
    place: Place, tmp_path: Path, content: bytes
) -> None:
    (tmp_path / "webhooks.sqlite3").write_bytes(content)
    with Worker(tmp_path, place.settings(WEBHOOK_SPOOL_DIR=str(tmp_path))) as worker:
        assert worker.process.wait(15) == 2
        (line,) = worker.log.splitlines()
        assert line.startswith(f"chatwoot-cache: CHATWOOT_CACHE_WEBHOOK_SPOOL_DIR={tmp_path}: ")
        assert line.endswith("move it away, or name another directory")
