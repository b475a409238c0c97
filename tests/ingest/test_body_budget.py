"""Bodies share memory: what is not counted, which body is evicted, and which one waits."""

import anyio
import pytest

from tests.waiting import wait_until
from worker.ingest.body_budget import FREE_BYTES, BodyBudget, BodyBuffer, BodyEvicted

LARGE = b"x" * (FREE_BYTES + 100)


async def test_free_bytes_of_each_body_are_not_counted() -> None:
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


async def test_the_body_that_arrives_for_longest_is_evicted() -> None:
    """At once, so that its memory is free before the new body uses it."""
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


async def test_a_body_that_arrives_for_longest_is_evicted_for_its_own_chunk() -> None:
    budget = BodyBudget(150)
    with budget.buffer(authenticated=False) as old, budget.buffer(authenticated=False) as new:
        await old.add(LARGE[:-90])
        await new.add(LARGE)
        with pytest.raises(BodyEvicted):
            await old.add(b"x" * 50)


async def test_a_complete_body_is_waited_for() -> None:
    budget = BodyBudget(150)
    async with anyio.create_task_group() as tasks:
        with budget.buffer(authenticated=True) as new:
            with budget.buffer(authenticated=False) as whole:
                with whole.receiving():
                    await whole.add(LARGE)
                tasks.start_soon(new.add, LARGE)
                await wait_until(lambda: new.lacked_memory, "the new body waits")
                assert (len(whole), len(new)) == (len(LARGE), 0)
            await wait_until(lambda: len(new) == len(LARGE), "the new body has memory")


async def test_of_authenticated_bodies_the_newest_is_evicted() -> None:
    """Waiting for each other would be a deadlock."""
    budget = BodyBudget(150)
    with budget.buffer(authenticated=True) as old, budget.buffer(authenticated=True) as new:
        await old.add(LARGE[:-90])
        await new.add(LARGE)
        await old.add(b"x" * 90)
        assert (len(old), len(new)) == (len(LARGE), 0)
        with pytest.raises(BodyEvicted):
            await new.add(LARGE)


async def test_an_authenticated_body_is_not_evicted_for_an_unauthenticated_one() -> None:
    budget = BodyBudget(150)
    with (
        budget.buffer(authenticated=True) as known,
        budget.buffer(authenticated=False) as other,
    ):
        await known.add(LARGE)
        with pytest.raises(BodyEvicted):
            await other.add(LARGE)


async def test_cleared_memory_is_free_for_others() -> None:
    budget = BodyBudget(150)
    with budget.buffer(authenticated=True) as one, budget.buffer(authenticated=False) as other:
        await one.add(LARGE)
        one.clear()
        with anyio.fail_after(1):
            await other.add(LARGE)

    assert one.take() == b""
