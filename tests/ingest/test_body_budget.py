"""Bodies share memory: what is free, who makes room, and who waits for it."""

import anyio
import pytest

from tests.waiting import wait_until
from worker.ingest.body_budget import FREE_BYTES, BodyBudget, BodyBuffer, BodyEvicted

LARGE = b"x" * (FREE_BYTES + 100)


async def test_what_each_body_has_free_is_not_counted() -> None:
    budget = BodyBudget(0)
    with budget.buffer(authenticated=False) as one, budget.buffer(authenticated=False) as other:
        for body in (one, other):
            await body.add(b"x" * (FREE_BYTES - 1))
            await body.add(b"y")

    assert one.take() == b"x" * (FREE_BYTES - 1) + b"y"


async def test_one_body_alone_may_take_more() -> None:
    with BodyBudget(10).buffer(authenticated=False) as body:
        await body.add(LARGE)

    assert body.take() == LARGE


async def more(body: BodyBuffer) -> None:
    """Wait for more of a body, until it is evicted."""
    with anyio.fail_after(1), body.receiving():
        await anyio.sleep_forever()


async def test_the_longest_waiting_body_makes_room() -> None:
    """At once, so that the memory is free before the new one takes it."""
    budget = BodyBudget(150)
    with (
        budget.buffer(authenticated=False) as small,
        budget.buffer(authenticated=False) as old,
        budget.buffer(authenticated=False) as new,
    ):
        for body, chunk in ((small, b"x"), (old, LARGE), (new, LARGE)):
            await body.add(chunk)

        assert [len(small), len(old), len(new)] == [1, 0, len(LARGE)]
        with pytest.raises(BodyEvicted):
            await more(old)


async def test_a_body_that_waits_for_longest_makes_room_itself() -> None:
    budget = BodyBudget(150)
    with budget.buffer(authenticated=False) as old, budget.buffer(authenticated=False) as new:
        await old.add(LARGE[:-90])
        await new.add(LARGE)
        with pytest.raises(BodyEvicted):
            await old.add(b"x" * 50)


async def test_a_body_that_has_arrived_wholly_is_waited_for() -> None:
    budget = BodyBudget(150)
    async with anyio.create_task_group() as tasks:
        with budget.buffer(authenticated=True) as new:
            with budget.buffer(authenticated=False) as whole:
                with whole.receiving():
                    await whole.add(LARGE)
                tasks.start_soon(new.add, LARGE)
                await wait_until(lambda: new.lacked_memory, "the new body waits")
                assert (len(whole), len(new)) == (len(LARGE), 0)
            await wait_until(lambda: len(new) == len(LARGE), "the new body has room")


async def test_of_authenticated_bodies_the_newest_makes_room() -> None:
    """They could wait for each other for ever."""
    budget = BodyBudget(150)
    with budget.buffer(authenticated=True) as old, budget.buffer(authenticated=True) as new:
        await old.add(LARGE[:-90])
        await new.add(LARGE)
        await old.add(b"x" * 90)
        assert (len(old), len(new)) == (len(LARGE), 0)
        with pytest.raises(BodyEvicted):
            await new.add(LARGE)


async def test_an_authenticated_body_makes_no_room_for_a_stranger() -> None:
    budget = BodyBudget(150)
    with (
        budget.buffer(authenticated=True) as proven,
        budget.buffer(authenticated=False) as stranger,
    ):
        await proven.add(LARGE)
        with pytest.raises(BodyEvicted):
            await stranger.add(LARGE)


async def test_what_is_dropped_is_room_for_others() -> None:
    budget = BodyBudget(150)
    with budget.buffer(authenticated=True) as one, budget.buffer(authenticated=False) as other:
        await one.add(LARGE)
        one.clear()
        with anyio.fail_after(1):
            await other.add(LARGE)

    assert one.take() == b""
