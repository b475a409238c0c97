"""What people complain about in other consumers of Redis streams, made to happen here.

|  # | complaint                                          | shown by                             |
|----|----------------------------------------------------|--------------------------------------|
|  1 | pending entries never come back                    | here                                 |
|  2 | the group is gone: endless NOGROUP, or silence     | test_outages, pipeline/test_group_lost |
|  3 | entries trimmed before they were read, silently    | here, store/test_group               |
|  4 | one entry loops for ever, or stops everything      | test_crashes (buried alone)          |
|  5 | a malformed entry stays pending, or kills          | test_malformed                       |
|  6 | alive and "healthy", and consuming nothing         | here                                 |
|  7 | work in progress is handed out again               | here, pipeline/test_reclaim          |
|  8 | who crashes while reclaiming blocks it for ever    | here, pipeline/test_reclaim          |
|  9 | dead consumers pile up                             | here, store/test_group               |
| 10 | acknowledged entries are never freed               | here, store/test_trimmer             |
| 11 | the client's time-out breaks blocking reads        | here                                 |
| 12 | a lag that is wrong, or unknown and shown as 0     | here, store/test_group               |
| 13 | what autoscalers need: lag and pending, from 1 on  | here                                 |
| 14 | the backlog from before the group is not read      | here                                 |
| 15 | a time series for each consumer                    | here                                 |
"""

import signal
import time
from functools import partial
from pathlib import Path
from typing import Any

from tests.e2e.conftest import ServerStarter
from tests.e2e.faults import sitecustomize as faults
from tests.e2e.place import GROUP, Place
from tests.e2e.process import Worker, running
from tests.events import message
from tests.waiting import wait_until
from worker.core.stream_keys import StreamKeys

INSTANCE = "loja-aurora"
POISON = {**message(500), "content": faults.KILLS.decode()}


def of(directory: Path, name: str) -> Path:
    """A folder of one worker's own."""
    folder = directory / name
    folder.mkdir()
    return folder


def series(worker: Worker) -> dict[str, float]:
    """The unlabelled series of the stream, by the end of their names."""
    lines = worker.ops("/metrics").text.splitlines()
    named = [line.split() for line in lines if line.startswith("chatwoot_cache_stream_")]
    return {name.removeprefix("chatwoot_cache_stream_"): float(value) for name, value in named}


def has_saved(place: Place) -> bool:
    """Tell whether the group's position is saved with the newest entry."""
    rows: Any = place.redis.xrevrange(place.stream, count=1)
    saved: Any = place.redis.hget(StreamKeys(place.stream, GROUP).position, "id")
    return bool(saved == rows[0][0])


async def test_01_and_08_what_a_killed_worker_held_comes_back_on_an_idle_stream(
    place: Place, tmp_path: Path
) -> None:
    """To a worker of another name, though the dead one also had its turn at reclaiming."""
    place.add(*(message(number) for number in range(1, 6)), POISON)
    fault = {"PYTHONPATH": str(Path(faults.__file__).parent)}
    with Worker(of(tmp_path, "a"), place.settings(STREAM_CONSUMER="a") | fault) as dead:
        assert await dead.ended() == -signal.SIGKILL
    place.redis.set(StreamKeys(place.stream, GROUP).lease("sweep"), "the dead one", px=500)

    settings = place.settings(STREAM_CONSUMER="b", STREAM_RECLAIM_AFTER_S="0.5")
    async with running(of(tmp_path, "b"), settings) as worker:
        await place.settled()
        assert worker.metric("entries_read_total", source="reclaimed") == 6
    assert place.document(INSTANCE, "message", 500)


async def test_03_and_12_entries_trimmed_while_the_worker_was_down_are_reported(
    place: Place, tmp_path: Path
) -> None:
    """The gap is flagged at the start, and the lag is right after it."""
    async with running(of(tmp_path, "first"), place.settings()):
        place.add(message(1))
        await place.settled()
        await wait_until(partial(has_saved, place), "its position is saved", timeout_s=10)
    place.add(*(message(number) for number in range(2, 400)))
    place.redis.xtrim(place.stream, maxlen=100, approximate=False)
    async with running(of(tmp_path, "second"), place.settings()) as worker:
        await place.settled()
        measured = partial(series, worker)
        await wait_until(lambda: measured().get("lag_entries") == 0, "it measured", timeout_s=10)

        info: Any = place.redis.xinfo_stream(place.stream)
        assert worker.metric("entries_read_total", source="new") == 100
        assert worker.metric("stream_gaps_total") == ("entries-added" in info)
        assert worker.metric("stream_lost_entries_total", reason="trimmed_pending") == 0
        assert series(worker)["lag_known"] == 1


async def test_06_a_worker_that_cannot_consume_says_so(
    private: ServerStarter, tmp_path: Path
) -> None:
    """A wedged loop fails liveness elsewhere; here Redis hangs, and the figures stand still."""
    server, place = private()
    async with running(tmp_path, place.settings()) as worker:
        place.add(message(1))
        await place.settled()
        settled_at = worker.metric("last_settled_timestamp_seconds")
        assert time.time() - settled_at < 30
        server.pause()
        try:
            await wait_until(
                lambda: worker.ops("/readyz").status_code == 503, "readiness turns red"
            )
        finally:
            server.resume()
        place.add(message(2))
        await place.settled()
        assert worker.metric("last_settled_timestamp_seconds") > settled_at
        await wait_until(lambda: worker.ops("/readyz").status_code == 200, "it is ready again")


async def test_07_work_in_progress_is_not_handed_out_again(
    private: ServerStarter, tmp_path: Path
) -> None:
    """However long the cache hangs, and however impatient the other worker is."""
    cache_server, cache_place = private()
    _, place = private()
    settings = place.settings(STREAM_RECLAIM_AFTER_S="0.6", STREAM_CONSUMER="slow")
    settings["CHATWOOT_CACHE_STREAM_REDIS_URI"] = place.uri
    settings["CACHE_REDIS_URI"] = cache_place.uri
    other = settings | {"CHATWOOT_CACHE_STREAM_CONSUMER": "b", "CACHE_REDIS_URI": place.uri}
    async with running(of(tmp_path, "a"), settings) as slow:
        cache_server.pause()
        place.add(message(1))
        await wait_until(lambda: len(place.pending()) == 1, "it is in hand")
        async with running(of(tmp_path, "b"), other) as impatient:
            since = time.monotonic()
            await wait_until(lambda: time.monotonic() - since > 1.5, "the other has swept")
            assert [row["consumer"] for row in place.pending()] == [b"slow"]
            cache_server.resume()
            await place.settled()
            assert impatient.metric("entries_read_total") == 0
        assert slow.metric("entries_read_total", source="new") == 1


async def test_09_10_14_and_15_the_backlog_is_read_freed_and_one_series_is_kept(
    place: Place, tmp_path: Path
) -> None:
    """Entries came before the group, and are old; consumers of former pods died long ago."""
    place.redis.xadd(place.stream, {"payload": "old"}, id="1-1")
    place.add(*(message(number) for number in range(1, 4)))
    async with running(tmp_path, place.settings(STREAM_RETENTION_S="1")) as worker:
        await place.settled()
        for pod in range(20):
            place.redis.xgroup_createconsumer(place.stream, GROUP, f"pod-{pod}")
        assert place.reasons() == ["bad_json"]
        assert place.document(INSTANCE, "message", 3)
        await wait_until(
            lambda: place.redis.xlen(place.stream) == 1, "what is old is freed", timeout_s=15
        )
        assert worker.metric("stream_trimmed_entries_total") == 3
        text = worker.ops("/metrics").text
        assert "pod-" not in text
        assert place.settings()["CHATWOOT_CACHE_STREAM_CONSUMER"] not in text


async def test_11_a_read_may_wait_longer_than_the_clients_own_time_out(
    place: Place, tmp_path: Path
) -> None:
    """Five seconds in redis-py; nothing is logged, and what comes then is read at once."""
    async with running(tmp_path, place.settings(STREAM_BLOCK_S="7")) as worker:
        since = time.monotonic()
        await wait_until(lambda: time.monotonic() - since > 6, "six seconds went by", timeout_s=9)
        place.add(message(1))
        await place.settled(timeout_s=1)
        assert {line["level"] for line in worker.lines} == {"info"}
        assert worker.metric("redis_errors_total") == 0


async def test_13_lag_and_pending_are_told_apart_from_the_first_entry_on(
    private: ServerStarter, tmp_path: Path
) -> None:
    """An autoscaler needs their sum; without the consumer running they are asked of the group."""
    cache_server, cache_place = private()
    _, place = private()
    settings = place.settings(STREAM_BATCH_SIZE="1")
    settings["CHATWOOT_CACHE_STREAM_REDIS_URI"] = place.uri
    settings["CACHE_REDIS_URI"] = cache_place.uri
    async with running(tmp_path, settings) as worker:
        cache_server.pause()
        try:
            place.add(*(message(number) for number in range(1, 8)))

            def waiting() -> float:
                shown = series(worker)
                return shown["pending_entries"] + shown.get("lag_entries", -99)

            counts = "entries-added" in dict(place.redis.xinfo_stream(place.stream))
            await wait_until(
                lambda: waiting() == 7 or not counts, "all that is to come is shown", timeout_s=10
            )
        finally:
            cache_server.resume()
        await place.settled()
