"""The process dies, or meets a defect of its own: what it had in hand is not lost."""

import asyncio
from functools import partial
from pathlib import Path

from tests.e2e.faults import sitecustomize as faults
from tests.e2e.place import Place
from tests.e2e.process import Worker, running
from tests.events import encode, message
from tests.waiting import wait_until

FAULTS = {"PYTHONPATH": str(Path(faults.__file__).parent)}
POISON = {**message(500), "content": faults.KILLS.decode()}
DEFECT = {**message(600), "content": faults.BREAKS.decode()}


async def test_a_second_start_takes_up_what_a_killed_worker_held(
    place: Place, tmp_path: Path
) -> None:
    """Each entry was handed out twice then, and settles."""
    place.add(*(message(number) for number in range(1, 6)), POISON)
    with Worker(tmp_path, place.settings() | FAULTS) as worker:
        assert await worker.ended() == -9
    assert [row["times_delivered"] for row in place.pending()] == [1] * 6
    place.add(message(7))

    async with running(tmp_path, place.settings()) as worker:
        await place.settled()
        assert worker.metric("entries_read_total", source="own") == 6
        assert worker.metric("entries_read_total", source="new") == 1

    assert place.letters() == []
    assert {place.document("loja-aurora", "message", n)["id"] for n in (1, 5, 500, 7)}


async def test_an_entry_that_kills_is_buried_alone(place: Place, tmp_path: Path) -> None:
    """Its neighbours are cached after two deaths; it has its attempts, alone, and then ends."""
    neighbours = range(1, 7)
    place.add(*(message(n) for n in (1, 2, 3)), POISON, *(message(n) for n in (4, 5, 6)))
    settings = place.settings(STREAM_MAX_ATTEMPTS="3") | FAULTS
    for deaths in range(1, 4):
        with Worker(tmp_path, settings) as worker:
            assert await worker.ended() == -9
        assert max(row["times_delivered"] for row in place.pending()) == deaths

    async with running(tmp_path, settings) as worker:
        await place.settled()
        await wait_until(lambda: worker.logged("entry.buried"), "the burial is told")
        assert worker.logged("entry.buried")[0]["reason"] == "max_attempts"

    assert place.reasons() == ["max_attempts"]
    assert place.letters()[0][b"payload"] == encode(POISON)
    assert place.letters()[0][b"_attempts"] == b"4"
    assert all(place.document("loja-aurora", "message", n) for n in neighbours)


async def test_an_entry_that_kills_takes_no_batch_along_that_was_under_way(
    place: Place, tmp_path: Path
) -> None:
    """One batch is read, one decoded and one written when it kills; all others are cached."""
    neighbours = [number for number in range(1, 31) if number != 15]
    place.add(*(message(n) for n in range(1, 15)), POISON, *(message(n) for n in range(16, 31)))
    settings = place.settings(STREAM_MAX_ATTEMPTS="3", STREAM_BATCH_SIZE="4") | FAULTS
    starts = 0
    while not place.is_settled():
        starts += 1
        with Worker(tmp_path, settings) as worker:
            await wait_until(
                partial(is_over, worker, place), "it ends, or all is settled", timeout_s=20
            )
    assert starts == 4
    assert place.reasons() == ["max_attempts"]
    assert place.letters()[0][b"payload"] == encode(POISON)
    assert all(place.document("loja-aurora", "message", n) for n in neighbours)


def is_over(worker: Worker, place: Place) -> bool:
    return worker.process.poll() is not None or place.is_settled()


async def test_an_entry_that_meets_a_defect_stays_pending_and_its_neighbours_are_cached(
    place: Place, tmp_path: Path
) -> None:
    async with running(tmp_path, place.settings() | FAULTS) as worker:
        (first, *_) = place.add(DEFECT, *(message(number) for number in range(1, 6)))
        await wait_until(
            lambda: place.document("loja-aurora", "message", 5) and len(place.pending()) == 1,
            "the neighbours are cached",
        )
        place.add(message(9))
        await wait_until(lambda: place.document("loja-aurora", "message", 9), "the loop goes on")

        (failed,) = worker.logged("entry.failed")
        assert (failed["level"], failed["id"]) == ("error", first.decode())
        assert failed["error"].startswith("KeyError at ")
        assert faults.BREAKS.decode() not in worker.log
        assert worker.ops("/readyz").status_code == 200
        assert await worker.stop() == 0

    assert [row["message_id"] for row in place.pending()] == [first]
    async with running(tmp_path, place.settings()):
        await place.settled()
    assert place.document("loja-aurora", "message", 600)


async def test_a_second_worker_of_one_name_is_refused(place: Place, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    async with running(tmp_path, place.settings()) as first:
        with Worker(other, place.settings()) as second:
            assert await second.ended() == 2
            # One line, and no "worker.started" before it: nobody counts it as ready.
            (line,) = second.log.splitlines()

        assert line.startswith("chatwoot-cache: a live worker is consumer 'worker-1'")
        assert "CHATWOOT_CACHE_STREAM_CONSUMER" in line
        place.add(message(3))
        await place.settled()
        assert first.process.poll() is None
    assert place.document("loja-aurora", "message", 3)


async def test_a_worker_may_start_right_after_one_of_its_name_was_killed(
    place: Place, tmp_path: Path
) -> None:
    with Worker(tmp_path, place.settings()) as first:
        await first.started()
        first.process.kill()
        await first.ended()
    async with asyncio.timeout(5), running(tmp_path, place.settings()):
        place.add(message(3))
        await place.settled()
