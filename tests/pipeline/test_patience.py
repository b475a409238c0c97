"""Waiting for Redis: who waits for the end of an outage goes on, whatever ended it."""

import anyio
import pytest
from structlog.testing import capture_logs

from tests.waiting import wait_until
from worker.errors import Unavailable
from worker.metrics import Metrics
from worker.pipeline.patience import Patience


async def nothing() -> None:
    """No group is missing here."""


async def test_an_outage_that_ends_in_a_defect_is_over_too() -> None:
    """Or the reader would wait for good, once Redis came back with an error nobody knows."""
    patience = Patience(Metrics("0", 200), on_group_missing=nothing)
    errors = iter([Unavailable("timeout", "no answer"), ZeroDivisionError()])

    async def step() -> None:
        raise next(errors)

    async def meet_a_defect() -> None:
        with pytest.raises(ZeroDivisionError):
            await patience.insist(step)

    with anyio.fail_after(5):
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(meet_a_defect)
            await wait_until(lambda: patience.trouble, "the outage is seen")
            await patience.calm()

    assert patience.trouble is None


async def test_outages_that_come_one_after_another_are_one_pair_of_lines() -> None:
    patience = Patience(Metrics("0", 200), on_group_missing=nothing)
    with capture_logs() as lines:
        for _ in range(3):
            errors = [Unavailable("connection", "cut")]

            async def step(errors: list[Unavailable] = errors) -> None:
                if errors:
                    raise errors.pop()

            await patience.insist(step)

    assert [line["event"] for line in lines] == ["redis.unavailable", "redis.recovered"]
