"""The group or its stream is gone while we run: it is made again, and says from where."""

from tests import events
from tests.consumer.harness import Gate, Harness, harnessed
from tests.waiting import wait_until


async def test_resumes_where_a_destroyed_group_was(rig: Harness) -> None:
    """What was settled is not read again; the metric counts, and the ledger knows of no loss."""
    async with rig.running():
        for number in range(1, 6):
            await rig.add(events.message(number))
        await wait_until(rig.is_idle, "the first are settled")
        await rig.maintenance.measure()
        await rig.client.xgroup_destroy(rig.key, "g")
        await rig.add(events.message(6))
        await wait_until(lambda: rig.count("stream_group_recreations_total"), "the group is new")
        await wait_until(rig.is_idle, "the last is settled")

    assert rig.count("entries_read_total", source="new") == 6
    assert rig.count("stream_group_recreations_total") == 1
    assert rig.lost("group_recreated") == 0


async def test_a_group_destroyed_in_the_middle_of_a_batch_loses_nothing(
    redis_uri: str, prefix: str
) -> None:
    """What was in hand was not acknowledged, and so comes again."""
    gate = Gate()
    async with harnessed(redis_uri, prefix, cache=gate) as rig, rig.running():
        await rig.add(events.message(1))
        await wait_until(lambda: gate.waiting, "the batch is in hand")
        await rig.maintenance.measure()
        await rig.client.xgroup_destroy(rig.key, "g")
        await wait_until(lambda: rig.count("stream_group_recreations_total"), "the group is new")
        gate.open.set()
        await wait_until(rig.is_idle, "it is settled")

        assert rig.count("entries_read_total", source="new") == 2


async def test_a_deleted_streams_loss_is_counted(redis_uri: str, prefix: str) -> None:
    """What was known to be there and not settled, as an estimate."""
    async with harnessed(redis_uri, prefix, consumer="gone") as gone:
        for number in (1, 2):
            await gone.add(events.message(number))
        await gone.stream.read()
    async with harnessed(redis_uri, prefix, consumer="here") as here:
        await here.maintenance.measure()
        await here.client.delete(here.key)
        await here.add(events.message(3))
        await here.consume()

        assert here.lost("group_recreated") == 2
        assert here.outcomes() == {"applied": 1}


async def test_goes_on_when_stream_and_group_are_deleted(rig: Harness) -> None:
    """The group is created again, and what comes then is read."""
    async with rig.running():
        await rig.add(events.message(1))
        await wait_until(rig.is_idle, "the first is settled")
        await rig.client.delete(rig.key, rig.documents.keys.bindings, rig.documents.keys.accounts)
        await rig.add(events.message(2))
        await wait_until(lambda: rig.count("stream_group_recreations_total"), "the group is new")
        await wait_until(rig.is_idle, "the second is settled")

    assert [m.id for m in await rig.documents.messages("loja-aurora", 1584, 9)] == [1, 2]
    assert await rig.client.hget(rig.documents.keys.bindings, "3/12") == b"loja-aurora"


async def test_what_is_in_hand_is_not_lost_with_its_stream(redis_uri: str, prefix: str) -> None:
    """It is settled from memory, though there is nothing left to acknowledge."""
    gate = Gate()
    async with harnessed(redis_uri, prefix, cache=gate) as rig, rig.running():
        await rig.add(events.message(1))
        await wait_until(lambda: gate.waiting, "it is in hand")
        await rig.maintenance.measure()
        await rig.client.delete(rig.key)
        await wait_until(lambda: rig.count("stream_group_recreations_total"), "the group is new")
        gate.open.set()
        await wait_until(lambda: rig.outcomes() == {"applied": 1}, "it is settled")

        assert rig.lost("group_recreated") == 0
