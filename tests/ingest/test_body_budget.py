"""Bodies share memory: what is free, who makes room, and who waits for it."""

import anyio
import pytest

from tests.waiting import wait_until
from worker.ingest.body_budget import FREE_BYTES, Body, Budget, Evicted

LARGE = b"x" * (FREE_BYTES + 100)


async def test_what_each_body_has_free_is_not_counted() -> None:
    budget = Budget(0)
    with budget.body(proven=False) as one, budget.body(proven=False) as other:
        for body in (one, other):
            await body.add(b"x" * (FREE_BYTES - 1))
            await body.add(b"y")

    assert one.take() == b"x" * (FREE_BYTES - 1) + b"y"


async def test_one_body_alone_may_take_more() -> None:
    with Budget(10).body(proven=False) as body:
        await body.add(LARGE)

    assert body.take() == LARGE


async def more(body: Body) -> None:
    """Wait for more of a body, until it is evicted."""
    with anyio.fail_after(1), body.arriving():
        await anyio.sleep_forever()


async def test_the_longest_waiting_body_makes_room() -> None:
    """At once, so that the memory is free before the new one takes it."""
    budget = Budget(150)
    with (
        budget.body(proven=False) as small,
        budget.body(proven=False) as old,
        budget.body(proven=False) as new,
    ):
        for body, chunk in ((small, b"x"), (old, LARGE), (new, LARGE)):
            await body.add(chunk)

        assert [len(small), len(old), len(new)] == [1, 0, len(LARGE)]
        with pytest.raises(Evicted):
            await more(old)


async def test_a_body_that_waits_for_longest_makes_room_itself() -> None:
    budget = Budget(150)
    with budget.body(proven=False) as old, budget.body(proven=False) as new:
        await old.add(LARGE[:-90])
        await new.add(LARGE)
        with pytest.raises(Evicted):
            await old.add(b"x" * 50)


async def test_a_body_that_has_arrived_wholly_is_waited_for() -> None:
    budget = Budget(150)
    async with anyio.create_task_group() as tasks:
        with budget.body(proven=True) as new:
            with budget.body(proven=False) as whole:
                with whole.arriving():
                    await whole.add(LARGE)
                tasks.start_soon(new.add, LARGE)
                await wait_until(lambda: new.lacked_room, "the new body waits")
                assert (len(whole), len(new)) == (len(LARGE), 0)
            await wait_until(lambda: len(new) == len(LARGE), "the new body has room")


async def test_of_proven_bodies_the_newest_makes_room() -> None:
    """They could wait for each other for ever."""
    budget = Budget(150)
    with budget.body(proven=True) as old, budget.body(proven=True) as new:
        await old.add(LARGE[:-90])
        await new.add(LARGE)
        await old.add(b"x" * 90)
        assert (len(old), len(new)) == (len(LARGE), 0)
        with pytest.raises(Evicted):
            await new.add(LARGE)


async def test_a_proven_body_makes_no_room_for_a_stranger() -> None:
    budget = Budget(150)
    with budget.body(proven=True) as proven, budget.body(proven=False) as stranger:
        await proven.add(LARGE)
        with pytest.raises(Evicted):
            await stranger.add(LARGE)


async def test_what_is_dropped_is_room_for_others() -> None:
    budget = Budget(150)
    with budget.body(proven=True) as one, budget.body(proven=False) as other:
        await one.add(LARGE)
        one.drop()
        with anyio.fail_after(1):
            await other.add(LARGE)

    assert one.take() == b""
