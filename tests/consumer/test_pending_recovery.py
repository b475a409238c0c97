"""What others left, or a former life: taken up once, tried alone when suspect, handed over."""

import time

import anyio
import pytest

from tests import events
from tests.consumer.harness import Fragile, Gate, Harness, harnessed
from tests.waiting import wait_until
from worker.core.stream_entry import PendingEntry
from worker.core.stream_keys import StreamKeys
from worker.errors import ConfigurationError


async def test_takes_up_what_a_former_life_left_pending(redis_uri: str, prefix: str) -> None:
    """Before anything new, with one more attempt for each."""
    async with harnessed(redis_uri, prefix) as rig:
        await rig.add(events.message(1))
        trimmed = await rig.add(events.message(2))
        await rig.stream.read()
        await rig.client.xdel(rig.key, trimmed)
        await rig.add(events.message(3))
        await rig.consume()

        assert rig.count("entries_read_total", source="own") == 2
        assert rig.count("entries_read_total", source="new") == 1
        assert rig.lost("trimmed_pending") == 1
        assert [m.id for m in await rig.documents.messages("loja-aurora", 1584, 9)] == [1, 3]


async def test_suspects_are_settled_alone_and_buried_when_tried_enough(
    redis_uri: str, prefix: str
) -> None:
    """The limit applies to entries that were tried alone, and not to their neighbours."""
    async with harnessed(redis_uri, prefix, max_attempts=1) as rig:
        for number in (1, 2, 3):
            await rig.add(events.message(number))
        await rig.stream.read()
        first, second, third = await rig.stream.pending(b"0-0")
        for attempts in (1, 2):
            await rig.stream.claim([PendingEntry(first.id, attempts)])
        await rig.stream.claim([second])
        await rig.consume()
        (letter,) = await rig.letters()

        assert (letter[b"_id"], letter[b"_reason"]) == (first.id, b"max_attempts")
        assert letter[b"_attempts"] == b"4"
        assert [m.id for m in await rig.documents.messages("loja-aurora", 1584, 9)] == [2, 3]
        assert rig.outcomes() == {"applied": 2, "dead": 1}
        assert third.attempts == 1


async def test_takes_over_what_another_worker_left(redis_uri: str, prefix: str) -> None:
    """Once it has been idle for long enough, on an idle stream too; trimmed entries are counted."""
    async with harnessed(redis_uri, prefix, consumer="gone") as gone:
        trimmed = await gone.add(events.message(2))
        await gone.add(events.message(1))
        await gone.stream.read()
        await gone.client.xdel(gone.key, trimmed)
    async with harnessed(redis_uri, prefix, consumer="here", reclaim_after_s=0.3) as here:
        await here.consume()

        assert here.count("entries_read_total", source="reclaimed") == 2
        assert here.lost("trimmed_pending") == 1
        assert await here.documents.message("loja-aurora", 1) is not None


async def test_leaves_alone_what_another_worker_has_in_hand(redis_uri: str, prefix: str) -> None:
    """However long it takes: a live worker keeps what it has in hand."""
    gate = Gate()
    async with (
        harnessed(redis_uri, prefix, consumer="slow", reclaim_after_s=0.3, cache=gate) as slow,
        harnessed(redis_uri, prefix, consumer="idle", reclaim_after_s=0.3) as idle,
        slow.running(),
    ):
        await slow.add(events.message(1))
        await wait_until(lambda: gate.waiting, "the entry is in hand")
        async with idle.running():
            await wait_until(idle.has_swept, "the other looked for idle entries", timeout_s=10)
            assert idle.count("entries_read_total", source="reclaimed") == 0
        gate.open.set()
        await wait_until(slow.is_idle, "it is settled")

        assert slow.outcomes() == {"applied": 1}


async def test_what_a_crashed_sweeper_held_is_swept_by_others_soon(
    redis_uri: str, prefix: str
) -> None:
    """Its turn ends by itself, without anybody who gives it back; until then nobody sweeps."""
    async with harnessed(redis_uri, prefix, consumer="gone") as gone:
        await gone.add(events.message(1))
        await gone.stream.read()
        assert await gone.stream.reclaim_lease.hold(0.5)
    async with harnessed(redis_uri, prefix, consumer="here", reclaim_after_s=0.1) as here:
        started = time.monotonic()
        await here.consume()

        assert time.monotonic() - started > 0.4
        assert here.count("entries_read_total", source="reclaimed") == 1
        async with here.running():
            await wait_until(lambda: gone_turn_is_free(here), "the turn was given back")


async def gone_turn_is_free(rig: Harness) -> bool:
    return not await rig.client.exists(StreamKeys(rig.key, "g").lease("sweep"))


async def test_a_sweep_goes_past_what_it_may_not_take(redis_uri: str, prefix: str) -> None:
    """However many young entries of others stand before an idle one."""
    async with harnessed(redis_uri, prefix, consumer="gone") as gone:
        young = [await gone.add(events.message(n)) for n in range(1, 40)]
        await gone.add(events.message(40))
        while await gone.stream.read():
            pass
        async with harnessed(redis_uri, prefix, consumer="here", reclaim_after_s=0.5) as here:

            async def is_taken() -> bool:
                await gone.stream.reset_idle(young)
                return here.count("entries_read_total", source="reclaimed") > 0

            async with here.running():
                await wait_until(is_taken, "the idle one was taken")

            assert here.count("entries_read_total", source="reclaimed") == 1
            assert await here.documents.message("loja-aurora", 40) is not None


async def test_what_is_in_hand_when_time_is_up_is_handed_over(redis_uri: str, prefix: str) -> None:
    """The others have it with their next sweep, long before it would be idle for long enough."""
    async with (
        harnessed(redis_uri, prefix, consumer="slow", cache=Gate(), reclaim_after_s=600) as slow,
        harnessed(redis_uri, prefix, consumer="other", reclaim_after_s=600) as other,
    ):
        for number in (1, 2, 3):
            await slow.add(events.message(number))
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(slow.consumer.run)
            await wait_until(lambda: slow.count("inflight_entries") == 3, "it has all in hand")
            tasks.cancel_scope.cancel()
        pending = await other.stream.pending(b"0-0", idle_s=600)

        assert [p.attempts for p in pending] == [0, 0, 0]
        await other.consume()
        assert other.count("entries_read_total", source="reclaimed") == 3


async def test_an_entry_that_meets_a_defect_is_tried_again_and_buried_at_last(
    redis_uri: str, prefix: str
) -> None:
    """Without a restart, and alone from the third attempt on."""
    async with harnessed(redis_uri, prefix, cache=Fragile(2), reclaim_after_s=0.1) as rig:
        for number in (1, 2, 3):
            await rig.add(events.message(number))
        await rig.consume()
        (letter,) = await rig.letters()

        assert (letter[b"_reason"], letter[b"_attempts"]) == (b"max_attempts", b"6")
        assert rig.outcomes() == {"applied": 2, "dead": 1}


async def test_a_name_in_use_is_refused(redis_uri: str, prefix: str) -> None:
    """Two workers of one name would settle one list of pending entries."""
    async with (
        harnessed(redis_uri, prefix) as second,
        harnessed(redis_uri, prefix) as first,
        first.running(),
    ):
        await wait_until(first.has_read, "the first reads")
        with pytest.raises(ConfigurationError, match="STREAM_CONSUMER"), anyio.fail_after(5):
            await second.consumer.run()
