"""Maintenance: measured, trimmed and counted, by one worker for all."""

import re
from collections.abc import Iterable
from functools import partial
from pathlib import Path
from typing import cast

from prometheus_client.exposition import generate_latest
from structlog.testing import capture_logs

from tests import events
from tests.consumer.harness import Harness, harnessed
from tests.servers import Server
from tests.waiting import wait_until
from worker.maintenance.bot_contact_cleanup import clean_up_bot_contact
from worker.store.admin.bot_contact_purge import BotContactPurge, PurgeCounts


async def test_a_gap_that_others_trimmed_is_counted_once_for_each_position(
    redis_uri: str, prefix: str
) -> None:
    """By each worker that sees it; all show the same lag. It counts no lost entries."""
    async with (
        harnessed(redis_uri, prefix, consumer="a") as first,
        harnessed(redis_uri, prefix, consumer="b") as second,
    ):
        for number in range(1, 11):
            await first.add(events.message(number))
        await first.client.xreadgroup("g", "a", {first.key: ">"}, count=3)
        await first.maintenance.measure()
        await first.client.xtrim(first.key, maxlen=4, approximate=False)
        with capture_logs() as lines:
            for rig in (second, first, second, first):
                await rig.maintenance.measure()
        counts = (await first.stream.group.stats()).added is not None

        assert [r.count("stream_gaps_total") for r in (first, second)] == [counts, counts]
        assert {line["entries"] for line in lines} == ({3} if counts else set())
        assert [r.lost("trimmed_unread") for r in (first, second)] == [0, 0]
        assert [r.count("stream_lag_entries") for r in (first, second)] == [4, 4]


async def test_what_was_trimmed_while_no_worker_ran_is_seen_at_the_start(rig: Harness) -> None:
    await rig.add(events.message(1))
    await rig.stream.ack([entry.id for entry in await rig.stream.read()])
    await rig.maintenance.measure()
    for number in range(2, 11):
        await rig.add(events.message(number))
    await rig.client.xtrim(rig.key, maxlen=4, approximate=False)
    counts = (await rig.stream.group.stats()).added is not None
    await rig.maintenance.measure()
    await rig.consume()
    await rig.maintenance.measure()

    assert rig.count("stream_gaps_total") == counts
    assert rig.count("stream_lag_known") == 1
    assert rig.count("stream_lag_entries") == 0


async def test_a_server_that_forgot_what_was_read_lost_nothing(
    server_binary: Path, prefix: str
) -> None:
    """Redis 7.0 restarts from its append-only file with the count of the last rewrite."""
    with Server(server_binary, "--appendonly", "yes", "--appendfsync", "always") as server:
        async with harnessed(server.uri, prefix, max_entries=4) as rig, rig.running():
            await settled(rig, range(1, 11))
            await rig.client.bgrewriteaof()
            await wait_until(partial(has_rewritten, rig), "the file is rewritten")
            await settled(rig, range(11, 31))
            await rig.maintenance.measure()
            await rig.maintenance.trim()
            server.kill()
            server.start()
            await rig.client.connection_pool.disconnect()
            await settled(rig, [31])
            await rig.maintenance.measure()

            assert rig.count("stream_gaps_total") == 0
            assert rig.lost("trimmed_unread") == 0
            assert rig.count("stream_trimmed_entries_total") == 26
            assert rig.count("stream_lag_entries") == 0


async def settled(rig: Harness, numbers: Iterable[int]) -> None:
    for number in numbers:
        await rig.add(events.message(number))
    await wait_until(rig.is_idle, "everything is settled")


async def has_rewritten(rig: Harness) -> bool:
    about = await rig.client.info("persistence")
    return not (about["aof_rewrite_in_progress"] or about["aof_rewrite_scheduled"])


async def test_a_group_that_is_set_back_has_lost_nothing(rig: Harness) -> None:
    """As by XGROUP SETID, to read all again: what was acknowledged and trimmed is no loss."""
    for number in range(1, 11):
        await rig.add(events.message(number))
    await rig.stream.ack([entry.id for _ in range(2) for entry in await rig.stream.read()])
    await rig.maintenance.measure()
    await rig.client.xtrim(rig.key, maxlen=4, approximate=False)
    await rig.maintenance.measure()
    await rig.client.xgroup_setid(rig.key, "g", "0")
    await rig.maintenance.measure()
    await rig.consume()
    await rig.maintenance.measure()

    assert rig.count("stream_gaps_total") == 0
    assert rig.count("entries_read_total", source="new") == 4


async def test_one_worker_trims_for_all(redis_uri: str, prefix: str) -> None:
    """The others leave it alone while that one lives."""
    async with (
        harnessed(redis_uri, prefix, consumer="a", max_entries=2) as first,
        harnessed(redis_uri, prefix, consumer="b", max_entries=2) as second,
    ):
        await first.maintenance.retire()
        for number in range(1, 6):
            await first.add(events.message(number))
        await first.consume()
        await second.maintenance.trim()
        assert await first.client.xlen(first.key) == 5
        await first.maintenance.trim()
        assert await first.client.xlen(first.key) == 2
        assert first.count("stream_trimmed_entries_total") == 3
        assert first.lost("trimmed_unread") == 0


async def test_trims_beyond_the_limit_and_counts_what_that_lost(
    redis_uri: str, prefix: str
) -> None:
    """Exactly, whatever the server knows, and once."""
    async with harnessed(redis_uri, prefix, max_entries=4) as rig:
        for number in range(1, 11):
            await rig.add(events.message(number))
        await rig.maintenance.measure()
        await rig.maintenance.trim()
        await rig.maintenance.measure()
        await rig.consume()
        await rig.maintenance.measure()

        assert rig.count("stream_trimmed_entries_total") == 6
        assert rig.lost("trimmed_unread") == 6
        assert rig.outcomes() == {"applied": 4}


async def test_says_which_group_holds_trimming_back(rig: Harness) -> None:
    await rig.client.xadd(rig.key, {"payload": "old"}, id="1-1")
    await rig.client.xgroup_create(rig.key, "never reads", "0")
    await rig.consume()
    await rig.maintenance.trim()
    assert rig.count("stream_trim_held_back") == 1

    await rig.client.xgroup_destroy(rig.key, "never reads")
    await rig.maintenance.trim()
    assert rig.count("stream_trim_held_back") == 0


async def test_measures_the_stream(rig: Harness) -> None:
    """What the server does not know is absent."""
    await rig.add(events.message())
    await rig.maintenance.measure()
    assert rig.count("stream_length") == 1
    assert (
        rig.metrics.registry.get_sample_value(
            "chatwoot_cache_stream_oldest_pending_timestamp_seconds"
        )
        is None
    )
    await rig.stream.read()
    await rig.maintenance.measure()
    await rig.maintenance.show_server()
    await rig.maintenance.drop_old_letters()
    (server,) = generate_latest(rig.metrics.registry).decode().split("redis_server_info{")[1:]
    assert re.match(r'server="(redis|valkey)",version="\d', server)

    assert rig.count("stream_pending_entries") == 1
    assert rig.count("stream_oldest_pending_timestamp_seconds") > 1_700_000_000


async def test_a_defect_of_the_bot_purge_does_not_end_the_worker() -> None:
    class Broken:
        async def run(self) -> PurgeCounts:
            raise ZeroDivisionError

    with capture_logs() as lines:
        await clean_up_bot_contact(cast("BotContactPurge", Broken()))

    (line,) = lines
    assert line["event"] == "bot_contact.purge_failed"
