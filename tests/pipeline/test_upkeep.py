"""Beside the loop: measured, trimmed and counted, by one worker for all."""

from tests import events
from tests.pipeline.rig import Rig, rigged


async def test_one_worker_counts_trims_and_retires_for_all(redis_uri: str, prefix: str) -> None:
    """Each loss is counted once, by whoever holds the lease."""
    async with (
        rigged(redis_uri, prefix, consumer="a") as first,
        rigged(redis_uri, prefix, consumer="b") as second,
    ):
        for number in range(1, 11):
            await first.add(events.message(number))
        await first.upkeep.measure()
        await first.client.xreadgroup("g", "a", {first.key: ">"}, count=3)
        await first.client.xtrim(first.key, maxlen=4, approximate=False)
        for rig in (second, first, second, first):
            await rig.upkeep.measure()
        counts = (await first.stream.group.figures()).added is not None

        lost = [r.lost("trimmed_unread") for r in (first, second)]
        assert lost == ([3, 0] if counts else [0, 0])
        assert [r.count("stream_lag_entries") for r in (first, second)] == [4, 4]
        for rig in (first, second):
            await rig.upkeep.trim()
            await rig.upkeep.retire()


async def test_trims_beyond_the_limit_and_counts_what_that_lost(
    redis_uri: str, prefix: str
) -> None:
    """Exactly, whatever the server knows, and once."""
    async with rigged(redis_uri, prefix, max_entries=4) as rig:
        for number in range(1, 11):
            await rig.add(events.message(number))
        await rig.upkeep.measure()
        await rig.upkeep.trim()
        await rig.upkeep.measure()
        await rig.consume()
        await rig.upkeep.measure()

        assert rig.count("stream_trimmed_entries_total") == 6
        assert rig.lost("trimmed_unread") == 6
        assert rig.outcomes() == {"applied": 4}


async def test_says_which_group_holds_trimming_back(rig: Rig) -> None:
    await rig.client.xadd(rig.key, {"payload": "old"}, id="1-1")
    await rig.client.xgroup_create(rig.key, "never reads", "0")
    await rig.consume()
    await rig.upkeep.trim()
    assert rig.count("stream_trim_held_back") == 1

    await rig.client.xgroup_destroy(rig.key, "never reads")
    await rig.upkeep.trim()
    assert rig.count("stream_trim_held_back") == 0


async def test_measures_the_stream(rig: Rig) -> None:
    """What the server does not know is absent."""
    await rig.add(events.message())
    await rig.upkeep.measure()
    assert rig.count("stream_length") == 1
    assert (
        rig.metrics.registry.get_sample_value(
            "chatwoot_cache_stream_oldest_pending_timestamp_seconds"
        )
        is None
    )
    await rig.stream.read()
    await rig.upkeep.measure()
    await rig.upkeep.identify_server()
    await rig.upkeep.drop_old_letters()

    assert rig.count("stream_pending_entries") == 1
    assert rig.count("stream_oldest_pending_timestamp_seconds") > 1_700_000_000
